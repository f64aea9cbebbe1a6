/** The hand-made model's explorer: type letters, set strengths, change single weights, switch heads. */

import { argmax } from "../analysis.js";
import { menu, segments, slider, textField } from "./controls.js";
import { h, say } from "./dom.js";
import { drawing, headColour, percent, strip } from "./draw.js";
import { Frame } from "./frame.js";
import { Shelf, sources } from "./shelf.js";
import { installGridStyle, numberTable, plainNumber, weightGrid } from "./toolbox_cells.js";
import {
  cellName, cellValues, checkToolbox, plainCell, tableOf, TOOLBOX_FIELDS, TOOLBOX_MODEL, ToolboxBench, toolboxPython,
} from "./toolbox_run.js";

/** @typedef {import("./link.js").State} State */
/** @typedef {import("./toolbox_run.js").ToolboxSpec} ToolboxSpec */

const SWITCHES = [
  { value: "on", text: "on", title: "as it is" },
  { value: "zero", text: "zero", title: "its output is replaced by zero" },
  { value: "mean", text: "mean", title: "its output is replaced by its average over all 360 sequences" },
  { value: "patch", text: "patch", title: "its output is taken from a run on the second text" },
];
/** @type {Record<string, [string, string]>} */
const SLIDERS = {
  seek: ["seeking", "score of what is sought; ^ has 15"],
  copy: ["copying", "what the match head adds"],
  suppress: ["suppressing", "what the suppressor takes"],
  backup: ["backup", "what the backup adds alone"],
};

/** The explorer in a page. */
export class ToolboxExplorer {
  /** @type {State | null} */
  #good = null;
  /** @type {ToolboxBench | null} */
  #bench = null;
  /** @type {import("./toolbox_run.js").ToolboxResult | null} */
  result = null;
  otherBox = h("div");
  positionBox = h("div");
  input = h("input", { type: "number", step: "any" });
  which = h("label");
  axes = h("p", { class: "mi-x-caption" });

