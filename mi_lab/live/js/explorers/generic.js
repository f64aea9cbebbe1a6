/** An explorer for any model of the lab: tokens in, nodes on and off, attention, what comes next. */

import { softmax } from "../analysis.js";
import { vocabOut } from "../weights.js";
import { slider, textField } from "./controls.js";
import { h, say } from "./dom.js";
import { drawing, headColour, heatMap, percent, strip } from "./draw.js";
import { FieldError, Frame } from "./frame.js";
import { Shelf, sources } from "./shelf.js";

/** @typedef {import("./link.js").State} State */
/** @typedef {import("../weights.js").Config} Config */

/**
 * @typedef {object} GenericSpec
 * @property {Config} config
 * @property {string[]} vocab  a word for each token
 * @property {string[]} python  lines before the run
 * @property {{folder?: string, bytes?: number, inline?: Record<string, string>}} weights  with the key "model"
 * @property {string} title
 * @property {string} [note]
 */

/** @type {Record<string, import("./link.js").FieldKind>} */
const GENERIC_FIELDS = { tokens: "text", position: "int", layer: "int", off: "words" };
const SHOWN = 8;

/** @param {string} text @param {GenericSpec} spec */
function readTokens(text, { vocab, config }) {
  const between = vocab.some((word) => word.includes(",")) ? /\s+/ : /[\s,]+/;
  const words = String(text).trim().split(between).filter(Boolean);
  const tokens = words.map((word) => {
    const token = vocab.indexOf(word);
    const shown = word.length > 12 ? `${word.slice(0, 12)}\u2026` : word;
    if (token < 0 || token >= config.d_vocab) throw new FieldError("tokens", `\u201c${shown}\u201d is no token of this model; it knows ${examples(vocab)}.`);
    return token;
  });
  if (!tokens.length || tokens.length > config.n_ctx) throw new FieldError("tokens", `The model takes 1 to ${config.n_ctx} tokens, not ${tokens.length}.`);
  return tokens;
}

/** @param {string[]} vocab */
function examples(vocab) {
  return vocab.length > 8 ? `${vocab.slice(0, 5).join(" ")} \u2026 ${vocab.slice(-2).join(" ")}` : vocab.join(" ");
}

/** @param {Config} config */
function nodesOf({ n_layers, n_heads, d_mlp }) {
  return Array.from({ length: n_layers }, (_, l) => [
    ...Array.from({ length: n_heads }, (_, i) => `L${l}H${i}`), ...(d_mlp ? [`L${l}MLP`] : []),
  ]);
}

/** @param {State} raw @param {GenericSpec} spec @returns {State} */
function checkGeneric(raw, spec) {
  const tokens = readTokens(raw.tokens, spec);
  const known = nodesOf(spec.config).flat();
  if (!Number.isInteger(raw.position) || raw.position < 0) throw new FieldError("position", "The position must be a whole number.");
  if (!Number.isInteger(raw.layer) || raw.layer < 0 || raw.layer >= spec.config.n_layers) {
    throw new FieldError("layer", `The layers go from 0 to ${spec.config.n_layers - 1}.`);
  }
  if (!Array.isArray(raw.off) || raw.off.some((node) => !known.includes(node))) throw new FieldError("off", "This model has no such node.");
  return {
    tokens: tokens.map((t) => spec.vocab[t]).join(" "), position: Math.min(raw.position, tokens.length - 1),
    layer: raw.layer, off: known.filter((node) => raw.off.includes(node)),
  };
}

/** The explorer in a page. */
export class GenericExplorer {
  /** @type {State | null} */
  #good = null;
  /** @type {Map<string, HTMLButtonElement>} */
  #buttons = new Map();

