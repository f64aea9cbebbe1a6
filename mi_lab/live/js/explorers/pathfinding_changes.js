/** Controls of the pathfinding explorer that change a run: attention closed, parts off, states replaced. */

import { menu, segments, slider, textField } from "./controls.js";
import { h, say } from "./dom.js";
import { treeModel, wheresOf } from "./pathfinding_state.js";
import { freshQuestion, orderOf, readQuestion, rightPath, TOKEN_CLASSES, writeQuestion } from "./tree_question.js";

/** @typedef {import("./link.js").State} State */
/** @typedef {import("./pathfinding_state.js").PathfindingSpec} PathfindingSpec */
/** @typedef {import("./frame.js").Frame} Frame */

const KEY_CLASSES = { source: "sources", target: "targets", comma: "commas", bar: "the bar |", goal: "the goal", colon: "the colon", path: "root and path" };
const QUERY_CLASSES = [
  { value: "path", text: "root and path tokens" },
  { value: "edges", text: "tokens of edges, outside their own edge" },
  { value: "own", text: "tokens of edges, in their own edge" },
  { value: "tail", text: "the bar, goal and colon" },
  { value: "all", text: "all tokens" },
];
const PART_MODES = [{ value: "on", text: "on" }, { value: "zero", text: "zero", title: "its output is replaced by zero" },
  { value: "mean", text: "mean", title: "its output is replaced by its average over 64 trees" }];
const EDGE_RULES = { none: "all renamed", edge: "the edge alone", up: "the edge and its ancestors", down: "the edge and what is below" };
const ROOT_RULES = { none: "all renamed", edge: "root, its children, goal", up: "those and the goal's ancestors" };

/**
 * A panel that opens, with a count of the changes in it.
 * @param {string} title
 * @param {(state: State) => number} count
 * @param {State} nothing  fields that undo them
 * @param {Frame} frame
 */
function changesPanel(title, count, nothing, frame) {
  const number = h("span", { class: "mi-x-hint" });
  const clear = h("button", { type: "button", class: "mi-x-button", onclick: () => frame.set(nothing) }, "Undo these");
  const inside = h("div", { class: "mi-x-controls" });
  const box = h("details", { class: "mi-x-panel mi-x-field mi-x-wide" }, h("summary", {}, title, number), inside, clear);
  const show = (/** @type {State} */ state, /** @type {boolean} */ first) => {
    const n = count(state);
    say(number, n ? ` ${n} ${n === 1 ? "change" : "changes"}` : "");
    clear.disabled = n === 0;
    if (first && n) box.open = true;
  };
  return { box, inside, show };
}

/**
 * Attention closed, heads and MLPs off.
 * @param {Frame} frame @param {PathfindingSpec} spec
 */
export function closingPanel(frame, spec) {
  const { box, inside, show } = changesPanel("Close attention, switch parts off",
    (state) => state.closed.length + state.nodes.length, { closed: [], nodes: [] }, frame);
  /** @type {Map<string, HTMLButtonElement>} */
  const buttons = new Map();
  for (const kind of TOKEN_CLASSES) {
    const toggle = () => {
      const { closed } = frame.state;
      frame.set({ closed: closed.includes(kind) ? closed.filter((/** @type {string} */ x) => x !== kind) : [...closed, kind] });
    };
    buttons.set(kind, h("button", { type: "button", class: "mi-x-button mi-x-toggle", "aria-pressed": "false", onclick: toggle }, KEY_CLASSES[/** @type {"goal"} */ (kind)]));
  }
  const kinds = h("div", { class: "mi-x-field mi-x-wide mi-x-choice", role: "group", "aria-label": "attention closed to" },
    h("span", { class: "mi-x-label" }, "No attention to"), ...buttons.values());
  const kindsError = frame.field("closed", kinds, { show: (closed) => {
    for (const [kind, button] of buttons) button.setAttribute("aria-pressed", String(closed.includes(kind)));
  } });
  const who = menu(frame, "who", "from", () => QUERY_CLASSES);
  const where = menu(frame, "where", "in layers", (state) => wheresOf(treeModel(state, spec).layers).map((value) =>
    ({ value, text: value === "all" ? "all" : value.endsWith("+") ? `${parseInt(value, 10)} and later` : `${value} only` })));
  const closing = segments(frame, "closing", "Attention that is closed", [
    { value: "moved", text: "goes elsewhere", title: "closed before the softmax" },
    { value: "lost", text: "is lost", title: "taken away after the softmax" },
  ], (value) => frame.set({ closing: value }));
  const closingError = frame.field("closing", closing.box, { show: (value) => closing.show(value) });
  who.box.className = "mi-x-field";
  where.box.className = "mi-x-field";
  const parts = h("div", { class: "mi-x-field mi-x-wide mi-x-parts" });
  /** @type {Map<string, ReturnType<typeof segments>>} */
  const rows = new Map();
  const modeOf = (/** @type {State} */ state, /** @type {string} */ part) =>
    state.nodes.find((/** @type {string} */ word) => word.startsWith(`${part}-`))?.split("-")[1] ?? "on";
  const partsError = frame.field("nodes", parts, { show: (_, state) => {
    const { layers } = treeModel(state, spec);
    if (rows.size !== 2 * layers) {
      rows.clear();
      for (let l = 0; l < layers; l++) {
        for (const part of [`L${l}H0`, `L${l}MLP`]) {
          rows.set(part, segments(frame, part, part.endsWith("MLP") ? `layer ${l}, MLP` : `layer ${l}, head`, PART_MODES, (mode) => {
            const others = frame.state.nodes.filter((/** @type {string} */ word) => !word.startsWith(`${part}-`));
            frame.set({ nodes: mode === "on" ? others : [...others, `${part}-${mode}`] });
          }));
        }
      }
      parts.replaceChildren(...[...rows.values()].map((row) => row.box));
    }
    for (const [part, row] of rows) row.show(modeOf(state, part));
  } });
  inside.append(kinds, kindsError, who.box, where.box, h("div", { class: "mi-x-field mi-x-wide" }, closing.box, closingError), parts, partsError);
  return { box, show };
}

