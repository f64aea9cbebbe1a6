/**
 * The exact (erf) GELU to 1e-7, as a table of cubics.
 *
 * x Phi(x) has a cheap exact Taylor series at every grid point: with g = gelu and phi the normal
 * density, g' = Phi + x phi and g'' = (2 - x^2) phi. Between two points a cubic takes both values
 * and both slopes (Hermite); with 64 cells a unit its error is below 1e-9.
 */

const LIMIT = 6; // beyond it gelu(x) is x, or 0, to 6e-9
const CELLS = 64; // per unit
const TABLE = makeTable();

/** Four coefficients a cell. */
function makeTable() {
  const n = 2 * LIMIT * CELLS;
  const table = new Float64Array(4 * n);
  const h = 1 / CELLS;
  let [value, slope] = valueAndSlope(-LIMIT);
  for (let i = 0; i < n; i++) {
    const [nextValue, nextSlope] = valueAndSlope(-LIMIT + (i + 1) * h);
    const rise = nextValue - value;
    const c2 = 3 * rise - h * (2 * slope + nextSlope);
    const c3 = h * (slope + nextSlope) - 2 * rise;
    table.set([value, h * slope, c2, c3], 4 * i);
    [value, slope] = [nextValue, nextSlope];
  }
  return table;
}

/**
 * gelu(x) and its derivative in double precision: Phi by its series
 * 1/2 + phi(x) (x + x^3/3 + x^5/(3 5) + ...), in which all terms have one sign.
 * @param {number} x
 * @returns {[number, number]}
 */
function valueAndSlope(x) {
  const phi = Math.exp((-x * x) / 2) / Math.sqrt(2 * Math.PI);
  let term = x;
  let sum = x;
  for (let k = 3; Math.abs(term) > 1e-18 * Math.abs(sum); k += 2) sum += term *= (x * x) / k;
  const cdf = 0.5 + phi * sum;
  return [x * cdf, cdf + x * phi];
}

/**
 * gelu of `n` floats from `start` on, in place.
 * @param {Float32Array} f
 * @param {number} start
 * @param {number} n
 */
export function geluInPlace(f, start, n) {
  for (let i = start; i < start + n; i++) {
    const x = f[i];
    const at = (x + LIMIT) * CELLS;
    if (at >= 0 && at < 2 * LIMIT * CELLS) {
      const cell = at | 0;
      const t = at - cell;
      const c = cell << 2;
      f[i] = TABLE[c] + t * (TABLE[c + 1] + t * (TABLE[c + 2] + t * TABLE[c + 3]));
    } else if (x < 0) f[i] = 0;
  }
}

/**
 * max(x, 0) of `n` floats from `start` on, in place.
 * @param {Float32Array} f
 * @param {number} start
 * @param {number} n
 */
export function reluInPlace(f, start, n) {
  for (let i = start; i < start + n; i++) if (f[i] < 0) f[i] = 0;
}
