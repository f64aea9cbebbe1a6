/** The arithmetic explorer's state and numbers, without any picture. */

import { answer, attribution, softmax } from "../analysis.js";
import { nodeName, parseNode } from "../edits.js";
import { vocabOut } from "../weights.js";
import { classNames, moveNames, movedAnswer, readSum, sumText, sumTokens, SYMBOLS } from "./arithmetic_task.js";
import { FieldError } from "./frame.js";

/** @typedef {import("./link.js").State} State */
/** @typedef {import("./arithmetic_task.js").Question} Question */

/**
 * @typedef {object} ArithmeticModel
 * @property {string} name
 * @property {string} text
 * @property {number} digits
 * @property {string} operations  "+", "-" or "+-"
 * @property {number} layers
 * @property {number} heads
 * @property {number[]} seeds
 */

/**
 * @typedef {object} ArithmeticSpec
 * @property {ArithmeticModel[]} models
 * @property {{folder?: string, bytes?: number, inline?: Record<string, string>}} weights
 * @property {string} [title]
 * @property {string} [tryThis]
 */

/** @type {Record<string, import("./link.js").FieldKind>} */
export const ARITHMETIC_FIELDS = {
  question: "text", other: "text", model: "text", seed: "int", node: "text", edits: "words", mode: "text", fact: "text", move: "text",
};

/** What a node can be replaced by: word in states, words for readers, a sign for the map. */
export const REPLACEMENTS = [
  { value: "mean", text: "its mean", short: "mean", sign: "m", title: "its average output over 1,000 questions as in training" },
  { value: "zero", text: "zero", short: "zero", sign: "\u2205", title: "nothing" },
  { value: "other", text: "the second question", short: "2nd question", sign: "\u21c4", title: "its output in the run on the second question: an interchange" },
];
const MODES_KNOWN = REPLACEMENTS.map((one) => one.value);
const PLAIN_FACTS = ["fail", "impact", "classes", "question"];

/** @param {State} state @param {ArithmeticSpec} spec */
export function arithmeticModel(state, spec) {
  return /** @type {ArithmeticModel} */ (spec.models.find((one) => one.name === state.model));
}

/** @param {ArithmeticModel} model */
export function factNames({ digits, operations }) {
  return [...PLAIN_FACTS, ...classNames(digits, operations)];
}

/** Positions that something is computed at for the answer: all but the last token. @param {number} digits */
export function positionsOf(digits) {
  return Array.from({ length: 3 * digits + 3 }, (_, i) => i);
}

/**
 * The name of a node of this model. Throws FieldError.
 * @param {string} text @param {ArithmeticModel} model @param {string} field
 */
function checkedNode(text, { digits, layers, heads }, field) {
  let node;
  try {
    node = parseNode(String(text));
  } catch {
    throw new FieldError(field, `\u201c${String(text).slice(0, 20)}\u201d is no node: write P7L0H1 or P7L1MLP.`);
  }
  const { position, layer, head } = node;
  const last = 3 * digits + 2;
  if (position === null || position > last || layer >= layers || (head ?? 0) >= heads) {
    throw new FieldError(field, `This model\u2019s nodes go from P0L0H0 to P${last}L${layers - 1}MLP, with heads 0 to ${heads - 1}.`);
  }
  return nodeName(node);
}

/**
 * A whole and possible state. Throws FieldError for what can't be.
 * @param {State} raw
 * @param {ArithmeticSpec} spec
 * @returns {State}
 */
export function checkArithmetic(raw, spec) {
  const model = spec.models.find((one) => one.name === raw.model);
  if (!model) throw new FieldError("model", "There is no such model in this page.");
  if (!model.seeds.includes(raw.seed)) throw new FieldError("seed", `There is no such seed: this model has ${model.seeds.join(", ")}.`);
  const [question, other] = ["question", "other"].map((field) => readSum(raw[field], model, field));
  const node = checkedNode(raw.node, model, "node");
  /** @type {Map<string, string>} */
  const edits = new Map();
  for (const edit of Array.isArray(raw.edits) ? raw.edits : []) {
    const [name = "", mode = ""] = String(edit).split(":");
    if (!MODES_KNOWN.includes(mode)) throw new FieldError("edits", `A node is replaced by ${MODES_KNOWN.join(", ")}.`);
    edits.set(checkedNode(name, model, "edits"), mode);
  }
  if (!MODES_KNOWN.includes(raw.mode)) throw new FieldError("mode", `A node is replaced by ${MODES_KNOWN.join(", ")}.`);
  if (![...PLAIN_FACTS, "S0", "S1", "S2", "S3", "S4", "S5", "M0", "M1", "M2", "M3", "M4", "N1", "N2", "N3", "N4"].includes(raw.fact)) {
    throw new FieldError("fact", "The map can\u2019t be coloured by that.");
  }
  if (!/^(?:[A-Z]{2,3}\d+)?$/.test(raw.move)) throw new FieldError("move", "There is no such sub-task.");
  const moves = moveNames(question, other, model.operations);
  return {
    question: sumText(question), other: sumText(other), model: model.name, seed: raw.seed, node,
    edits: Array.from(edits, ([name, mode]) => `${name}:${mode}`), mode: raw.mode,
    fact: factNames(model).includes(raw.fact) ? raw.fact : "fail", move: moves.includes(raw.move) ? raw.move : "",
  };
}

/**
 * What has to change with the model: numbers are cut or padded, an operator that it lacks is turned, nodes that it lacks go.
 * @param {State} state @param {string} name @param {ArithmeticSpec} spec @returns {State}
 */
