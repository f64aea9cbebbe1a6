/** Arithmetic on rows of the engine's memory that is not a matrix product. */

import { PATTERN, SCORES } from "./edits.js";

/**
 * Mean and 1 / standard deviation of `d` floats, as LayerNorm takes them.
 * @param {ArrayLike<number>} f
 * @param {number} at
 * @param {number} d
 * @param {number} eps
 */
export function moments(f, at, d, eps) {
  let mean = 0;
  for (let i = at; i < at + d; i++) mean += f[i];
  mean /= d;
  let variance = 0;
  for (let i = at; i < at + d; i++) variance += (f[i] - mean) * (f[i] - mean);
  return { mean, scale: 1 / Math.sqrt(variance / d + eps) };
}

/**
 * LayerNorm of `count` rows from `x` to `y`.
 * @param {Float32Array} f @param {number} x @param {number} y @param {{w: number, b: number}} weights
 * @param {number} d @param {number} count @param {number} eps
 */
export function layerNorm(f, x, y, { w, b }, d, count, eps) {
  for (let row = 0; row < count; row++, x += d, y += d) {
    const { mean, scale } = moments(f, x, d, eps);
    for (let i = 0; i < d; i++) f[y + i] = (f[x + i] - mean) * scale * f[w + i] + f[b + i];
  }
}

/**
 * `n` sums a + b.
 * @param {Float32Array} f @param {number} a @param {number} b @param {number} to @param {number} n
 */
export function sum(f, a, b, to, n) {
  for (let i = 0; i < n; i++) f[to + i] = f[a + i] + f[b + i];
}

/**
 * The softmax of a query's scores, in place, over keys 0..query but the forbidden ones; the rest of
 * the `n` keys gets 0.
 * @param {Float32Array} f @param {number} at @param {number} query @param {number} n
 * @param {Uint8Array | undefined} mask @param {number} line  where the query's keys begin in the mask
 */
export function attentionRow(f, at, query, n, mask, line) {
  if (mask) for (let k = 0; k <= query; k++) if (mask[line + k] & SCORES) f[at + k] = -Infinity;
  let top = -Infinity;
  for (let k = at; k <= at + query; k++) if (f[k] > top) top = f[k];
  let total = 0;
  for (let k = at; k <= at + query; k++) total += f[k] = Math.exp(f[k] - top);
  const scale = 1 / total;
  for (let k = at; k <= at + query; k++) f[k] *= scale;
  f.fill(0, at + query + 1, at + n);
}

/**
 * Take attention away after the softmax.
 * @param {Float32Array} f @param {number} at @param {number} n @param {Uint8Array} mask @param {number} line
 */
export function lose(f, at, n, mask, line) {
  for (let k = 0; k < n; k++) if (mask[line + k] & PATTERN) f[at + k] = 0;
}
