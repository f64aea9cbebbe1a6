/** The hand-made model's explorer: its state, its weights and its numbers, without any picture. */

import { argmax, attribution, meanActivations, softmax } from "../analysis.js";
import { vocabOut } from "../weights.js";
import { FieldError } from "./frame.js";

/** @typedef {import("./link.js").State} State */
/** @typedef {import("./shelf.js").Machine} Machine */

/**
 * Where one table of a head stands in the weights.
 * @typedef {object} WeightTable
 * @property {string} key  such as L1H0.ov
 * @property {string} tensor
 * @property {number} offset  of its first cell in the tensor
 * @property {number} stride  from row to row
 * @property {string[]} rows
 * @property {string[]} columns
 * @property {number} scale  weight of a cell of 1
 * @property {string} strength  the field by which its pattern is multiplied; "": by 1
 * @property {number[]} pattern
 * @property {string} down  what rows are
 * @property {string} across  what columns are
 */

/**
 * @typedef {object} ToolboxSpec
 * @property {string[]} letters
 * @property {number} context
 * @property {number} undecided
 * @property {number} largest
 * @property {{node: string, name: string, text: string}[]} heads
 * @property {{name: string, most: number}[]} strengths
 * @property {WeightTable[]} tables
 * @property {{inline?: Record<string, string>}} weights
 * @property {string} [title]
 * @property {string} [tryThis]
 */

/** @type {Record<string, import("./link.js").FieldKind>} */
export const TOOLBOX_FIELDS = {
  text: "text", position: "int", heads: "words", other: "text", seek: "int", copy: "int", suppress: "int", backup: "int",
  table: "text", row: "int", column: "int", cells: "words",
};

export const TOOLBOX_MODEL = "repeater";
const TOOLBOX_MODES = ["on", "zero", "mean", "patch"];

/**
 * Letters as tokens. Throws FieldError.
 * @param {string} text
 * @param {ToolboxSpec} spec
 * @param {string} field
 */
function readLetters(text, { letters }, field) {
  const words = [...String(text).trim().replace(/^\^/, "")].filter((c) => !/[\s,]/.test(c));
  return words.map((word) => {
    const token = letters.indexOf(word);
    if (token < 0) throw new FieldError(field, `\u201c${word}\u201d is not one of the letters ${letters[0]} to ${letters[letters.length - 1]}.`);
    return token;
  });
}

/** @param {State} state @param {ToolboxSpec} spec */
export function tableOf(state, spec) {
  return /** @type {WeightTable} */ (spec.tables.find((one) => one.key === state.table));
}

/**
 * A cell by its name, L1H0.ov.b.c. Throws FieldError.
 * @param {string} name
 * @param {ToolboxSpec} spec
 */
function cellOf(name, spec) {
  const [head, kind, down, across, ...rest] = name.split(".");
  const at = spec.tables.findIndex((one) => one.key === `${head}.${kind}`);
  const table = spec.tables[at];
  const row = table ? table.rows.indexOf(down) : -1;
  const column = table ? table.columns.indexOf(across) : -1;
  if (row < 0 || column < 0 || rest.length) throw new FieldError("cells", "There is no weight of that name in this model.");
  return { table, at, row, column };
}

/** @param {WeightTable} table @param {number} row @param {number} column */
export function cellName(table, row, column) {
  return `${table.key}.${table.rows[row]}.${table.columns[column]}`;
}

/**
 * What the strengths alone put into a cell.
 * @param {WeightTable} table @param {number} row @param {number} column @param {State} state
 */
export function plainCell(table, row, column, state) {
  const strength = table.strength ? state[table.strength] : 1;
  return strength * table.pattern[row * table.columns.length + column] + 0;
}

/**
 * Single weights: in order, without those that the strengths give anyway. Throws FieldError.
 * @param {State} raw
 * @param {ToolboxSpec} spec
 * @returns {string[]}
 */