  /**
   * @param {HTMLElement} root
   * @param {GenericSpec} spec
   * @param {State} initial
   * @param {{id: string, links?: boolean, ask?: (key: string) => Promise<Uint8Array>, onReady?: () => void}} options
   */
  constructor(root, spec, initial, { id, links = true, ask, onReady }) {
    this.spec = spec;
    this.onReady = onReady;
    this.shelf = new Shelf(sources(spec.weights, ask));
    const frame = new Frame(root, {
      id, links, initial, fields: GENERIC_FIELDS, title: spec.title, ...(spec.note ? { tryThis: spec.note } : {}),
      check: (state) => checkGeneric(state, spec),
      python: (state) => this.#python(state),
    });
    this.frame = frame;
    frame.show = (state) => void this.#show(state);
    const { config } = spec;
    const count = (/** @type {State} */ state) => state.tokens.split(" ").length;
    const tokens = textField(frame, "tokens", "Tokens", { hint: `separated by spaces: ${examples(spec.vocab.slice(0, config.d_vocab))}` });
    const position = slider(frame, "position", "position", (state) => Array.from({ length: count(state) }, (_, i) => i),
      (x, state) => `${x}: ${state.tokens.split(" ")[x]}`);
    const layer = slider(frame, "layer", "layer", () => Array.from({ length: config.n_layers }, (_, i) => i), (x) => `${x}`);
    const switches = h("div", { class: "mi-x-field mi-x-wide", role: "group", "aria-label": "nodes on and off" }, ...nodesOf(config).map((nodes, l) =>
      h("div", { class: "mi-x-choice" }, h("span", { class: "mi-x-label" }, `Layer ${l}`), ...nodes.map((node) => this.#switch(node)))));
    const offError = frame.field("off", switches, { show: (off) => {
      for (const [node, button] of this.#buttons) {
        const on = !off.includes(node);
        button.setAttribute("aria-pressed", String(on));
        say(button, `${node.replace(/^L\d+/, "")} ${on ? "on" : "off"}`);
      }
    } });
    frame.controls.append(tokens.box, position.box, layer.box, switches, offError);
    this.caption = h("p", { class: "mi-x-caption" });
    this.attention = drawing("attention", (svg, width) => this.#drawAttention(svg, width));
    this.maps = h("div", { class: "mi-x-maps" });
    this.heads = Array.from({ length: config.n_heads }, (_, i) => heatMap(`head ${i}`, headColour(i), "from", "to", (row) => frame.set({ position: row }, { merge: "position" })));
    this.maps.append(...this.heads.map((map) => map.figure));
    this.next = h("ol", { class: "mi-x-next" });
    frame.views.append(
      h("div", { class: "mi-x-view" }, h("p", { class: "mi-x-caption" }, "What the model expects next, most likely first."), this.next),
      h("div", { class: "mi-x-view" }, this.caption, this.attention.svg),
      h("div", { class: "mi-x-view" }, h("p", { class: "mi-x-caption" }, "All attention of this layer. Press a row to go to that position."), this.maps));
    /** @type {{tokens: number[], logits: Float32Array, probability: Float32Array, pattern: Float32Array, n: number} | null} */
    this.result = null;
  }

  /** Load the model and draw. */
  begin() {
    this.frame.views.hidden = true;
    this.frame.begin();
  }

  /** Leave the page. */
  end() {
    this.attention.stop();
    this.frame.end();
  }

  #switch(/** @type {string} */ node) {
    const button = h("button", { type: "button", class: "mi-x-button", "aria-pressed": "true", onclick: () => {
      const { off } = this.frame.state;
      this.frame.set({ off: off.includes(node) ? off.filter((/** @type {string} */ x) => x !== node) : [...off, node] });
    } }, node);
    this.#buttons.set(node, button);
    return button;
  }

  async #show(/** @type {State} */ state) {
    const { frame, shelf } = this;
    if (!shelf.has("model")) {
      frame.busy("Unpacking the model");
      try {
        await shelf.load("model");
      } catch (error) {
        frame.busy(null);
        frame.refuse("tokens", error instanceof Error ? error.message : String(error));
        return;
      }
      frame.busy(null);
    }
    if (state === frame.state) this.#draw(state);
  }

  #draw(/** @type {State} */ state) {
    const { frame, spec } = this;
    const { session, donors, engine } = this.shelf.machine("model");
    const tokens = readTokens(state.tokens, spec);
    session.forward(tokens, donors.resolve(state.off.map((/** @type {string} */ node) => ({ node, value: 0 }))));
    const vocab = vocabOut(engine.config);
    const logits = session.logits.slice(state.position * vocab, (state.position + 1) * vocab);
    const n = tokens.length;
    const pattern = session.get(`blocks.${state.layer}.attn.pattern`).data.slice();
    const probability = softmax(logits);
    this.result = { tokens, logits, probability, pattern, n };
    const first = this.#good === null;
    this.#good = state;
    frame.views.hidden = false;
    const order = Array.from(probability.keys()).sort((a, b) => probability[b] - probability[a]).slice(0, SHOWN);
    const word = (/** @type {number} */ t) => spec.vocab[t] ?? String(t);
    this.next.replaceChildren(...order.map((t) => h("li", {}, h("span", { class: "mi-x-word" }, word(t)),
      h("span", { class: "mi-x-bar", style: `width:${(60 * probability[t]).toFixed(2)}%` }), h("span", {}, percent(probability[t])))));
    const headline = `After \u201c${word(tokens[state.position])}\u201d at position ${state.position} the model expects \u201c${word(order[0])}\u201d (${percent(probability[order[0]])}).`;
    say(frame.headline, headline);
    frame.announce(headline);
    say(this.caption, `Layer ${state.layer}: where each head looks from position ${state.position}.`);
    this.attention.label(`Attention of layer ${state.layer} from position ${state.position}`);
    this.attention.redraw();
    this.heads.forEach((map, i) => {
      map.draw(pattern.subarray(i * n * n, (i + 1) * n * n), n, 1, `Attention of layer ${state.layer}, head ${i}, ${n} by ${n} tokens`);
      map.mark(state.position, state.position);
    });
    if (first) this.onReady?.();
  }

  #drawAttention(/** @type {SVGElement} */ svg, /** @type {number} */ width) {
    const state = this.#good;
    if (!this.result || !state) return 1;
    const { tokens, pattern, n } = this.result;
    const rows = Array.from({ length: this.spec.config.n_heads }, (_, i) => {
      const node = `L${state.layer}H${i}`;
      const off = state.off.includes(node);
      const start = (i * n + state.position) * n;
      return { label: `head ${i}${off ? ": off" : ""}`, colour: headColour(i), weights: pattern.subarray(start, start + n), dim: off };
    });
    const words = tokens.map((t, i) => ({ text: this.spec.vocab[t], faint: i > state.position, press: () => this.frame.set({ position: i }, { merge: "position" }) }));
    return strip(svg, width, { tokens: words, rows, query: state.position, wanted: null });
  }

  #python(/** @type {State} */ state) {
    const tokens = readTokens(state.tokens, this.spec);
    const edit = state.off.length ? `, edit={${state.off.map((/** @type {string} */ x) => `Node.parse("${x}"): 0.0`).join(", ")}}` : "";
    return [
      "import torch", "from mi_lab.run import Node, run", ...this.spec.python,
      `tokens = torch.tensor([[${tokens.join(", ")}]])`,
      `name = "blocks.${state.layer}.attn.pattern"`,
      `found = run(model, tokens, record=(name,)${edit})`,
      `found.logits[0, ${state.position}], found[name][0, :, ${state.position}]`,
    ].join("\n");
  }
}
