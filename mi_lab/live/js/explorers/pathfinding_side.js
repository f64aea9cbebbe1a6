/** Beside the tree of the pathfinding explorer: the model's steps, logits of the first one, the prompt. */

import { h, s, say } from "./dom.js";
import { bars, percent, short } from "./draw.js";
import { TOKEN_COLOURS } from "./tree_draw.js";
import { childrenOf, classAt, COMMA_TOKEN, placesOf, rightPath, treeWord } from "./tree_question.js";

/** @typedef {import("./pathfinding_run.js").PathfindingResult} PathfindingResult */

/**
 * A row for each step: where the model stands, what it writes, how likely the right node and its sibling are.
 * @param {HTMLElement} place
 * @param {PathfindingResult} result
 */
export function drawSteps(place, { steps, question }) {
  const { n } = question;
  const word = (/** @type {number} */ token) => (token === COMMA_TOKEN ? "stop" : treeWord(token, n));
  const rows = steps.map(({ at, wrote, right, rightProbability, rival, rivalProbability }) => {
    const good = wrote === right;
    return h("tr", {}, h("td", {}, at), h("td", { class: good ? "mi-x-good" : "mi-x-bad" }, `${word(wrote)} ${good ? "\u2713" : "\u2717"}`),
      h("td", {}, `${word(right)} ${percent(rightProbability)}`), h("td", {}, rival === null ? "no choice" : `>${rival} ${percent(rivalProbability)}`));
  });
  const head = ["at", "writes", "right", "sibling"].map((name) => h("th", { scope: "col" }, name));
  place.replaceChildren(h("table", { class: "mi-x-table mi-x-steps" }, h("caption", { class: "mi-x-unseen" }, "The model's steps"), h("thead", {}, h("tr", {}, ...head)), h("tbody", {}, ...rows)));
}

/**
 * Logits of all nodes for the first step; behind them those of the run without changes.
 * @param {SVGElement} svg
 * @param {number} width
 * @param {PathfindingResult} result
 * @returns {number}
 */
export function logitBars(svg, width, { question, logits, vocab, before }) {
  const { n } = question;
  const { root, target } = placesOf(n);
  const from = root * vocab + target;
  const values = logits.subarray(from, from + n);
  const others = before ? before.logits.subarray(from, from + n) : null;
  const next = rightPath(question)[1];
  const sibling = childrenOf(question, question.root).find((k) => k !== next);
  const all = [...values, ...(others ?? [])];
  const [low, high] = [Math.min(-2, ...all), Math.max(2, ...all)];
  const apart = [1, 2, 5, 10, 20, 50].find((x) => (high - low) / x <= 5) ?? 100;
  const ticks = [];
  for (let t = Math.ceil(low / apart) * apart; t <= high; t += apart) ticks.push(t);
  const colour = (/** @type {number} */ i) => (i === next ? "var(--x-good)" : i === sibling ? "var(--x-bad)" : "var(--x-neutral)");
  const series = [{ values, colour, name: "now" }, ...(others ? [{ values: others, colour: "var(--x-quiet)", name: "without changes", dim: true }] : [])];
  const y = bars(svg, width, 6, {
    series, n, height: 92, low, high, title: "logits of the first step", ticks, text: (x) => (Number.isInteger(x) ? String(x).replace("-", "\u2212") : short(x)),
    marked: next, unit: (i) => `node ${i}`,
  });
  const left = 40;
  const cell = (width - left) / n;
  const every = Math.ceil(15 / cell);
  for (let i = 0; i < n; i++) {
    const chosen = i === next || i === sibling;
    const crowded = !chosen && [next, sibling].some((k) => k !== undefined && Math.abs(k - i) < every);
    if (crowded || (!chosen && i % every)) continue;
    svg.append(s("text", { x: left + (i + 0.5) * cell, y: y + 10, "text-anchor": "middle", "font-size": 12, "font-weight": chosen ? 700 : null, style: `fill:${chosen ? colour(i) : "var(--x-ink)"}` }, i));
  }
  return y + 16;
}

/** Which bar is which. @param {PathfindingResult} result */
export function logitKey({ question, before }) {
  const alone = childrenOf(question, question.root).length < 2;
  return `Green: the right step. ${alone ? "" : "Red: its sibling. "}${before ? "Pale: without the changes." : ""}`.trim();
}

/**
 * The tokens in reading order, filled by the attention that they get.
 * @param {(position: number) => void} press
 */
export function promptLine(press) {
  const box = h("p", { class: "mi-x-prompt", onclick: (/** @type {MouseEvent} */ event) => {
    const at = event.target instanceof HTMLElement ? event.target.dataset.position : undefined;
    if (at !== undefined) press(Number(at));
  } });
  /** @type {HTMLSpanElement[]} */
  let words = [];
  /** @param {PathfindingResult} result @param {number} layer @param {number} position */
  const draw = ({ question, tokens, pattern, walked }, layer, position) => {
    const { n } = question;
    const { root } = placesOf(n);
    const count = root + walked.length;
    if (words.length !== count) {
      words = Array.from({ length: count }, (_, at) => h("span", { "data-position": at }));
      box.replaceChildren(...words);
    }
    words.forEach((word, at) => {
      const kind = classAt(n, at);
      const ink = TOKEN_COLOURS[/** @type {"source"} */ (kind)] ?? TOKEN_COLOURS.node;
      const weight = at <= position ? pattern[layer][position * tokens.length + at] : 0;
      say(word, treeWord(tokens[at], n));
      word.style.background = weight >= 0.005 ? `color-mix(in srgb, ${ink} ${Math.round(70 * weight)}%, transparent)` : "";
      word.style.borderBottomColor = ink;
      word.className = at === position ? "mi-x-here" : at > position ? "mi-x-later" : "";
      word.title = weight >= 0.005 ? `${percent(weight)} of the attention` : "";
    });
  };
  return { box, draw };
}
