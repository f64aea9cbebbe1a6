/** What the arithmetic explorers add to the look of all (`style.js`). */

import { installStyle } from "./style.js";

const SHEET = `
.mi-x .mi-x-wrap .mi-x-line { flex-wrap: wrap; } .mi-x .mi-x-wrap input[type="text"] { flex: 1 1 11rem; }
.mi-x .mi-x-words { margin-top: 0.5rem; min-height: 2.9em; }
.mi-x table.mi-x-table { border-collapse: collapse; width: 100%; margin: 0; font-size: 0.9rem; font-variant-numeric: tabular-nums; background: none; color: inherit; border: 0; }
.mi-x .mi-x-table caption { caption-side: top; text-align: left; color: var(--x-quiet); font-size: 0.88rem; padding: 0 0 0.35rem; margin: 0; font-style: normal; }
.mi-x .mi-x-table :is(th, td) { padding: 0.12rem 0.6rem 0.12rem 0.3rem; text-align: left; border: 0; border-top: 1px solid var(--x-rule); font-weight: 400; vertical-align: middle; background: none; color: inherit; }
.mi-x .mi-x-table thead th { color: var(--x-quiet); font-size: 0.82rem; border-top: 0; } .mi-x .mi-x-table tr > :last-child { text-align: right; padding-right: 0.2rem; white-space: nowrap; }
.mi-x .mi-x-table tr.mi-x-chosen > * { background: var(--x-shade); } .mi-x tr.mi-x-chosen .mi-x-link { font-weight: 650; color: var(--x-ink); }
.mi-x-link { font: inherit; color: var(--x-accent); background: none; border: 0; padding: 0.12rem 0; text-align: left; cursor: pointer; text-decoration: underline; text-underline-offset: 0.15em; }
.mi-x-digits { letter-spacing: 0.04em; } .mi-x .mi-x-wrong { color: var(--x-bad); font-weight: 650; border-bottom: 2px dashed; }
.mi-x-two { display: grid; grid-template-columns: 1fr 1.15fr; gap: 0.8rem 1.4rem; }
.mi-x .mi-x-gridbox { overflow-x: auto; margin: 0.2rem 0 0.5rem; }
.mi-x table.mi-x-grid { border-collapse: separate; border-spacing: 2px 2px; table-layout: fixed; width: 100%; margin: 0; font-size: 0.68rem; line-height: 1; font-variant-numeric: tabular-nums; background: none; color: inherit; border: 0; }
.mi-x .mi-x-grid :is(th, td) { padding: 0; border: 0; text-align: center; font-weight: 400; height: 1.45rem; vertical-align: middle; overflow: hidden; white-space: nowrap; background: none; color: inherit; }
.mi-x .mi-x-grid thead th { font-size: 0.8rem; font-weight: 600; } .mi-x .mi-x-grid tr > :first-child { width: 4.1rem; text-align: left; font-size: 0.75rem; }
.mi-x .mi-x-grid tbody + tbody::before { content: ""; display: block; height: 5px; }
.mi-x .mi-x-fact { display: flex; flex-wrap: wrap; gap: 0.2rem 0.6rem; align-items: center; } .mi-x .mi-x-fact > label { margin: 0; } .mi-x .mi-x-fact select { width: auto; max-width: 100%; }
.mi-x .mi-x-grid td[role] { cursor: pointer; border-radius: 2px; box-shadow: inset 0 0 0 1px var(--x-rule); background-color: rgb(179 88 6 / var(--shade, 0)); }
.mi-x .mi-x-grid td[aria-selected="true"] { outline: 2.5px solid var(--x-ink); outline-offset: 0; } .mi-x .mi-x-grid td:focus-visible { outline: 3px solid var(--x-accent); outline-offset: 0; }
.mi-x .mi-x-grid td.mi-x-cut { font-weight: 700; font-size: 0.8rem; background-image: repeating-linear-gradient(135deg, transparent 0 3px, var(--x-rule) 3px 4.5px); box-shadow: inset 0 0 0 2px var(--x-accent); }
.mi-x .mi-x-node { font-weight: 650; min-width: 6.6rem; text-align: center; font-variant-numeric: tabular-nums; } .mi-x .mi-x-chips { display: flex; flex-wrap: wrap; gap: 0.35rem; align-items: center; margin-top: 0.45rem; }
.mi-x .mi-x-scan { margin: 0.9rem 0 0.4rem; } .mi-x .mi-x-choice select { width: auto; } .mi-x .mi-x-wrap select { width: auto; flex: none; }
.mi-x .mi-x-share { display: inline-block; width: 5rem; height: 0.65em; background: var(--x-shade); margin-right: 0.3rem; } .mi-x .mi-x-share .mi-x-bar { display: block; height: 100%; }
.mi-x .mi-x-classes tr > :last-child { white-space: normal; }
html[data-theme="dark"] .mi-x .mi-x-grid td[role] { background-color: rgb(253 184 99 / var(--shade, 0)); }
@media (max-width: 40rem) {
  .mi-x-two { grid-template-columns: 1fr; } .mi-x .mi-x-grid td > span { display: none; } .mi-x .mi-x-grid td.mi-x-cut > span { display: inline; }
  .mi-x table.mi-x-grid { border-spacing: 1px; } .mi-x .mi-x-grid tr > :first-child { width: 3.1rem; font-size: 0.66rem; } .mi-x .mi-x-grid .mi-x-swatch { margin-right: 0.2em; width: 0.5em; }
  .mi-x .mi-x-rows tbody tr { display: grid; grid-template-columns: 1fr auto; border-top: 1px solid var(--x-rule); } .mi-x .mi-x-rows tbody :is(th, td) { border: 0; }
  .mi-x .mi-x-rows tbody th { grid-column: 1 / -1; padding-bottom: 0; } .mi-x .mi-x-rows thead { display: none; } .mi-x .mi-x-share { display: none; }
}
`;

/** @param {Node} place */
export function installArithmeticStyle(place) {
  installStyle(place, "arithmetic", SHEET);
}
