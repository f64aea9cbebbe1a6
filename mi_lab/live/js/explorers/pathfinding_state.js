/** The pathfinding explorer's state: fields, what is possible, the same in Python. */

import { FieldError } from "./frame.js";
import { placesOf, readQuestion, rightPath, TOKEN_CLASSES, writeQuestion } from "./tree_question.js";

/** @typedef {import("./link.js").State} State */

/**
 * @typedef {object} PathfindingSpec
 * @property {{name: string, seed: number, text: string, nodes: number, layers: number}[]} models
 * @property {Record<string, {text: string, other: string}>} examples  by the number of nodes
 * @property {{folder?: string, bytes?: number, inline?: Record<string, string>}} weights
 * @property {string} [title]
 * @property {string} [tryThis]
 */

/** @type {Record<string, import("./link.js").FieldKind>} */
export const PATHFINDING_FIELDS = {
  text: "text", model: "text", seed: "int", position: "int", layer: "int", show: "text", rows: "text",
  closed: "words", who: "text", where: "text", closing: "text", nodes: "words",
  donor: "text", other: "text", site: "text", part: "text", after: "int", rule: "text", draw: "int",
};

/** What fields that are words may be. */
export const TREE_CHOICES = {
  show: ["arrows", "gathered"], rows: ["source", "target", "comma"], who: ["path", "edges", "own", "tail", "all"],
  closing: ["moved", "lost"], donor: ["none", "other", "renamed"], part: ["all", "source", "target", "comma"],
  rule: ["none", "edge", "up", "down"],
};

/** Which model a state asks for. @param {State} state @param {PathfindingSpec} spec */
export function treeModel(state, spec) {
  return /** @type {PathfindingSpec["models"][number]} */ (spec.models.find(({ name, seed }) => name === state.model && seed === state.seed));
}

/** Where attention can be closed: everywhere, from a layer on, in one layer. @param {number} layers */
export function wheresOf(layers) {
  const all = Array.from({ length: layers }, (_, i) => i);
  return ["all", ...all.slice(1, -1).map((i) => `${i}+`), ...all.map(String)];
}

/**
 * A whole and possible state. Throws FieldError for what can't be.
 * @param {State} raw
 * @param {PathfindingSpec} spec
 * @returns {State}
 */
export function checkPathfinding(raw, spec) {
  const model = treeModel(raw, spec);
  if (!model) throw new FieldError("model", "There is no such model in this page.");
  const { nodes: n, layers } = model;
  const question = readQuestion(raw.text, n, "text");
  const other = readQuestion(raw.other, n, "other");
  const whole = (/** @type {string} */ field, /** @type {number} */ high) => {
    if (!Number.isInteger(raw[field]) || raw[field] < 0 || raw[field] > high) {
      throw new FieldError(field, `This must be a whole number from 0 to ${high}.`);
    }
    return raw[field];
  };
  for (const [field, options] of Object.entries(TREE_CHOICES)) {
    if (!options.includes(raw[field])) throw new FieldError(field, `This is one of ${options.join(", ")}.`);
  }
  const { closed, nodes } = raw;
  if (!Array.isArray(closed) || closed.some((kind) => !TOKEN_CLASSES.includes(kind))) {
    throw new FieldError("closed", `Kinds of tokens are ${TOKEN_CLASSES.join(", ")}.`);
  }
  const parts = Array.from({ length: layers }, (_, l) => [`L${l}H0`, `L${l}MLP`]).flat();
  const modes = parts.flatMap((part) => [`${part}-zero`, `${part}-mean`]);
  if (!Array.isArray(nodes) || nodes.some((word) => !/^L\d+(H0|MLP)-(zero|mean)$/.test(word))) {
    throw new FieldError("nodes", "A part that is off is written such as L1H0-zero or L2MLP-mean.");
  }
  const chosen = modes.filter((word) => nodes.includes(word));
  const off = parts.flatMap((part) => chosen.filter((word) => word.startsWith(`${part}-`)).slice(0, 1));
  const place = Number.isInteger(raw.site) ? String(raw.site) : raw.site;
  const known = ["edges", "root", ...question.parent.flatMap((above, k) => (above < 0 ? [] : [String(k)]))];
  if (!known.includes(place) && !/^\d{1,2}$/.test(place)) throw new FieldError("site", "The place is edges, root or the lower end of an edge.");
  const site = known.includes(place) ? place : "edges";
  return {
    text: writeQuestion(question), model: model.name, seed: model.seed,
    position: Math.min(whole("position", 999), placesOf(n).root + rightPath(question).length - 1), layer: Math.min(whole("layer", 99), layers - 1),
    show: raw.show, rows: raw.rows, closed: TOKEN_CLASSES.filter((kind) => closed.includes(kind)), who: raw.who,
    where: wheresOf(layers).includes(raw.where) ? raw.where : "all", closing: raw.closing, nodes: off,
    donor: raw.donor, other: writeQuestion(other), site, part: raw.part, after: Math.min(whole("after", 99), layers - 1),
    rule: site === "root" && raw.rule === "down" ? "up" : raw.rule, draw: whole("draw", 9999),
  };
}

/** The key of a state's model: also its file's name. @param {State} state */
export function pathfindingKey(state) {
  return `${state.model}-${state.seed}`;
}

/** Does a state change the run at all? @param {State} state */
export function treeChanged(state) {
  return state.donor !== "none" || state.closed.length > 0 || state.nodes.length > 0;
}

/** @param {State} state */
export function pathfindingPython(state) {
  const words = (/** @type {string[]} */ all) => `(${all.map((x) => `"${x}"`).join(", ")}${all.length === 1 ? "," : ""})`;
  const lines = [
    "from mi_lab.studies import pathfinding as study", "", "found = study.live.look(", `    "${state.text}",`,
    `    model="${state.model}", seed=${state.seed},`,
  ];
  if (state.closed.length) lines.push(`    closed=${words(state.closed)}, who="${state.who}", where="${state.where}", closing="${state.closing}",`);
  if (state.nodes.length) lines.push(`    nodes=${words(state.nodes)},`);
  if (state.donor !== "none") {
    lines.push(`    donor="${state.donor}", site="${state.site}", part="${state.part}", after=${state.after},`);
    lines.push(state.donor === "other" ? `    other="${state.other}",` : `    rule="${state.rule}", draw=${state.draw},`);
  }
  lines.push(")", `at, layer = ${state.position}, ${state.layer}`,
    "found.path, found.difference, found.logits[0], found.pattern[layer, at], found.lens[layer, at]");
  return lines.join("\n");
}
