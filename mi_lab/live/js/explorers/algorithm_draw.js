/** The columns of a question with what an algorithm knows of them, as SVG. */

import { s } from "./dom.js";
import { typeset } from "./arithmetic_task.js";

/** @typedef {import("./algorithm_run.js").AlgorithmResult} AlgorithmResult */

/**
 * Draw it; returns the height.
 * @param {SVGElement} svg
 * @param {number} width
 * @param {AlgorithmResult} result
 * @param {number} position  of the token that is read
 * @param {(position: number) => void} go
 */
export function drawColumns(svg, width, result, position, go) {
  const { q, steps, step, right, firstError } = result;
  const { n } = q;
  const narrow = width < 520;
  const left = narrow ? 46 : 96;
  const cell = Math.min(68, (width - left - 2) / (n + 1));
  const size = Math.max(9.5, Math.min(17, cell * 0.5));
  const high = Math.max(22, Math.min(32, cell * 0.8));
  const x = (/** @type {number} */ k) => left + (n - k) * cell; // left end of column k
  const middle = (/** @type {number} */ k) => x(k) + cell / 2;
  const label = (/** @type {number} */ y, /** @type {string} */ text, /** @type {string} */ short) =>
    svg.append(s("text", { x: 0, y: y + high * 0.68, "font-size": 12, class: "quiet" }, narrow ? short : text));
  /** A token's cell. @param {number} k @param {number} y @param {string} text @param {number} at @param {{bad?: boolean, known?: boolean, title: string}} how */
  const token = (k, y, text, at, { bad = false, known = at <= position, title }) => {
    const now = at === position;
    const [cx, wide] = [x(k), cell];
    svg.append(s("rect", { x: cx + 1, y, width: wide - 2, height: high, rx: 3, fill: now ? "var(--x-accent)" : "var(--x-shade)", "fill-opacity": now ? 0.16 : 1, stroke: now ? "var(--x-accent)" : "none", "stroke-width": 2 }));
    svg.append(s("text", { x: cx + wide / 2, y: y + high * 0.69, "text-anchor": "middle", "font-size": size, class: `${bad ? "bad" : ""} ${known ? "" : "faint"}` }, text));
    if (bad) svg.append(s("path", { d: `M${cx + wide / 2 - size * 0.5} ${y + high * 0.84} h${size}`, stroke: "var(--x-bad)", "stroke-width": 1.7, "stroke-dasharray": "2.5 1.5" }));
    svg.append(s("rect", { x: cx, y, width: wide, height: high, fill: "transparent", class: "press", onclick: () => go(Math.min(at, 3 * n + 2)) }, s("title", {}, title)));
  };
  let y = 4;
  for (let k = n; k >= 0; k--) svg.append(s("text", { x: middle(k), y: y + 10, "text-anchor": "middle", "font-size": 10.5, class: "quiet" }, k === n && narrow ? "" : String(k)));
  svg.append(s("text", { x: 0, y: y + 10, "font-size": 12, class: "quiet" }, narrow ? "k" : "column k"));
  y += 17;
  label(y, "first number", "D");
  for (let k = n - 1; k >= 0; k--) token(k, y, String(q.d[k]), n - 1 - k, { title: `D${k} = ${q.d[k]}, at P${n - 1 - k}` });
  y += high + 3;
  label(y, "second number", "D\u2032");
  token(n, y, q.minus ? "\u2212" : "+", n, { title: `the operator, at P${n}` });
  for (let k = n - 1; k >= 0; k--) token(k, y, String(q.e[k]), 2 * n - k, { title: `D'${k} = ${q.e[k]}, at P${2 * n - k}` });
  y += high + 10;
  const stateY = y;
  const names = Object.keys(step.states);
  const family = names[0]?.replace(/\d+$/, "") ?? (steps[3 * n + 2].states ? Object.keys(steps[2 * n].states)[0]?.replace(/\d+$/, "") : undefined);
  const carryFamily = (Object.keys(step.carries)[0] ?? Object.keys(steps[2 * n].carries)[0]).replace(/\d+$/, "");
  const before = position ? steps[position - 1] : null;
  if (family) {
    label(y, { R: "D \u2212 D\u2032", T: "sum so far" }[family] ?? "column says", family);
    for (let k = n - 1; k >= 0; k--) knownCell(svg, x(k), y, cell, high, size, step.states[`${family}${k}`], before?.states[`${family}${k}`], `${family}${k}`, { plain: family === "R" || family === "T" });
    y += high + (narrow ? 18 : 22);
  }
  const carryY = y;
  label(y, q.minus ? "borrow out" : "carry out", carryFamily);
  for (let k = n - 1; k >= 0; k--) {
    const value = step.carries[`${carryFamily}${k}`];
    const source = step.sources[k];
    knownCell(svg, x(k), y, cell, high, size, value, before?.carries[`${carryFamily}${k}`], `${carryFamily}${k}`, { assumed: source === null });
    if (family && value !== undefined && value !== "U" && typeof source === "number") carryFlow(svg, middle, stateY + high, carryY, k, source, value === "1");
  }
  y += high + (narrow ? 18 : 22);
  // into the digit above
  for (let k = n - 1; k >= 0; k--) {
    if (step.carries[`${carryFamily}${k}`] !== "1" || (q.minus && k === n - 1)) continue;
    svg.append(carryArrow(middle(k) - cell * 0.18, carryY + high + 2, middle(k + 1) + cell * 0.18, y - 3));
  }
  label(y, "answer", "=");
  const answer = Array.from(result.answer);
  const place = (/** @type {number} */ i) => (i === 0 ? n + 1 : n + 1 - i);
  answer.forEach((text, i) => {
    const at = 2 * n + 1 + i;
    const there = at <= position;
    const bad = there && text !== right[i];
    const k = place(i);
    const name = i === 0 ? "SGN" : `A${k}`;
    if (i === 0) {
      const dx = left - (narrow ? 14 : 16);
      svg.append(s("text", { x: dx, y: y + high * 0.69, "text-anchor": "middle", "font-size": size, class: `${bad ? "bad" : ""} press`, "font-weight": at === position ? 700 : null, onclick: () => go(at) }, there ? typeset(text) : "\u00b7"));
      return;
    }
    token(k, y, there ? text : "\u00b7", at, { bad, known: there, title: there ? `${name} = ${text}${bad ? `, right would be ${right[i]}` : ""}` : `${name}, written at P${at}` });
  });
  y += high + 3;
  if (firstError >= 0 && position >= 2 * n + 1 + firstError) {
    label(y, "right", "\u2713");
    Array.from(right).forEach((text, i) => {
      if (i === 0) return svg.append(s("text", { x: left - (narrow ? 14 : 16), y: y + high * 0.62, "text-anchor": "middle", "font-size": size * 0.9, class: "quiet" }, typeset(text)));
      svg.append(s("text", { x: middle(place(i)), y: y + high * 0.62, "text-anchor": "middle", "font-size": size * 0.9, style: text === answer[i] ? "fill:var(--x-quiet)" : "fill:var(--x-good);font-weight:650" }, text));
    });
    const at = firstError === 0 ? left - 15 : middle(place(firstError));
    svg.append(s("path", { d: `M${at - 5} ${y + high * 0.78 + 8} l5 -7 l5 7 z`, fill: "var(--x-bad)" }));
    svg.append(s("text", { x: Math.max(at, 34), y: y + high * 0.78 + 20, "text-anchor": "middle", "font-size": 11, class: "bad" }, "first error"));
    y += high + 20;
  }
  return y;
}

