/**
 * Questions of the pathfinding task: a binary tree as a list of edges and a goal, "5>3,0>5,1>2,4>1,4>0|3".
 * Reading, writing, tokens, orders of the edges, changes of the tree, fresh trees by the task's law: as
 * `mi_lab.studies.pathfinding.task`.
 */

import { FieldError } from "./frame.js";

/**
 * @typedef {object} Question
 * @property {number} n  nodes
 * @property {[number, number][]} edges  source and target, in the order of the prompt
 * @property {number} goal
 * @property {number} root
 * @property {number[]} parent  of each node, -1 for the root
 */

/** @typedef {"backward" | "random" | "forward"} Order */
/** @typedef {() => number} Random  from 0 to 1 */

export const TOKEN_CLASSES = ["source", "target", "comma", "bar", "goal", "colon", "path"];
export const COMMA_TOKEN = 0;

/** Where tokens stand, and which token is which, in trees of n nodes. @param {number} n */
export function placesOf(n) {
  const edges = n - 1;
  return { edges, bar: 3 * edges - 1, goal: 3 * edges, colon: 3 * edges + 1, root: 3 * edges + 2, context: 4 * n, target: 3, bare: 3 + n };
}

/** The class of a position's token: one of TOKEN_CLASSES. @param {number} n @param {number} position */
export function classAt(n, position) {
  const { bar, goal, colon } = placesOf(n);
  if (position < bar) return TOKEN_CLASSES[position % 3];
  return position === bar ? "bar" : position === goal ? "goal" : position === colon ? "colon" : "path";
}

/** A token as text. @param {number} token @param {number} n */
export function treeWord(token, n) {
  const { target, bare } = placesOf(n);
  return token < target ? [",", ":", "|"][token] : token < bare ? `>${token - target}` : String(token - bare);
}

/**
 * A typed question, with ":root>.." behind it or without. Throws FieldError.
 * @param {unknown} text
 * @param {number} n
 * @param {string} field
 * @returns {Question}
 */
export function readQuestion(text, n, field) {
  const fail = (/** @type {string} */ why) => {
    throw new FieldError(field, why);
  };
  const quoted = (/** @type {string} */ x) => `\u201c${x.length > 12 ? `${x.slice(0, 12)}\u2026` : x}\u201d`;
  const [prompt, rest, ...more] = String(text).replace(/\s+/g, "").split("|");
  if (rest === undefined || more.length) fail("A question is edges, a bar and the goal, such as 5>3,0>5,4>0|3.");
  const node = (/** @type {string} */ word) => {
    if (!/^\d{1,2}$/.test(word) || Number(word) >= n) fail(`${quoted(word)} is not a node: this model's trees have nodes 0 to ${n - 1}.`);
    return Number(word);
  };
  const edges = prompt.split(",").map((word) => {
    const match = /^(\d+)>(\d+)$/.exec(word);
    if (!match) fail(word ? `${quoted(word)} is not an edge; write A>B.` : "Between two commas stands an edge A>B.");
    return /** @type {[number, number]} */ ([node(match?.[1] ?? ""), node(match?.[2] ?? "")]);
  });
  const [goalText, given] = rest.split(":");
  const goal = node(goalText);
  const parent = new Array(n).fill(-1);
  const children = new Array(n).fill(0);
  for (const [a, b] of edges) {
    if (a === b) fail(`${a}>${b} leads back to itself.`);
    if (parent[b] >= 0) fail(`This is no tree: ${b} has two parents, ${parent[b]} and ${a}.`);
    parent[b] = a;
    if (++children[a] > 2) fail(`${a} has three children; a node has at most two.`);
  }
  if (edges.length !== n - 1) fail(`A tree of ${n} nodes has ${n - 1} edges, not ${edges.length}.`);
  const root = parent.indexOf(-1);
  for (let start = 0; start < n; start++) {
    let at = start;
    for (let steps = 0; at !== root; steps++) {
      if (steps > n) fail(`This is no tree: ${start} is below itself.`);
      at = parent[at];
    }
  }
  if (children[goal]) fail(`The goal must be a leaf; ${goal} has children.`);
  if (given && given.split(">")[0] !== String(root)) fail(`The root of this tree is ${root}, not ${quoted(given.split(">")[0])}.`);
  return { n, edges, goal, root, parent };
}

/** @param {Question} question */
export function writeQuestion({ edges, goal }) {
  return `${edges.map(([a, b]) => `${a}>${b}`).join(",")}|${goal}`;
}

/** A node and its ancestors up to the root. @param {Question} question @param {number} node */
export function upFrom({ parent }, node) {
  const way = [node];
  while (parent[way[way.length - 1]] >= 0) way.push(parent[way[way.length - 1]]);
  return way;
}

/** From the root to the goal. @param {Question} question */
export function rightPath(question) {
  return upFrom(question, question.goal).reverse();
}

/** Children of a node, by label. @param {Question} question @param {number} node */
export function childrenOf({ parent }, node) {
  return parent.flatMap((above, k) => (above === node ? [k] : []));
}

/** A node and everything below it. @param {Question} question @param {number} node @returns {number[]} */
export function belowNode(question, node) {
  return [node, ...childrenOf(question, node).flatMap((k) => belowNode(question, k))];
}

/** Nodes without children, by label. @param {Question} question */
export function leavesOf({ parent, n }) {
  return Array.from({ length: n }, (_, k) => k).filter((k) => !parent.includes(k));
}

/**
 * All tokens of a question, with a path (default the right one) and commas behind it.
 * @param {Question} question
 * @param {number[]} [path]  root first
 */
