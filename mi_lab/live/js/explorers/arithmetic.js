/** The arithmetic explorer: a question typed, nodes of a trained model chosen, replaced, interchanged and scanned. */

import { classWords } from "./algorithm_run.js";
import { drawDirect, drawProbabilities, drawTokens } from "./arithmetic_draw.js";
import { nodePanel, scanPanel } from "./arithmetic_panel.js";
import {
  ARITHMETIC_FIELDS, arithmeticEdits, arithmeticKey, arithmeticModel, arithmeticPython, arithmeticRun, checkArithmetic, factNames, positionsOf,
  replacedBy, replacementValue, withModel,
} from "./arithmetic_run.js";
import { countsOfFile, oneRequest, scanNodes, scanQuestions, sweepQuestion } from "./arithmetic_scan.js";
import { installArithmeticStyle } from "./arithmetic_style.js";
import { classNames, drawSum, drawUntil, moveNames, moveWords, readSum, sumClass, sumText, sumTokenNames, SYMBOLS, typeset } from "./arithmetic_task.js";
import { answerWords, attentionWords, factWords, mapCell } from "./arithmetic_words.js";
import { menu, textField } from "./controls.js";
import { h, say } from "./dom.js";
import { drawing } from "./draw.js";
import { FarShelf } from "./far_shelf.js";
import { Frame } from "./frame.js";
import { NodeGrid } from "./node_grid.js";
import { Shelf, sources } from "./shelf.js";

/** @typedef {import("./link.js").State} State */
/** @typedef {import("./arithmetic_run.js").ArithmeticSpec} ArithmeticSpec */
/** @typedef {import("./arithmetic_scan.js").NodeCounts} NodeCounts */

const FACT_TEXTS = { fail: "questions that turn wrong", impact: "answer tokens that turn wrong", classes: "classes that turn wrong", question: "this question" };

/** The explorer in a page. */
export class ArithmeticExplorer {
  /** @type {State | null} */
  #good = null;
  /** By model: what its file carries, and what was counted in the page. @type {Map<string, {file: NodeCounts | null, page: NodeCounts | null}>} */
  #counts = new Map();
  /** What replacing each node does in one question. @type {{key: string, bits: ArrayLike<number>, clean: number} | null} */
  #sweep = null;
  /** @type {AbortController | null} */
  #scan = null;
  #swept = "";

