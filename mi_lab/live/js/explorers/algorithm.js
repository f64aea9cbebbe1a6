/** The algorithm explorer: numbers typed, an algorithm chosen, a cursor that steps through the tokens. */

import { drawColumns } from "./algorithm_draw.js";
import { ableAlgorithms, ALGORITHM_FIELDS, algorithmInfo, algorithmPython, algorithmRun, checkAlgorithm, classWords, failingQuestion, resized, shareText, stepWords } from "./algorithm_run.js";
import { algorithmAnswer } from "./algorithm_steps.js";
import { drawSum, sumText, typeset } from "./arithmetic_task.js";
import { installArithmeticStyle } from "./arithmetic_style.js";
import { menu, slider, textField } from "./controls.js";
import { h, say } from "./dom.js";
import { drawing } from "./draw.js";
import { Frame } from "./frame.js";

/** @typedef {import("./link.js").State} State */
/** @typedef {import("./algorithm_run.js").AlgorithmSpec} AlgorithmSpec */

const PACE = 900; // ms a token, when it steps by itself

/** The explorer in a page. */
export class AlgorithmExplorer {
  /** @type {ReturnType<typeof setInterval> | undefined} */
  #playing;
  #first = true;
  /** @type {{sign: string, rows: {info: import("./algorithm_run.js").AlgorithmInfo, choose: HTMLElement, answer: HTMLElement, rate: HTMLElement, row: HTMLElement}[]}} */
  #rows = { sign: "", rows: [] };

