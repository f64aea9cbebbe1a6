/** The pathfinding explorer's numbers, without any picture. */

import { argmax, softmax } from "../analysis.js";
import { treeChanged, treeModel } from "./pathfinding_state.js";
import { treeEdits } from "./tree_donor.js";
import { childrenOf, COMMA_TOKEN, placesOf, questionTokens, readQuestion, rightPath, TOKEN_CLASSES, treeWord, upFrom } from "./tree_question.js";

/** @typedef {import("./link.js").State} State */
/** @typedef {import("./pathfinding_state.js").PathfindingSpec} PathfindingSpec */
/** @typedef {import("./tree_question.js").Question} Question */
/** @typedef {import("../client.js").Client} Client */
/** @typedef {import("../serve.js").RunResult} RunResult */

/**
 * @typedef {object} Step
 * @property {number} at  node
 * @property {number} wrote  token
 * @property {number} right  token
 * @property {number} rightProbability
 * @property {number | null} rival  the sibling of the right node
 * @property {number} rivalProbability
 */

/**
 * @typedef {object} PathfindingResult
 * @property {State} state  that it answers
 * @property {Question} question
 * @property {number} layers
 * @property {number[]} tokens  with the model's own path
 * @property {number[]} walked  its nodes, root first, as far as it writes nodes
 * @property {number[]} right
 * @property {boolean} good  path and stop are right
 * @property {Step[]} steps
 * @property {Float32Array} logits  [pos, vocab]
 * @property {number} vocab
 * @property {Float32Array[]} pattern  by layer: [query, key]
 * @property {Float32Array[]} lens  by layer: logits [pos, vocab]
 * @property {Before | null} before  the run without changes, if there are any
 * @property {number} ms  in the engine
 */

/** @typedef {{tokens: number[], good: boolean, logits: Float32Array, difference: number}} Before */

/**
 * What one run asks of the engine.
 * @param {Question} question
 * @param {number} layers
 * @param {readonly import("../portable.js").PortableEdit[]} edits
 * @param {number[]} [guess]  tokens with the path that the model may write: any will do, a right one is fast
 * @returns {import("../serve.js").RunRequest}
 */
export function treeRequest(question, layers, edits, guess = questionTokens(question)) {
  const { root, context } = placesOf(question.n);
  const every = Array.from({ length: layers }, (_, l) => l);
  return {
    tokens: guess, edits: [...edits], answer: [root, context - 1, COMMA_TOKEN],
    want: every.map((l) => `blocks.${l}.attn.pattern`), lens: every.map((l) => `blocks.${l}.resid_post`),
  };
}

/**
 * Run a state.
 * @param {Client} client  with the state's model
 * @param {State} state
 * @param {PathfindingSpec} spec
 * @param {{before: Before | null, guess?: number[]}} known  the run without changes, if it was done before
 * @returns {Promise<PathfindingResult>}
 */
export async function pathfindingRun(client, state, spec, { before, guess }) {
  const { nodes: n, layers } = treeModel(state, spec);
  const question = readQuestion(state.text, n, "text");
  const edits = treeEdits(state, question, readQuestion(state.other, n, "other"), layers);
  let clean = before;
  if (treeChanged(state) && !clean) clean = beforeOf(question, await client.run(treeRequest(question, layers, [])));
  const found = await client.run(treeRequest(question, layers, edits, guess));
  const { root } = placesOf(n);
  const pattern = Array.from({ length: layers }, (_, l) => headMean(found.activations[`blocks.${l}.attn.pattern`]));
  const lens = Array.from({ length: layers }, (_, l) => found.lens[`blocks.${l}.resid_post`]);
  const walked = [question.root];
  for (let p = root + 1; p < found.n && isTarget(found.tokens[p], n); p++) walked.push(found.tokens[p] - 3);
  return {
    state, question, layers, tokens: found.tokens, walked, right: rightPath(question), good: sameTokens(found.tokens, questionTokens(question)),
    steps: stepsOf(question, found), logits: found.logits, vocab: found.vocab, pattern, lens,
    before: treeChanged(state) ? clean : null, ms: found.ms,
  };
}

/** @param {Question} question @param {RunResult} found @returns {Before} */
function beforeOf(question, found) {
  const { tokens, logits, vocab } = found;
  return { tokens, logits, good: sameTokens(tokens, questionTokens(question)), difference: firstDifference(question, logits, vocab) };
}

/** A result without changes as what later changes are compared with. @param {PathfindingResult} result @returns {Before} */
export function asBefore({ question, tokens, logits, vocab, good }) {
  return { tokens, logits, good, difference: firstDifference(question, logits, vocab) };
}

/** @param {number[]} a @param {number[]} b */
function sameTokens(a, b) {
  return a.every((token, i) => token === b[i]);
}

/** @param {number} token @param {number} n */
function isTarget(token, n) {
  const { target, bare } = placesOf(n);
  return token >= target && token < bare;
}

/** [1, head, query, key] to the mean over heads, [query, key]. @param {{shape: number[], data: Float32Array}} pattern */
function headMean({ shape, data }) {
  const [, heads, n] = shape;
  if (heads === 1) return data;
  return Float32Array.from({ length: n * n }, (_, i) => {
    let sum = 0;
    for (let h = 0; h < heads; h++) sum += data[h * n * n + i];
    return sum / heads;
  });
}

