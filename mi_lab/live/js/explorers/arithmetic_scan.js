/** What every node is needed for: counts from a model's file, or counted in the page, in a worker. */

import { sumClass, drawUntil, sumText, sumTokens, classNames } from "./arithmetic_task.js";
import { positionsOf } from "./arithmetic_run.js";
import { parseNode } from "../edits.js";
import { fetchBytes } from "../load.js";

/** @typedef {import("./arithmetic_task.js").Question} Question */
/** @typedef {import("./arithmetic_run.js").ArithmeticModel} ArithmeticModel */
/** @typedef {import("../portable.js").PortableEdit} PortableEdit */

/** Where a node is in the order of `allNodes`. @param {string} name @param {ArithmeticModel} model */
export function nodeIndex(name, { layers, heads }) {
  const { position, layer, head } = parseNode(name);
  return (Number(position) * layers + layer) * (heads + 1) + (head ?? heads);
}

/** Questions that turn wrong, by node: in all, by answer token, by class. */
export class NodeCounts {
  /**
   * @param {ArithmeticModel} model
   * @param {{hits: Float32Array, questions: number, dropped: number, asked: Record<string, number>, here?: boolean, how?: string, beside?: string[]}} counted
   *   hits [node, 1 + answer + class]; here: counted in this page; how: by what nodes were replaced; beside: nodes that were replaced all along
   */
  constructor(model, { hits, questions, dropped, asked, here = false, how = "mean", beside = [] }) {
    this.model = model;
    this.hits = hits;
    this.questions = questions;
    this.dropped = dropped;
    this.asked = asked;
    this.here = here;
    this.how = how;
    this.beside = beside;
    this.tokens = model.digits + 2;
    this.names = Object.keys(asked);
    this.width = 1 + this.tokens + this.names.length;
    /** Every question, also those dropped, of a scan in this page. @type {string[]} */
    this.tested = [];
    /** Failing questions by node, of a scan in this page. @type {Map<number, {name: string, text: string}[]>} */
    this.examples = new Map();
  }

  /** Where a node's counts are. @param {string} name */
  index(name) {
    return nodeIndex(name, this.model);
  }

  /** @param {number} node @param {number} [column] */
  count(node, column = 0) {
    return this.hits[node * this.width + column] ?? 0;
  }

  /** Share of all questions. @param {number} node */
  share(node) {
    return this.questions ? this.count(node) / this.questions : 0;
  }

  /** Share within a class. @param {number} node @param {string} name */
  within(node, name) {
    const asked = this.asked[name] ?? 0;
    return asked ? this.count(node, 1 + this.tokens + this.names.indexOf(name)) / asked : 0;
  }

  /** Answer tokens that some question gets wrong, as bits: 1 for the sign. @param {number} node */
  impact(node) {
    let bits = 0;
    for (let i = 0; i < this.tokens; i++) if (this.count(node, 1 + i)) bits += 2 ** i;
    return bits;
  }

  /** Classes in which some question fails. @param {number} node */
  failing(node) {
    return this.names.filter((name) => this.within(node, name) > 0);
  }

  /**
   * One more question: what each node's replacement turns wrong.
   * @param {string} name  its class @param {string} text @param {ArrayLike<number>} bits  by node
   */
  add(name, text, bits) {
    this.questions++;
    this.asked[name] = (this.asked[name] ?? 0) + 1;
    const column = 1 + this.tokens + this.names.indexOf(name);
    for (let node = 0; node < bits.length; node++) {
      const wrong = bits[node] ?? 0;
      if (!wrong) continue;
      const at = node * this.width;
      this.hits[at] = (this.hits[at] ?? 0) + 1;
      this.hits[at + column] = (this.hits[at + column] ?? 0) + 1;
      for (let i = 0; i < this.tokens; i++) if (wrong & (1 << i)) this.hits[at + 1 + i] = (this.hits[at + 1 + i] ?? 0) + 1;
      const examples = this.examples.get(node) ?? [];
      examples.push({ name, text });
      this.examples.set(node, examples);
    }
  }
}

/**
 * The scan that a model's file carries, or null.
 * @param {import("../weights.js").Model} file @param {ArithmeticModel} model
 */
export function countsOfFile({ extras, provenance }, model) {
  const about = /** @type {any} */ (provenance["scan"]);
  const hits = extras.get("scan")?.data;
  if (!hits || !about) return null;
  return new NodeCounts(model, { hits, questions: about.questions, dropped: about.dropped, asked: about.classes });
}

