/**
 * The three products of a transformer in WebAssembly SIMD (AssemblyScript; all pointers are bytes).
 *
 * `gemm` reads weights packed in panels of 8 columns, [cols / 8][inner][8], zero-padded, so that the
 * inner loop walks through memory once. A tile of C, 4 rows by 8 columns, stays in 8 registers.
 * Compiled into ../kernel_wasm.js by `node tests/live/build_kernel.mjs`.
 */

/** Where a tile's last, partial columns are put down before the valid ones are copied: 8 floats. */
const SPARE: usize = 0;

// @ts-ignore: decorator
@inline
function put(c: usize, low: v128, high: v128, width: i32): void {
  if (width == 8) {
    v128.store(c, low);
    v128.store(c, high, 16);
  } else {
    v128.store(SPARE, low);
    v128.store(SPARE, high, 16);
    for (let j: i32 = 0; j < width; j++) store<f32>(c + (j << 2), load<f32>(SPARE + (j << 2)));
  }
}

/** C[rows, cols] = A[rows, inner] W + bias. lda, ldc: bytes from row to row; bias padded to panels. */
export function gemm(
  a: usize, lda: usize, w: usize, bias: usize, c: usize, ldc: usize,
  rows: i32, inner: i32, cols: i32,
): void {
  const panel: usize = <usize>inner << 5;
  const end: usize = <usize>inner << 2;
  for (let col: i32 = 0; col < cols; col += 8) {
    const width: i32 = min(8, cols - col);
    const low: v128 = v128.load(bias), high: v128 = v128.load(bias, 16);
    let row: i32 = 0, from: usize = a, to: usize = c;
    for (; row + 4 <= rows; row += 4) {
      const t1: usize = to + ldc, t2: usize = t1 + ldc, t3: usize = t2 + ldc;
      let c00 = low, c01 = high;
      let c10 = low, c11 = high;
      let c20 = low, c21 = high;
      let c30 = low, c31 = high;
      let a0: usize = from, a1: usize = a0 + lda, a2: usize = a1 + lda, a3: usize = a2 + lda, p: usize = w;
      for (const stop: usize = from + end; a0 < stop; ) {
        const w0 = v128.load(p), w1 = v128.load(p, 16);
        let x = v128.load32_splat(a0);
        c00 = f32x4.add(c00, f32x4.mul(x, w0)), c01 = f32x4.add(c01, f32x4.mul(x, w1));
        x = v128.load32_splat(a1);
        c10 = f32x4.add(c10, f32x4.mul(x, w0)), c11 = f32x4.add(c11, f32x4.mul(x, w1));
        x = v128.load32_splat(a2);
        c20 = f32x4.add(c20, f32x4.mul(x, w0)), c21 = f32x4.add(c21, f32x4.mul(x, w1));
        x = v128.load32_splat(a3);
        c30 = f32x4.add(c30, f32x4.mul(x, w0)), c31 = f32x4.add(c31, f32x4.mul(x, w1));
        a0 += 4, a1 += 4, a2 += 4, a3 += 4, p += 32;
      }
      put(to, c00, c01, width);
      put(t1, c10, c11, width);
      put(t2, c20, c21, width);
      put(t3, c30, c31, width);
      from += lda << 2, to += ldc << 2;
    }
    for (; row < rows; row++) {
      let c0 = low, c1 = high;
      let p: usize = w;
      for (let x0: usize = from, stop: usize = from + end; x0 < stop; x0 += 4, p += 32) {
        const x = v128.load32_splat(x0);
        c0 = f32x4.add(c0, f32x4.mul(x, v128.load(p))), c1 = f32x4.add(c1, f32x4.mul(x, v128.load(p, 16)));
      }
      put(to, c0, c1, width);
      from += lda, to += ldc;
    }
    w += panel, bias += 32, c += 32;
  }
}

/** out[j] = scale q . k[j] for j < keys; ld: bytes from key to key. */
export function scores(q: usize, k: usize, ld: usize, out: usize, keys: i32, dHead: i32, scale: f32): void {
  const whole: usize = <usize>(dHead & ~3) << 2, end: usize = <usize>dHead << 2;
  for (let j: i32 = 0; j < keys; j++, k += ld, out += 4) {
    let sum = f32x4.splat(0), i: usize = 0;
    for (; i < whole; i += 16) sum = f32x4.add(sum, f32x4.mul(v128.load(q + i), v128.load(k + i)));
    let dot: f32 = f32x4.extract_lane(sum, 0) + f32x4.extract_lane(sum, 1)
      + f32x4.extract_lane(sum, 2) + f32x4.extract_lane(sum, 3);
    for (; i < end; i += 4) dot += load<f32>(q + i) * load<f32>(k + i);
    store<f32>(out, dot * scale);
  }
}

/** z = sum over j < keys of p[j] v[j]; ld: bytes from value to value. */
export function mix(p: usize, v: usize, ld: usize, z: usize, keys: i32, dHead: i32): void {
  const end: usize = <usize>dHead << 2;
  let i: usize = 0;
  for (; i + 64 <= end; i += 64) {
    let s0 = f32x4.splat(0), s1 = s0, s2 = s0, s3 = s0, from: usize = v + i;
    for (let j: i32 = 0; j < keys; j++, from += ld) {
      const x = v128.load32_splat(p + (<usize>j << 2));
      s0 = f32x4.add(s0, f32x4.mul(x, v128.load(from)));
      s1 = f32x4.add(s1, f32x4.mul(x, v128.load(from, 16)));
      s2 = f32x4.add(s2, f32x4.mul(x, v128.load(from, 32)));
      s3 = f32x4.add(s3, f32x4.mul(x, v128.load(from, 48)));
    }
    v128.store(z + i, s0), v128.store(z + i, s1, 16), v128.store(z + i, s2, 32), v128.store(z + i, s3, 48);
  }
  for (; i + 16 <= end; i += 16) {
    let s = f32x4.splat(0), from: usize = v + i;
    for (let j: i32 = 0; j < keys; j++, from += ld) {
      s = f32x4.add(s, f32x4.mul(v128.load32_splat(p + (<usize>j << 2)), v128.load(from)));
    }
    v128.store(z + i, s);
  }
  for (; i < end; i += 4) {
    let s: f32 = 0, from: usize = v + i;
    for (let j: i32 = 0; j < keys; j++, from += ld) s += load<f32>(p + (<usize>j << 2)) * load<f32>(from);
    store<f32>(z + i, s);
  }
}
