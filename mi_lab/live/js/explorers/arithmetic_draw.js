/** The tokens with a head's attention, and what stands behind each token of the answer, as SVG. */

import { SYMBOLS, sumTokenNames, typeset } from "./arithmetic_task.js";
import { s } from "./dom.js";
import { headColour, percent, short } from "./draw.js";

/** @typedef {import("./arithmetic_run.js").ArithmeticResult} ArithmeticResult */

const WEAKEST = 0.02; // attention that is drawn
const POSITIVE = "var(--mi-positive, #b35806)";
const NEGATIVE = "var(--mi-negative, #5e3c99)";

/**
 * The line of tokens, arcs from where the chosen node stands to where its head looks, and below the answer
 * what is right and what was to be expected.
 * @param {SVGElement} svg @param {number} width @param {ArithmeticResult} result
 * @param {(position: number) => void} go
 */
export function drawTokens(svg, width, result, go) {
  const { tokens, solved, first, query, layer, head, attention, predicted, model } = result;
  const count = tokens.length;
  const narrow = width < 520;
  const cell = width / count;
  const size = Math.min(17, Math.max(10.5, cell * 0.55));
  const middle = (/** @type {number} */ p) => (p + 0.5) * cell;
  const names = sumTokenNames(model.digits);
  const colour = head === null ? "var(--x-neutral)" : headColour(head);
  const arcs = attention ? 74 : 20;
  const high = 28;
  const y = arcs + 4;
  svg.append(s("text", { x: 0, y: 12, "font-size": 12, "font-weight": 600, style: `fill:${head === null ? "var(--x-ink)" : colour}` },
    head === null ? `P${query} L${layer} MLP: an MLP looks at no other token` : `P${query} L${layer} H${head} looks at`));
  attention?.forEach((weight, key) => {
    if (weight < WEAKEST || key === query) return;
    const [from, to] = [middle(query), middle(key)];
    const top = Math.max(18, y - 12 - Math.min(46, Math.abs(from - to) * 0.35));
    svg.append(s("path", { d: `M${from} ${y} C${from} ${top} ${to} ${top} ${to} ${y - 1}`, fill: "none", stroke: colour, "stroke-width": (0.8 + 6 * weight).toFixed(2), "stroke-opacity": (0.3 + 0.7 * weight).toFixed(2) },
      s("title", {}, `${percent(weight)} on ${names[key]}`)));
  });
  for (let p = 0; p < count; p++) {
    const text = typeset(SYMBOLS[/** @type {number} */ (tokens[p])] ?? "");
    const bad = p > first && tokens[p] !== solved[p];
    const weight = attention?.[p] ?? 0;
    const box = { x: p * cell + 0.75, y, width: cell - 1.5, height: high, rx: 3 };
    svg.append(s("rect", { ...box, fill: p > first ? "var(--x-paper)" : "var(--x-shade)", stroke: "var(--x-rule)", "stroke-width": 0.8 }));
    if (weight >= WEAKEST) svg.append(s("rect", { ...box, fill: colour, "fill-opacity": (0.45 * weight).toFixed(3) }));
    if (p === query) svg.append(s("rect", { ...box, fill: "none", stroke: colour, "stroke-width": 2.4 }));
    svg.append(s("text", { x: middle(p), y: y + 19.5, "text-anchor": "middle", "font-size": size, class: bad ? "bad" : "", "font-weight": p > first ? 650 : null }, text));
    if (bad) svg.append(s("path", { d: `M${middle(p) - size * 0.5} ${y + 24.5} h${size}`, stroke: "var(--x-bad)", "stroke-width": 1.7, "stroke-dasharray": "2.5 1.5" }));
    const under = weight >= 0.045 ? `${Math.round(100 * weight)}` : "";
    if (under) svg.append(s("text", { x: middle(p), y: y + high + 12, "text-anchor": "middle", "font-size": narrow ? 9.5 : 10.5, style: `fill:${colour}`, "font-weight": 600 }, under));
    else if (!narrow || p === query) svg.append(s("text", { x: middle(p), y: y + high + 12, "text-anchor": "middle", "font-size": 9.5, class: "quiet" }, cell < 24 ? String(p) : `P${p}`));
    if (p < count - 1) svg.append(s("rect", { x: p * cell, y, width: cell, height: high, fill: "transparent", class: "press", onclick: () => go(p) },
      s("title", {}, `P${p}, ${names[p]}${weight ? `, ${percent(weight)} of the attention` : ""}${bad ? `, ${SYMBOLS[solved[p] ?? 0]} would be right` : ""}`)));
  }
  let bottom = y + high + 16;
  /** @param {string} label @param {ArrayLike<number>} answer  sign first @param {ArrayLike<number>} beside @param {string} good */
  const line = (label, answer, beside, good) => {
    svg.append(s("text", { x: (first + 1) * cell - 6, y: bottom + 13, "text-anchor": "end", "font-size": 12, class: "quiet" }, label));
    for (let i = 0; i < answer.length; i++) {
      const same = answer[i] === beside[i];
      svg.append(s("text", { x: middle(first + 1 + i), y: bottom + 13, "text-anchor": "middle", "font-size": size * 0.92, style: same ? "fill:var(--x-quiet)" : `fill:${good};font-weight:650` }, typeset(SYMBOLS[answer[i] ?? 0] ?? "")));
    }
    bottom += 18;
  };
  const written = tokens.slice(first + 1);
  const right = solved.slice(first + 1);
  if (written.some((token, i) => token !== right[i])) line("right", right, written, "var(--x-good)");
  if (predicted) line(narrow ? `if ${result.state.move}` : `expected if they carry ${result.state.move}`, predicted, right, "var(--x-accent)");
  return bottom + 2;
}

