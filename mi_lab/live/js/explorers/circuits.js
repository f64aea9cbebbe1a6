/** OV and QK tables of a model's heads, from its weights alone: as `mi_lab.circuits`. */

import { layerNorm } from "../rows.js";
import { vocabOut } from "../weights.js";

/** @typedef {import("../weights.js").Config} Config */
/** @typedef {import("../weights.js").Tensors} Tensors */

/**
 * @param {ArrayLike<number>} a  [n, k]
 * @param {ArrayLike<number>} b  [k, m]
 * @param {number} n @param {number} k @param {number} m
 */
function product(a, b, n, k, m) {
  const out = new Float32Array(n * m);
  for (let i = 0; i < n; i++) {
    for (let j = 0; j < k; j++) {
      const x = a[i * k + j];
      for (let c = 0; c < m; c++) out[i * m + c] += x * b[j * m + c];
    }
  }
  return out;
}

/**
 * E' [vocab, d_model]: each token's embedding behind the layer's LayerNorm.
 * @param {Config} config
 * @param {Tensors} tensors
 * @param {number} layer
 */
function effectiveEmbedding(config, tensors, layer) {
  const { d_vocab, d_model: d, norm, eps } = config;
  const embed = weightOf(tensors, "embed.W_E");
  if (!norm) return embed;
  const floats = new Float32Array(2 * d_vocab * d + 2 * d);
  floats.set(embed);
  const at = d_vocab * d;
  floats.set(weightOf(tensors, `blocks.${layer}.ln1.w`), 2 * at);
  floats.set(weightOf(tensors, `blocks.${layer}.ln1.b`), 2 * at + d);
  layerNorm(floats, 0, at, { w: 2 * at, b: 2 * at + d }, d, d_vocab, eps);
  return floats.subarray(at, 2 * at);
}

/** @param {Tensors} tensors @param {string} name */
function weightOf(tensors, name) {
  return /** @type {Float32Array} */ (tensors.get(name));
}

/**
 * What attending to token i adds to the logit of token j, [vocab, vocabOut] for each head; up to the
 * final LayerNorm's scale.
 * @param {Config} config @param {Tensors} tensors @param {number} [layer]
 */
export function ovTables(config, tensors, layer = 0) {
  const { d_vocab, d_model: d, d_head, n_heads, norm } = config;
  const out = vocabOut(config);
  const directions = Float32Array.from(weightOf(tensors, "unembed.W_U"));
  for (let i = 0; i < d; i++) {
    let mean = 0;
    for (let j = 0; j < out; j++) mean += directions[i * out + j] / out;
    const scale = norm ? weightOf(tensors, "ln_final.w")[i] : 1;
    for (let j = 0; j < out; j++) directions[i * out + j] = scale * (directions[i * out + j] - mean);
  }
  const embed = effectiveEmbedding(config, tensors, layer);
  const per = d * d_head;
  return Array.from({ length: n_heads }, (_, head) => {
    const read = weightOf(tensors, `blocks.${layer}.attn.W_V`).subarray(head * per, (head + 1) * per);
    const write = weightOf(tensors, `blocks.${layer}.attn.W_O`).subarray(head * per, (head + 1) * per);
    return product(product(embed, read, d_vocab, d, d_head), product(write, directions, d_head, d, out), d_vocab, d_head, out);
  });
}

/**
 * Attention scores between tokens before the softmax, [query, key] for each head, without positions.
 * @param {Config} config @param {Tensors} tensors @param {number} [layer]
 */
export function qkTables(config, tensors, layer = 0) {
  const { d_vocab, d_model: d, d_head, n_heads } = config;
  const embed = effectiveEmbedding(config, tensors, layer);
  const per = d * d_head;
  return Array.from({ length: n_heads }, (_, head) => {
    const side = (/** @type {"Q" | "K"} */ x) => {
      const weight = weightOf(tensors, `blocks.${layer}.attn.W_${x}`).subarray(head * per, (head + 1) * per);
      const bias = weightOf(tensors, `blocks.${layer}.attn.b_${x}`).subarray(head * d_head, (head + 1) * d_head);
      return product(embed, weight, d_vocab, d, d_head).map((v, i) => v + bias[i % d_head]);
    };
    const [q, k] = [side("Q"), side("K")];
    const turned = new Float32Array(k.length);
    for (let i = 0; i < d_vocab; i++) for (let e = 0; e < d_head; e++) turned[e * d_vocab + i] = k[i * d_head + e];
    return product(q, turned, d_vocab, d_head, d_vocab).map((v) => v / Math.sqrt(d_head));
  });
}