  /**
   * @param {HTMLElement} root
   * @param {ArithmeticSpec} spec
   * @param {State} initial
   * @param {{id: string, links?: boolean, ask?: (key: string) => Promise<Uint8Array>, onReady?: () => void}} options
   */
  constructor(root, spec, initial, { id, links = true, ask, onReady }) {
    this.spec = spec;
    const sourceOf = sources(spec.weights, ask);
    this.shelf = new Shelf(sourceOf);
    const far = oneRequest(sourceOf);
    this.sweeper = new FarShelf(far);
    this.scanner = new FarShelf(far);
    this.onReady = onReady;
    const frame = new Frame(root, {
      id, links, initial, fields: ARITHMETIC_FIELDS, title: spec.title ?? "The arithmetic model, live",
      ...(spec.tryThis ? { tryThis: spec.tryThis } : {}),
      check: (state) => checkArithmetic(state, spec),
      python: arithmeticPython,
    });
    installArithmeticStyle(root);
    this.frame = frame;
    frame.show = (state) => void this.#show(state);
    /** @type {import("./arithmetic_run.js").ArithmeticResult | null} */
    this.result = null;
    // controls
    this.ofClass = h("select", { "aria-label": "class of a new question" });
    const fresh = (/** @type {string} */ field) => h("button", { type: "button", class: "mi-x-button", onclick: () => this.#draw(field) }, "New question");
    const question = textField(frame, "question", "Question", { hint: "two numbers with the model\u2019s operator between them", extra: [fresh("question"), this.ofClass] });
    const other = textField(frame, "other", "Second question", { hint: "its run lends nodes their output", extra: [fresh("other")] });
    for (const one of [question, other]) one.box.classList.add("mi-x-wrap");
    const model = menu(frame, "model", "model", () => spec.models.map(({ name, text }) => ({ value: name, text })), { change: (name, state) => withModel(state, String(name), spec) });
    const seed = menu(frame, "seed", "seed", (state) => arithmeticModel(state, spec).seeds.map((x) => ({ value: x, text: String(x) })));
    const moves = (/** @type {State} */ state) => {
      const task = arithmeticModel(state, spec);
      return moveNames(readSum(state.question, task, "question"), readSum(state.other, task, "other"), task.operations);
    };
    const move = menu(frame, "move", "what the nodes are said to carry", (state) => [{ value: "", text: "\u2013" }, ...moves(state).map((name) => ({ value: name, text: `${name}, ${moveWords(name)}` }))]);
    seed.box.classList.add("mi-x-small");
    frame.controls.append(question.box, model.box, seed.box, other.box, move.box);
    this.second = [other.box, move.box];
    // pictures
    this.attention = drawing("attention", (svg, width) => (this.result ? drawTokens(svg, width, this.result, (p) => this.#go(p)) : 1));
    this.output = drawing("probabilities", (svg, width) => (this.result ? drawProbabilities(svg, width, this.result) : 1));
    this.direct = drawing("direct effects", (svg, width) => (this.result ? drawDirect(svg, width, this.result) : 1));
    this.question = h("p", { class: "mi-x-caption" });
    this.about = h("p", { class: "mi-x-caption" });
    this.grid = new NodeGrid("Map of nodes: arrow keys choose one, Enter replaces it or puts it back", { choose: (node) => frame.set({ node }, { merge: "node" }), toggle: (node) => this.#toggle(node) });
    const fact = menu(frame, "fact", "map shows", (state) => factNames(arithmeticModel(state, spec)).map((name) => ({ value: name, text: FACT_TEXTS[/** @type {keyof typeof FACT_TEXTS} */ (name)] ?? `class ${name}` })));
    fact.box.classList.add("mi-x-fact");
    this.panel = nodePanel(frame, (node) => this.#toggle(node), (by) => this.#go(Number(this.result?.query) + by));
    this.scans = scanPanel(frame, { start: (each) => void this.#start(each), stop: () => this.#stop(), forget: () => this.#forget() });
    this.scans.progress(null);
    frame.views.append(
      h("div", { class: "mi-x-view" }, this.question, this.attention.svg),
      h("div", { class: "mi-x-view" }, fact.box, this.about, h("div", { class: "mi-x-gridbox" }, this.grid.table), this.panel.box, this.scans.box),
      h("div", { class: "mi-x-view" }, h("p", { class: "mi-x-caption" }, "For each token of the answer: what the model expects (outlined: the right token; dashed: what it writes instead), and how much every head and MLP there raises the right token by itself."),
        h("div", { class: "mi-x-two" }, this.output.svg, this.direct.svg)));
  }

  /** Load the first model and draw. */
  begin() {
    this.frame.views.hidden = true;
    this.#second(this.frame.state);
    this.frame.begin();
  }

  /** Leave the page. */
  end() {
    this.#stop();
    for (const picture of [this.attention, this.output, this.direct]) picture.stop();
    this.sweeper.close();
    this.scanner.close();
    this.frame.end();
  }

  /** What the map shows: counted in the page, or carried by the model's file. @returns {NodeCounts | null} */
  get counts() {
    const known = this.#counts.get(arithmeticKey(this.frame.state));
    return known?.page ?? known?.file ?? null;
  }

  // ---- what a reader does ---------------------------------------------------------------------------

  /** Another question, of the chosen class. @param {string} field */
  #draw(field) {
    const { frame } = this;
    const { digits, operations } = arithmeticModel(frame.state, this.spec);
    const name = field === "question" ? this.ofClass.value : "";
    const minus = name ? name[0] !== "S" : operations === "+-" ? frame.state.question.includes("-") : operations === "-";
    const q = name ? drawUntil(digits, minus, (one) => sumClass(one) === name) : drawSum(digits, minus);
    if (q) frame.set({ [field]: sumText(q) });
    else frame.announce("None was found, try again.");
  }

  /** The chosen node at another position. @param {number} position */
  #go(position) {
    const { frame } = this;
    const { digits } = arithmeticModel(frame.state, this.spec);
    if (positionsOf(digits).includes(position)) frame.set({ node: frame.state.node.replace(/^P\d+/, `P${position}`) }, { merge: "node" });
  }

  /** Replace a node or put it back. @param {string} node */
  #toggle(node) {
    const { frame } = this;
    const { edits, mode } = frame.state;
    const rest = edits.filter((/** @type {string} */ edit) => !edit.startsWith(`${node}:`));
    frame.set({ node, edits: replacedBy(frame.state, node) ? rest : [...edits, `${node}:${mode}`] });
  }

  /** Scan all nodes on new questions. @param {number} each  of every class */
  async #start(each) {
    this.#stop();
    const { frame, spec, scans } = this;
    const control = new AbortController();
    this.#scan = control;
    const { signal } = control;
    const { state } = frame;
    const key = arithmeticKey(state);
    const model = arithmeticModel(state, spec);
    const store = /** @type {number[]} */ (this.result?.store);
    const begun = performance.now();
    frame.accept("scan");
    scans.progress(0);
    try {
      const questions = await scanQuestions(model, each, signal);
      let last = 0;
      const counts = await this.scanner.latest(key, (client) => scanNodes(client, model, {
        questions, value: replacementValue(state.mode, store), how: state.mode, edits: arithmeticEdits(state, store), signal,
        onProgress: (done, partial) => {
          if (performance.now() - last < 200) return;
          last = performance.now();
          scans.progress(done, questions.length);
          this.#keep(key, partial);
        },
      }));
      if (counts) this.#keep(key, counts);
      frame.announce(`Scanned ${questions.length} questions in ${Math.round((performance.now() - begun) / 1000)} seconds.`);
    } catch (error) {
      if (!signal.aborted) frame.refuse("scan", error instanceof Error ? error.message : String(error));
    }
    if (this.#scan !== control) return;
    this.#scan = null;
    scans.progress(null);
  }

  #stop() {
    this.#scan?.abort();
    this.#scan = null;
    this.scans.progress(null);
  }

  #forget() {
    this.#stop();
    Object.assign(this.#counts.get(arithmeticKey(this.frame.state)) ?? {}, { page: null });
    if (this.#good) this.#map(this.#good);
  }

  /** @param {string} key @param {NodeCounts} counts */
  #keep(key, counts) {
    Object.assign(this.#counts.get(key) ?? {}, { page: counts });
    if (this.#good && arithmeticKey(this.#good) === key) this.#map(this.#good);
  }

  // ---- from state to picture ------------------------------------------------------------------------

  async #show(/** @type {State} */ state) {
    const { frame, shelf } = this;
    const key = arithmeticKey(state);
    if (this.#good && arithmeticKey(this.#good) !== key) this.#stop();
    if (!shelf.has(key)) {
      const { text } = arithmeticModel(state, this.spec);
      frame.busy(`Loading the model (${text})`);
      try {
        await shelf.load(key, (done, total) => frame.busy(`Loading the model (${text}): ${Math.round(done / 1000)} kB`, done, total));
      } catch (error) {
        if (arithmeticKey(frame.state) !== key) return;
        frame.busy(null);
        const why = error instanceof Error ? error.message : String(error);
        if (this.#good) frame.fallBack(this.#good, "model", why);
        else frame.refuse("model", why);
        return;
      }
      if (arithmeticKey(frame.state) !== key) return; // the reader has gone on
    }
    frame.busy(null);
    this.#drawAll(frame.state);
  }

  #drawAll(/** @type {State} */ state) {
    const { frame, spec } = this;
    const key = arithmeticKey(state);
    const machine = this.shelf.machine(key);
    const result = arithmeticRun(machine, state, spec);
    this.result = result;
    if (!this.#counts.has(key)) this.#counts.set(key, { file: countsOfFile(machine.model, result.model), page: null });
    const first = this.#good === null;
    this.#good = state;
    frame.views.hidden = false;
    this.#second(state);
    const headline = answerWords(result);
    say(frame.headline, headline);
    frame.announce(headline);
    const name = sumClass(result.question);
    say(this.question, `Class ${name}: ${classWords(name)}. Below the tokens: percent of the attention; press a token to go to its position.`);
    const looks = attentionWords(result);
    this.attention.label(`${looks}. ${headline}`);
    const said = result.probability.map((p, i) => {
      const token = /** @type {number} */ (result.tokens[result.first + 1 + i]);
      return `${SYMBOLS[token]} ${(100 * (p[token] ?? 0)).toFixed(0)} %`;
    });
    this.output.label(`Probability of each written token: ${said.join(", ")}`);
    this.direct.label(`Direct effect of ${result.parts.length} heads and MLPs on each right token`);
    for (const picture of [this.attention, this.output, this.direct]) picture.redraw();
    this.#map(state);
    if (first) this.onReady?.();
  }

  /** The second question and what is moved are only there when they are wanted. @param {State} state */
  #second(state) {
    const wanted = state.mode === "other" || state.move !== "" || state.edits.some((/** @type {string} */ edit) => edit.endsWith(":other"));
    for (const box of this.second) box.hidden = !wanted;
    const { digits, operations } = arithmeticModel(state, this.spec);
    const names = classNames(digits, operations);
    if (this.ofClass.dataset.names === names.join()) return;
    this.ofClass.dataset.names = names.join();
    this.ofClass.replaceChildren(h("option", { value: "" }, "any class"), ...names.map((name) => h("option", { value: name }, `class ${name}`)));
  }

  #map(/** @type {State} */ state) {
    const { result, grid } = this;
    if (!result) return;
    const { model, tokens } = result;
    const { counts } = this;
    const positions = positionsOf(model.digits);
    grid.shape({ layers: model.layers, heads: model.heads, positions: positions.length });
    const names = sumTokenNames(model.digits);
    grid.columns(positions.map((p) => ({ text: typeset(SYMBOLS[/** @type {number} */ (tokens[p])] ?? ""), title: `P${p}, ${names[p]}` })));
    const key = JSON.stringify([state.model, state.seed, state.question, state.other, state.mode, state.edits]);
    if (state.fact === "question") void this.#sweepThis(state, key);
    const sweep = this.#sweep && this.#sweep.key === key ? this.#sweep : null;
    grid.update((node) => mapCell(node, state, counts, sweep, model), state.node);
    say(this.about, factWords(state, counts));
    this.scans.show(state, counts);
  }

  /** Every node replaced in this question, in the worker. @param {State} state @param {string} key */
  async #sweepThis(state, key) {
    const { result } = this;
    if (!result || key === this.#swept) return;
    this.#swept = key;
    const { question, store } = result;
    try {
      const found = await this.sweeper.latest(arithmeticKey(state), (client) => sweepQuestion(client, question, replacementValue(state.mode, store), arithmeticEdits(state, store)));
      if (!found) return;
      this.#sweep = { key, ...found };
      if (this.#good && this.#swept === key) this.#map(this.#good);
    } catch (error) {
      if (error instanceof Error && error.name !== "AbortError") this.frame.refuse("fact", error.message);
    }
  }
}
