/**
 * The arithmetic task in the page: questions, tokens, sub-tasks, classes, as `mi_lab.studies.arithmetic`
 * has them (`task`, `subtasks`, `interchanges`); tested against it. Columns are units first: d[0] is D_0.
 */

import { FieldError } from "./frame.js";

/** Tokens in the order of the vocabulary. */
export const SYMBOLS = "0123456789+-=*/";
export const [PLUS_SIGN, MINUS_SIGN, EQUALS_SIGN] = [10, 11, 12];
/** ST's third value: it depends on the column below. */
export const OPEN = 2;
const HIGHEST = { S: 5, M: 4, N: 4 }; // the last class holds everything above it too

/**
 * @typedef {object} Question
 * @property {number} n  digits of either number
 * @property {number[]} d  D_0, D_1, ..
 * @property {number[]} e  D'_0, D'_1, ..
 * @property {boolean} minus
 */

/** @typedef {"S" | "M" | "N"} Kind  additions; differences that are not negative; negative ones */

/** A minus as readers write it. @param {string} text */
export function typeset(text) {
  return text.replace(/-/g, "\u2212");
}

/**
 * A typed question. Throws FieldError with one sentence.
 * @param {string} text
 * @param {{digits: number | null, operations: string, most?: number, who?: string}} task  digits: null takes those of the longer number
 * @param {string} field
 * @returns {Question}
 */
export function readSum(text, { digits, operations, most = 15, who = "This model" }, field) {
  const line = String(text).replace(/\s+/g, "").replace(/\u2212/g, "-");
  const wrong = (/** @type {string} */ message) => new FieldError(field, message);
  const bad = /[^0-9+\-=]/u.exec(line);
  if (bad) throw wrong(`\u201c${bad[0]}\u201d is no part of a question: write two numbers with ${between(operations)} between them.`);
  const question = line.replace(/=.*$/, "");
  const signs = question.match(/[+-]/g) ?? [];
  const [operator] = signs;
  if (!operator) throw wrong(`The operator is missing: write two numbers with ${between(operations)} between them.`);
  if (signs.length > 1) throw wrong(`A question has one operator; this one has ${signs.length}.`);
  if (!operations.includes(operator)) {
    throw wrong(`${who} only ${operations === "+" ? "adds" : "subtracts"}: write \u201c${typeset(operations)}\u201d, not \u201c${typeset(operator)}\u201d.`);
  }
  const numbers = question.split(/[+-]/);
  const limit = digits ?? most;
  numbers.forEach((number, i) => {
    if (!number) throw wrong(`The ${i ? "second" : "first"} number is missing.`);
    if (number.length > limit) {
      const shown = number.length > 18 ? `${number.slice(0, 18)}\u2026` : number;
      throw wrong(`${shown} has ${number.length} digits; ${digits === null ? "the most here" : "this model\u2019s numbers have"} ${digits === null ? `is ${limit}` : limit}.`);
    }
  });
  const n = digits ?? Math.max(...numbers.map((x) => x.length));
  const [d, e] = numbers.map((x) => Array.from(x.padStart(n, "0"), Number).reverse());
  return { n, d, e, minus: operator === "-" };
}

/** @param {string} operations */
function between(operations) {
  return Array.from(operations, typeset).join(" or ");
}

/** Its text, zero padded. @param {Question} q */
export function sumText({ d, e, minus }) {
  return `${[...d].reverse().join("")}${minus ? "-" : "+"}${[...e].reverse().join("")}`;
}

/** Names of the tokens in order: D_{n-1}.., OPR, D'_.., =, SGN, A_n... @param {number} n */
export function sumTokenNames(n) {
  const down = (/** @type {number} */ from, /** @type {string} */ letter) => Array.from({ length: from }, (_, i) => `${letter}${from - 1 - i}`);
  return [...down(n, "D"), "OPR", ...down(n, "D'"), "=", "SGN", ...down(n + 1, "A")];
}

/**
 * The carries out of each column: that of the nearest column at or below it that does not pass one on.
 * @param {ArrayLike<boolean | number>} sure
 * @param {ArrayLike<boolean | number>} passes
 * @returns {number[]}
 */
export function carriesOut(sure, passes) {
  let carry = 0;
  return Array.from(sure, (s, k) => (carry = passes[k] ? carry : Number(Boolean(s))));
}

