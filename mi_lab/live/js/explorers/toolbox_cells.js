/** Tables of numbers in HTML: one to read, one whose cells are weights to change by mouse or keyboard. */

import { h, say } from "./dom.js";
import { installStyle } from "./style.js";

/** Below and above zero, as in heat maps. */
const CELL_TONES = ["122, 85, 192", "207, 106, 13"];

const GRID_CSS = `
.mi-x table.mi-x-grid { border-collapse: separate; border-spacing: 2px; margin: 0; display: table; width: auto; max-width: 100%; table-layout: fixed;
  font: 0.85rem/1.2 inherit; font-family: inherit; font-variant-numeric: tabular-nums; background: none; border: 0; }
.mi-x .mi-x-grid tr, .mi-x .mi-x-grid thead { background: none; border: 0; }
.mi-x .mi-x-grid th, .mi-x .mi-x-grid td { padding: 0; border: 0; text-align: center; vertical-align: middle; height: 1.75rem; width: 2.6rem; min-width: 0; font-weight: 400; color: var(--x-ink); background: none; overflow: hidden; }
.mi-x .mi-x-grid tbody th { width: auto; text-align: right; padding-right: 0.45rem; font-weight: 600; white-space: nowrap; }
.mi-x .mi-x-grid thead th { font-weight: 600; height: 1.4rem; }
.mi-x .mi-x-grid td { border: 1px solid var(--x-rule); border-radius: 3px; background: rgba(var(--cell, 0, 0, 0), var(--much, 0)); }
.mi-x .mi-x-grid td.nought { color: var(--x-quiet); }
.mi-x .mi-x-grid td.changed { border-style: dashed; border-color: var(--x-ink); }
.mi-x .mi-x-grid[role="grid"] td { cursor: cell; }
.mi-x .mi-x-grid td[aria-selected="true"] { outline: 2px solid var(--x-ink); outline-offset: 0; font-weight: 650; }
.mi-x .mi-x-grid td:focus-visible { outline: 3px solid var(--x-accent); }
.mi-x .mi-x-sum th, .mi-x .mi-x-sum td { font-weight: 650; }
.mi-x-gridbox { overflow-x: auto; padding: 3px; }
.mi-x-edit { display: flex; flex-wrap: wrap; gap: 0.4rem 0.6rem; align-items: center; margin-top: 0.5rem; font-size: 0.92rem; }
.mi-x-edit label { flex: 1 1 14rem; margin: 0; } .mi-x .mi-x-edit input[type="number"] { width: 5.5rem; flex: none; }
.mi-x-roles { display: grid; gap: 0.3rem; } .mi-x-roles .mi-x-choice { display: grid; grid-template-columns: 9.4rem max-content 1fr; gap: 0.1rem 0.7rem; }
.mi-x-roles .mi-x-hint { font-size: 0.88rem; line-height: 1.25; }
@media (max-width: 40rem) { .mi-x-edit label { flex-basis: 100%; } .mi-x-roles .mi-x-choice { grid-template-columns: 1fr max-content; } .mi-x-roles .mi-x-hint { grid-column: 1 / -1; } .mi-x-roles .mi-x-segments label { padding: 0.22rem 0.45rem; }
  .mi-x .mi-x-grid th, .mi-x .mi-x-grid td { width: 2rem; font-size: 0.8rem; } .mi-x table.mi-x-grid { border-spacing: 1px; } }
`;

/** A weight or an effect for readers. @param {number} x */
export function plainNumber(x) {
  return String(Math.round(100 * x) / 100 + 0).replace("-", "\u2212");
}

/**
 * @param {HTMLElement} cell
 * @param {number} value
 * @param {number} largest
 */
function shade(cell, value, largest) {
  const share = Math.min(1, Math.abs(value) / largest);
  cell.style.setProperty("--cell", CELL_TONES[value < 0 ? 0 : 1]);
  cell.style.setProperty("--much", (0.55 * share).toFixed(3)); // ink stays readable on it
  cell.classList.toggle("nought", plainNumber(value) === "0");
  say(cell, plainNumber(value));
}

/** The style sheet of these tables, once. @param {Node} place */
export function installGridStyle(place) {
  installStyle(place, "grid", GRID_CSS);
}

/**
 * A table to read.
 * @param {string[]} columns
 */
