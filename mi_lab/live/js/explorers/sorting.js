/** The sorting explorer: type a list, step through the outputs, edit heads, choose model, seed and step. */

import { argmax } from "../analysis.js";
import { ovTables, qkTables } from "./circuits.js";
import { menu, numberField, segments, slider, textField } from "./controls.js";
import { h, say } from "./dom.js";
import { bars, drawing, headColour, heatMap, numberAxis, percent, short, strip } from "./draw.js";
import { Frame } from "./frame.js";
import { Shelf, sources } from "./shelf.js";
import { alongFamily, checkSorting, comesNext, foreignList, SORTING_FIELDS, sortingKey, sortingPython, sortingRun, wholeAnswer } from "./sorting_run.js";

/** @typedef {import("./link.js").State} State */
/** @typedef {import("./sorting_run.js").SortingSpec} SortingSpec */
/** @typedef {import("./sorting_run.js").SortingResult} SortingResult */

const MODES = [
  { value: "on", text: "on", title: "as it is" },
  { value: "zero", text: "zero", title: "its output is replaced by zero" },
  { value: "mean", text: "mean", title: "its output is replaced by its average over 400 lists" },
  { value: "patch", text: "patch", title: "its output is taken from a run on the second list" },
];

/** The explorer in a page. */
export class SortingExplorer {
  /** @type {State | null} */
  #good = null;
  /** @type {{key: string, ov: Float32Array[], qk: Float32Array[]} | null} */
  #tables = null;
  /** @type {{heads: number, parts: ReturnType<typeof segments>[]}} */
  #heads = { heads: -1, parts: [] };
  /** @type {ReturnType<typeof segments> | undefined} */
  #node;
  /** @type {ReturnType<typeof heatMap>[]} */
  #maps = [];
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #ahead;

