/**
 * What is done to a run in the pathfinding explorer, as plain JSON edits (`mi_lab.live.export.to_run`): attention
 * closed, parts switched off, states from another question. Its twin in Python is
 * `mi_lab.studies.pathfinding.live_edits`; both draw the same donors from the same number.
 */

import { belowNode, classAt, placesOf, questionTokens, renamed, upFrom } from "./tree_question.js";

/** @typedef {import("./tree_question.js").Question} Question */
/** @typedef {import("../portable.js").PortableEdit} PortableEdit */
/** @typedef {import("./link.js").State} State */

/**
 * Whole numbers below a bound, the same in Python: Marsaglia's xorshift on 32 bits.
 * @param {number} draw  which sequence
 * @param {number} part  and which part of it
 */
export function drawnNumbers(draw, part) {
  let x = (Math.imul(draw + 1, 0x9e3779b1) ^ Math.imul(part + 1, 0x85ebca6b)) >>> 0 || 1;
  const next = () => {
    x ^= x << 13;
    x ^= x >>> 17;
    x = (x ^ (x << 5)) >>> 0;
    return x;
  };
  for (let i = 0; i < 8; i++) next();
  return (/** @type {number} */ below) => next() % below;
}

/**
 * The names that a donor must share: F of `mi_lab.studies.pathfinding.roads`, without a bound on levels.
 * @param {Question} question
 * @param {number | "root"} site  the lower end of an edge, or the root token
 * @param {string} rule  none, edge, up or down
 * @returns {Set<number>}
 */
export function sharedNames(question, site, rule) {
  if (rule === "none") return new Set();
  const { parent, root, goal } = question;
  if (site === "root") {
    const own = [root, goal, ...parent.flatMap((above, k) => (above === root ? [k] : []))];
    return new Set(rule === "up" ? [...own, ...upFrom(question, goal)] : own);
  }
  const own = [site, parent[site]];
  if (rule === "up") own.push(...upFrom(question, site));
  if (rule === "down") own.push(...belowNode(question, site));
  return new Set(own);
}

/**
 * The same question with all other names exchanged at random.
 * @param {Question} question
 * @param {Set<number>} shared
 * @param {number} draw
 * @param {number} part
 * @returns {Question}
 */
export function renamedDonor(question, shared, draw, part) {
  const free = question.parent.flatMap((_, k) => (shared.has(k) ? [] : [k]));
  const to = [...free];
  const below = drawnNumbers(draw, part);
  for (let i = to.length - 1; i > 0; i--) {
    const j = below(i + 1);
    [to[i], to[j]] = [to[j], to[i]];
  }
  const name = question.parent.map((_, k) => k);
  free.forEach((k, i) => (name[k] = to[i]));
  return renamed(question, name);
}

/**
 * The positions that are replaced, by the edge they belong to (null: the root token).
 * @param {Question} question
 * @param {string} site  "edges", "root" or the lower end of an edge
 * @param {string} part  all, source, target or comma
 * @returns {{edge: number | null, positions: number[]}[]}
 */
export function replacedPositions(question, site, part) {
  const { bar, root } = placesOf(question.n);
  if (site === "root") return [{ edge: null, positions: [root] }];
  const offsets = part === "all" ? [0, 1, 2] : [["source", "target", "comma"].indexOf(part)];
  const chosen = question.edges.flatMap(([, b], i) => (site === "edges" || Number(site) === b ? [i] : []));
  return chosen
    .map((edge) => ({ edge, positions: offsets.map((k) => 3 * edge + k).filter((p) => p < bar) }))
    .filter(({ positions }) => positions.length);
}

/** Layers named by "all", "2" or "2+". @param {string} where @param {number} layers */
export function layersNamed(where, layers) {
  const first = where === "all" ? 0 : parseInt(where, 10);
  const last = where === "all" || where.endsWith("+") ? layers : first + 1;
  return Array.from({ length: last - first }, (_, i) => first + i);
}

/**
 * What a query may not look at. A token never loses sight of itself.
 * @param {number} n
 * @param {number} query
 * @param {readonly string[]} classes  of keys
 * @param {string} who  path, edges (at other edges), own (edges at their own), tail or all
 */
export function closedKeys(n, query, classes, who) {
  const { bar, context } = placesOf(n);
  const kind = classAt(n, query);
  const inEdge = query < bar;
  const asked = who === "all" || (who === "path" && kind === "path")
    || (who === "tail" && ["bar", "goal", "colon"].includes(kind)) || ((who === "edges" || who === "own") && inEdge);
  if (!asked) return [];
  const sameEdge = (/** @type {number} */ key) => inEdge && key < bar && Math.floor(key / 3) === Math.floor(query / 3);
  const keys = [];
  for (let key = 0; key < context; key++) {
    if (key === query || !classes.includes(classAt(n, key))) continue;
    if ((who === "edges" && sameEdge(key)) || (who === "own" && !sameEdge(key))) continue;
    keys.push(key);
  }
  return keys;
}

/**
 * Attention that is closed, as few edits as there are different sets of keys.
 * @param {number} n @param {number[]} layers @param {readonly string[]} classes @param {string} who @param {boolean} renormalise
 * @returns {PortableEdit[]}
 */
function closedEdits(n, layers, classes, who, renormalise) {
  /** @type {Map<string, {queries: number[], keys: number[]}>} */
  const groups = new Map();
  for (let query = 0; query < placesOf(n).context; query++) {
    const keys = closedKeys(n, query, classes, who);
    if (!keys.length) continue;
    const group = groups.get(String(keys)) ?? { queries: [], keys };
    group.queries.push(query);
    groups.set(String(keys), group);
  }
  return layers.flatMap((layer) => [...groups.values()].map((group) => ({ knockOut: { layer, ...group, renormalise } })));
}

/**
 * All edits of a state.
 * @param {State} state
 * @param {Question} question
 * @param {Question} other
 * @param {number} layers
 * @returns {PortableEdit[]}
 */
export function treeEdits(state, question, other, layers) {
  /** @type {PortableEdit[]} */
  const edits = state.nodes.map((/** @type {string} */ word) => {
    const [node, mode] = word.split("-");
    return { node, value: mode === "mean" ? "mean" : 0 };
  });
  const activation = `blocks.${state.after}.resid_post`;
  if (state.donor === "other") {
    const positions = replacedPositions(question, state.site, state.part).flatMap((one) => one.positions);
    edits.push({ activation, positions, value: { run: questionTokens(other) } });
  }
  if (state.donor === "renamed") {
    for (const { edge, positions } of replacedPositions(question, state.site, state.part)) {
      const shared = sharedNames(question, edge === null ? "root" : question.edges[edge][1], state.rule);
      const donor = renamedDonor(question, shared, state.draw, edge ?? 0);
      edits.push({ activation, positions, value: { run: questionTokens(donor) } });
    }
  }
  if (state.closed.length) {
    edits.push(...closedEdits(question.n, layersNamed(state.where, layers), state.closed, state.who, state.closing === "moved"));
  }
  return edits;
}
