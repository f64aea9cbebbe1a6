/** The algorithm explorer's state and words, without any picture. */

import { algorithmAnswer, algorithmSteps, rightText } from "./algorithm_steps.js";
import { sumClass, drawUntil, sumText, readSum, typeset } from "./arithmetic_task.js";
import { FieldError } from "./frame.js";

/** @typedef {import("./link.js").State} State */
/** @typedef {import("./arithmetic_task.js").Question} Question */

/**
 * @typedef {object} AlgorithmInfo
 * @property {string} name
 * @property {string} text  a short title
 * @property {string} description
 * @property {string} role
 * @property {Record<string, number[]>} rates  by operator, share of uniform questions of 1, 2, .. digits answered wrongly
 */

/**
 * @typedef {object} AlgorithmSpec
 * @property {AlgorithmInfo[]} algorithms
 * @property {Record<string, number[][]>} classes  share of S0.., M0.., N0.. for 1, 2, .. digits
 * @property {number} most  digits
 * @property {string} [title]
 * @property {string} [tryThis]
 */

/** @type {Record<string, import("./link.js").FieldKind>} */
export const ALGORITHM_FIELDS = { question: "text", digits: "int", algorithm: "text", position: "int" };

/** @param {AlgorithmSpec} spec @param {string} name */
export function algorithmInfo(spec, name) {
  return /** @type {AlgorithmInfo} */ (spec.algorithms.find((one) => one.name === name));
}

/** Those that can do the operation of a question. @param {AlgorithmSpec} spec @param {Question} q */
export function ableAlgorithms(spec, { minus }) {
  return spec.algorithms.filter((one) => (minus ? "-" : "+") in one.rates);
}

/**
 * A whole and possible state; the number of digits grows with the question. Throws FieldError.
 * @param {State} raw @param {AlgorithmSpec} spec @returns {State}
 */
export function checkAlgorithm(raw, spec) {
  const { most } = spec;
  const whole = (/** @type {string} */ field, /** @type {number} */ low, /** @type {number} */ high) => {
    if (!Number.isInteger(raw[field]) || raw[field] < low || raw[field] > high) throw new FieldError(field, `This must be a whole number from ${low} to ${high}.`);
    return raw[field];
  };
  const info = algorithmInfo(spec, raw.algorithm);
  if (!info) throw new FieldError("algorithm", "There is no such algorithm here.");
  const typed = readSum(raw.question, { digits: null, operations: "+-", most }, "question");
  if (!((typed.minus ? "-" : "+") in info.rates)) throw new FieldError("question", `The algorithm \u201c${info.text}\u201d only adds: choose another one before you subtract.`);
  const digits = Math.max(whole("digits", 1, most), typed.n);
  const [a, b] = sumText(typed).split(/[+-]/);
  const question = `${a.padStart(digits, "0")}${typed.minus ? "-" : "+"}${b.padStart(digits, "0")}`;
  return { question, digits, algorithm: info.name, position: Math.min(whole("position", 0, 3 * most + 2), 3 * digits + 2) };
}

/** The question cut or padded to so many digits. @param {State} state @param {number} digits */
export function resized(state, digits) {
  const cut = (/** @type {string} */ number) => number.slice(-digits).padStart(digits, "0");
  return { digits, question: state.question.replace(/\d+/g, cut) };
}

/**
 * A question that an algorithm answers wrongly, or null where there is none of so many digits.
 * @param {AlgorithmSpec} spec @param {State} state @param {() => number} [random]
 */
export function failingQuestion(spec, state, random = Math.random) {
  const minus = state.question.includes("-");
  const { name, rates } = algorithmInfo(spec, state.algorithm);
  const can = (/** @type {string} */ sign) => (rates[sign]?.[state.digits - 1] ?? 0) > 0;
  const sign = can(minus ? "-" : "+") ? minus : can("-") || can("+") ? can("-") : null;
  if (sign === null) return null;
  const q = drawUntil(state.digits, sign, (one) => algorithmAnswer(one, name) !== rightText(one), { random, tries: 50_000 });
  return q && sumText(q);
}

