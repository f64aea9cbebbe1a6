/** What is read off a run: probabilities, the direct effect of every part on a logit, node sweeps. */

import { nodeName } from "./edits.js";
import { moments } from "./rows.js";
import { vocabOut } from "./weights.js";

/** @typedef {import("./session.js").Session} Session */
/** @typedef {import("./edits.js").Edit} Edit */
/** @typedef {import("./edits.js").Node} Node */
/** @typedef {import("./edits.js").Activations} Activations */

/**
 * The place of the largest of `n` numbers, the first one of equals.
 * @param {ArrayLike<number>} x
 * @param {number} [start]
 * @param {number} [n]
 */
export function argmax(x, start = 0, n = x.length) {
  let best = 0;
  for (let i = 1; i < n; i++) if (x[start + i] > x[start + best]) best = i;
  return best;
}

/**
 * Probabilities from `n` logits.
 * @param {ArrayLike<number>} logits
 * @param {number} [start]
 * @param {number} [n]
 */
export function softmax(logits, start = 0, n = logits.length) {
  const out = new Float32Array(n);
  const top = logits[start + argmax(logits, start, n)];
  let sum = 0;
  for (let i = 0; i < n; i++) sum += out[i] = Math.exp(logits[start + i] - top);
  for (let i = 0; i < n; i++) out[i] /= sum;
  return out;
}

/**
 * The model's own answer: positions first..stop-1 each predict the next token, which is written into
 * the sequence before the next prediction. Returns the sequence; the session holds the run on it.
 * @param {Session} session
 * @param {ArrayLike<number>} tokens
 * @param {number} first
 * @param {number} stop
 * @param {readonly Edit[]} [edits]
 * @param {number} [end]  a token that ends the answer: it fills the rest up to `stop`
 */
export function answer(session, tokens, first, stop, edits = [], end = -1) {
  const vocab = vocabOut(session.engine.config);
  const out = Int32Array.from(tokens);
  session.forward(out, edits);
  let partly = false;
  for (let p = first; p < stop && p + 1 < out.length; p++) {
    const next = argmax(session.logits, p * vocab, vocab);
    if (next === end) {
      partly ||= out.subarray(p + 1, stop + 1).some((token) => token !== end);
      out.fill(end, p + 1, stop + 1);
      break;
    }
    if (next !== out[p + 1]) partly = true;
    out[p + 1] = next;
    if (partly) session.forward(out, edits, p + 2); // the next prediction needs no later token
  }
  if (partly) session.forward(out, edits);
  return out;
}

/**
 * The direct effect of each part of the model on logits, at one row, with the final LayerNorm frozen
 * at its scale in this run.
 *
 * parts: "embed", "pos_embed", each head "L0H1", each layer's attention bias "L0 bias" and MLP
 * "L0MLP", "edits" (what edits have added to the residual stream; else 0 up to rounding) and "bias"
 * (the final LayerNorm's and the unembedding's). values [part, target]. They sum up to the logits,
 * unless `ln_final` itself is edited.
 * @param {Session} session
 * @param {number} row  batch * n + position
 * @param {number[]} targets  tokens
 * @returns {{parts: string[], targets: number[], values: Float32Array}}
 */
export function attribution(session, row, targets) {
  const { config, tensors } = session.engine;
  const { n_layers, n_heads, d_head, d_model: d, d_mlp } = config;
  const vocab = vocabOut(config);
  if (!(row >= 0 && row < session.rows)) throw new RangeError(`There is no row ${row}: they go from 0 to ${session.rows - 1}.`);
  for (const t of targets) if (!(t >= 0 && t < vocab)) throw new RangeError(`There is no output token ${t}.`);
  const weight = (/** @type {string} */ name) => /** @type {Float32Array} */ (tensors.get(name));
  const W_U = weight("unembed.W_U");
  const at = (/** @type {string} */ name, width = d) => session.get(name).data.subarray(row * width, (row + 1) * width);
  const last = at(`blocks.${n_layers - 1}.resid_post`);
  const { scale } = config.norm ? moments(last, 0, d, config.eps) : { scale: 1 };
  const directions = targets.map((t) => {
    const out = new Float64Array(d);
    for (let i = 0; i < d; i++) out[i] = W_U[i * vocab + t] * (config.norm ? weight("ln_final.w")[i] * scale : 1);
    if (config.norm) {
      const mean = out.reduce((a, b) => a + b, 0) / d; // taking the mean off a write or off the direction is one
      for (let i = 0; i < d; i++) out[i] -= mean;
    }
    return out;
  });
  /** @type {string[]} */
  const parts = [];
  /** @type {number[]} */
  const values = [];
  const rest = Float64Array.from(last);
  /** @param {string} name @param {ArrayLike<number>} written */
  const add = (name, written) => {
    parts.push(name);
    for (const direction of directions) values.push(dot(written, direction));
    for (let i = 0; i < d; i++) rest[i] -= written[i];
  };
  add("embed", at("embed"));
  add("pos_embed", at("pos_embed"));
  for (let l = 0; l < n_layers; l++) {
    const z = at(`blocks.${l}.attn.z`, n_heads * d_head);
    for (let h = 0; h < n_heads; h++) add(`L${l}H${h}`, headWrite(weight(`blocks.${l}.attn.W_O`), z, h, d_head, d));
    add(`L${l} bias`, weight(`blocks.${l}.attn.b_O`));
    if (d_mlp) add(`L${l}MLP`, at(`blocks.${l}.mlp.out`));
  }
  add("edits", rest.slice());
  parts.push("bias");
  for (const t of targets) {
    let sum = weight("unembed.b_U")[t];
    if (config.norm) for (let i = 0; i < d; i++) sum += weight("ln_final.b")[i] * W_U[i * vocab + t];
    values.push(sum);
  }
  return { parts, targets, values: Float32Array.from(values) };
}

