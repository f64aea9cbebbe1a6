/** Controls of the pathfinding explorer that ask: question, model, goal, order of the edges, layer, token. */

import { segments, slider, textField } from "./controls.js";
import { h } from "./dom.js";
import { pathfindingKey, treeModel } from "./pathfinding_state.js";
import { freshQuestion, inOrder, leavesOf, orderOf, placesOf, readQuestion, rightPath, withGoal } from "./tree_question.js";

/** @typedef {import("./link.js").State} State */
/** @typedef {import("./tree_question.js").Question} Question */
/** @typedef {import("./pathfinding_state.js").PathfindingSpec} PathfindingSpec */

/**
 * The question of a state.
 * @param {State} state @param {PathfindingSpec} spec
 */
export function questionOf(state, spec) {
  return readQuestion(state.text, treeModel(state, spec).nodes, "text");
}

/**
 * @param {import("./frame.js").Frame} frame
 * @param {PathfindingSpec} spec
 * @param {(change: (question: Question) => Question) => void} change  the question
 */
export function askingControls(frame, spec, change) {
  const lengths = h("select", { "aria-label": "path length of a new tree", class: "mi-x-short" });
  const fresh = h("button", { type: "button", class: "mi-x-button", onclick: () => change((question) => {
    const length = Number(lengths.value) || 1 + Math.floor(Math.random() * (question.n - 1));
    return freshQuestion(question.n, length, orderOf(question));
  }) }, "New tree");
  const text = textField(frame, "text", "Question", { hint: "edges A>B, then | and the goal", extra: [lengths, fresh] });

  const model = h("select", { id: `${frame.prefix}-model`, onchange: () => switchModel(frame, spec, model.value) },
    ...spec.models.map((one) => h("option", { value: pathfindingKey({ model: one.name, seed: one.seed }) }, one.text)));
  const modelError = frame.field("model", model, { show: (_, state) => {
    model.value = pathfindingKey(state);
    const { nodes } = treeModel(state, spec);
    if (lengths.options.length === nodes) return;
    const each = Array.from({ length: nodes - 1 }, (_, i) => h("option", { value: i + 1 }, `${i + 1} ${i ? "steps" : "step"}`));
    lengths.replaceChildren(h("option", { value: 0 }, "any length"), ...each);
  } });

  const goal = h("select", { id: `${frame.prefix}-goal`, onchange: () => change((question) => withGoal(question, Number(goal.value))) });
  const order = segments(frame, "order", "Edges", [
    { value: "backward", text: "backward", title: "deepest edges first" },
    { value: "random", text: "random", title: "press again for another order" },
    { value: "forward", text: "forward", title: "from the root down; never trained on" },
  ], (value) => change((question) => inOrder(question, /** @type {"random"} */ (value))));
  order.inputs[1].addEventListener("click", () => {
    if (orderOf(questionOf(frame.state, spec)) === "random") change((question) => inOrder(question, "random"));
  });

  const layer = slider(frame, "layer", "layer", (state) => Array.from({ length: treeModel(state, spec).layers }, (_, l) => l), (l) => `${l}`);
  const position = slider(frame, "position", "token that looks", (state) => {
    const question = questionOf(state, spec);
    return Array.from({ length: placesOf(question.n).root + rightPath(question).length }, (_, p) => p);
  }, (p, state) => positionWord(questionOf(state, spec), p));
  for (const { box } of [layer, position]) box.classList.add("mi-x-wide");

  /** Fields that follow from the question. @param {State} state */
  const show = (state) => {
    const question = questionOf(state, spec);
    const leaves = leavesOf(question);
    if (String([...goal.options].map((one) => one.value)) !== String(leaves)) goal.replaceChildren(...leaves.map((k) => h("option", { value: k }, k)));
    goal.value = String(question.goal);
    order.show(orderOf(question));
  };
  const labelled = (/** @type {string} */ size, /** @type {string} */ label, /** @type {HTMLElement} */ input, /** @type {HTMLElement | null} */ error) =>
    h("div", { class: `mi-x-field ${size}` }, h("label", { for: input.id }, label), h("div", { class: "mi-x-line" }, input), error);
  return {
    boxes: [text.box, labelled("mi-x-five", "model", model, modelError), labelled("mi-x-small", "goal", goal, null), h("div", { class: "mi-x-field mi-x-five mi-x-bottom" }, order.box)],
    sliders: [layer.box, position.box], show,
  };
}

/** A token in the slider. @param {Question} question @param {number} position */
function positionWord(question, position) {
  const { n, edges } = question;
  const { bar, goal, colon, root } = placesOf(n);
  if (position < bar) return `${["source", "target", "comma"][position % 3]} of ${edges[Math.floor(position / 3)].join(">")}`;
  if (position === bar) return "the bar |";
  if (position === goal) return `goal ${question.goal}`;
  if (position === colon) return "the colon";
  return position === root ? `root ${question.root}` : `path token ${position - root}`;
}

/**
 * Another model; where its trees have another size, its own example.
 * @param {import("./frame.js").Frame} frame @param {PathfindingSpec} spec @param {string} key
 */
function switchModel(frame, spec, key) {
  const model = spec.models.find((one) => pathfindingKey({ model: one.name, seed: one.seed }) === key);
  if (!model) return;
  const { name, seed, nodes } = model;
  const same = nodes === treeModel(frame.state, spec).nodes;
  frame.set({ model: name, seed, ...(same ? {} : { ...spec.examples[nodes], position: placesOf(nodes).root, site: "edges" }) });
}