/**
 * As many questions of every class, each as likely within its class; the page stays free between them.
 * @param {ArithmeticModel} model @param {number} each @param {AbortSignal} signal
 */
export async function scanQuestions({ digits, operations }, each, signal) {
  /** @type {{name: string, q: Question}[]} */
  const out = [];
  let since = performance.now();
  for (const name of classNames(digits, operations)) {
    for (let i = 0, tried = 0; i < each && tried < 2000; tried++) {
      const q = drawUntil(digits, name[0] !== "S", (one) => sumClass(one) === name, { tries: 1000 });
      if (q) {
        out.push({ name, q });
        i++;
      }
      if (performance.now() - since < 15) continue;
      await new Promise((resolve) => setTimeout(resolve, 0));
      signal.throwIfAborted();
      since = performance.now();
    }
  }
  return out;
}

/**
 * Which answer tokens are wrong when each node in turn is replaced in one question, as bits: 1 for the sign.
 * @param {import("../client.js").Client} client
 * @param {Question} q @param {import("../portable.js").PortableValue} value @param {PortableEdit[]} edits
 * @returns {Promise<{bits: Float32Array, clean: number}>}
 */
export async function sweepQuestion(client, q, value, edits) {
  const measure = { wrong: /** @type {[number, number]} */ ([2 * q.n + 1, 3 * q.n + 3]) };
  const found = await client.sweep({ tokens: sumTokens(q), positions: positionsOf(q.n), value, measure, edits });
  return { bits: found.values, clean: found.clean };
}

/**
 * Replace every node in every question, one at a time, beside the given edits. Questions that are wrong already are dropped.
 * @param {import("../client.js").Client} client
 * @param {ArithmeticModel} model
 * @param {{questions: {name: string, q: Question}[], value: import("../portable.js").PortableValue, how: string, edits: PortableEdit[],
 *   signal: AbortSignal, onProgress: (done: number, counts: NodeCounts) => void}} task
 */
export async function scanNodes(client, model, { questions, value, how, edits, signal, onProgress }) {
  const asked = Object.fromEntries(classNames(model.digits, model.operations).map((name) => [name, 0]));
  const nodes = positionsOf(model.digits).length * model.layers * (model.heads + 1);
  const width = 1 + model.digits + 2 + Object.keys(asked).length;
  const counts = new NodeCounts(model, { hits: new Float32Array(nodes * width), questions: 0, dropped: 0, asked, here: true, how, beside: edits.map((edit) => ("node" in edit ? edit.node : "")) });
  for (const [done, { name, q }] of questions.entries()) {
    onProgress(done, counts);
    const { bits, clean } = await sweepQuestion(client, q, value, edits);
    signal.throwIfAborted();
    counts.tested.push(sumText(q));
    if (clean) counts.dropped++;
    else counts.add(name, sumText(q), bits);
  }
  onProgress(questions.length, counts);
  return counts;
}

/** Answer tokens as bits in words: "A3 A2", the sign as SGN. @param {number} bits @param {number} digits */
export function tokensOfBits(bits, digits) {
  const names = Array.from({ length: digits + 2 }, (_, i) => (i ? `A${digits + 1 - i}` : "SGN"));
  return names.filter((_, i) => bits & (1 << i));
}

/** The same in a map's cell: "5-3", "\u00b1 2". @param {number} bits @param {number} digits */
export function shortBits(bits, digits) {
  const parts = bits & 1 ? ["\u00b1"] : [];
  for (let i = 1; i < digits + 2; i++) {
    if (!(bits & (1 << i))) continue;
    let j = i;
    while (bits & (1 << (j + 1)) && j + 1 < digits + 2) j++;
    const [high, low] = [digits + 1 - i, digits + 1 - j];
    parts.push(high === low ? String(high) : `${high}\u2013${low}`);
    i = j;
  }
  return parts.join(" ");
}

/**
 * The workers ask for a model once between them: a kernel answers one question at a time.
 * @param {(key: string) => import("../load.js").Source | Promise<import("../load.js").Source>} sourceOf
 */
export function oneRequest(sourceOf) {
  /** @type {Map<string, Promise<Uint8Array>>} */
  const files = new Map();
  return (/** @type {string} */ key) => {
    const coming = files.get(key) ?? (async () => fetchBytes(await sourceOf(key)))();
    files.set(key, coming);
    coming.catch(() => files.delete(key));
    return coming;
  };
}
