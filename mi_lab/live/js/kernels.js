/**
 * The matrix products of a transformer, twice: WebAssembly SIMD and plain JavaScript.
 *
 * Both work on one block of memory, the arena: weights, activations and scratch space are views of
 * it, so that nothing is ever copied into or out of WebAssembly. All places are in floats.
 */

import { KERNEL_WASM } from "./kernel_wasm.js";
import { bytesOfBase64 } from "./base64.js";

/** Columns of a weight panel: see `pack`. */
export const PANEL = 8;

/**
 * @typedef {object} Kernel
 * @property {"wasm" | "js"} name
 * @property {(a: number, lda: number, w: number, bias: number, c: number, ldc: number,
 *   rows: number, inner: number, cols: number) => void} gemm
 *   C[rows, cols] = A[rows, inner] W + bias; W and bias packed, lda and ldc from row to row.
 * @property {(q: number, k: number, ld: number, out: number, keys: number, width: number,
 *   scale: number) => void} scores  out[j] = scale q . k[j] for the first `keys` keys.
 * @property {(p: number, v: number, ld: number, z: number, keys: number, width: number) => void} mix
 *   z = sum over the first `keys` j of p[j] v[j].
 */

/** Memory handed out piece by piece, each on a 16-byte boundary; nothing is given back. */
export class Arena {
  /** @param {ArrayBuffer} buffer */
  constructor(buffer) {
    this.floats = new Float32Array(buffer);
    this.next = 16; // the first 64 bytes are the kernel's own
  }

  /**
   * The place of `n` new floats, all 0.
   * @param {number} n
   */
  take(n) {
    const place = this.next;
    this.next += padded(n);
    if (this.next > this.floats.length) throw new RangeError("the engine's memory is used up");
    return place;
  }

  /**
   * The floats at a place.
   * @param {number} place
   * @param {number} n
   */
  view(place, n) {
    return this.floats.subarray(place, place + n);
  }
}

/**
 * Floats that `take(n)` uses up.
 * @param {number} n
 */
export function padded(n) {
  return (n + 3) & ~3;
}

/**
 * Floats of a packed matrix.
 * @param {number} inner
 * @param {number} cols
 */
export function packedSize(inner, cols) {
  return inner * Math.ceil(cols / PANEL) * PANEL;
}

/**
 * Write a matrix [inner, cols], which stands row by row in `from`, into columns `first`.. of a packed
 * one: panels [columns / 8][inner][8], the order in which `gemm` reads them. What is missing in the
 * last panel stays 0.
 * @param {Float32Array} out
 * @param {number} inner
 * @param {number} first
 * @param {Float32Array} from
 * @param {number} cols
 */
export function pack(out, inner, first, from, cols) {
  for (let j = 0; j < cols; j++) {
    let to = Math.floor((first + j) / PANEL) * PANEL * inner + ((first + j) % PANEL);
    for (let at = j; at < inner * cols; at += cols, to += PANEL) out[to] = from[at];
  }
}

/**
 * An arena of `size` floats and the best kernel for it, or the one that is asked for.
 *
 * "auto" falls back to plain JavaScript where WebAssembly SIMD is missing or forbidden.
 * @param {number} size
 * @param {"auto" | "wasm" | "js"} [want]
 * @returns {Promise<{arena: Arena, kernel: Kernel}>}
 */
export async function makeKernel(size, want = "auto") {
  const floats = size + 16;
  if (want !== "js") {
    try {
      const memory = new WebAssembly.Memory({ initial: Math.ceil((floats * 4) / 65536) });
      const { instance } = await WebAssembly.instantiate(bytesOfBase64(KERNEL_WASM), { env: { memory } });
      return { arena: new Arena(memory.buffer), kernel: wasmKernel(instance) };
    } catch (error) {
      if (want === "wasm") throw error;
    }
  }
  const arena = new Arena(new ArrayBuffer(floats * 4));
  return { arena, kernel: plainKernel(arena.floats) };
}

/**
 * @param {WebAssembly.Instance} instance
 * @returns {Kernel}
 */