/** The longest run of a sure column and passing ones right above it. @param {boolean[]} sure @param {boolean[]} passes */
function longestRun(sure, passes) {
  let [run, best] = [0, 0];
  for (let k = 0; k < sure.length; k++) {
    run = sure[k] ? 1 : passes[k] && run ? run + 1 : 0;
    best = Math.max(best, run);
  }
  return best;
}

/** Is D below D'? @param {Question} q */
export function isNegative({ n, d, e, minus }) {
  for (let k = n - 1; minus && k >= 0; k--) if (d[k] !== e[k]) return d[k] < e[k];
  return false;
}

/** @param {Question} q @returns {Kind} */
export function sumKind(q) {
  return q.minus ? (isNegative(q) ? "N" : "M") : "S";
}

/** What a column says, by kind: its own digit, is it sure to carry or borrow, does it pass one on. */
const RULES = {
  S: { base: (/** @type {number} */ d, /** @type {number} */ e) => (d + e) % 10, sure: (/** @type {number} */ d, /** @type {number} */ e) => d + e >= 10, passes: (/** @type {number} */ d, /** @type {number} */ e) => d + e === 9, sign: 1 },
  M: { base: (/** @type {number} */ d, /** @type {number} */ e) => (d - e + 10) % 10, sure: (/** @type {number} */ d, /** @type {number} */ e) => d < e, passes: (/** @type {number} */ d, /** @type {number} */ e) => d === e, sign: -1 },
  N: { base: (/** @type {number} */ d, /** @type {number} */ e) => (e - d + 10) % 10, sure: (/** @type {number} */ d, /** @type {number} */ e) => d > e, passes: (/** @type {number} */ d, /** @type {number} */ e) => d === e, sign: -1 },
};

/** @param {Question} q @param {Kind} kind */
function columnsOf({ d, e }, kind) {
  const rule = RULES[kind];
  const each = (/** @type {(d: number, e: number) => any} */ f) => d.map((x, k) => f(x, e[k]));
  return { base: each(rule.base), sure: each(rule.sure), passes: each(rule.passes) };
}

/** Its complexity class, such as "S3"; N as the authors count. @param {Question} q */
export function sumClass(q) {
  const kind = sumKind(q);
  const seen = kind === "N" ? "M" : kind; // the authors count unswapped borrows
  let { sure, passes } = columnsOf(q, seen);
  if (kind === "N") {
    const top = q.n - 1 - [...q.d].reverse().findIndex((x, i) => x + q.e[q.n - 1 - i] > 0);
    passes = passes.map((/** @type {boolean} */ x, /** @type {number} */ k) => x && k <= top);
  }
  return `${kind}${Math.min(HIGHEST[kind], longestRun(sure, passes))}`;
}

/** @param {Question} q @param {Kind} kind @param {number[]} base @param {number[]} into  carry into each digit, n + 1 of them */
function written({ n }, kind, base, into) {
  const digits = base.map((x, k) => (x + RULES[kind].sign * into[k] + 10) % 10);
  const sign = kind === "N" ? MINUS_SIGN : PLUS_SIGN;
  return [sign, kind === "S" ? into[n] : 0, ...digits.reverse()];
}

/** The right answer's tokens, sign first. @param {Question} q */
export function rightAnswer(q) {
  const kind = sumKind(q);
  const { base, sure, passes } = columnsOf(q, kind);
  return written(q, kind, base, [0, ...carriesOut(sure, passes)]);
}

/** All tokens with the right answer. @param {Question} q */
export function sumTokens(q) {
  return [...[...q.d].reverse(), q.minus ? MINUS_SIGN : PLUS_SIGN, ...[...q.e].reverse(), EQUALS_SIGN, ...rightAnswer(q)];
}

// ---- what an interchange must do ----

const MOVES = { base: ["SA", "MD", "ND"], tri: ["ST", "MT", "NT"], sure: ["SC", "MB", "NB"], passes: ["SS", "MZ", "NZ"], carry: ["SV", "MV", "NV"] };

/**
 * Sub-tasks whose value can be taken from the other question: both must be of one kind.
 * @param {Question} clean @param {Question} store @param {string} operations  of the model
 */
export function moveNames(clean, store, operations) {
  const { n } = clean;
  const [kind, other] = [sumKind(clean), sumKind(store)];
  const column = "SMN".indexOf(kind);
  const top = kind === "S" ? n : n - 1; // the digit above the top column is a carry, but never a borrow
  const names = Object.entries(kind === other ? MOVES : {}).flatMap(([what, families]) => {
    const first = what === "passes" ? 1 : 0;
    const last = what === "base" ? n : top;
    return Array.from({ length: Math.max(0, last - first) }, (_, i) => `${families[column]}${i + first}`);
  });
  const digits = (/** @type {string} */ family) => Array.from({ length: n }, (_, k) => `${family}${k}`);
  return [...names, ...(kind !== "N" && operations === "+-" ? digits("OPR") : []), ...(kind === "S" || other === "S" ? [] : digits("SGN"))];
}

