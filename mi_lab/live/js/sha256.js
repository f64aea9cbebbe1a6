/** SHA-256, for pages where the browser's own (`crypto.subtle`) is switched off: plain http, some frames. */

/** The first 32 bits of the fractional parts of the square and cube roots of the first primes. */
const [START, K] = constants();

function constants() {
  /** @type {number[]} */
  const primes = [];
  for (let n = 2; primes.length < 64; n++) if (primes.every((p) => n % p)) primes.push(n);
  const root = (/** @type {number} */ n, /** @type {bigint} */ power) => {
    // floor(n^(1/power) 2^32) by bisection, in whole numbers: doubles do not have the bits
    const goal = BigInt(n) << (32n * power);
    let low = 0n;
    let high = BigInt(n + 1) << 32n;
    while (high - low > 1n) {
      const middle = (low + high) >> 1n;
      if (middle ** power <= goal) low = middle;
      else high = middle;
    }
    return Number(low & 0xffffffffn);
  };
  return [primes.slice(0, 8).map((p) => root(p, 2n)), primes.map((p) => root(p, 3n))];
}

/**
 * The digest in hex.
 * @param {Uint8Array<ArrayBuffer>} bytes
 */
export async function sha256(bytes) {
  const subtle = globalThis.crypto?.subtle;
  if (!subtle) return hex(plainSha256(bytes));
  return hex(new Uint8Array(await subtle.digest("SHA-256", bytes)));
}

/**
 * Bytes in hex.
 * @param {Uint8Array} bytes
 */
export function hex(bytes) {
  return Array.from(bytes, (b) => b.toString(16).padStart(2, "0")).join("");
}

/**
 * The digest (32 bytes) by FIPS 180-4.
 * @param {Uint8Array} bytes
 */
export function plainSha256(bytes) {
  const size = (Math.ceil((bytes.length + 9) / 64) * 64) | 0;
  const padded = new Uint8Array(size);
  padded.set(bytes);
  padded[bytes.length] = 0x80;
  const view = new DataView(padded.buffer);
  view.setUint32(size - 8, Math.floor(bytes.length / 2 ** 29));
  view.setUint32(size - 4, (bytes.length << 3) >>> 0);
  const state = Int32Array.from(START);
  const constant = Int32Array.from(K);
  const w = new Int32Array(64);
  for (let block = 0; block < size; block += 64) {
    for (let i = 0; i < 16; i++) w[i] = view.getInt32(block + 4 * i);
    for (let i = 16; i < 64; i++) {
      const x = w[i - 15];
      const y = w[i - 2];
      const s0 = turn(x, 7) ^ turn(x, 18) ^ (x >>> 3);
      const s1 = turn(y, 17) ^ turn(y, 19) ^ (y >>> 10);
      w[i] = w[i - 16] + s0 + w[i - 7] + s1;
    }
    let [a, b, c, d, e, f, g, h] = state;
    for (let i = 0; i < 64; i++) {
      const choice = (e & f) ^ (~e & g);
      const t1 = (h + (turn(e, 6) ^ turn(e, 11) ^ turn(e, 25)) + choice + constant[i] + w[i]) | 0;
      const t2 = ((turn(a, 2) ^ turn(a, 13) ^ turn(a, 22)) + ((a & b) ^ (a & c) ^ (b & c))) | 0;
      h = g;
      g = f;
      f = e;
      e = (d + t1) | 0;
      d = c;
      c = b;
      b = a;
      a = (t1 + t2) | 0;
    }
    [a, b, c, d, e, f, g, h].forEach((x, i) => (state[i] += x));
  }
  const out = new DataView(new ArrayBuffer(32));
  state.forEach((x, i) => out.setInt32(4 * i, x));
  return new Uint8Array(out.buffer);
}

/** @param {number} x @param {number} n */
function turn(x, n) {
  return (x >>> n) | (x << (32 - n));
}