function checkCells(raw, spec) {
  if (!Array.isArray(raw.cells)) throw new FieldError("cells", "The weights must be a list.");
  /** @type {Map<string, {place: number[], value: number, plain: number}>} */
  const found = new Map();
  for (const text of raw.cells) {
    const [name, value = ""] = String(text).split(/=(.*)/s);
    const { table, at, row, column } = cellOf(name, spec);
    if (!/^-?\d{1,2}(\.\d{1,2})?$/.test(value)) {
      throw new FieldError("cells", `A weight is a number from \u2212${spec.largest} to ${spec.largest} with at most two decimals.`);
    }
    found.set(name, { place: [at, row, column], value: Number(value) + 0, plain: plainCell(table, row, column, raw) });
  }
  return [...found]
    .filter(([, { value, plain }]) => Math.abs(value - plain) >= 1e-6)
    .sort(([, a], [, b]) => a.place[0] - b.place[0] || a.place[1] - b.place[1] || a.place[2] - b.place[2])
    .map(([name, { value }]) => `${name}=${value}`);
}

/**
 * A whole and possible state. Throws FieldError for what can't be.
 * @param {State} raw
 * @param {ToolboxSpec} spec
 * @returns {State}
 */
export function checkToolbox(raw, spec) {
  const whole = (/** @type {string} */ field, /** @type {number} */ high) => {
    if (!Number.isInteger(raw[field]) || raw[field] < 0 || raw[field] > high) {
      throw new FieldError(field, `This must be a whole number from 0 to ${high}.`);
    }
    return raw[field];
  };
  const text = readLetters(raw.text, spec, "text");
  const most = spec.context - 1;
  if (!text.length || text.length > most) throw new FieldError("text", `The model reads 1 to ${most} letters, not ${text.length}.`);
  const other = readLetters(raw.other, spec, "other").slice(0, 4);
  if (other.length < 4 || new Set(other).size < 4) throw new FieldError("other", "The second text is four different letters.");
  if (!Array.isArray(raw.heads) || raw.heads.some((mode) => !TOOLBOX_MODES.includes(mode))) {
    throw new FieldError("heads", `A head is ${TOOLBOX_MODES.join(", ")}.`);
  }
  const table = tableOf(raw, spec);
  if (!table) throw new FieldError("table", "There is no such table in this model.");
  const strengths = Object.fromEntries(spec.strengths.map(({ name, most: high }) => [name, whole(name, high)]));
  const word = (/** @type {number[]} */ tokens) => tokens.map((t) => spec.letters[t]).join("");
  return {
    text: word(text), position: whole("position", most), heads: spec.heads.map((_, i) => raw.heads[i] ?? "on"), other: word(other),
    ...strengths, table: table.key, row: Math.min(whole("row", 1e6), table.rows.length - 1),
    column: Math.min(whole("column", 1e6), table.columns.length - 1), cells: checkCells(raw, spec),
  };
}

/**
 * All cells of a table in a state, row by row.
 * @param {WeightTable} table
 * @param {State} state
 */
export function cellValues(table, state) {
  const width = table.columns.length;
  const out = table.pattern.map((_, i) => plainCell(table, Math.floor(i / width), i % width, state));
  for (const text of state.cells) {
    const [name, value] = text.split("=");
    const [head, kind, down, across] = name.split(".");
    if (`${head}.${kind}` === table.key) out[table.rows.indexOf(down) * width + table.columns.indexOf(across)] = Number(value);
  }
  return out;
}

/**
 * The weights of a state: those of the file with every table written over them.
 * @param {import("../weights.js").Tensors} base
 * @param {State} state
 * @param {ToolboxSpec} spec
 */
export function toolboxWeights(base, state, spec) {
  const tensors = new Map(base);
  for (const table of spec.tables) {
    const old = /** @type {Float32Array} */ (tensors.get(table.tensor));
    const tensor = old === base.get(table.tensor) ? old.slice() : old;
    const width = table.columns.length;
    cellValues(table, state).forEach((value, i) => {
      tensor[table.offset + Math.floor(i / width) * table.stride + (i % width)] = Math.fround(table.scale * value);
    });
    tensors.set(table.tensor, tensor);
  }
  return tensors;
}

/** What decides the weights of a state. @param {State} state @param {ToolboxSpec} spec */
function weightsKey(state, spec) {
  return JSON.stringify([spec.strengths.map(({ name }) => state[name]), state.cells]);
}