/**
 * A table of numbers as coloured cells, a column for each token of the answer.
 * @param {SVGElement} svg @param {number} width
 * @param {{title: string, columns: string[], rows: {label: string, colour?: string}[], value: (row: number, column: number) => number, largest: number, text: (x: number) => string,
 *   mark?: (row: number, column: number) => "right" | "wrong" | "", said: (row: number, column: number) => string}} table
 */
function heatTable(svg, width, { title, columns, rows, value, largest, text, mark, said }) {
  const left = 62;
  const cell = Math.min(56, (width - left) / columns.length);
  const high = 17;
  svg.append(s("text", { x: 0, y: 12, "font-size": 12, "font-weight": 600 }, title));
  columns.forEach((name, j) => svg.append(s("text", { x: left + (j + 0.5) * cell, y: 32, "text-anchor": "middle", "font-size": 11, class: "quiet" }, name)));
  rows.forEach(({ label, colour }, i) => {
    const y = 38 + i * high;
    if (colour) svg.append(s("rect", { x: 0, y: y + 4, width: 9, height: 9, rx: 2, fill: colour }));
    svg.append(s("text", { x: colour ? 14 : left - 8, y: y + 12.5, "text-anchor": colour ? null : "end", "font-size": 11.5 }, label));
    columns.forEach((_, j) => {
      const x = value(i, j);
      const share = Math.min(1, Math.abs(x) / largest);
      const how = mark?.(i, j) ?? "";
      const box = { x: left + j * cell + 1, y: y + 1, width: cell - 2, height: high - 2, rx: 2 };
      const shaded = s("rect", { ...box, fill: mark ? "var(--x-ink)" : x < 0 ? NEGATIVE : POSITIVE, "fill-opacity": ((mark ? 0.9 : 0.62) * share).toFixed(3), stroke: "var(--x-rule)", "stroke-width": 0.5 }, s("title", {}, said(i, j)));
      svg.append(shaded);
      if (how) svg.append(s("rect", { ...box, fill: "none", stroke: how === "right" ? "var(--x-good)" : "var(--x-bad)", "stroke-width": 2.2, "stroke-dasharray": how === "right" ? null : "3 2", "pointer-events": "none" }));
      const words = text(x);
      if (!words || cell < 6.2 * words.length) return;
      svg.append(s("text", { x: left + (j + 0.5) * cell, y: y + 12.3, "text-anchor": "middle", "font-size": Math.min(10.5, cell * 0.34), "pointer-events": "none", style: mark && share > 0.5 ? "fill:var(--x-paper)" : "fill:var(--x-ink)" }, words));
    });
  });
  return 42 + rows.length * high;
}

/** @param {ArithmeticResult} result */
function answerNames({ model, first }) {
  return sumTokenNames(model.digits).slice(first + 1).map((name) => (name === "SGN" ? "\u00b1" : name));
}

/** The probability of every token, for each token of the answer. @param {SVGElement} svg @param {number} width @param {ArithmeticResult} result */
export function drawProbabilities(svg, width, result) {
  const { probability, tokens, solved, first } = result;
  const columns = answerNames(result);
  const rows = Array.from({ length: 12 }, (_, i) => ({ label: typeset(SYMBOLS[i] ?? "") }));
  const at = (/** @type {number} */ i, /** @type {number} */ j) => probability[j]?.[i] ?? 0;
  return heatTable(svg, width, {
    title: "probability of each token, in %", columns, rows, value: at, largest: 1, text: (x) => (x >= 0.005 ? String(Math.round(100 * x)) : ""),
    mark: (i, j) => (solved[first + 1 + j] === i ? "right" : tokens[first + 1 + j] === i ? "wrong" : ""),
    said: (i, j) => `${columns[j]} = ${rows[i]?.label}: ${percent(at(i, j))}`,
  });
}

/** The direct effect of every part on the right token, for each token of the answer. @param {SVGElement} svg @param {number} width @param {ArithmeticResult} result */
export function drawDirect(svg, width, result) {
  const { direct, parts } = result;
  const columns = answerNames(result);
  const rows = parts.map((part) => {
    const head = /H(\d+)$/.exec(part)?.[1];
    return { label: part, colour: head === undefined ? "var(--x-neutral)" : headColour(Number(head)) };
  });
  const at = (/** @type {number} */ i, /** @type {number} */ j) => direct[i]?.[j] ?? 0;
  const largest = Math.max(1e-6, ...direct.map((row) => row.reduce((most, x) => Math.max(most, Math.abs(x)), 0)));
  return heatTable(svg, width, {
    title: "direct effect on the right token\u2019s logit", columns, rows, value: at, largest, text: (x) => (Math.abs(x) >= largest / 40 ? short(x).replace(/^(.?)0\./, "$1.") : ""),
    said: (i, j) => `${parts[i]} where ${columns[j]} is predicted: ${short(at(i, j))}`,
  });
}
