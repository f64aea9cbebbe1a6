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
@media (max-width: 40rem) {
  .mi-x .mi-x-table tbody tr { display: grid; grid-template-columns: 1fr auto; border-top: 1px solid var(--x-rule); } .mi-x .mi-x-table tbody :is(th, td) { border: 0; }
  .mi-x .mi-x-table tbody th { grid-column: 1 / -1; padding-bottom: 0; } .mi-x .mi-x-table thead { position: absolute; clip-path: inset(50%); }
}
`;

/** @param {Node} place */
export function installArithmeticStyle(place) {
  installStyle(place, "arithmetic", SHEET);
}