/** All sequences of the task: four different letters, twice. @param {ToolboxSpec} spec */
function everySequence({ letters }) {
  const start = letters.length;
  const all = [];
  for (let i = 0; i < start ** 4; i++) {
    const four = [3, 2, 1, 0].map((power) => Math.floor(i / start ** power) % start);
    if (new Set(four).size === 4) all.push([start, ...four, ...four]);
  }
  return all;
}

/**
 * A session whose engine holds the weights of the last state, and what "mean" stands for in them.
 * Rows of the last run are reused as long as the weights stay.
 */
export class ToolboxBench {
  #key = "";
  #means = "";

  /** @param {Machine} machine @param {ToolboxSpec} spec */
  constructor(machine, spec) {
    this.machine = machine;
    this.spec = spec;
    this.base = machine.tensors;
  }

  /**
   * Everything that the pictures show.
   * @param {State} state
   */
  run(state) {
    const { machine, spec } = this;
    const { engine, session, donors } = machine;
    const key = weightsKey(state, spec);
    if (key !== this.#key) {
      this.#key = key;
      engine.setWeights(toolboxWeights(this.base, state, spec));
      donors.reset(null);
    }
    if (state.heads.includes("mean") && this.#means !== key) {
      this.#means = key;
      donors.reset(meanActivations(donors.session, everySequence(spec)));
    } else if (donors.means === null) this.#means = "";
    const start = spec.letters.length;
    const four = readLetters(state.other, spec, "other");
    /** @type {Record<string, import("../portable.js").PortableValue>} */
    const values = { zero: 0, mean: "mean", patch: { run: [start, ...four, ...four] } };
    const edits = donors.resolve(state.heads.flatMap((/** @type {string} */ mode, /** @type {number} */ i) =>
      mode === "on" ? [] : [{ node: spec.heads[i].node, value: values[mode] }]));
    const tokens = [start, ...readLetters(state.text, spec, "text")];
    const given = tokens.length;
    const vocab = vocabOut(engine.config);
    for (;;) {
      session.forward(tokens, edits);
      if (tokens.length === spec.context) break;
      const last = session.logits.slice((tokens.length - 1) * vocab, (tokens.length - 1) * vocab + start);
      const best = argmax(last);
      const second = Math.max(...last.filter((_, i) => i !== best));
      if (last[best] - second <= spec.undecided) break;
      tokens.push(best);
    }
    const row = Math.min(state.position, tokens.length - 1);
    const logits = session.logits.slice(row * vocab, (row + 1) * vocab);
    const parts = attribution(session, row, Array.from({ length: vocab }, (_, i) => i));
    const n = tokens.length;
    const heads = spec.heads.map(({ node }) => {
      const [layer, head] = node.slice(1).split("H").map(Number);
      const { data } = session.get(`blocks.${layer}.attn.pattern`);
      const at = parts.parts.indexOf(node) * vocab;
      return { attention: data.slice((head * n + row) * n, (head * n + row) * n + row + 1), direct: parts.values.slice(at, at + vocab) };
    });
    return { tokens, given, row, logits, probability: softmax(logits), heads };
  }
}

/** @typedef {ReturnType<ToolboxBench["run"]>} ToolboxResult */

/**
 * The same in Python.
 * @param {State} state
 * @param {ToolboxSpec} spec
 */
export function toolboxPython(state, spec) {
  const strengths = spec.strengths.map(({ name }) => `${name}=${state[name]}`).join(", ");
  const lines = ["from mi_lab import toolbox", "", "found = toolbox.live.look(", `    "${state.text}", position=${state.position}, ${strengths},`];
  const changed = spec.heads.flatMap(({ name }, i) => (state.heads[i] === "on" ? [] : [`"${name}": "${state.heads[i]}"`]));
  if (changed.length) lines.push(`    heads={${changed.join(", ")}},`);
  if (state.heads.includes("patch")) lines.push(`    other="${state.other}",`);
  if (state.cells.length) lines.push(`    cells={${state.cells.map((/** @type {string} */ x) => `"${x.replace("=", '": ')}`).join(", ")}},`);
  lines.push(")", "found.written, found.probability, found.attention, found.direct");
  return lines.join("\n");
}
