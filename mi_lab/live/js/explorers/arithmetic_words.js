/** What the arithmetic explorer says in words, and what its map prints. */

import { SYMBOLS, sumTokenNames, typeset } from "./arithmetic_task.js";
import { answerText, REPLACEMENTS, replacedBy } from "./arithmetic_run.js";
import { listed } from "./dom.js";
import { percent } from "./draw.js";
import { nodeIndex, shortBits, tokensOfBits } from "./arithmetic_scan.js";

/** @typedef {import("./link.js").State} State */
/** @typedef {import("./arithmetic_run.js").ArithmeticResult} ArithmeticResult */
/** @typedef {import("./arithmetic_scan.js").NodeCounts} NodeCounts */

/** @param {string} mode */
export function replacement(mode) {
  return /** @type {(typeof REPLACEMENTS)[number]} */ (REPLACEMENTS.find((one) => one.value === mode));
}

/** "P9 L1 H0" @param {string} node */
export function spaced(node) {
  return node.replace(/(L\d+)/, " $1 ").replace(/\s+/g, " ");
}

/** What the model writes, and whether that is right and was to be expected. @param {ArithmeticResult} result */
export function answerWords(result) {
  const { state, tokens, clean, solved, first, predicted } = result;
  const names = sumTokenNames(result.model.digits);
  const [written, right] = [answerText(result, tokens), answerText(result, solved)];
  const wrong = names.filter((_, p) => p > first && tokens[p] !== solved[p]);
  const who = state.edits.length === 0 ? "The model writes" : `With ${listed(state.edits.map((/** @type {string} */ edit) => spaced(edit.split(":")[0] ?? "")), "nodes")} replaced the model writes`;
  const verdict = wrong.length ? `; ${typeset(right)} is right. Wrong: ${wrong.map((name) => (name === "SGN" ? "the sign" : name)).join(", ")}.` : ", which is right.";
  const before = state.edits.length && clean.some((token, p) => token !== tokens[p]) ? ` Without that it writes ${typeset(answerText(result, clean))}.` : "";
  if (!predicted) return `${who} ${typeset(written)}${verdict}${before}`;
  const expected = predicted.map((token) => SYMBOLS[token]).join("");
  if (!state.edits.length) return `${who} ${typeset(written)}${verdict} Nodes that carry ${state.move}, taken from the second question, would make it ${typeset(expected)}.`;
  return `${who} ${typeset(written)}. If they carry ${state.move}, ${typeset(expected)} was to be expected: ${written === expected ? "exactly so" : "not so"}.${before}`;
}

/** Where the chosen head looks. @param {ArithmeticResult} result */
export function attentionWords({ attention, model, query, layer, head }) {
  if (!attention) return `P${query} L${layer} MLP`;
  const names = sumTokenNames(model.digits);
  const order = Array.from(attention.keys()).sort((a, b) => (attention[b] ?? 0) - (attention[a] ?? 0)).slice(0, 3);
  return `P${query} L${layer} H${head} looks at ${order.map((key) => `${names[key]} ${percent(attention[key] ?? 0)}`).join(", ")}`;
}

/** What the map shows. @param {State} state @param {NodeCounts | null} counts */
export function factWords(state, counts) {
  if (state.fact === "question") {
    return `Each node replaced by ${replacement(state.mode).text}, one at a time${state.edits.length ? " beside those above" : ""}, in this question, its right answer read: answer tokens that turn wrong${state.edits.length ? " (\u2713: some turn right)" : ""}.`;
  }
  if (!counts) return "Nothing has been counted for this model yet: press \u201cScan\u201d.";
  const where = counts.here ? "in this page" : "before this page was made";
  const shown = {
    fail: "share of questions that turn wrong, in %",
    impact: "answer tokens that turn wrong in some question; the colour is the share of questions",
    classes: "lowest class of each kind in which some question turns wrong; the colour is the share of questions",
  }[/** @type {string} */ (state.fact)] ?? `share of questions of class ${state.fact} that turn wrong, in %`;
  const beside = counts.beside.length ? ` beside ${listed(counts.beside.map(spaced), "nodes")}` : "";
  return `Each node replaced by ${replacement(counts.how).text}, one at a time${beside}: ${shown}. Counted ${where} on ${counts.questions} questions, as many of each class${counts.dropped ? `; ${counts.dropped} more are wrong anyway` : ""}.`;
}

/**
 * One cell of the map.
 * @param {string} node @param {State} state @param {NodeCounts | null} counts
 * @param {{bits: ArrayLike<number>, clean: number} | null} sweep  of this question: wrong answer tokens, as bits; clean: without it
 * @param {import("./arithmetic_run.js").ArithmeticModel} model
 * @returns {import("./node_grid.js").GridCell}
 */
export function mapCell(node, state, counts, sweep, model) {
  const { digits } = model;
  const i = nodeIndex(node, model);
  const mode = replacedBy(state, node);
  const replaced = mode ? replacement(mode).sign : "";
  const suffix = mode ? `; replaced by ${replacement(mode).text}` : "";
  if (state.fact === "question") {
    const [now, before] = sweep ? [Number(sweep.bits[i] ?? 0), sweep.clean] : [0, 0];
    const worse = tokensOfBits(now & ~before, digits);
    const better = tokensOfBits(before & ~now, digits);
    const said = [worse.length ? `turns ${worse.join(", ")} wrong` : "", better.length ? `makes ${better.join(", ")} right` : ""].filter(Boolean).join("; ");
    const text = `${shortBits(now & ~before, digits)}${better.length ? " \u2713" : ""}`.trim();
    return { shade: Math.min(1, worse.length / 3), text, said: (sweep ? said || "changes nothing" : "not counted yet") + suffix, replaced };
  }
  if (!counts) return { shade: 0, text: "", said: `not counted yet${suffix}`, replaced };
  const share = counts.share(i);
  const failing = counts.failing(i);
  const wrong = tokensOfBits(counts.impact(i), digits);
  const all = share ? `turns ${percent(share)} of the questions wrong, in ${wrong.join(", ")}; classes ${failing.join(", ")}` : "turns no question wrong";
  if (state.fact === "fail") return { shade: share, text: share ? percentText(share) : "", said: all + suffix, replaced };
  if (state.fact === "impact") return { shade: share, text: shortBits(counts.impact(i), digits), said: all + suffix, replaced };
  if (state.fact === "classes") {
    const kinds = ["S", "M", "N"].flatMap((kind) => failing.find((name) => name[0] === kind) ?? []);
    return { shade: share, text: kinds.length > 1 ? kinds.map((name) => name[0]).join("") : kinds.join(""), said: all + suffix, replaced };
  }
  const within = counts.within(i, state.fact);
  return { shade: within, text: within ? percentText(within) : "", said: `turns ${percent(within)} of class ${state.fact} wrong${suffix}`, replaced };
}

/** @param {number} share */
function percentText(share) {
  return share >= 0.0095 ? String(Math.round(100 * share)) : "<1";
}