export function withModel(state, name, spec) {
  const model = /** @type {ArithmeticModel} */ (spec.models.find((one) => one.name === name));
  const refit = (/** @type {string} */ text) => text
    .replace(/\d+/g, (number) => number.slice(-model.digits).padStart(model.digits, "0"))
    .replace(/[+-]/, (sign) => (model.operations.includes(sign) ? sign : model.operations));
  const fits = (/** @type {string} */ node) => {
    try {
      return Boolean(checkedNode(node, model, "node"));
    } catch {
      return false;
    }
  };
  return {
    model: name, seed: model.seeds.includes(state.seed) ? state.seed : model.seeds[0],
    question: refit(state.question), other: refit(state.other),
    node: fits(state.node) ? state.node : `P${2 * model.digits + 1}L0H0`,
    edits: state.edits.filter((/** @type {string} */ edit) => fits(edit.split(":")[0])),
  };
}

/** The key of a state's model: also its file's name. @param {State} state */
export function arithmeticKey(state) {
  return `${state.model}-${state.seed}`;
}

/** What stands in the place of this node: a word of REPLACEMENTS, or "" . @param {State} state @param {string} node */
export function replacedBy(state, node) {
  const found = state.edits.find((/** @type {string} */ edit) => edit.startsWith(`${node}:`));
  return found ? String(found.split(":")[1]) : "";
}

/** A replacement as the value of an edit. @param {string} mode @param {number[]} store @returns {import("../portable.js").PortableValue} */
export function replacementValue(mode, store) {
  return mode === "other" ? { run: store } : mode === "mean" ? "mean" : 0;
}

/**
 * The edits of a state, as plain JSON: what `mi_lab.live.export.to_run` takes.
 * @param {State} state @param {number[]} store  tokens of the second question, solved
 * @returns {import("../portable.js").PortableEdit[]}
 */
export function arithmeticEdits(state, store) {
  return state.edits.map((/** @type {string} */ edit) => {
    const [node = "", mode = ""] = edit.split(":");
    return { node, value: replacementValue(mode, store) };
  });
}

/**
 * Everything that the pictures show.
 * @param {import("./shelf.js").Machine} machine
 * @param {State} state
 * @param {ArithmeticSpec} spec
 */
export function arithmeticRun({ engine, session, donors }, state, spec) {
  const model = arithmeticModel(state, spec);
  const { digits: n, layers } = model;
  const question = readSum(state.question, model, "question");
  const other = readSum(state.other, model, "other");
  const [solved, store] = [sumTokens(question), sumTokens(other)];
  const [first, stop] = [2 * n + 1, 3 * n + 3];
  const written = (/** @type {readonly import("../edits.js").Edit[]} */ edits) => Array.from(answer(session, solved, first, stop, edits));
  const clean = written([]);
  const tokens = state.edits.length ? written(donors.resolve(arithmeticEdits(state, store))) : clean;
  const vocab = vocabOut(engine.config);
  const rows = Array.from({ length: stop - first }, (_, i) => first + i);
  const logits = rows.map((row) => session.logits.slice(row * vocab, (row + 1) * vocab));
  const { position, layer, head } = parseNode(state.node);
  const query = Number(position);
  let attention = null;
  if (head !== null) {
    const { data, shape } = session.get(`blocks.${layer}.attn.pattern`);
    const width = /** @type {number} */ (shape[2]);
    const start = (head * width + query) * width;
    attention = data.slice(start, start + query + 1);
  }
  const parts = Array.from({ length: layers }, (_, l) => [...Array.from({ length: model.heads }, (_x, h) => `L${l}H${h}`), `L${l}MLP`]).flat();
  const every = Array.from({ length: vocab }, (_, i) => i);
  /** Of each part on the right token of each row, less the mean over all tokens. */
  const direct = parts.map(() => new Float32Array(rows.length));
  rows.forEach((row, i) => {
    const found = attribution(session, row, every);
    parts.forEach((part, j) => {
      const at = found.parts.indexOf(part) * vocab;
      const values = found.values.subarray(at, at + vocab);
      direct[j][i] = values[solved[row + 1]] - values.reduce((a, b) => a + b, 0) / vocab;
    });
  });
  return {
    state, model, question, other, solved, store, tokens, clean, first, stop, query, layer, head, attention, vocab,
    logits, probability: logits.map((x) => softmax(x)), parts, direct,
    predicted: state.move ? movedAnswer(question, other, state.move) : null,
  };
}

/** @typedef {ReturnType<typeof arithmeticRun>} ArithmeticResult */

/** An answer as text, sign first. @param {ArithmeticResult} result @param {number[]} tokens */
export function answerText({ first }, tokens) {
  return tokens.slice(first + 1).map((token) => SYMBOLS[token]).join("");
}

/** The same in Python. @param {State} state */
export function arithmeticPython(state) {
  const words = state.edits.map((/** @type {string} */ edit) => `"${edit}"`).join(", ");
  const lines = [
    "from mi_lab.studies import arithmetic as study",
    "",
    "found = study.live.look(",
    `    "${state.question}",`,
    `    model="${state.model}", seed=${state.seed}, node="${state.node}",`,
  ];
  if (state.edits.length) lines.push(`    edits=(${words}${state.edits.length === 1 ? "," : ""}),`);
  if (state.move || words.includes(":other")) lines.push(`    other="${state.other}",`);
  if (state.move) lines.push(`    move="${state.move}",`);
  lines.push(")", "found.written, found.probability, found.attention, found.direct");
  if (state.move) lines.push("found.predicted == found.written");
  return lines.join("\n");
}