  /**
   * @param {HTMLElement} root
   * @param {AlgorithmSpec} spec
   * @param {State} initial
   * @param {{id: string, links?: boolean, onReady?: () => void}} options
   */
  constructor(root, spec, initial, { id, links = true, onReady }) {
    this.spec = spec;
    this.onReady = onReady;
    const frame = new Frame(root, {
      id, links, initial, fields: ALGORITHM_FIELDS, title: spec.title ?? "Algorithms that add and subtract",
      ...(spec.tryThis ? { tryThis: spec.tryThis } : {}),
      check: (state) => checkAlgorithm(state, spec),
      python: algorithmPython,
    });
    this.frame = frame;
    installArithmeticStyle(root);
    frame.show = (state) => this.#show(state);
    /** @type {import("./algorithm_run.js").AlgorithmResult | null} */
    this.result = null;
    const button = (/** @type {string} */ text, /** @type {() => void} */ onclick) => h("button", { type: "button", class: "mi-x-button", onclick }, text);
    this.failButton = button("One it gets wrong", () => this.#fail());
    const fresh = button("New question", () => frame.set({ question: sumText(drawSum(frame.state.digits, frame.state.question.includes("-"))) }));
    const question = textField(frame, "question", "Question", { hint: `two numbers of at most ${spec.most} digits with + or \u2212 between them`, extra: [fresh, this.failButton] });
    const algorithm = menu(frame, "algorithm", "algorithm", (state) => ableAlgorithms(spec, algorithmRun(state).q).map(({ name, text }) => ({ value: name, text })));
    const digits = slider(frame, "digits", "digits", () => Array.from({ length: spec.most }, (_, i) => i + 1), String, { change: (value, state) => resized(state, value) });
    this.play = h("button", { type: "button", class: "mi-x-button", onclick: () => this.#toggle() }, "Play");
    const position = slider(frame, "position", "token read", (state) => Array.from({ length: 3 * state.digits + 3 }, (_, i) => i), (x, state) => `P${x} of ${3 * state.digits + 2}`);
    position.box.querySelector(".mi-x-line")?.append(this.play);
    position.box.classList.add("mi-x-wide");
    question.box.classList.add("mi-x-wrap");
    frame.controls.append(question.box, algorithm.box, digits.box, position.box);
    this.about = h("p", { class: "mi-x-caption" });
    this.words = h("p", { class: "mi-x-words" });
    this.output = drawing("columns", (svg, width) => {
      const { result } = this;
      return result ? drawColumns(svg, width, result, frame.state.position, (at) => frame.set({ position: at }, { merge: "position" })) : 1;
    });
    this.table = h("tbody");
    const heads = ["algorithm", "answers", "wrong on"].map((text) => h("th", { scope: "col" }, text));
    frame.views.append(
      h("div", { class: "mi-x-view" }, this.about, this.output.svg, this.words),
      h("div", { class: "mi-x-view" },
        h("table", { class: "mi-x-table mi-x-rows" }, h("caption", {}, "All of them on this question, and the share of all questions of this size that each gets wrong (counted, not sampled)."), h("thead", {}, h("tr", {}, ...heads)), this.table)));
  }

  /** Draw. */
  begin() {
    this.frame.begin();
  }

  /** Leave the page. */
  end() {
    clearInterval(this.#playing);
    this.output.stop();
    this.frame.end();
  }

  #fail() {
    const { frame, spec } = this;
    const question = failingQuestion(spec, frame.state);
    if (question) frame.set({ question, position: 3 * frame.state.digits + 2 });
    else frame.announce("There is no such question.");
  }

  #toggle() {
    const playing = this.#playing === undefined;
    clearInterval(this.#playing);
    this.#playing = undefined;
    const { frame } = this;
    const last = () => 3 * frame.state.digits + 2;
    if (playing) {
      if (frame.state.position >= last()) frame.set({ position: 0 });
      this.#playing = setInterval(() => {
        if (frame.state.position >= last() || !this.output.svg.isConnected) return this.#toggle();
        frame.set({ position: frame.state.position + 1 }, { merge: "position" });
      }, PACE);
    }
    say(this.play, playing ? "Pause" : "Play");
  }

  #show(/** @type {State} */ state) {
    const { frame, spec } = this;
    const result = algorithmRun(state);
    this.result = result;
    const info = algorithmInfo(spec, state.algorithm);
    const sign = result.q.minus ? "-" : "+";
    const rate = info.rates[sign][state.digits - 1];
    const kind = `${state.digits}-digit ${result.q.minus ? "subtractions" : "additions"}`;
    const verdict = result.firstError < 0 ? "which is right" : `but ${typeset(result.right)} is right; the first wrong token is ${result.firstError ? `A${state.digits + 1 - result.firstError}` : "the sign"}`;
    const often = rate ? `it is wrong on ${shareText(rate)} of all ${kind}` : `it is right on all ${kind}`;
    const some = spec.classes[result.classes[0]][state.digits - 1][Number(result.classes[1])];
    const headline = `\u201c${info.text}\u201d answers ${typeset(result.answer)}, ${verdict}; ${often}.`;
    say(frame.headline, headline);
    say(this.about, `${info.description} The question is of class ${result.classes}: ${classWords(result.classes)}, as in ${shareText(some)} of all ${kind}.`);
    const words = stepWords(result, state);
    say(this.words, words);
    this.failButton.disabled = !Object.values(info.rates).some((rates) => rates[state.digits - 1] > 0);
    this.failButton.title = this.failButton.disabled ? "It is right on all questions of this size." : "A question that this algorithm answers wrongly";
    this.output.label(`${words} ${Object.entries({ ...result.step.states, ...result.step.carries }).map(([name, value]) => `${name} ${value}`).join(", ")}`);
    this.output.redraw();
    this.#compare(state, result, sign);
    frame.announce(this.#first ? headline : words);
    if (this.#first) {
      this.#first = false;
      this.onReady?.();
    }
  }
  /** Every algorithm on this question. @param {State} state @param {import("./algorithm_run.js").AlgorithmResult} result @param {string} sign */
  #compare(state, { q, right }, sign) {
    const { frame, spec } = this;
    if (this.#rows.sign !== sign) {
      const rows = ableAlgorithms(spec, q).map((info) => {
        const choose = h("button", { type: "button", class: "mi-x-link", onclick: () => frame.set({ algorithm: info.name }) }, info.text);
        const [answer, rate] = [h("td"), h("td")];
        return { info, choose, answer, rate, row: h("tr", {}, h("th", { scope: "row" }, choose), answer, rate) };
      });
      this.#rows = { sign, rows };
      this.table.replaceChildren(...rows.map(({ row }) => row));
    }
    for (const { info, choose, answer, rate, row } of this.#rows.rows) {
      const found = algorithmAnswer(q, info.name);
      const chosen = info.name === state.algorithm;
      choose.setAttribute("aria-pressed", String(chosen));
      row.className = chosen ? "mi-x-chosen" : "";
      const marks = Array.from(found, (x, i) => (x === right[i] ? typeset(x) : h("b", { class: "mi-x-wrong" }, typeset(x))));
      answer.replaceChildren(h("span", { class: "mi-x-digits" }, ...marks), h("span", { class: "mi-x-unseen" }, found === right ? " right" : " wrong"));
      say(rate, shareText(info.rates[sign][state.digits - 1]));
    }
  }
}