export function numberTable(columns) {
  const body = h("tbody");
  const caption = h("caption", { class: "mi-x-unseen" });
  const table = h("table", { class: "mi-x-grid" }, caption,
    h("thead", {}, h("tr", {}, h("td", { style: "border:0" }), ...columns.map((name) => h("th", { scope: "col" }, name)))), body);
  const box = h("div", { class: "mi-x-gridbox", role: "group", "aria-label": "table", tabindex: "0" }, table);
  return {
    box,
    /** @param {string} title @param {{name: string, values: ArrayLike<number>, sum?: boolean, text?: (x: number) => string}[]} rows */
    show(title, rows) {
      say(caption, title);
      box.setAttribute("aria-label", title);
      const largest = Math.max(1, ...rows.filter((row) => !row.text).map((row) => Math.max(...Array.from(row.values, Math.abs))));
      body.replaceChildren(...rows.map(({ name, values, sum, text }) => h("tr", { class: sum ? "mi-x-sum" : null }, h("th", { scope: "row" }, name),
        ...Array.from(values, (value) => {
          const cell = h("td");
          shade(cell, text ? largest * value : value, largest);
          if (text) say(cell, text(value));
          return cell;
        }))));
    },
  };
}

/**
 * @typedef {object} GridContent
 * @property {string} title  what a screen reader says of the table
 * @property {string[]} rows
 * @property {string[]} columns
 * @property {ArrayLike<number>} values  row by row
 * @property {ArrayLike<number>} plain  what they would be unchanged
 * @property {number} largest
 * @property {number} row  the chosen cell
 * @property {number} column
 */

/**
 * A table of weights. Arrows move, + and - change by one, 0 and Delete set to nought, Enter goes to
 * the field for exact numbers.
 * @param {{choose: (row: number, column: number) => void, change: (by: number) => void, nought: () => void, enter: () => void}} act
 */
export function weightGrid({ choose, change, nought, enter }) {
  const head = h("thead");
  const body = h("tbody");
  const table = h("table", { class: "mi-x-grid", role: "grid" }, head, body);
  const box = h("div", { class: "mi-x-gridbox" }, table);
  /** @type {HTMLTableCellElement[][]} */
  let cells = [];
  let drawn = "";
  let at = [0, 0];
  const placeOf = (/** @type {EventTarget | null} */ target) => {
    const row = cells.findIndex((line) => line.includes(/** @type {any} */ (target)));
    return row < 0 ? null : [row, cells[row].indexOf(/** @type {any} */ (target))];
  };
  table.addEventListener("click", (event) => {
    const place = placeOf(event.target);
    if (!place) return;
    choose(place[0], place[1]);
    cells[place[0]][place[1]].focus();
  });
  table.addEventListener("keydown", (event) => {
    const place = placeOf(event.target);
    if (!place || event.ctrlKey || event.metaKey || event.altKey) return;
    const move = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1], Home: [0, -99], End: [0, 99] }[event.key];
    if (move) {
      const row = Math.max(0, Math.min(cells.length - 1, place[0] + move[0]));
      const column = Math.max(0, Math.min(cells[0].length - 1, place[1] + move[1]));
      choose(row, column);
      cells[row][column].focus();
    } else if (event.key === "+" || event.key === "=") change(1);
    else if (event.key === "-") change(-1);
    else if (event.key === "0" || event.key === "Delete" || event.key === "Backspace") nought();
    else if (event.key === "Enter" || event.key === "F2") enter();
    else return;
    event.preventDefault();
  });
  return {
    box,
    /** @param {GridContent} content */
    show({ title, rows, columns, values, plain, largest, row, column }) {
      const shape = JSON.stringify([rows, columns]);
      if (shape !== drawn) {
        drawn = shape;
        head.replaceChildren(h("tr", { role: "row" }, h("td", { style: "border:0", role: "gridcell" }), ...columns.map((name) => h("th", { scope: "col", role: "columnheader" }, name))));
        cells = rows.map(() => columns.map(() => h("td", { role: "gridcell", tabindex: "-1" })));
        body.replaceChildren(...cells.map((line, i) => h("tr", { role: "row" }, h("th", { scope: "row", role: "rowheader" }, rows[i]), ...line)));
        at = [0, 0];
      }
      table.setAttribute("aria-label", title);
      cells.forEach((line, i) => line.forEach((cell, j) => {
        const k = i * columns.length + j;
        shade(cell, values[k], largest);
        cell.classList.toggle("changed", Math.abs(values[k] - plain[k]) > 1e-6);
      }));
      cells[at[0]][at[1]].setAttribute("aria-selected", "false");
      cells[at[0]][at[1]].tabIndex = -1;
      at = [row, column];
      cells[row][column].setAttribute("aria-selected", "true");
      cells[row][column].tabIndex = 0;
    },
  };
}