  /**
   * @param {HTMLElement} root
   * @param {SortingSpec} spec
   * @param {State} initial
   * @param {{id: string, links?: boolean, ask?: (key: string) => Promise<Uint8Array>, onReady?: () => void}} options
   */
  constructor(root, spec, initial, { id, links = true, ask, onReady }) {
    this.spec = spec;
    this.shelf = new Shelf(sources(spec.weights, ask));
    this.onReady = onReady;
    this.drawn = "";
    this.touched = false;
    this.frame = new Frame(root, {
      id, links, initial, fields: SORTING_FIELDS, title: spec.title ?? "The sorting model, live",
      ...(spec.tryThis ? { tryThis: spec.tryThis } : {}),
      check: (state) => checkSorting(state, spec),
      python: sortingPython,
    });
    this.frame.show = (state) => void this.#show(state);
    /** @type {SortingResult | null} */
    this.result = null;
    // controls
    const { frame } = this;
    const { length, numbers } = spec.task;
    const shuffle = h("button", { type: "button", class: "mi-x-button", onclick: () => frame.set({ list: randomList(spec.task, this.#model(frame.state).window) }) }, "New list");
    const list = textField(frame, "list", "List", { hint: `${length} different numbers from 0 to ${numbers - 1}`, extra: [shuffle] });
    const output = slider(frame, "output", "output", () => Array.from({ length }, (_, i) => i + 1), (x) => `${x} of ${length}`);
    const model = menu(frame, "model", "model", () => spec.models.map(({ name, text }) => ({ value: name, text })));
    const seed = menu(frame, "seed", "seed", (state) => Object.keys(this.#model(state).seeds).map((x) => ({ value: Number(x), text: x })));
    const step = slider(frame, "step", "training step", (state) => this.#model(state).seeds[String(state.seed)], (x) => x.toLocaleString("en"));
    this.headsBox = h("div", { class: "mi-x-field mi-x-wide mi-x-heads", role: "group", "aria-label": "heads" });
    const again = h("button", { type: "button", class: "mi-x-button", onclick: () => frame.set({ other: randomList(spec.task, this.#model(frame.state).window) }) }, "New list");
    const other = textField(frame, "other", "Second list", { hint: "its run lends the patched head its output", extra: [again] });
    this.otherBox = other.box;
    const headsError = frame.field("heads", this.headsBox, { show: (_, state) => this.#showHeads(state) });
    this.nodeBox = h("div", {});
    this.nodeError = frame.field("node", this.nodeBox, { show: () => {} });
    model.box.classList.add("mi-x-third");
    seed.box.classList.add("mi-x-small");
    const families = spec.families.map((family, i) => slider(frame, `family${i}`, family.label, () => alongFamily(family),
      (x) => (Number.isFinite(x) ? String(x) : "another model"), {
        placeOf: (state) => family.values[state.model] ?? NaN,
        change: (x) => ({ model: Object.keys(family.values).find((name) => family.values[name] === x) }),
      }));
    const several = spec.models.some(({ seeds }) => Object.values(seeds).flat().length > 1);
    frame.controls.append(list.box, output.box, this.headsBox, headsError, other.box, model.box, ...(several ? [seed.box, step.box] : []),
      ...families.map(({ box }) => box));
    output.box.classList.add("mi-x-wide");
    // pictures
    this.attention = drawing("attention", (svg, width) => this.#drawAttention(svg, width));
    this.output = drawing("output", (svg, width) => this.#drawOutput(svg, width));
    this.attentionCaption = h("p", { class: "mi-x-caption" });
    const outputCaption = h("p", { class: "mi-x-caption" }, "Upper: the probability of each number. Lower: how much each head alone raises or lowers it. Dots: numbers of the list.");
    const view = segments(frame, "view", "Tables of the weights", [
      { value: "ov", text: "OV: writes" },
      { value: "qk", text: "QK: looks" },
    ], (value) => frame.set({ view: value }));
    const viewError = frame.field("view", view.box, { show: (value) => view.show(value) });
    this.maps = h("div", { class: "mi-x-maps" });
    this.row = numberField(frame, "row", "number attended to", spec.task.numbers - 1);
    this.column = numberField(frame, "column", "number written", spec.task.numbers - 1);
    this.reading = h("p", {});
    const read = h("div", { class: "mi-x-read" }, this.row.box, this.column.box, this.reading);
    frame.views.append(
      h("div", { class: "mi-x-view" }, this.attentionCaption, this.attention.svg, this.nodeBox, this.nodeError),
      h("div", { class: "mi-x-view" }, outputCaption, this.output.svg),
      h("div", { class: "mi-x-view" }, view.box, viewError, this.maps, read));
  }

  /** Load the first model and draw. */
  begin() {
    this.frame.views.hidden = true;
    this.frame.begin();
  }

  /** Leave the page. */
  end() {
    clearTimeout(this.#ahead);
    this.attention.stop();
    this.output.stop();
    this.frame.end();
  }

  #model(/** @type {State} */ state) {
    return /** @type {SortingSpec["models"][number]} */ (this.spec.models.find((one) => one.name === state.model));
  }

  #showHeads(/** @type {State} */ state) {
    const { frame } = this;
    if (this.#heads.heads !== state.heads.length) {
      const parts = state.heads.map((/** @type {string} */ _, /** @type {number} */ i) =>
        segments(frame, `head${i}`, `head ${i}`, MODES, (mode) => {
          const heads = [...frame.state.heads];
          heads[i] = mode;
          frame.set({ heads });
        }, headColour(i)));
      this.#heads = { heads: state.heads.length, parts };
      const nodes = state.heads.map((/** @type {string} */ _, /** @type {number} */ i) => ({ value: `L0H${i}`, text: `head ${i}` }));
      this.#node = segments(frame, "node", "Highlight", [{ value: "", text: "all" }, ...nodes], (node) => frame.set({ node }));
      this.nodeBox.replaceChildren(this.#node.box);
      this.headsBox.replaceChildren(...parts.map((/** @type {ReturnType<typeof segments>} */ part) => part.box));
    }
    this.#heads.parts.forEach((part, i) => part.show(state.heads[i]));
    this.#node?.show(state.node);
    this.otherBox.hidden = !state.heads.includes("patch");
  }

  // ---- from state to picture ------------------------------------------------------------------------

  async #show(/** @type {State} */ state) {
    const { frame, shelf } = this;
    const key = sortingKey(state);
    if (!shelf.has(key)) {
      const name = `seed ${state.seed}, step ${state.step.toLocaleString("en")}`;
      frame.busy(`Loading the model (${name})`);
      try {
        await shelf.load(key, (done, total) => frame.busy(`Loading the model (${name}): ${Math.round(done / 1000)} kB`, done, total));
      } catch (error) {
        if (sortingKey(frame.state) !== key) return;
        frame.busy(null);
        const why = error instanceof Error ? error.message : String(error);
        if (this.#good) frame.fallBack(this.#good, "model", why);
        else frame.refuse("model", why);
        return;
      }
      if (sortingKey(frame.state) !== key) return; // the reader has gone on
    }
    frame.busy(null);
    this.#draw(frame.state);
    this.#loadAhead(frame.state);
  }

  #draw(/** @type {State} */ state) {
    const { frame, spec } = this;
    const machine = this.shelf.machine(sortingKey(state));
    const result = sortingRun(machine, state, spec);
    this.result = result;
    const first = this.#good === null;
    this.#good = state;
    frame.views.hidden = false;
    const best = argmax(result.probability);
    const word = wordOf(best, spec);
    const wanted = comesNext(result, state.output);
    const before = state.output === 1 ? "First" : `After ${result.tokens.slice(spec.task.length + 1, result.row + 1).map((t) => wordOf(t, spec)).slice(-3).join(", ")}`;
    const verdict = best === wanted ? "right" : wanted === null ? "wrong: no larger number is left" : `wrong: ${wanted} comes next`;
    const whole = wholeAnswer(result);
    const headline = `${before} the model writes ${word} (${percent(result.probability[best])}), which is ${verdict}. In this list ${whole}.${foreignList(state.list, this.#model(state), spec.task)}`;
    say(frame.headline, headline);
    frame.announce(headline);
    say(this.attentionCaption, `Where each head looks from \u201c${wordOf(result.tokens[result.row], spec)}\u201d. Press an output in the line of tokens to go there.`);
    this.attention.label(result.attention.map((weights, i) => {
      const top = argmax(weights);
      return `Head ${i} looks most at ${wordOf(result.tokens[top], spec)}, ${percent(weights[top])}`;
    }).join("; "));
    const raised = wanted ?? best;
    this.output.label(`${headline} ${result.direct.map((x, i) => `Head ${i} raises ${raised} by ${short(x[raised])}`).join("; ")}.`);
    this.attention.redraw();
    this.output.redraw();
    this.#drawTables(state, machine);
    if (first) this.onReady?.();
  }

  #drawAttention(/** @type {SVGElement} */ svg, /** @type {number} */ width) {
    const { result, frame, spec } = this;
    const state = this.#good;
    if (!result || !state) return 1;
    const { length } = spec.task;
    const tokens = result.tokens.map((token, i) => {
      const output = i - length;
      if (output < 1) return { text: wordOf(token, spec) };
      const right = comesNext(result, output);
      const bad = token !== right;
      return {
        text: wordOf(token, spec), bad, faint: i > result.row,
        title: `output ${output}: ${wordOf(token, spec)}${bad ? (right === null ? ", no larger number is left" : `, right would be ${right}`) : ""}`,
        press: () => frame.set({ output }, { merge: "output" }),
      };
    });
    const next = comesNext(result, state.output);
    const wanted = tokens.findIndex((_, i) => i < length && result.tokens[i] === next);
    const rows = result.attention.map((weights, i) => {
      const node = `L0H${i}`;
      const mode = state.heads[i];
      return {
        label: `head ${i}${mode === "on" ? "" : `: ${mode}`}`, colour: headColour(i), weights,
        dim: mode === "zero" || mode === "mean" || (state.node !== "" && state.node !== node),
        press: () => frame.set({ node: frame.state.node === node ? "" : node }),
      };
    });
    return strip(svg, width, { tokens, rows, query: result.row, wanted: wanted < 0 ? null : wanted });
  }

  #drawOutput(/** @type {SVGElement} */ svg, /** @type {number} */ width) {
    const { result, spec } = this;
    const state = this.#good;
    if (!result || !state) return 1;
    const n = spec.task.numbers;
    const wanted = comesNext(result, state.output);
    const unit = (/** @type {number} */ i) => `number ${i}`;
    const colour = (/** @type {number} */ i) => (i === wanted ? "var(--x-good)" : "var(--x-neutral)");
    let y = bars(svg, width, 0, {
      series: [{ values: result.probability, colour, name: "probability" }], n, height: 64, low: 0, high: 1, title: "probability of each number",
      ticks: [0, 0.5, 1], text: (x) => (x === 0 || x === 1 ? String(x) : x.toFixed(x === 0.5 ? 1 : 3).slice(1)), marked: wanted, unit,
    });
    const all = result.direct.map((x) => x.subarray(0, n));
    const high = Math.max(2, ...all.map((x) => Math.max(...x)));
    const low = Math.min(-2, ...all.map((x) => Math.min(...x)));
    const every = [1, 2, 5, 10, 20, 50].find((x) => (high - low) / x <= 4.5) ?? 100;
    const ticks = [];
    for (let t = Math.ceil(low / every) * every; t <= high; t += every) ticks.push(t);
    y = bars(svg, width, y + 8, {
      series: all.map((values, i) => ({ values, colour: headColour(i), name: `head ${i}`, dim: state.node !== "" && state.node !== `L0H${i}` })),
      n, height: 96, low, high, title: "direct effect of each head on its logit", ticks, text: (x) => (Number.isInteger(x) ? short(x).replace(/\.0+$/, "") : short(x)), marked: wanted, unit,
    });
    return numberAxis(svg, width, y, { n, every: width < 420 ? 10 : 5, marked: wanted, markText: String(wanted ?? ""), present: result.right });
  }

  #drawTables(/** @type {State} */ state, /** @type {import("./shelf.js").Machine} */ machine) {
    const { frame, spec } = this;
    const n = spec.task.numbers;
    const { config } = machine.engine;
    const fresh = this.#tables?.key !== machine.key;
    const tables = (this.#tables = fresh || !this.#tables
      ? { key: machine.key, ov: trim(ovTables(config, machine.tensors), config.d_vocab, n), qk: trim(qkTables(config, machine.tensors), config.d_vocab, n) }
      : this.#tables);
    const ov = state.view === "ov";
    const [down, across] = ov ? ["number attended to", "number written"] : ["current number", "number looked at"];
    if (this.#maps.length !== config.n_heads) {
      this.#maps = tables.ov.map((_, i) => heatMap(`head ${i}`, headColour(i), "", "", (row, column) => frame.set({ row, column }, { merge: "cell" })));
      this.maps.replaceChildren(...this.#maps.map((map) => map.figure));
      this.drawn = "";
    }
    const shown = ov ? tables.ov : tables.qk;
    const wanted = `${machine.key} ${state.view}`;
    if (this.drawn !== wanted) {
      this.drawn = wanted;
      const largest = Math.max(...shown.map((x) => x.reduce((a, b) => Math.max(a, Math.abs(b)), 1e-9)));
      this.#maps.forEach((map, i) => {
        map.draw(shown[i], n, largest, `${ov ? "OV" : "QK"} table of head ${i}: ${down} by ${across}; orange is positive, purple negative, up to ${short(largest)}`);
        const [head, words] = [map.figure.querySelector("figcaption span:last-child"), map.figure.querySelector(".mi-x-axis")];
        if (head) say(head, `${ov ? "OV" : "QK"}, head ${i}`);
        if (words) say(words, `${across} \u2192, down: ${down}`);
      });
    }
    for (const map of this.#maps) map.mark(state.row, state.column);
    say(this.row.text, down);
    say(this.column.text, across);
    const values = shown.map((x, i) => `head ${i} ${short(x[state.row * n + state.column])}`).join(", ");
    const meaning = ov ? `Attending to ${state.row} changes the logit of ${state.column} (before the final scale) by: ` : `Current number ${state.row}: the score of ${state.column} is: `;
    say(this.reading, meaning + values);
  }

  /** The steps next to this one, once the reader's hand rests. */
  #loadAhead(/** @type {State} */ state) {
    clearTimeout(this.#ahead);
    if (this.frame.options.links === false) return; // in a notebook every model is a message to the kernel
    const steps = this.#model(state).seeds[String(state.seed)];
    const at = steps.indexOf(state.step);
    if (steps.length < 2 || !this.touched) {
      this.touched = true;
      return;
    }
    this.#ahead = setTimeout(() => {
      for (const step of [steps[at - 1], steps[at + 1]]) {
        if (step !== undefined) this.shelf.load(sortingKey({ ...state, step })).catch(() => {});
      }
    }, 250);
  }
}

/** The first n rows and columns. @param {Float32Array[]} tables @param {number} size @param {number} n */
function trim(tables, size, n) {
  return tables.map((all) => {
    const out = new Float32Array(n * n);
    for (let i = 0; i < n; i++) out.set(all.subarray(i * size, i * size + n), i * n);
    return out;
  });
}

/** @param {number} token @param {SortingSpec} spec */
function wordOf(token, spec) {
  return token === spec.task.numbers ? "SEP" : String(token);
}

/** A list within `window` neighbouring numbers. @param {SortingSpec["task"]} task @param {number} window */
function randomList({ length, numbers }, window) {
  const least = Math.floor(Math.random() * (numbers - window + 1));
  const pool = Array.from({ length: window }, (_, i) => least + i);
  for (let i = 0; i < length; i++) {
    const j = i + Math.floor(Math.random() * (window - i));
    [pool[i], pool[j]] = [pool[j], pool[i]];
  }
  return pool.slice(0, length).join(",");
}
