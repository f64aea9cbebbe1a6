/**
 * The paper's algorithms and their rivals step by step: `mi_lab.studies.arithmetic.stepping` in the page,
 * tested against it. A reader of the tokens knows, after each, what the algorithm can know by then.
 */

import { isNegative, rightAnswer, SYMBOLS } from "./arithmetic_task.js";

/** @typedef {import("./arithmetic_task.js").Question} Question */
/** @typedef {0 | 1 | null} Tri  it carries, does not, depends on the column below */

/**
 * @typedef {object} AlgorithmStep
 * @property {number} position
 * @property {string} token  the one that is read
 * @property {number | null} column  the one that it completes
 * @property {Record<string, string>} states  what each complete column says: {ST3: "U", ..}
 * @property {Record<string, string>} carries  out of each column, as this algorithm has it: {SV3: "1", ..}
 * @property {Record<number, number | null>} sources  the column that a carry was decided in; null: none, so 0 is assumed
 * @property {[string, string, string] | null} writes  name, value and reason of the token that comes next
 */

const WHOLE = 99;
/** Columns that a carry may come from: in the middle, out of the highest column. @type {Record<string, [number, number]>} */
const WINDOWS = { look_back_2: [2, 2], three_heads: [2, 3], sc_only: [1, 1] };

/** @param {Tri} x */
const triText = (x) => (x === null ? "U" : String(x));

/** Carries folded from tri-states, from as many columns as the algorithm looks at. */
class FoldReader {
  /** @param {string} name @param {Question} q */
  constructor(name, q) {
    this.name = name;
    this.q = q;
    this.negative = isNegative(q);
    this.windows = WINDOWS[name] ?? [WHOLE, WHOLE];
    this.first = this.#tri(q.d, q.e);
    this.swapped = this.#tri(q.e, q.d);
  }

  /** @param {number[]} d @param {number[]} e @returns {Tri[]} */
  #tri(d, e) {
    const { minus } = this.q;
    return d.map((x, k) => {
      const waits = minus ? x === e[k] : x + e[k] === 9;
      if (waits && k > 0 && this.name !== "sc_only") return null; // nothing comes in below the units
      return (minus ? x < e[k] : x + e[k] >= 10) ? 1 : 0;
    });
  }

  /**
   * The carry out of column k from the columns that have been read, and where it was decided.
   * @param {Tri[]} tri @param {number} k @param {number} lowest
   * @returns {{value: Tri, source: number | null}}
   */
  carry(tri, k, lowest) {
    const window = this.windows[k === this.q.n - 1 ? 1 : 0];
    for (let j = k; j > k - window; j--) {
      if (j < lowest) return { value: null, source: null };
      if (tri[j] !== null) return { value: tri[j], source: j };
    }
    return { value: 0, source: null }; // it looks no further
  }

  /** After reading the columns from `lowest` on. @param {number} lowest @param {boolean} signed */
  known(lowest, signed) {
    const { n, minus } = this.q;
    const swapped = signed && this.negative;
    const tri = swapped ? this.swapped : this.first;
    const letter = swapped ? "N" : minus ? "M" : "S";
    const local = this.name === "sc_only" ? (minus ? "B" : "C") : "T";
    /** @type {Record<string, string>} */
    const states = {};
    /** @type {Record<string, string>} */
    const carries = {};
    /** @type {Record<number, number | null>} */
    const sources = {};
    for (let k = n - 1; k >= lowest; k--) {
      const { value, source } = this.carry(tri, k, lowest);
      states[`${letter}${local}${k}`] = triText(tri[k]);
      carries[`${letter}V${k}`] = triText(value);
      if (value !== null) sources[k] = source;
    }
    return { states, carries, sources };
  }

  /**
   * Name, value and reason of answer token k; n + 1 is the sign.
   * @param {number} k @param {ReturnType<FoldReader["known"]>} known @returns {[string, string, string]}
   */
  writes(k, known) {
    const { n, minus } = this.q;
    if (k === n + 1) return ["SGN", this.negative ? "-" : "+", this.why()];
    if (k === n) return minus ? [`A${k}`, "0", "a difference has no more digits"] : [`A${k}`, known.carries[`SV${n - 1}`], `SV${n - 1}`];
    const [letter, sign] = minus ? [this.negative ? "N" : "M", "-"] : ["S", "+"];
    const what = letter === "S" ? "SA" : `${letter}D`;
    const base = this.base(k);
    if (k === 0) return ["A0", String(base), `${what}0`];
    const carry = known.carries[`${letter}V${k - 1}`];
    const value = (base + (minus ? 10 - Number(carry) : Number(carry))) % 10;
    return [`A${k}`, String(value), `${what}${k} ${sign} ${letter}V${k - 1} = ${base} ${sign} ${carry}`];
  }

  /** SA_k, MD_k or ND_k. @param {number} k */
  base(k) {
    const [d, e] = [this.q.d[k], this.q.e[k]];
    if (!this.q.minus) return (d + e) % 10;
    return (10 + (this.negative && this.name !== "misprinted_nd" ? e - d : d - e)) % 10;
  }

  /** What the sign follows from; an algorithm that looks back a little compares the whole numbers. */
  why() {
    if (!this.q.minus) return "an addition";
    if (this.windows[0] < WHOLE) return this.negative ? "D < D'" : "D >= D'";
    return `MV${this.q.n - 1} = ${Number(this.negative)}`;
  }
}