/**
 * What is known of a column: 1, 0, U (waits), a number, or nothing yet. What has just changed has a thick edge;
 * a carry that was not decided but assumed has a question mark.
 * @param {SVGElement} svg @param {number} x @param {number} y @param {number} cell @param {number} high @param {number} size
 * @param {string | undefined} value @param {string | undefined} before @param {string} name @param {{plain?: boolean, assumed?: boolean}} how
 */
function knownCell(svg, x, y, cell, high, size, value, before, name, { plain = false, assumed = false }) {
  const open = value === "U";
  const box = { x: x + 2, y, width: Math.max(cell - 4, 4), height: high, rx: open ? high / 2 : 3 };
  if (value === undefined) {
    svg.append(s("rect", { ...box, rx: 3, fill: "none", stroke: "var(--x-rule)", "stroke-width": 0.7 }));
    return;
  }
  const fresh = value !== before;
  const filled = value === "1" && !plain;
  const edge = assumed ? "var(--x-bad)" : fresh ? "var(--x-accent)" : "var(--x-quiet)";
  svg.append(s("rect", { ...box, fill: filled ? "var(--x-ink)" : "var(--x-paper)", stroke: edge, "stroke-width": fresh ? 2.6 : 1, "stroke-dasharray": open || assumed ? "3 2" : null }));
  const text = assumed ? `${value}?` : value;
  const style = filled ? "fill:var(--x-paper)" : assumed ? "fill:var(--x-bad)" : "";
  svg.append(s("text", { x: x + cell / 2, y: y + high * 0.69, "text-anchor": "middle", "font-size": Math.min(size, text.length > 1 ? cell * 0.45 : size), style, "font-weight": open ? 650 : null }, text,
    s("title", {}, `${name} = ${value}${assumed ? ", assumed: it looks no further down" : ""}`)));
}

/**
 * From the column that decides to the carry that it decides, through those that pass it on.
 * @param {SVGElement} svg @param {(k: number) => number} middle @param {number} top @param {number} bottom
 * @param {number} k @param {number} source @param {boolean} carries
 */
function carryFlow(svg, middle, top, bottom, k, source, carries) {
  const colour = carries ? "var(--x-head-1)" : "var(--x-quiet)";
  const [from, to] = [middle(source), middle(k)];
  const turn = (top + bottom) / 2;
  svg.append(s("path", { d: `M${from} ${top + 1} V${turn} H${to} V${bottom - 4}`, fill: "none", stroke: colour, "stroke-width": carries ? 2 : 1, "stroke-dasharray": carries ? null : "2 2" }));
  svg.append(s("path", { d: `M${to - 3.5} ${bottom - 6} l3.5 5 l3.5 -5 z`, fill: colour }));
}

/** A carry that goes into the digit above. @param {number} x1 @param {number} y1 @param {number} x2 @param {number} y2 */
function carryArrow(x1, y1, x2, y2) {
  const angle = Math.atan2(y2 - y1, x2 - x1);
  const at = (/** @type {number} */ turn) => `${x2 - 6 * Math.cos(angle + turn)} ${y2 - 6 * Math.sin(angle + turn)}`;
  return s("g", {}, s("line", { x1, y1, x2, y2, stroke: "var(--x-head-1)", "stroke-width": 1.8 }),
    s("path", { d: `M${x2} ${y2} L${at(0.5)} L${at(-0.5)} z`, fill: "var(--x-head-1)" }));
}