/**
 * z[head] W_O[head].
 * @param {Float32Array} W_O @param {Float32Array} z @param {number} head @param {number} d_head @param {number} d
 */
function headWrite(W_O, z, head, d_head, d) {
  const out = new Float64Array(d);
  for (let e = head * d_head; e < (head + 1) * d_head; e++) {
    for (let i = 0; i < d; i++) out[i] += z[e] * W_O[e * d + i];
  }
  return out;
}

/** @param {ArrayLike<number>} a @param {ArrayLike<number>} b */
function dot(a, b) {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += a[i] * b[i];
  return sum;
}

/**
 * Every head, and MLP if there is one, at these positions: in the order of `mi_lab.ablate.all_nodes`.
 * @param {import("./weights.js").Config} config
 * @param {readonly (number | null)[]} positions  null: a node at all positions
 * @returns {Node[]}
 */
export function allNodes(config, positions) {
  /** @type {(number | null)[]} */
  const parts = Array.from({ length: config.n_heads }, (_, h) => h);
  if (config.d_mlp) parts.push(null);
  const nodes = [];
  for (const position of positions) {
    for (let layer = 0; layer < config.n_layers; layer++) for (const head of parts) nodes.push({ layer, head, position });
  }
  return nodes;
}

/** What nodes compute on average over some runs of one length: for mean ablation. */
export class RunMean {
  /** @type {Map<string, Float64Array>} */
  #sums = new Map();
  #count = 0;
  #n = 0;

  /** Take in a session's last run. @param {Session} session */
  add(session) {
    const { n, values } = session.snapshot();
    if (this.#count && n !== this.#n) throw new RangeError("A mean needs questions of one length.");
    for (const [name, data] of values) {
      const sum = this.#sums.get(name) ?? new Float64Array(data.length);
      for (let i = 0; i < data.length; i++) sum[i] += data[i];
      this.#sums.set(name, sum);
    }
    this.#n = n;
    this.#count++;
  }

  /** @returns {Activations} */
  get activations() {
    if (!this.#count) throw new RangeError("A mean needs at least one question.");
    const values = new Map([...this.#sums].map(([name, sum]) => [name, Float32Array.from(sum, (x) => x / this.#count)]));
    return { batch: 1, n: this.#n, values };
  }
}

/**
 * What nodes compute on average over some questions of one length.
 * @param {Session} session
 * @param {readonly ArrayLike<number>[]} questions
 * @returns {Activations}
 */
export function meanActivations(session, questions) {
  const mean = new RunMean();
  for (const tokens of questions) mean.add(session.forward(tokens));
  return mean.activations;
}

/**
 * `measure` of the run with each node's value replaced, one node at a time, beside the given edits.
 *
 * Nodes of the upper layers come first, so that most of every run is reused; every 20 ms the thread
 * is free for something else. A signal that is aborted ends the sweep with its reason.
 * @param {Session} session  used by nobody else meanwhile
 * @param {ArrayLike<number>} tokens
 * @param {readonly Node[]} nodes
 * @param {number | Activations} value
 * @param {(session: Session) => number} measure
 * @param {{edits?: readonly Edit[], onProgress?: (done: number, total: number) => void,
 *   signal?: AbortSignal}} [options]
 * @returns {Promise<Float32Array>} one number per node, in the order of `nodes`
 */
export async function sweepNodes(session, tokens, nodes, value, measure, options = {}) {
  const { edits = [], onProgress, signal } = options;
  const order = nodes.map((_, i) => i);
  order.sort((i, j) => nodes[j].layer - nodes[i].layer || (nodes[j].position ?? 0) - (nodes[i].position ?? 0));
  const out = new Float32Array(nodes.length);
  let busySince = performance.now();
  for (const [done, i] of order.entries()) {
    if (performance.now() - busySince > 20) {
      onProgress?.(done, nodes.length);
      await new Promise((resolve) => setTimeout(resolve, 0));
      signal?.throwIfAborted();
      busySince = performance.now();
    }
    session.forward(tokens, [...edits, { node: nodeName(nodes[i]), value }]);
    out[i] = measure(session);
  }
  onProgress?.(nodes.length, nodes.length);
  return out;
}

/**
 * What a sweep can measure, as plain JSON.
 * @typedef {{loss: [number, number]} | {wrong: [number, number]} | {logit: {row: number, token: number, minus?: number}}} Measure
 *   loss: mean cross entropy, in nats, of the tokens that positions first..stop-1 predict; wrong: which of them
 *   are not the most likely ones, as a sum of 2^(position - first)
 */

/**
 * @param {Measure} measure
 * @returns {(session: Session) => number}
 */
export function measureOf(measure) {
  return (session) => {
    const vocab = vocabOut(session.engine.config);
    const { logits, tokens, n } = session;
    if ("logit" in measure) {
      const { row, token, minus } = measure.logit;
      return logits[row * vocab + token] - (minus === undefined ? 0 : logits[row * vocab + minus]);
    }
    const [first, stop] = "wrong" in measure ? measure.wrong : measure.loss;
    if (!(first >= 0 && first < stop && stop < n)) throw new RangeError("Positions of a loss need a next token.");
    if ("wrong" in measure) {
      if (stop - first > 24) throw new RangeError("No more than 24 tokens can be told apart.");
      let bits = 0;
      for (let p = first; p < stop; p++) if (argmax(logits, p * vocab, vocab) !== tokens[p + 1]) bits += 2 ** (p - first);
      return bits;
    }
    let total = 0;
    for (let p = first; p < stop; p++) total -= Math.log(softmax(logits, p * vocab, vocab)[tokens[p + 1]]);
    return total / (stop - first);
  };
}