  /**
   * @param {HTMLElement} root
   * @param {ToolboxSpec} spec
   * @param {State} initial
   * @param {{id: string, links?: boolean, ask?: (key: string) => Promise<Uint8Array>, onReady?: () => void}} options
   */
  constructor(root, spec, initial, { id, links = true, ask, onReady }) {
    this.spec = spec;
    this.shelf = new Shelf(sources(spec.weights, ask));
    this.onReady = onReady;
    this.frame = new Frame(root, {
      id, links, initial, fields: TOOLBOX_FIELDS, title: spec.title ?? "The hand-made model, live",
      ...(spec.tryThis ? { tryThis: spec.tryThis } : {}),
      check: (state) => checkToolbox(state, spec),
      python: (state) => toolboxPython(state, spec),
    });
    installGridStyle(root);
    this.frame.show = (state) => void this.#show(state);
    this.grid = weightGrid({
      choose: (row, column) => this.frame.set({ row, column }, { merge: "place" }),
      change: (by) => this.#change(by), nought: () => this.#set("0", false), enter: () => this.input.select(),
    });
    this.#controls();
    // pictures
    this.caption = h("p", { class: "mi-x-caption" });
    this.attention = drawing("attention", (svg, width) => this.#drawAttention(svg, width));
    this.effects = numberTable(spec.letters);
    this.frame.views.append(
      h("div", { class: "mi-x-view" }, this.caption, this.attention.svg),
      h("div", { class: "mi-x-view" }, h("p", { class: "mi-x-caption" }, "What each head adds to each letter\u2019s logit, and what comes of it."), this.effects.box),
      this.#editor());
  }

  /** Unpack the model and draw. */
  begin() {
    this.frame.views.hidden = true;
    this.frame.begin();
  }

  /** Leave the page. */
  end() {
    this.attention.stop();
    this.frame.end();
  }

  #controls() {
    const { frame, spec } = this;
    const fresh = () => frame.set({ text: shuffledLetters(spec), position: 5 });
    const text = textField(frame, "text", "Letters", {
      hint: `1 to ${spec.context - 1} of ${spec.letters.join(" ")}; the model goes on from there`,
      extra: [h("button", { type: "button", class: "mi-x-button", onclick: fresh }, "New letters")],
    });
    const position = slider(frame, "position", "looking from position", () => Array.from({ length: spec.context }, (_, i) => i), (x) => this.#place(x));
    position.box.classList.add("mi-x-wide");
    this.positionBox = position.box;
    const strengths = spec.strengths.map(({ name, most }) => {
      const [label, hint] = SLIDERS[name];
      const { box } = slider(frame, name, label, () => Array.from({ length: most + 1 }, (_, i) => i), (x) => String(x));
      box.querySelector("label")?.append(h("span", { class: "mi-x-hint" }, ` ${hint}`));
      return box;
    });
    const switches = spec.heads.map(({ node, name, text: what }, i) => {
      const part = segments(frame, `head${i}`, `${node} ${name}`, SWITCHES, (mode) => {
        const heads = [...frame.state.heads];
        heads[i] = mode;
        frame.set({ heads });
      }, colourOf(node));
      part.box.append(h("span", { class: "mi-x-hint" }, what));
      return part;
    });
    const heads = h("div", { class: "mi-x-field mi-x-wide mi-x-roles", role: "group", "aria-label": "heads" }, ...switches.map((one) => one.box));
    const headsError = frame.field("heads", heads, { show: (modes) => {
      switches.forEach((one, i) => one.show(modes[i]));
      this.otherBox.hidden = !modes.includes("patch");
    } });
    const other = textField(frame, "other", "Second text", { hint: "four letters, which it repeats; its run lends the patched heads their output" });
    this.otherBox = other.box;
    frame.controls.append(text.box, position.box, ...strengths, heads, headsError, other.box);
  }

  #editor() {
    const { frame, spec } = this;
    const names = new Map(spec.heads.map(({ node, name }) => [node, name]));
    const table = menu(frame, "table", "Weights to change", () => spec.tables.map(({ key }) => {
      const [node, kind] = key.split(".");
      return { value: key, text: `${node} ${names.get(node)}: ${kind === "qk" ? "QK, where it looks" : "OV, what it writes"}` };
    }));
    this.input.id = this.which.htmlFor = `${frame.prefix}-cell`;
    this.input.addEventListener("input", () => this.#set(this.input.value, true));
    this.input.addEventListener("change", () => this.#set(this.input.value, false));
    const error = frame.field("cells", this.input, { show: () => {} });
    const button = (/** @type {string} */ sign, /** @type {string} */ label, /** @type {() => void} */ act) =>
      h("button", { type: "button", class: "mi-x-button", "aria-label": label, title: label, onclick: act }, sign);
    const back = () => {
      const { state } = frame;
      const one = tableOf(state, spec);
      this.#set(String(plainCell(one, state.row, state.column, state)), false);
    };
    const keys = h("p", { class: "mi-x-hint", style: "margin-top:0.4rem;font-size:0.85rem" }, "Press a cell, or go there by arrow keys. + and \u2212 change it by 1, 0 empties it, Enter takes any number. Dashed: changed by you.");
    return h("div", { class: "mi-x-view" }, table.box, h("div", { style: "height:0.5rem" }), this.axes, this.grid.box,
      h("div", { class: "mi-x-edit" }, this.which, button("\u2212", "less", () => this.#change(-1)), this.input, button("+", "more", () => this.#change(1)),
        h("button", { type: "button", class: "mi-x-button", onclick: back }, "as it was")), error, keys);
  }

  /** The chosen cell's weight. */
  #value() {
    const { state } = this.frame;
    const table = tableOf(state, this.spec);
    return cellValues(table, state)[state.row * table.columns.length + state.column];
  }

  /** @param {number} by */
  #change(by) {
    this.#set(String(Math.round(100 * (this.#value() + by)) / 100), false);
  }

  /** @param {string} value @param {boolean} typing */
  #set(value, typing) {
    const { frame, spec } = this;
    const { state } = frame;
    const name = cellName(tableOf(state, spec), state.row, state.column);
    const cells = [...state.cells.filter((/** @type {string} */ x) => !x.startsWith(`${name}=`)), `${name}=${value.replace("\u2212", "-")}`];
    frame.set({ cells }, { merge: name, typing });
  }

  /** @param {number} position */
  #place(position) {
    const tokens = this.result?.tokens;
    if (!tokens) return String(position);
    return position < tokens.length ? `${position}: ${this.#word(tokens[position])}` : `${position}: not written, so ${tokens.length - 1}`;
  }

