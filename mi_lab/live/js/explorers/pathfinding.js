/** The pathfinding explorer: a tree to type and edit, attention climbing it, the lens, knock-outs, donors. */

import { softmax } from "../analysis.js";
import { segments } from "./controls.js";
import { h, say } from "./dom.js";
import { drawing } from "./draw.js";
import { FarShelf } from "./far_shelf.js";
import { FieldError, Frame } from "./frame.js";
import { closingPanel, donorPanel } from "./pathfinding_changes.js";
import { askingControls, questionOf } from "./pathfinding_controls.js";
import { asBefore, gathered, pathfindingRun, spotOf } from "./pathfinding_run.js";
import { drawSteps, logitBars, logitKey, promptLine } from "./pathfinding_side.js";
import { checkPathfinding, PATHFINDING_FIELDS, pathfindingKey, pathfindingPython, treeModel } from "./pathfinding_state.js";
import { changesEffect, logitsLabel, pathHeadline, treeCaption } from "./pathfinding_words.js";
import { sources } from "./shelf.js";
import { installStyle } from "./style.js";
import { drawTree } from "./tree_draw.js";
import { TreeHand } from "./tree_hand.js";
import { movedUnder, placesOf, swappedNames, withGoal, writeQuestion } from "./tree_question.js";
import { TREE_CSS } from "./tree_style.js";
import { treeTable } from "./tree_table.js";

/** @typedef {import("./link.js").State} State */
/** @typedef {import("./pathfinding_state.js").PathfindingSpec} PathfindingSpec */
/** @typedef {import("./pathfinding_run.js").PathfindingResult} PathfindingResult */
/** @typedef {import("./tree_question.js").Question} Question */
/** @typedef {import("./tree_draw.js").Spot} Spot */

const WEAKEST_ARROW = 0.04; // attention that is drawn
const TOKENS_OF_EDGE = [{ value: "source", text: "source" }, { value: "target", text: "target" }, { value: "comma", text: "comma" }];
const TREE_SHOWS = [
  { value: "arrows", text: "attention in this layer" },
  { value: "gathered", text: "edges gathered so far", title: "following attention of at least 20 % from layer to layer" },
];

/** The explorer in a page. */
export class PathfindingExplorer {
  /** @type {State | null} */
  #good = null;
  /** The run without changes. @type {{key: string, before: import("./pathfinding_run.js").Before} | null} */
  #before = null;
  #means = false;
  /** @type {(() => void)[]} */
  #waiting = [];
  /** @type {PathfindingResult | null} */
  result = null;