const MOVE_WORDS = { base: "its own digit", tri: "its tri-state", sure: "its own carry or borrow", passes: "does it pass one on", carry: "the carry or borrow out of it" };

/** What a sub-task of moveNames is, after its name. @param {string} name */
export function moveWords(name) {
  const [, family = "", k] = /^([A-Z]+)(\d+)$/.exec(name) ?? [];
  if (family === "OPR" || family === "SGN") return `A${k} as the other ${family === "OPR" ? "operation" : "sign"} has it`;
  const what = Object.entries(MOVES).find(([, families]) => families.includes(family))?.[0];
  return `of column ${k}: ${MOVE_WORDS[/** @type {keyof typeof MOVE_WORDS} */ (what)]}`;
}

/**
 * The answer's tokens to one question with one sub-task's value from another: as `interchanges.declare(task, name).predict`.
 * @param {Question} clean @param {Question} store @param {string} name
 */
export function movedAnswer(clean, store, name) {
  const [, family, digit] = /** @type {RegExpExecArray} */ (/^([A-Z]+)(\d+)$/.exec(name));
  const k = Number(digit);
  const right = rightAnswer(clean);
  if (family === "OPR" || family === "SGN") {
    const [one, two] = /** @type {[Kind, Kind]} */ (family === "OPR" ? ["S", "M"] : ["M", "N"]);
    const kind = (family === "OPR" ? store.minus : isNegative(store)) ? two : one;
    const { base, sure, passes } = columnsOf(clean, kind);
    const into = [0, ...carriesOut(sure, passes)];
    right[clean.n + 1 - k] = (base[k] + RULES[kind].sign * into[k] + 10) % 10;
    return right;
  }
  const what = Object.entries(MOVES).find(([, families]) => families.includes(family))?.[0];
  const kind = /** @type {Kind} */ (family[0]);
  const own = columnsOf(clean, kind);
  const other = columnsOf(store, kind);
  const carry = carriesOut(own.sure, own.passes);
  let into = [0, ...carry];
  if (what === "base") own.base[k] = other.base[k];
  else {
    let moved = Number(other.passes[k] ? k > 0 && carry[k - 1] : other.sure[k]);
    if (what === "carry") moved = carriesOut(other.sure, other.passes)[k];
    if (what === "tri") {
      own.sure[k] = moved;
      own.passes[k] = false;
      into = [0, ...carriesOut(own.sure, own.passes)];
    }
    into[k + 1] = moved;
  }
  const out = written(clean, kind, own.base, into);
  return [right[0], kind === "S" ? out[1] : right[1], ...out.slice(2)];
}

// ---- questions to order ----

/** A question of uniform digits. @param {number} n @param {boolean} minus @param {() => number} [random] @returns {Question} */
export function drawSum(n, minus, random = Math.random) {
  const digits = () => Array.from({ length: n }, () => Math.floor(random() * 10));
  return { n, d: digits(), e: digits(), minus };
}

/**
 * A question that passes a test, each of them as likely; null if none of so many draws does.
 * @param {number} n @param {boolean} minus @param {(q: Question) => boolean} test
 * @param {{tries?: number, random?: () => number}} [options]
 */
export function drawUntil(n, minus, test, { tries = 400_000, random = Math.random } = {}) {
  for (let i = 0; i < tries; i++) {
    const q = drawSum(n, minus, random);
    if (test(q)) return q;
  }
  return null;
}

/**
 * The classes of a task, in order: those of `mi_lab.studies.arithmetic.classes.names` but N_swapped.
 * @param {number} n @param {string} operations
 */
export function classNames(n, operations) {
  const kinds = /** @type {Kind[]} */ ([...(operations.includes("+") ? ["S"] : []), ...(operations.includes("-") ? ["M", "N"] : [])]);
  return kinds.flatMap((kind) => {
    const last = Math.min(HIGHEST[kind], kind === "M" ? n - 1 : n); // a borrow out of the top would be negative
    const first = kind === "N" ? 1 : 0;
    return Array.from({ length: Math.max(0, last - first + 1) }, (_, i) => `${kind}${i + first}`);
  });
}