/** Nothing before the units are read; then everything. */
class RippleReader extends FoldReader {
  /** @override @param {number} lowest @param {boolean} signed */
  known(lowest, signed) {
    const found = super.known(lowest, signed);
    return lowest ? { states: {}, carries: {}, sources: {} } : { ...found, states: {} };
  }
}

/** T_k: the column's sum, corrected by those columns below it that have been read; open until the units. */
class SumsReader extends FoldReader {
  /** @override @param {number} lowest @param {boolean} _signed */
  known(lowest, _signed) {
    const { n, d, e } = this.q;
    /** @type {[number, number][]} */
    const sums = [];
    let carry = 0;
    for (let k = lowest; k < n; k++) {
      const total = d[k] + e[k] + carry;
      sums.unshift([k, total]);
      carry = Math.floor(total / 10);
    }
    const from = (/** @type {(k: number, total: number) => [string, string]} */ f) => Object.fromEntries(sums.map(([k, x]) => f(k, x)));
    return {
      states: from((k, x) => [`T${k}`, String(x)]),
      carries: from((k, x) => [`SV${k}`, lowest ? "U" : String(Math.floor(x / 10))]),
      sources: {},
    };
  }

  /** @override @param {number} k @param {ReturnType<FoldReader["known"]>} known @returns {[string, string, string]} */
  writes(k, { states }) {
    const { n } = this.q;
    if (k === n + 1) return ["SGN", "+", this.why()];
    const at = Math.min(k, n - 1);
    const sum = states[`T${at}`];
    if (k === n) return [`A${k}`, String(Math.floor(Number(sum) / 10)), `T${at} // 10 = ${sum} // 10`];
    return [`A${k}`, String(Number(sum) % 10), `T${k} mod 10 = ${sum} mod 10`];
  }
}

/** D - D' as if it were positive; if it is not, that is negated. */
class TwoPassReader extends FoldReader {
  /** @override @param {number} lowest @param {boolean} signed */
  known(lowest, signed) {
    if (!signed || !this.negative) return super.known(lowest, false);
    const { n, d, e } = this.q;
    const first = d.map((x, k) => (20 + x - e[k] - (k ? Number(this.carry(this.first, k - 1, 0).value) : 0)) % 10);
    /** @type {Record<string, string>} */
    const states = {};
    /** @type {Record<string, string>} */
    const carries = {};
    for (let k = n - 1; k >= 0; k--) {
      states[`R${k}`] = String(first[k]);
      carries[`RV${k}`] = first.slice(0, k + 1).some(Boolean) ? "1" : "0";
    }
    return { states, carries, sources: {} };
  }

  /** @override @param {number} k @param {ReturnType<FoldReader["known"]>} known @returns {[string, string, string]} */
  writes(k, known) {
    if (!this.negative || k >= this.q.n) return super.writes(k, known);
    const r = known.states[`R${k}`];
    if (k === 0) return ["A0", String((10 - Number(r)) % 10), `-R0 = -${r}`];
    const carry = known.carries[`RV${k - 1}`];
    return [`A${k}`, String((20 - Number(r) - Number(carry)) % 10), `-R${k} - RV${k - 1} = -${r} - ${carry}`];
  }
}

/** @type {Record<string, typeof FoldReader>} */
const READERS = { t_cascade: SumsReader, ripple: RippleReader, two_pass: TwoPassReader };

/**
 * Every position from the first token to the one that predicts A_0.
 * @param {Question} q
 * @param {string} name
 * @returns {AlgorithmStep[]}
 */
export function algorithmSteps(q, name) {
  const { n, d, e, minus } = q;
  const reader = new (READERS[name] ?? FoldReader)(name, q);
  /** @type {AlgorithmStep[]} */
  const steps = [];
  let answer = "";
  for (let position = 0; position < 3 * n + 3; position++) {
    const column = position > n && position <= 2 * n ? 2 * n - position : null;
    const known = reader.known(column ?? (position <= n ? n : 0), position > 2 * n);
    const writes = position > 2 * n ? reader.writes(3 * n + 2 - position, known) : null;
    let token = minus ? "-" : "+";
    if (position < n) token = String(d[n - 1 - position]);
    else if (column !== null) token = String(e[column]);
    else if (position === 2 * n + 1) token = "=";
    else if (position > 2 * n + 1) token = answer[position - 2 * n - 2];
    if (writes) answer += writes[1];
    steps.push({ position, token, column, ...known, writes });
  }
  return steps;
}

/** What an algorithm answers, as text, sign first. @param {Question} q @param {string} name */
export function algorithmAnswer(q, name) {
  const reader = new (READERS[name] ?? FoldReader)(name, q);
  const known = reader.known(0, true);
  return Array.from({ length: q.n + 2 }, (_, i) => reader.writes(q.n + 1 - i, known)[1]).join("");
}

/** The right answer as text. @param {Question} q */
export function rightText(q) {
  return rightAnswer(q).map((token) => SYMBOLS[token]).join("");
}