  /**
   * @param {HTMLElement} root
   * @param {PathfindingSpec} spec
   * @param {State} initial
   * @param {{id: string, links?: boolean, ask?: (key: string) => Promise<Uint8Array>, onReady?: () => void}} options
   */
  constructor(root, spec, initial, { id, links = true, ask, onReady }) {
    this.spec = spec;
    this.onReady = onReady;
    this.shelf = new FarShelf(sources(spec.weights, ask));
    const frame = new Frame(root, {
      id, links, initial, fields: PATHFINDING_FIELDS, title: spec.title ?? "The pathfinding model, live",
      ...(spec.tryThis ? { tryThis: spec.tryThis } : {}),
      check: (state) => checkPathfinding(state, spec),
      python: pathfindingPython,
    });
    installStyle(root, "tree", TREE_CSS);
    this.frame = frame;
    frame.show = (state) => void this.#show(state);
    this.asking = askingControls(frame, spec, (change) => this.#change(change));
    this.panels = [closingPanel(frame, spec), donorPanel(frame, spec)];
    frame.controls.append(...this.asking.boxes, ...this.panels.map(({ box }) => box));
    // the tree
    this.attention = drawing("tree", (svg, /** @type {number} */ width) => this.#drawTree(svg, width));
    const { svg } = this.attention;
    svg.setAttribute("role", "group");
    svg.classList.add("mi-x-tree");
    this.hand = new TreeHand(frame, svg, {
      question: () => this.result && this.result.question,
      act: (tool, node, first) => this.#act(tool, node, first),
      redraw: () => this.hand.keepFocus(() => this.attention.redraw()),
    });
    const treeError = frame.field("tree", svg, { show: () => {} });
    const choice = (/** @type {string} */ name, /** @type {string} */ label, /** @type {{value: string, text: string, title?: string}[]} */ options) => {
      const made = segments(frame, name, label, options, (value) => frame.set({ [name]: value }));
      return h("div", {}, made.box, frame.field(name, made.box, { show: (value) => made.show(value) }));
    };
    this.caption = h("p", { class: "mi-x-caption" });
    this.prompt = promptLine((position) => frame.set({ position }, { merge: "position" }));
    this.effect = h("p", { class: "mi-x-effect" });
    this.steps = h("div", {});
    this.key = h("p", { class: "mi-x-caption" });
    this.output = drawing("logits", (out, /** @type {number} */ width) => (this.result ? logitBars(out, width, this.result) : 1));
    this.table = treeTable((position, layer) => frame.set({ position, ...(layer < 0 ? {} : { layer }) }, { merge: "cell" }));
    frame.views.append(
      h("div", { class: "mi-x-view" }, h("div", { class: "mi-x-controls" }, ...this.asking.sliders), this.hand.tools.box, treeError,
        h("div", { class: "mi-x-pair" }, h("div", {}, svg, choice("show", "Show", TREE_SHOWS)), h("div", {}, this.effect, this.steps, this.output.svg, this.key)),
        this.caption, this.prompt.box),
      h("div", { class: "mi-x-view" }, h("p", { class: "mi-x-caption" }, "What every token looks at most, layer by layer. Press a cell to go there."),
        choice("rows", "Of each edge the", TOKENS_OF_EDGE), this.table.box));
  }

  /** Load the model and draw. */
  begin() {
    this.frame.views.hidden = true;
    for (const panel of this.panels) panel.show(this.frame.state, true);
    this.frame.begin();
  }

  /** Leave the page. */
  end() {
    this.attention.stop();
    this.output.stop();
    this.table.stop();
    this.shelf.close();
    this.frame.end();
  }

  /** Resolves when the picture is that of the state (the table, where it is seen). @returns {Promise<void>} */
  settled() {
    if (this.result && this.#good === this.frame.state) return Promise.resolve();
    return new Promise((resolve) => this.#waiting.push(resolve));
  }

  // ---- what the reader does ---------------------------------------------------------------------------

  /** @param {(question: Question) => Question} change */
  #change(change) {
    const { frame, spec } = this;
    try {
      const text = writeQuestion(change(questionOf(frame.state, spec)));
      frame.accept("tree");
      frame.set({ text });
    } catch (error) {
      if (!(error instanceof FieldError)) throw error;
      frame.refuse(error.field, error.message);
      frame.announce(error.message);
    }
    this.asking.show(frame.state);
  }

  /** @param {import("./tree_hand.js").Tool} tool @param {number} node @param {number} first */
  #act(tool, node, first) {
    if (tool === "goal") return this.#change((question) => withGoal(question, node));
    if (tool === "move") return this.#change((question) => movedUnder(question, first, node));
    if (tool === "swap") return this.#change((question) => swappedNames(question, first, node));
    this.#look({ kind: "node", node });
  }

  /** @param {Spot} spot */
  #look(spot) {
    this.frame.set({ position: positionOf(questionOf(this.frame.state, this.spec), spot) }, { merge: "position" });
  }

  // ---- from state to picture --------------------------------------------------------------------------

  /** @param {State} state */
  async #show(state) {
    const { frame, shelf } = this;
    for (const panel of this.panels) panel.show(state, false);
    this.asking.show(state);
    const key = pathfindingKey(state);
    const loading = `Loading the model (${treeModel(state, this.spec).text})`;
    const onProgress = (/** @type {number} */ done, /** @type {number | null} */ total) => {
      if (frame.state === state) frame.busy(`${loading}: ${Math.round(done / 1000)} kB`, done, total);
    };
    if (!shelf.has(key)) frame.busy(loading);
    try {
      const result = await shelf.latest(key, (client, fresh) => this.#run(client, fresh, state), onProgress);
      if (result === null || frame.state !== state) return; // the reader has gone on
      frame.busy(null);
      this.#draw(state, result);
    } catch (error) {
      if (frame.state !== state) return;
      frame.busy(null);
      const why = error instanceof Error ? error.message : String(error);
      if (this.#good) frame.fallBack(this.#good, "model", why);
      else frame.refuse("model", why);
    }
  }

  /** @param {import("../client.js").Client} client @param {boolean} fresh @param {State} state @returns {Promise<PathfindingResult>} */
  async #run(client, fresh, state) {
    const { frame, spec } = this;
    if (fresh) this.#means = false;
    if (!this.#means && state.nodes.some((/** @type {string} */ word) => word.endsWith("mean"))) {
      const { nodes } = treeModel(state, spec);
      const questions = meanTrees(await this.shelf.file(`trees-${nodes}`), nodes);
      const busy = (done = 0, total = questions.length) => frame.busy(`Averaging over ${total} trees`, done, total);
      busy();
      await client.call("means", { questions }, { onProgress: busy });
      this.#means = true;
    }
    const asked = (/** @type {State} */ of) => `${pathfindingKey(of)} ${of.text}`;
    const key = asked(state);
    const before = this.#before?.key === key ? this.#before.before : null;
    const guess = this.result && asked(this.result.state) === key ? { guess: this.result.tokens } : {};
    const result = await pathfindingRun(client, state, spec, { before, ...guess });
    this.#before = { key, before: result.before ?? asBefore(result) };
    return result;
  }

  /** @param {State} state @param {PathfindingResult} result */
  #draw(state, result) {
    const { frame } = this;
    const first = this.result === null;
    this.result = result;
    this.#good = state;
    frame.views.hidden = false;
    const headline = pathHeadline(result);
    const effect = changesEffect(result);
    say(frame.headline, headline);
    frame.announce(`${headline} ${effect}`);
    say(this.effect, effect);
    this.effect.hidden = !effect;
    drawSteps(this.steps, result);
    this.prompt.draw(result, state.layer, state.position);
    say(this.caption, treeCaption(state, result));
    this.hand.keepFocus(() => this.attention.redraw());
    this.attention.label(`The tree, root ${result.question.root}, goal ${result.question.goal}. Arrow keys walk in it; Enter does what is chosen above.`);
    this.output.redraw();
    this.output.label(logitsLabel(result));
    say(this.key, logitKey(result));
    this.table.draw(result, state.rows, state.position, state.layer);
    if (first) this.onReady?.();
    for (const done of this.#waiting.splice(0)) done();
  }

  /** @param {SVGElement} svg @param {number} width @returns {number} */
  #drawTree(svg, width) {
    const { result } = this;
    const state = this.#good;
    if (!result || !state) return 1;
    const { question, tokens, pattern, lens, vocab } = result;
    const { position, layer } = state;
    const arrows = [];
    for (let key = 0; state.show === "arrows" && key < position; key++) {
      const weight = pattern[layer][position * tokens.length + key];
      const to = spotOf(result, key);
      if (weight >= WEAKEST_ARROW && to) arrows.push({ to, weight });
    }
    const { target } = placesOf(question.n);
    return drawTree(svg, width, {
      question, arrows, start: spotOf(result, position), walked: result.walked, chosen: this.hand.chosen,
      shade: softmax(lens[layer], position * vocab, vocab).subarray(target, target + question.n),
      gathered: state.show === "gathered" ? gathered(result, layer, position) : new Map(),
      focus: this.hand.focusIn(question), drag: this.hand.tool === "move",
      pressBead: (spot) => this.#look(spot),
    });
  }
}

/** Where a spot's token stands: a node's is the target that names it, or the root token. @param {Question} question @param {Spot} spot */
function positionOf({ n, edges, root }, { kind, node }) {
  if (node === root) return placesOf(n).root;
  const edge = edges.findIndex(([, b]) => b === node);
  return 3 * edge + { node: 1, source: 0, target: 1, comma: 2 }[kind];
}

/**
 * The trees over which "mean" averages: their tokens, a byte each.
 * @param {Uint8Array} bytes
 * @param {number} nodes
 */
function meanTrees(bytes, nodes) {
  const { context } = placesOf(nodes);
  if (!bytes.length || bytes.length % context) throw new Error("The file with the trees for the average is damaged.");
  return Array.from({ length: bytes.length / context }, (_, i) => [...bytes.subarray(i * context, (i + 1) * context)]);
}
