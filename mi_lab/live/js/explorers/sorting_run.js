/** The sorting explorer's state and numbers, without any picture. */

import { answer, attribution, softmax } from "../analysis.js";
import { vocabOut } from "../weights.js";
import { listed } from "./dom.js";
import { FieldError } from "./frame.js";

/** @typedef {import("./link.js").State} State */

/**
 * @typedef {object} SortingSpec
 * @property {{length: number, numbers: number}} task
 * @property {{name: string, text: string, heads: number, window: number, seeds: Record<string, number[]>}[]} models
 *   window: lists lie within so many neighbouring numbers; seeds: steps by seed
 * @property {{label: string, values: Record<string, number>}[]} families  models along one number: a slider each
 * @property {{folder?: string, bytes?: number, inline?: Record<string, string>}} weights
 * @property {string} [title]
 * @property {string} [tryThis]
 */

/** @type {Record<string, import("./link.js").FieldKind>} */
export const SORTING_FIELDS = {
  list: "text", output: "int", heads: "words", other: "text", model: "text", seed: "int", step: "int",
  node: "text", view: "text", row: "int", column: "int",
};

export const HEAD_MODES = ["on", "zero", "mean", "patch"];

/**
 * The numbers of a typed list. Throws FieldError.
 * @param {string} text
 * @param {SortingSpec["task"]} task
 * @param {string} field
 */
export function readList(text, { length, numbers }, field) {
  const words = String(text).trim().replace(/^\[|\]$/g, "").split(/[\s,;]+/).filter(Boolean);
  for (const word of words) {
    const shown = word.length > 12 ? `${word.slice(0, 12)}\u2026` : word;
    if (!/^\d+$/.test(word)) throw new FieldError(field, `\u201c${shown}\u201d is not a number from 0 to ${numbers - 1}.`);
    if (Number(word) >= numbers) throw new FieldError(field, `${shown} is too large: numbers go from 0 to ${numbers - 1}.`);
  }
  const list = words.map(Number);
  const twice = list.find((x, i) => list.indexOf(x) < i);
  if (twice !== undefined) throw new FieldError(field, `${twice} stands twice; the model was trained on lists without repeats.`);
  if (list.length !== length) throw new FieldError(field, `The list needs ${length} numbers; it has ${list.length}.`);
  return list;
}

/**
 * A whole and possible state. Throws FieldError for what can't be.
 * @param {State} raw
 * @param {SortingSpec} spec
 * @returns {State}
 */
export function checkSorting(raw, spec) {
  const { task } = spec;
  const whole = (/** @type {string} */ field, /** @type {number} */ low, /** @type {number} */ high) => {
    if (!Number.isInteger(raw[field]) || raw[field] < low || raw[field] > high) {
      throw new FieldError(field, `This must be a whole number from ${low} to ${high}.`);
    }
    return raw[field];
  };
  const list = readList(raw.list, task, "list").join(",");
  const model = spec.models.find((one) => one.name === raw.model);
  if (!model) throw new FieldError("model", "There is no such model in this page.");
  const seeds = Object.keys(model.seeds).map(Number);
  const seed = raw.seed;
  if (!seeds.includes(seed)) throw new FieldError("seed", `There is no such seed: this model has ${seeds.join(", ")}.`);
  const steps = model.seeds[String(seed)];
  if (!Number.isInteger(raw.step) || raw.step < 0) throw new FieldError("step", "The training step must be a whole number.");
  const step = steps.reduce((a, b) => (Math.abs(b - raw.step) < Math.abs(a - raw.step) ? b : a));
  if (!Array.isArray(raw.heads) || raw.heads.some((mode) => !HEAD_MODES.includes(mode))) {
    throw new FieldError("heads", `A head is ${HEAD_MODES.join(", ")}.`);
  }
  const heads = Array.from({ length: model.heads }, (_, i) => raw.heads[i] ?? "on");
  const other = readList(raw.other, task, "other").join(",");
  const node = String(raw.node);
  const nodes = ["", ...heads.map((_, i) => `L0H${i}`)];
  if (!nodes.includes(node)) throw new FieldError("node", `This model has no node of that name; it has ${nodes.slice(1).join(", ")}.`);
  if (raw.view !== "ov" && raw.view !== "qk") throw new FieldError("view", "The table is ov or qk.");
  return {
    list, output: whole("output", 1, task.length), heads, other, model: model.name, seed, step, node, view: raw.view,
    row: whole("row", 0, task.numbers - 1), column: whole("column", 0, task.numbers - 1),
  };
}

/**
 * The models that lie on a slider with this one, by its number.
 * @param {SortingSpec["families"][number]} family
 * @returns {number[]}
 */
export function alongFamily({ values }) {
  return Object.values(values).sort((a, b) => a - b);
}

/**
 * Was the model trained on such a list? Where it was not, a sentence that says so.
 * @param {string} list @param {SortingSpec["models"][number]} model @param {SortingSpec["task"]} task
 */