function wasmKernel(instance) {
  const { gemm, scores, mix } = /** @type {Record<string, (...x: number[]) => void>} */ (instance.exports);
  if (!gemm || !scores || !mix) throw new Error("the WebAssembly kernel is not whole");
  return {
    name: "wasm",
    gemm: (a, lda, w, bias, c, ldc, rows, inner, cols) =>
      gemm(a * 4, lda * 4, w * 4, bias * 4, c * 4, ldc * 4, rows, inner, cols),
    scores: (q, k, ld, out, keys, width, scale) => scores(q * 4, k * 4, ld * 4, out * 4, keys, width, scale),
    mix: (p, v, ld, z, keys, width) => mix(p * 4, v * 4, ld * 4, z * 4, keys, width),
  };
}

/**
 * The same in JavaScript. Sums are kept in double precision, which costs nothing here.
 * @param {Float32Array} f
 * @returns {Kernel}
 */
export function plainKernel(f) {
  return {
    name: "js",
    gemm(a, lda, w, bias, c, ldc, rows, inner, cols) {
      for (let col = 0; col < cols; col += PANEL, w += inner * PANEL) {
        for (let half = 0; half < PANEL && col + half < cols; half += 4) {
          const width = Math.min(4, cols - col - half);
          let row = 0;
          for (; row + 2 <= rows; row += 2) {
            tile2(f, a + row * lda, lda, w + half, bias + col + half, c + row * ldc + col + half, ldc, inner, width);
          }
          if (row < rows) tile1(f, a + row * lda, w + half, bias + col + half, c + row * ldc + col + half, inner, width);
        }
      }
    },
    scores(q, k, ld, out, keys, width, scale) {
      for (let j = 0; j < keys; j++, k += ld) {
        let even = 0;
        let odd = 0;
        let i = 0;
        for (; i + 2 <= width; i += 2) {
          even += f[q + i] * f[k + i];
          odd += f[q + i + 1] * f[k + i + 1];
        }
        if (i < width) even += f[q + i] * f[k + i];
        f[out + j] = (even + odd) * scale;
      }
    },
    mix(p, v, ld, z, keys, width) {
      for (let i = 0; i < width; i += 4) {
        let s0 = 0;
        let s1 = 0;
        let s2 = 0;
        let s3 = 0;
        for (let j = 0, from = v + i; j < keys; j++, from += ld) {
          const x = f[p + j];
          s0 += x * f[from];
          s1 += x * f[from + 1];
          s2 += x * f[from + 2];
          s3 += x * f[from + 3];
        }
        put(f, z + i, Math.min(4, width - i), s0, s1, s2, s3);
      }
    },
  };
}

/**
 * Two rows by four columns of C.
 * @param {Float32Array} f @param {number} x @param {number} lda @param {number} w @param {number} bias
 * @param {number} c @param {number} ldc @param {number} inner @param {number} width
 */
function tile2(f, x, lda, w, bias, c, ldc, inner, width) {
  let s0 = f[bias], s1 = f[bias + 1], s2 = f[bias + 2], s3 = f[bias + 3];
  let t0 = s0, t1 = s1, t2 = s2, t3 = s3;
  const y = x + lda;
  for (let k = 0; k < inner; k++, w += PANEL) {
    const u = f[x + k], v = f[y + k], w0 = f[w], w1 = f[w + 1], w2 = f[w + 2], w3 = f[w + 3];
    s0 += u * w0, s1 += u * w1, s2 += u * w2, s3 += u * w3;
    t0 += v * w0, t1 += v * w1, t2 += v * w2, t3 += v * w3;
  }
  put(f, c, width, s0, s1, s2, s3);
  put(f, c + ldc, width, t0, t1, t2, t3);
}

/**
 * One row by four columns of C.
 * @param {Float32Array} f @param {number} x @param {number} w @param {number} bias @param {number} c
 * @param {number} inner @param {number} width
 */
function tile1(f, x, w, bias, c, inner, width) {
  let s0 = f[bias], s1 = f[bias + 1], s2 = f[bias + 2], s3 = f[bias + 3];
  for (let k = 0; k < inner; k++, w += PANEL) {
    const u = f[x + k];
    s0 += u * f[w], s1 += u * f[w + 1], s2 += u * f[w + 2], s3 += u * f[w + 3];
  }
  put(f, c, width, s0, s1, s2, s3);
}

/**
 * Up to four neighbours.
 * @param {Float32Array} f @param {number} to @param {number} width
 * @param {number} s0 @param {number} s1 @param {number} s2 @param {number} s3
 */
function put(f, to, width, s0, s1, s2, s3) {
  f[to] = s0;
  if (width > 1) f[to + 1] = s1;
  if (width > 2) f[to + 2] = s2;
  if (width > 3) f[to + 3] = s3;
}