export function questionTokens(question, path = rightPath(question)) {
  const { n, edges, goal, root } = question;
  const at = placesOf(n);
  const tokens = new Array(at.context).fill(COMMA_TOKEN);
  edges.forEach(([a, b], i) => {
    tokens[3 * i] = at.bare + a;
    tokens[3 * i + 1] = at.target + b;
  });
  [tokens[at.bar], tokens[at.goal], tokens[at.colon], tokens[at.root]] = [2, at.bare + goal, 1, at.bare + root];
  path.slice(1).forEach((node, i) => (tokens[at.root + 1 + i] = at.target + node));
  return tokens;
}

// ---- orders of the edges ------------------------------------------------------------------------------

/** Edges breadth first, siblings by label. @param {Question} question */
function breadthFirst(question) {
  /** @type {[number, number][]} */
  const edges = [];
  for (let level = [question.root]; level.length; ) {
    const here = level.flatMap((a) => childrenOf(question, a).map((b) => /** @type {[number, number]} */ ([a, b])));
    edges.push(...here);
    level = here.map(([, b]) => b);
  }
  return edges;
}

/**
 * The same tree with its edges in another order.
 * @param {Question} question
 * @param {Order} order
 * @param {Random} [random]
 * @returns {Question}
 */
export function inOrder(question, order, random = Math.random) {
  const edges = order === "random" ? shuffled(question.edges, random) : breadthFirst(question);
  return { ...question, edges: order === "backward" ? edges.reverse() : edges };
}

/** Which order the edges stand in; "random" for any that is no other. @param {Question} question @returns {Order} */
export function orderOf(question) {
  const text = String(question.edges);
  const forward = breadthFirst(question);
  return text === String(forward) ? "forward" : text === String(forward.reverse()) ? "backward" : "random";
}

/**
 * @template T
 * @param {readonly T[]} items
 * @param {Random} random
 */
function shuffled(items, random) {
  const out = [...items];
  for (let i = out.length - 1; i > 0; i--) {
    const j = Math.floor(random() * (i + 1));
    [out[i], out[j]] = [out[j], out[i]];
  }
  return out;
}

// ---- changes --------------------------------------------------------------------------------------------

/** Another goal. Throws FieldError for a node with children. @param {Question} question @param {number} goal */
export function withGoal(question, goal) {
  if (childrenOf(question, goal).length) throw new FieldError("tree", `${goal} has children; a goal is a leaf.`);
  return { ...question, goal };
}

/**
 * A node, with all that is below it, under another parent. The edge keeps its place in the prompt; a
 * prompt in backward or forward order stays in it. Throws FieldError for what would be no tree.
 * @param {Question} question
 * @param {number} node
 * @param {number} above
 * @returns {Question}
 */
export function movedUnder(question, node, above) {
  const fail = (/** @type {string} */ why) => {
    throw new FieldError("tree", why);
  };
  const { parent, root, goal } = question;
  if (node === root) fail(`${node} is the root; only nodes below it can be moved.`);
  if (belowNode(question, node).includes(above)) fail(`${above} is ${above === node ? "the node itself" : `below ${node}`}; choose a parent outside.`);
  if (above === goal) fail(`${above} is the goal, and a goal is a leaf; choose another goal first.`);
  if (parent[node] !== above && childrenOf(question, above).length > 1) fail(`${above} has two children already.`);
  const order = orderOf(question);
  const edges = question.edges.map(([a, b]) => /** @type {[number, number]} */ (b === node ? [above, b] : [a, b]));
  const next = { ...question, edges, parent: parent.map((p, k) => (k === node ? above : p)) };
  return order === "random" ? next : inOrder(next, order);
}

/**
 * Every label renamed: name[k] is the new label of k.
 * @param {Question} question
 * @param {readonly number[]} name
 * @returns {Question}
 */
export function renamed(question, name) {
  const edges = question.edges.map(([a, b]) => /** @type {[number, number]} */ ([name[a], name[b]]));
  const parent = new Array(question.n).fill(-1);
  for (const [a, b] of edges) parent[b] = a;
  return { ...question, edges, parent, goal: name[question.goal], root: name[question.root] };
}

/** Two nodes exchange their labels. @param {Question} question @param {number} a @param {number} b */
export function swappedNames(question, a, b) {
  const order = orderOf(question);
  const next = renamed(question, question.parent.map((_, k) => (k === a ? b : k === b ? a : k)));
  return order === "random" ? next : inOrder(next, order);
}

// ---- fresh trees ----------------------------------------------------------------------------------------

/**
 * A tree by the task's law: a path of `length` edges, a second chain from the root of random length,
 * the other nodes one by one wherever there is room; labels at random.
 * @param {number} n
 * @param {number} length  1..n-1
 * @param {Order} order
 * @param {Random} [random]
 * @returns {Question}
 */
export function freshQuestion(n, length, order, random = Math.random) {
  const room = n - 1 - length;
  const second = Math.min(room, Math.floor(random() * room) + 1);
  const above = [-1]; // slots 0..length are the path, then the second chain, then the rest
  const children = new Array(n).fill(0);
  for (let slot = 1; slot < n; slot++) {
    const free = above.flatMap((_, k) => (k !== length && children[k] < 2 ? [k] : []));
    const anywhere = free[Math.floor(random() * free.length)];
    const chain = slot === length + 1 ? 0 : slot - 1;
    above[slot] = slot <= length + second ? chain : anywhere;
    children[above[slot]]++;
  }
  const label = shuffled(above.map((_, k) => k), random);
  const edges = above.slice(1).map((a, i) => /** @type {[number, number]} */ ([label[a], label[i + 1]]));
  const parent = new Array(n).fill(-1);
  for (const [a, b] of edges) parent[b] = a;
  return inOrder({ n, edges, parent, root: label[0], goal: label[length] }, order, random);
}