/**
 * Everything that the picture shows.
 * @param {State} state
 */
export function algorithmRun(state) {
  const q = readSum(state.question, { digits: state.digits, operations: "+-" }, "question");
  const steps = algorithmSteps(q, state.algorithm);
  const answer = steps.map((step) => step.writes?.[1] ?? "").join("");
  const right = rightText(q);
  const firstError = Array.from(right).findIndex((x, i) => x !== answer[i]);
  return { q, steps, step: steps[state.position], answer, right, firstError, classes: sumClass(q) };
}

/** @typedef {ReturnType<typeof algorithmRun>} AlgorithmResult */

const NINES = ["", "one 9", "two 9s", "three 9s", "four or more 9s"];
const EQUALS = ["", "one equal column", "two equal columns", "three or more equal columns"];

/** What a class means. @param {string} name */
export function classWords(name) {
  const level = Number(name.slice(1));
  const [what, does, between] = name[0] === "S" ? ["carry", "carries", NINES] : ["borrow", "borrows", EQUALS];
  if (level === 0) return `no column ${does}`;
  if (level === 1) return `a ${what} that no column passes on`;
  return `a ${what} and ${between[level - 1]} above it, which ${level === 2 ? "passes" : "pass"} it on`;
}

/** A share as a percentage of four digits. @param {number} x */
export function shareText(x) {
  if (x === 0) return "never";
  const text = (100 * x).toPrecision(4);
  return `${text.includes("e") ? (100 * x).toExponential(1) : Number(text)}\u00a0%`;
}

/** What is read and written at a step, in words. @param {AlgorithmResult} result @param {State} state */
export function stepWords({ q, steps, step, right, firstError }, state) {
  const { n } = q;
  const { position, column, token, writes } = step;
  const before = position ? steps[position - 1] : null;
  const out = [`P${position} reads ${typeset(token)}${column === null ? "" : `, digit D\u2032${column}`}.`];
  if (position < n) out[0] = `P${position} reads ${token}, digit D${n - 1 - position}; no column is complete.`;
  if (column !== null) {
    const [d, e] = [q.d[column], q.e[column]];
    out.push(q.minus ? `Column ${column}: ${d} ${d < e ? "<" : d > e ? ">" : "="} ${e}.` : `Column ${column} sums to ${d + e}.`);
    const settled = Object.entries(step.carries).filter(([name, value]) => value !== "U" && before?.carries[name] !== value);
    const [mine, older] = [settled.filter(([name]) => name.endsWith(`V${column}`)), settled.filter(([name]) => !name.endsWith(`V${column}`))];
    if (state.algorithm === "ripple" && column) out.push("The carries wait for the units.");
    else if (!mine.length) out.push(`Its ${q.minus ? "borrow" : "carry"} is open: U.`);
    if (older.length) out.push(`It settles ${older.map(([name, value]) => `${name} = ${value}`).join(", ")}.`);
    const assumed = settled.filter(([name]) => step.sources[Number(name.replace(/\D/g, ""))] === null);
    if (assumed.length) out.push(`${assumed.map(([name]) => name).join(", ")}: it looks no further down, so 0 is assumed.`);
  }
  if (writes) {
    const index = position - 2 * n - 1;
    const reason = typeset(writes[2]).replace("D'", "D\u2032").replace(">=", "\u2265");
    const verdict = writes[1] === right[index] ? "" : `, wrong: ${typeset(right[index])} would be right${index === firstError ? ". This is the first wrong token" : ""}`;
    out.push(`It writes ${writes[0] === "SGN" ? "the sign" : writes[0]} = ${typeset(writes[1])} (${reason})${verdict}.`);
  }
  return out.join(" ");
}

/** The same in Python. @param {State} state */
export function algorithmPython(state) {
  return [
    "from mi_lab.studies import arithmetic as study",
    "",
    `found = study.live.step("${state.question}", algorithm="${state.algorithm}")`,
    "found.answer, found.right, found.first_error, found.kind, found.error_rate",
    `print(found.steps[${state.position}])`,
  ].join("\n");
}