  /** @param {number} token */
  #word(token) {
    return this.spec.letters[token] ?? "^";
  }

  // ---- from state to picture ------------------------------------------------------------------------

  async #show(/** @type {State} */ state) {
    const { frame, shelf } = this;
    if (!this.#bench) {
      frame.busy("Unpacking the model");
      try {
        await shelf.load(TOOLBOX_MODEL);
      } catch (error) {
        frame.busy(null);
        frame.refuse("text", error instanceof Error ? error.message : String(error));
        return;
      }
      frame.busy(null);
      this.#bench ??= new ToolboxBench(shelf.machine(TOOLBOX_MODEL), this.spec);
    }
    if (state === frame.state) this.#draw(state);
  }

  #draw(/** @type {State} */ state) {
    const { frame, spec } = this;
    const result = /** @type {ToolboxBench} */ (this.#bench).run(state);
    this.result = result;
    const first = this.#good === null;
    this.#good = state;
    frame.views.hidden = false;
    const { tokens, given, row, probability, logits, heads } = result;
    const best = argmax(probability);
    const text = tokens.slice(1, row + 1).map((t) => this.#word(t)).join("");
    const spread = Math.max(...logits.slice(0, spec.letters.length)) - Math.min(...logits.slice(0, spec.letters.length));
    const expects = spread <= spec.undecided ? "it has no preference" : `it expects ${this.#word(best)} (${percent(probability[best])})`;
    const goes = tokens.slice(given).map((t) => this.#word(t)).join(" ");
    const written = goes ? `To \u201c${state.text}\u201d the model adds: ${goes}.` : tokens.length === spec.context ? "There is no room for more letters." : `To \u201c${state.text}\u201d the model adds nothing: it is undecided.`;
    const headline = `${written} After \u201c^${text}\u201d ${expects}.`;
    say(frame.headline, headline);
    frame.announce(headline);
    say(this.caption, `Where each head looks from position ${row}, \u201c${this.#word(tokens[row])}\u201d. Letters behind the text are the model\u2019s own. Press a letter to look from there, a head to see its weights.`);
    this.attention.label(heads.map(({ attention }, i) => {
      const top = argmax(attention);
      return `${spec.heads[i].name} looks most at position ${top}, ${this.#word(tokens[top])}, ${percent(attention[top])}`;
    }).join("; "));
    this.attention.redraw();
    const letters = spec.letters.length;
    this.effects.show(`Effects on the letters after ^${text}`, [
      ...spec.heads.map(({ name }, i) => ({ name, values: heads[i].direct.subarray(0, letters) })).filter(({ values }, i) => i > 1 || values.some((x) => Math.abs(x) > 0.005)),
      { name: "logit", values: logits.subarray(0, letters), sum: true },
      { name: "probability", values: probability.subarray(0, letters), sum: true, text: (x) => (x < 0.005 ? "0" : `${Math.round(100 * x)}%`) },
    ]);
    this.#drawGrid(state);
    const output = this.positionBox.querySelector("output");
    if (output) say(output, this.#place(state.position)); // the slider moved before the tokens were known
    if (first) this.onReady?.();
  }

  #drawAttention(/** @type {SVGElement} */ svg, /** @type {number} */ width) {
    const { result, frame, spec } = this;
    const state = this.#good;
    if (!result || !state) return 1;
    const tokens = result.tokens.map((token, i) => ({
      text: this.#word(token), faint: i >= result.given, title: i >= result.given ? `position ${i}, written by the model` : `position ${i}`,
      press: () => frame.set({ position: i }, { merge: "position" }),
    }));
    const rows = spec.heads.map(({ node, name }, i) => ({
      label: `${name}${state.heads[i] === "on" ? "" : `: ${state.heads[i]}`}`, colour: colourOf(node), weights: result.heads[i].attention,
      dim: state.heads[i] === "zero" || state.heads[i] === "mean", press: () => frame.set({ table: `${node}.qk` }),
    }));
    return strip(svg, width, { tokens, rows, query: result.row, wanted: null });
  }

  #drawGrid(/** @type {State} */ state) {
    const { spec } = this;
    const table = tableOf(state, spec);
    const values = cellValues(table, state);
    const width = table.columns.length;
    const plain = table.pattern.map((_, i) => plainCell(table, Math.floor(i / width), i % width, state));
    const title = `${state.table}: down, ${table.down}; across, ${table.across}`;
    this.grid.show({ title, rows: table.rows, columns: table.columns, values, plain, row: state.row, column: state.column,
      largest: Math.max(1, ...values.map(Math.abs)) });
    say(this.axes, `Down: ${table.down}. Across: ${table.across}. ${table.key.endsWith("qk") ? "Scores before the softmax; \u201c^\u201d has 15 in layers 1 and 2." : "How much is written."}`);
    say(this.which, `${table.down} ${table.rows[state.row]}, ${table.across} ${table.columns[state.column]}`);
    const value = values[state.row * width + state.column];
    if (Number(this.input.value) !== value || this.input.value === "") this.input.value = plainNumber(value).replace("\u2212", "-");
  }
}

/** @param {string} node */
function colourOf(node) {
  return headColour(Number(node.split("H")[1]));
}

/** Four letters and the first one again. @param {ToolboxSpec} spec */
function shuffledLetters({ letters }) {
  const pool = [...letters];
  for (let i = 0; i < 4; i++) {
    const j = i + Math.floor(Math.random() * (pool.length - i));
    [pool[i], pool[j]] = [pool[j], pool[i]];
  }
  return pool.slice(0, 4).join("") + pool[0];
}