export function foreignList(list, { window }, { numbers }) {
  const all = list.split(",").map(Number);
  const span = Math.max(...all) - Math.min(...all) + 1;
  if (window >= numbers || span <= window) return "";
  return ` This model has only seen lists within ${window} neighbouring numbers, and this one spans ${span}: \u201cNew list\u201d draws one of its kind.`;
}

/** The key of a state's model: also its file's name. @param {State} state */
export function sortingKey(state) {
  return `${state.model}-${state.seed}-${state.step}`;
}

/**
 * The edits of a state, as plain JSON: what `mi_lab.live.export.to_run` takes.
 * @param {State} state
 * @param {SortingSpec} spec
 * @returns {import("../portable.js").PortableEdit[]}
 */
export function sortingEdits(state, { task }) {
  const other = () => solved(readList(state.other, task, "other"), task);
  return state.heads.flatMap((/** @type {string} */ mode, /** @type {number} */ head) => {
    if (mode === "on") return [];
    const value = mode === "mean" ? "mean" : mode === "patch" ? { run: other() } : 0;
    return [{ node: `L0H${head}`, value }];
  });
}

/** The list, SEP and the list in order. @param {number[]} list @param {SortingSpec["task"]} task */
function solved(list, { numbers }) {
  return [...list, numbers, ...[...list].sort((a, b) => a - b)];
}

/**
 * Everything that the pictures show.
 * @param {import("./shelf.js").Machine} machine
 * @param {State} state
 * @param {SortingSpec} spec
 */
export function sortingRun(machine, state, spec) {
  const { session, donors, engine } = machine;
  const { length, numbers } = spec.task;
  const list = readList(state.list, spec.task, "list");
  const right = [...list].sort((a, b) => a - b);
  const edits = donors.resolve(sortingEdits(state, spec));
  const tokens = Array.from(answer(session, solved(list, spec.task), length, 2 * length, edits));
  const row = length + state.output - 1;
  const vocab = vocabOut(engine.config);
  const logits = session.logits.slice(row * vocab, (row + 1) * vocab);
  const { data, shape } = session.get("blocks.0.attn.pattern");
  const [, n_heads, n] = shape;
  const attention = Array.from({ length: n_heads }, (_, h) => data.slice((h * n + row) * n, (h * n + row) * n + row + 1));
  const every = Array.from({ length: vocab }, (_, i) => i);
  const parts = attribution(session, row, every);
  const direct = Array.from({ length: n_heads }, (_, h) => {
    const at = parts.parts.indexOf(`L0H${h}`) * vocab;
    const values = parts.values.slice(at, at + vocab);
    const mean = values.reduce((a, b) => a + b, 0) / vocab;
    return values.map((x) => x - mean);
  });
  return { tokens, right, row, logits, probability: softmax(logits), attention, direct, vocab, numbers };
}

/** @typedef {ReturnType<typeof sortingRun>} SortingResult */

/**
 * What comes next at an output, whatever was written before: the smallest number of the list above the current
 * one; null where there is none.
 * @param {Pick<SortingResult, "tokens" | "right">} result
 * @param {number} output  from 1 on
 */
export function comesNext({ tokens, right }, output) {
  if (output === 1) return right[0];
  const current = tokens[right.length + output - 1];
  return right.find((x) => x > current) ?? null;
}

/**
 * What is wrong with the whole answer, in a sentence's end.
 * @param {Pick<SortingResult, "tokens" | "right">} result
 */
export function wholeAnswer({ tokens, right }) {
  const written = tokens.slice(right.length + 1);
  if (right.every((x, i) => written[i] === x)) return `all ${right.length} outputs are right`;
  const wrong = written.filter((x, i) => x !== comesNext({ tokens, right }, i + 1)).length;
  const missing = right.filter((x) => !written.includes(x));
  const skipped = `${listed(missing.map(String), "numbers")} ${missing.length === 1 ? "is" : "are"}`;
  return `${wrong} of ${right.length} outputs ${wrong === 1 ? "is" : "are"} wrong${missing.length ? `: ${skipped} never written` : ""}`;
}

/**
 * The same in Python.
 * @param {State} state
 */
export function sortingPython(state) {
  const heads = state.heads.map((/** @type {string} */ x) => `"${x}"`).join(", ");
  const lines = [
    "from mi_lab.studies import sorting as study",
    "",
    "found = study.live.look(",
    `    "${state.list}",`,
    `    output=${state.output}, model="${state.model}", seed=${state.seed}, step=${state.step},`,
  ];
  if (state.heads.some((/** @type {string} */ x) => x !== "on")) lines.push(`    heads=(${heads}${state.heads.length === 1 ? "," : ""}),`);
  if (state.heads.includes("patch")) lines.push(`    other="${state.other}",`);
  lines.push(")", "found.written, found.probability, found.attention, found.direct");
  return lines.join("\n");
}