/**
 * States of edges or of the root token replaced by those of another question.
 * @param {Frame} frame @param {PathfindingSpec} spec
 */
export function donorPanel(frame, spec) {
  const { box, inside, show } = changesPanel("Put another tree's state into this run",
    (state) => (state.donor === "none" ? 0 : 1), { donor: "none" }, frame);
  const donor = segments(frame, "donor", "Donor", [
    { value: "none", text: "none" },
    { value: "renamed", text: "same tree, renamed", title: "the same tree with other names, except those that the rule keeps" },
    { value: "other", text: "second tree", title: "what stands at the same places in the second tree" },
  ], (value) => frame.set({ donor: value }));
  const donorError = frame.field("donor", donor.box, { show: (value) => donor.show(value) });
  const site = menu(frame, "site", "whose state", (state) => {
    const { edges } = readQuestion(state.text, treeModel(state, spec).nodes, "text");
    const all = edges.map(([a, b]) => ({ value: String(b), text: `edge ${a}>${b}` }));
    return [{ value: "edges", text: state.donor === "other" ? "all edges" : "all edges, each with its own donor" }, { value: "root", text: "the root token" }, ...all];
  });
  const part = segments(frame, "part", "Tokens of an edge", [
    { value: "all", text: "all three" }, { value: "source", text: "source" }, { value: "target", text: "target" }, { value: "comma", text: "comma" },
  ], (value) => frame.set({ part: value }));
  const partError = frame.field("part", part.box, { show: (value) => part.show(value) });
  const after = slider(frame, "after", "after layer", (state) => Array.from({ length: treeModel(state, spec).layers }, (_, l) => l), (l) => `layer ${l}`);
  const rule = menu(frame, "rule", "names that the donor keeps", (state) =>
    Object.entries(state.site === "root" ? ROOT_RULES : EDGE_RULES).map(([value, text]) => ({ value, text })));
  const draw = h("button", { type: "button", class: "mi-x-button", onclick: () => frame.set({ draw: (frame.state.draw + 1) % 10_000 }) }, "Other names");
  const drawError = frame.field("draw", draw, { show: () => {} });
  const fresh = h("button", { type: "button", class: "mi-x-button", onclick: () => {
    const { text } = frame.state;
    const question = readQuestion(text, treeModel(frame.state, spec).nodes, "text");
    frame.set({ other: writeQuestion(freshQuestion(question.n, rightPath(question).length - 1, orderOf(question))) });
  } }, "New tree");
  const other = textField(frame, "other", "Second tree", { hint: "the same form as the question", extra: [fresh] });
  const rest = h("div", { class: "mi-x-field mi-x-wide" }, part.box, partError);
  const renamedOnly = [rule.box, h("div", { class: "mi-x-field mi-x-bottom" }, draw, drawError)];
  inside.append(h("div", { class: "mi-x-field mi-x-wide" }, donor.box, donorError), site.box, after.box, rest, ...renamedOnly, other.box);
  const update = (/** @type {State} */ state, /** @type {boolean} */ first) => {
    show(state, first);
    for (const one of [site.box, after.box]) one.hidden = state.donor === "none";
    rest.hidden = state.donor === "none" || state.site === "root";
    for (const one of renamedOnly) one.hidden = state.donor !== "renamed";
    other.box.hidden = state.donor !== "other";
  };
  return { box, show: update };
}
