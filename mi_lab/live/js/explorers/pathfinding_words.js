/** What the pathfinding explorer says in sentences. */

import { argmax, softmax } from "../analysis.js";
import { percent, short } from "./draw.js";
import { firstDifference, tokenName } from "./pathfinding_run.js";
import { placesOf, rightPath } from "./tree_question.js";

/** @typedef {import("./pathfinding_run.js").PathfindingResult} PathfindingResult */
/** @typedef {import("./link.js").State} State */

/** The model's path, and whether it is right. @param {PathfindingResult} result */
export function pathHeadline({ walked, right, good, steps }) {
  const wrote = walked.length > right.length + 2 ? `${walked.slice(0, right.length + 2).join(" \u2192 ")} \u2192 \u2026` : walked.join(" \u2192 ");
  if (good) return `The model writes ${wrote}, which is right.`;
  if (walked.length === 1) return `The model writes no step from ${wrote} at all, which is wrong: right is ${right.join(" \u2192 ")}.`;
  if (String(walked) === String(right)) return `The model writes ${wrote} and does not stop there, which is wrong.`;
  return `The model writes ${wrote}, which goes wrong at ${steps[steps.length - 1].at}: right is ${right.join(" \u2192 ")}.`;
}

/** What the changes do to the first step; nothing without changes. @param {PathfindingResult} result */
export function changesEffect({ question, logits, vocab, before, state }) {
  if (!before) return "";
  const now = firstDifference(question, logits, vocab);
  const whole = before.good ? "Without the changes the path is right." : "Without the changes the path is wrong, too.";
  if (Number.isNaN(now)) return `${whole} The root has one child, so the first step is no choice.`;
  const share = before.difference > 0.5 ? `: ${Math.round((100 * now) / before.difference)} % survives`.replace("-", "\u2212") : "";
  const what = state.donor === "none" ? "with the changes" : "with the donor";
  return `${whole} First step, logit of ${rightPath(question)[1]} minus its sibling\u2019s: ${short(before.difference)}, ${what} ${short(now)}${share}.`;
}

/** What is drawn on the tree. @param {State} state @param {PathfindingResult} result */
export function treeCaption({ layer, position, show }, result) {
  const lens = softmax(result.lens[layer], position * result.vocab, result.vocab);
  const { root, target } = placesOf(result.question.n);
  const best = argmax(lens, target, result.question.n);
  const who = tokenName(result, position);
  const seen = show === "arrows" ? `Arrows: what the ${who} looks at in layer ${layer}. ${offEdges(result, layer, position)}`
    : `Bands: edges of which the ${who} may have heard by layer ${layer}, each with the layer it came in. A hint, no proof.`;
  const note = position >= root ? "" : ", though it was never trained to answer";
  return `${seen} Shaded: what the model would answer at this token after layer ${layer}${note}; most of all ${best}, ${percent(lens[target + best])}.`;
}

/** Attention to tokens of no edge. @param {PathfindingResult} result @param {number} layer @param {number} position */
function offEdges(result, layer, position) {
  const { bar } = placesOf(result.question.n);
  if (position < bar) return "";
  const parts = [];
  for (let key = bar; key <= position; key++) {
    const weight = result.pattern[layer][position * result.tokens.length + key];
    if (weight >= 0.01) parts.push(`${key === position ? "itself" : tokenName(result, key)} ${percent(weight)}`);
  }
  return parts.length ? `Off the edges: ${parts.join(", ")}.` : "Nothing goes off the edges.";
}

/** For a screen reader. @param {PathfindingResult} result */
export function logitsLabel({ question, logits, vocab }) {
  const { root, target } = placesOf(question.n);
  return `Logits of the first step: ${question.parent.map((_, k) => `${k} ${short(logits[root * vocab + target + k])}`).join(", ")}`;
}