/**
 * logit(x1) - logit(its sibling) of the first step; NaN where the root has one child.
 * @param {Question} question @param {Float32Array} logits @param {number} vocab
 */
export function firstDifference(question, logits, vocab) {
  const { root, target } = placesOf(question.n);
  const next = rightPath(question)[1];
  const sibling = childrenOf(question, question.root).find((k) => k !== next);
  if (sibling === undefined) return NaN;
  return logits[root * vocab + target + next] - logits[root * vocab + target + sibling];
}

/** Steps of the model's path, to its stop or its first mistake. @param {Question} question @param {RunResult} found @returns {Step[]} */
function stepsOf(question, { tokens, logits, vocab }) {
  const { root, target } = placesOf(question.n);
  const way = rightPath(question);
  const steps = [];
  for (let i = 0; i < way.length; i++) {
    const p = softmax(logits, (root + i) * vocab, vocab);
    const right = i + 1 < way.length ? target + way[i + 1] : COMMA_TOKEN;
    const wrote = argmax(logits, (root + i) * vocab, vocab);
    const rival = childrenOf(question, way[i]).find((k) => i + 1 < way.length && k !== way[i + 1]) ?? null;
    steps.push({ at: way[i], wrote, right, rightProbability: p[right], rival, rivalProbability: rival === null ? 0 : p[target + rival] });
    if (wrote !== right || tokens[root + 1 + i] !== wrote) break;
  }
  return steps;
}

/**
 * The node that a token stands for, and in which kind of token; null: none (the bar, the colon).
 * @param {PathfindingResult} result @param {number} position
 * @returns {{kind: "node" | "source" | "target" | "comma", node: number} | null}
 */
export function spotOf({ question, tokens, walked }, position) {
  const { n, edges, goal } = question;
  const at = placesOf(n);
  if (position < at.bar) return { kind: /** @type {"source"} */ (TOKEN_CLASSES[position % 3]), node: edges[Math.floor(position / 3)][1] };
  if (position === at.goal) return { kind: "node", node: goal };
  if (position === at.bar || position === at.colon) return null;
  if (position === at.root) return { kind: "node", node: question.root };
  return { kind: "node", node: isTarget(tokens[position], n) ? tokens[position] - at.target : walked[walked.length - 1] };
}

export const RELATIONS = ["own", "up1", "up2", "up3", "down1", "down2", "down3", "other", "off"];

/**
 * How the edge of a key is related to a token's own: own, up1..up3, down1..down3 (levels above and below, 3: or more),
 * other, or off if the key belongs to no edge.
 * @param {PathfindingResult} result
 * @param {number} position
 * @param {number} key
 */
export function relationOf(result, position, key) {
  const { question } = result;
  if (key >= placesOf(question.n).bar) return "off";
  const own = spotOf(result, position)?.node ?? -1;
  const end = question.edges[Math.floor(key / 3)][1];
  if (own < 0) return "other";
  const above = upFrom(question, own).indexOf(end);
  if (above === 0) return "own";
  if (above > 0) return `up${Math.min(above, 3)}`;
  const below = upFrom(question, end).indexOf(own);
  return below > 0 ? `down${Math.min(below, 3)}` : "other";
}

/**
 * Attention of one token, summed over the keys of each relation.
 * @param {PathfindingResult} result
 * @param {number} layer
 * @param {number} position
 * @returns {Float32Array} in the order of RELATIONS
 */
export function relationMass(result, layer, position) {
  const out = new Float32Array(RELATIONS.length);
  for (let key = 0; key <= position; key++) {
    const weight = result.pattern[layer][position * result.tokens.length + key];
    if (weight) out[RELATIONS.indexOf(relationOf(result, position, key))] += weight;
  }
  return out;
}

export const GATHERS = 0.2; // attention from which on a token counts as read

/**
 * The edges of which a token may have heard by a layer, following attention of at least GATHERS from
 * layer to layer; by lower end, with the layer in which they first arrive (-1: its own edge).
 * @param {PathfindingResult} result @param {number} layer @param {number} position
 * @returns {Map<number, number>}
 */
export function gathered(result, layer, position) {
  const { question, pattern, tokens } = result;
  const n = tokens.length;
  const { bar } = placesOf(question.n);
  let known = Array.from({ length: n }, (_, p) => new Map(p < bar ? [[question.edges[Math.floor(p / 3)][1], -1]] : []));
  for (let l = 0; l <= layer; l++) {
    known = known.map((old, query) => {
      const now = new Map(old);
      for (let key = 0; key < query; key++) {
        if (pattern[l][query * n + key] < GATHERS) continue;
        for (const edge of known[key].keys()) if (!now.has(edge)) now.set(edge, l);
      }
      return now;
    });
  }
  return known[position];
}

/** How a token is called. @param {PathfindingResult} result @param {number} position */
export function tokenName({ question, tokens }, position) {
  const { n, edges } = question;
  const at = placesOf(n);
  const word = treeWord(tokens[position], n);
  if (position < at.bar) return `${TOKEN_CLASSES[position % 3]} of ${edges[Math.floor(position / 3)].join(">")}`;
  if (position === at.bar) return "bar |";
  if (position === at.goal) return `goal ${word}`;
  if (position === at.colon) return "colon";
  return position === at.root ? `root ${word}` : word === "," ? `comma ${position - at.root} behind the root` : `path token ${word}`;
}
