/** Where everything lies in the engine's memory: weights in the kernel's order, and a session's arrays. */

import { PANEL, pack, packedSize } from "./kernels.js";
import { vocabOut } from "./weights.js";

/** @typedef {import("./weights.js").Config} Config */
/** @typedef {import("./weights.js").Tensors} Tensors */
/** @typedef {(n: number) => number} Take */
/** @typedef {{w: number, b: number}} Pair  A matrix (packed) or LayerNorm, and its bias. */

/**
 * @typedef {object} Weights
 * @property {number} embed
 * @property {number} pos
 * @property {{ln1: Pair, qkv: Pair, o: Pair, ln2: Pair, in: Pair, out: Pair}[]} blocks
 * @property {Pair} final
 * @property {Pair} unembed
 */

/**
 * @param {Config} config
 * @param {Take} take
 * @returns {Weights}
 */
export function placeWeights(config, take) {
  const { d_model: d, d_mlp } = config;
  const inner = config.n_heads * config.d_head;
  /** @param {number} rows @param {number} cols */
  const matrix = (rows, cols) => ({ w: take(packedSize(rows, cols)), b: take(packedSize(1, cols)) });
  const norm = () => (config.norm ? { w: take(d), b: take(d) } : { w: 0, b: 0 });
  const none = { w: 0, b: 0 };
  return {
    embed: take(config.d_vocab * d),
    pos: take(config.n_ctx * d),
    blocks: Array.from({ length: config.n_layers }, () => ({
      ln1: norm(),
      qkv: matrix(d, 3 * inner),
      o: matrix(inner, d),
      ln2: d_mlp ? norm() : none,
      in: d_mlp ? matrix(d, d_mlp) : none,
      out: d_mlp ? matrix(d_mlp, d) : none,
    })),
    final: norm(),
    unembed: matrix(d, vocabOut(config)),
  };
}

/**
 * Copy the weights to their places: matrices as panels, the heads' Q, K and V side by side.
 * @param {Float32Array} floats
 * @param {Weights} places
 * @param {Config} config
 * @param {Tensors} tensors
 */
export function fillWeights(floats, places, config, tensors) {
  const { d_model: d, d_head, d_mlp } = config;
  const inner = config.n_heads * d_head;
  /** @param {string} name */
  const get = (name) => {
    const tensor = tensors.get(name);
    if (!tensor) throw new RangeError(`The model has no weights ${name}.`);
    return tensor;
  };
  /** @param {Pair} to @param {string} name */
  const norm = (to, name) => {
    if (!config.norm) return;
    floats.set(get(`${name}.w`), to.w);
    floats.set(get(`${name}.b`), to.b);
  };
  /** @param {Pair} to @param {string} w @param {string} b @param {number} rows @param {number} cols */
  const matrix = (to, w, b, rows, cols) => {
    pack(floats.subarray(to.w, to.w + packedSize(rows, cols)), rows, 0, get(w), cols);
    floats.set(get(b), to.b);
  };
  floats.set(get("embed.W_E"), places.embed);
  floats.set(get("pos_embed.W_pos"), places.pos);
  places.blocks.forEach((block, l) => {
    const name = `blocks.${l}.`;
    norm(block.ln1, `${name}ln1`);
    const qkv = floats.subarray(block.qkv.w, block.qkv.w + packedSize(d, 3 * inner));
    ["Q", "K", "V"].forEach((x, i) => {
      const W = get(`${name}attn.W_${x}`); // [head, d_model, d_head]
      for (let h = 0; h < config.n_heads; h++) {
        const head = W.subarray(h * d * d_head, (h + 1) * d * d_head);
        pack(qkv, d, i * inner + h * d_head, head, d_head);
      }
      floats.set(get(`${name}attn.b_${x}`), block.qkv.b + i * inner);
    });
    matrix(block.o, `${name}attn.W_O`, `${name}attn.b_O`, inner, d);
    if (!d_mlp) return;
    norm(block.ln2, `${name}ln2`);
    matrix(block.in, `${name}mlp.W_in`, `${name}mlp.b_in`, d, d_mlp);
    matrix(block.out, `${name}mlp.W_out`, `${name}mlp.b_out`, d_mlp, d);
  });
  norm(places.final, "ln_final");
  matrix(places.unembed, "unembed.W_U", "unembed.b_U", d, vocabOut(config));
}

/**
 * A session's arrays, one row per token of the batch; patterns [batch, head, query, key].
 * @typedef {object} Buffers
 * @property {number} embed
 * @property {number} pos
 * @property {{pre: number, qkv: number, pattern: number, z: number, attnOut: number, mid: number,
 *   hidden: number, mlpOut: number, post: number}[]} blocks
 * @property {number} final
 * @property {number} logits
 * @property {number} normed  scratch
 * @property {number} lens  scratch
 */

/**
 * @param {Config} config
 * @param {number} batch
 * @param {Take} take
 * @returns {Buffers}
 */
export function placeBuffers(config, batch, take) {
  const rows = batch * config.n_ctx;
  const inner = config.n_heads * config.d_head;
  const stream = () => take(rows * config.d_model);
  return {
    embed: stream(),
    pos: stream(),
    blocks: Array.from({ length: config.n_layers }, () => ({
      pre: stream(),
      qkv: take(rows * 3 * inner),
      pattern: take(rows * config.n_heads * config.n_ctx),
      z: take(rows * inner),
      attnOut: stream(),
      mid: stream(),
      hidden: take(rows * config.d_mlp),
      mlpOut: config.d_mlp ? stream() : 0,
      post: stream(),
    })),
    final: stream(),
    logits: take(rows * vocabOut(config)),
    normed: stream(),
    lens: take(rows * vocabOut(config) + PANEL),
  };
}
