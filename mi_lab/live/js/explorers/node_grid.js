/** A map of nodes as a grid that can be walked with the arrow keys: rows are heads and MLPs, columns positions. */

import { swatch } from "./controls.js";
import { h, say } from "./dom.js";
import { headColour } from "./draw.js";

/**
 * @typedef {object} GridCell
 * @property {number} shade  0..1
 * @property {string} text  what is printed if there is room
 * @property {string} said  for the pointer and screen readers, after the node's name
 * @property {string} replaced  a sign if the node is replaced, else ""
 */

const STRONGEST = 0.62; // of a cell's colour: ink on top stays readable

/** The grid. */
export class NodeGrid {
  /** @type {Map<string, {td: HTMLElement, text: HTMLElement, key: string}>} */
  #cells = new Map();
  /** @type {HTMLElement[]} */
  #heads = [];
  #shape = "";
  #chosen = "";
  #rows = 0;
  #columns = 0;

  /**
   * @param {string} label
   * @param {{choose: (node: string) => void, toggle: (node: string) => void}} acts
   */
  constructor(label, { choose, toggle }) {
    this.choose = choose;
    this.toggle = toggle;
    this.table = h("table", { class: "mi-x-grid", role: "grid", "aria-label": label, onkeydown: (/** @type {KeyboardEvent} */ event) => this.#key(event) });
    const nodeAt = (/** @type {Event} */ event) => (event.target instanceof Element ? event.target.closest("td")?.getAttribute("data-node") : null);
    this.table.addEventListener("click", (event) => {
      const node = nodeAt(event);
      if (node) this.choose(node);
    });
    this.table.addEventListener("dblclick", (event) => {
      const node = nodeAt(event);
      if (node) this.toggle(node);
    });
  }

  /**
   * Make the cells anew for another shape.
   * @param {{layers: number, heads: number, positions: number}} shape
   */
  shape({ layers, heads, positions }) {
    const wanted = `${layers} ${heads} ${positions}`;
    if (wanted === this.#shape) return;
    this.#shape = wanted;
    this.#cells.clear();
    this.#rows = layers * (heads + 1);
    this.#columns = positions;
    this.#heads = Array.from({ length: positions }, () => h("th", { scope: "col" }));
    const bodies = Array.from({ length: layers }, (_, layer) => h("tbody", {}, ...Array.from({ length: heads + 1 }, (_x, head) => {
      const mlp = head === heads;
      const name = `L${layer}${mlp ? "MLP" : `H${head}`}`;
      const cells = Array.from({ length: positions }, (_y, position) => {
        const node = `P${position}${name}`;
        const text = h("span", { "aria-hidden": "true" });
        const td = h("td", { role: "gridcell", tabindex: "-1", "data-node": node, "aria-selected": "false" }, text);
        this.#cells.set(node, { td, text, key: "" });
        return td;
      });
      return h("tr", {}, h("th", { scope: "row" }, swatch(mlp ? "var(--x-neutral)" : headColour(head)), name), ...cells);
    })));
    this.table.replaceChildren(h("thead", {}, h("tr", {}, h("td", {}), ...this.#heads)), ...bodies);
    this.#chosen = "";
  }

  /** Name the columns. @param {readonly {text: string, title: string}[]} columns */
  columns(columns) {
    columns.forEach(({ text, title }, i) => {
      const head = /** @type {HTMLElement} */ (this.#heads[i]);
      say(head, text);
      if (head.title !== title) head.title = title;
    });
  }

  /** Fill in. @param {(node: string) => GridCell} cellOf @param {string} chosen */
  update(cellOf, chosen) {
    for (const [node, cell] of this.#cells) {
      const { shade, text, said, replaced } = cellOf(node);
      const key = `${shade.toFixed(3)} ${text} ${replaced} ${said}`;
      if (cell.key === key) continue;
      cell.key = key;
      cell.td.style.setProperty("--shade", (STRONGEST * Math.min(1, shade)).toFixed(3));
      cell.td.classList.toggle("mi-x-cut", replaced !== "");
      say(cell.text, replaced || text);
      const shown = replaced || text;
      cell.td.setAttribute("aria-label", `${node}${shown ? ` ${shown}` : ""}: ${said}`); // a name begins with what is seen
      cell.td.title = `${node}: ${said}`;
    }
    if (chosen === this.#chosen) return;
    const [old, now] = [this.#cells.get(this.#chosen)?.td, this.#cells.get(chosen)?.td];
    old?.setAttribute("tabindex", "-1");
    old?.setAttribute("aria-selected", "false");
    now?.setAttribute("tabindex", "0");
    now?.setAttribute("aria-selected", "true");
    this.#chosen = chosen;
  }

  /** @param {KeyboardEvent} event */
  #key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const names = [...this.#cells.keys()];
    const at = names.indexOf(this.#chosen);
    if (at < 0) return;
    if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      return this.toggle(this.#chosen);
    }
    let [row, column] = [Math.floor(at / this.#columns), at % this.#columns];
    if (event.key === "ArrowRight") column++;
    else if (event.key === "ArrowLeft") column--;
    else if (event.key === "ArrowDown") row++;
    else if (event.key === "ArrowUp") row--;
    else if (event.key === "Home") column = 0;
    else if (event.key === "End") column = this.#columns - 1;
    else return;
    event.preventDefault();
    if (row < 0 || row >= this.#rows || column < 0 || column >= this.#columns) return;
    const node = /** @type {string} */ (names[row * this.#columns + column]);
    this.choose(node);
    this.#cells.get(node)?.td.focus();
  }
}
