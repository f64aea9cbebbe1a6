/** What the pathfinding explorer adds to the style of all explorers. */

/** Colours of relations in the order of RELATIONS: own, up 1 to 3, down 1 to 3, other, off. */
const RELATION_CSS = [
  ["neutral", 100], ["up", 100], ["up", 62], ["up", 34], ["down", 100], ["down", 62], ["down", 34], ["rule", 100], ["paper", 100],
].map(([ink, share], i) => `--x-relation-${i}: color-mix(in srgb, var(--x-${ink}) ${share}%, var(--x-paper));`).join(" ");

export const TREE_CSS = `
.mi-x { --x-up: var(--mi-negative, #5e3c99); --x-down: var(--mi-positive, #b35806); }
.mi-x-tokens, .mi-x-key { ${RELATION_CSS} }
.mi-x table.mi-x-tokens { table-layout: fixed; min-width: calc(4.6rem + var(--x-layers) * 4.6rem); } .mi-x-tokens thead th:first-child { width: 4.6rem; }
.mi-x-pair { display: grid; grid-template-columns: minmax(0, 3fr) minmax(0, 2fr); gap: 0.4rem 1.1rem; align-items: start; }
.mi-x-pair > * { min-width: 0; } .mi-x-pair svg + div { margin: 0.3rem 0 0.4rem; }
.mi-x-view svg .halo { paint-order: stroke; stroke: var(--x-paper); stroke-width: 3.5px; stroke-linejoin: round; }
.mi-x-view svg .node { outline: none; } .mi-x-view svg .node.drag { cursor: grab; touch-action: none; }
.mi-x-view svg .node:focus-visible > :nth-child(1) { stroke: var(--x-accent); stroke-width: 3.5; }
.mi-x-tree { touch-action: pan-y; user-select: none; }
.mi-x p.mi-x-effect { font-size: 0.92rem; margin: 0 0 0.4rem; padding: 0.3rem 0.5rem; border-left: 3px solid var(--x-accent); background: var(--x-shade); }
.mi-x-scroll { overflow-x: auto; }
.mi-x table.mi-x-table { border-collapse: collapse; font-size: 0.84rem; font-variant-numeric: tabular-nums; margin: 0.2rem 0 0.4rem; width: 100%; display: table; }
.mi-x .mi-x-table tr > th, .mi-x .mi-x-table tr > td { text-align: left; padding: 0.12rem 0.35rem; border-bottom: 1px solid var(--x-rule); font-weight: 400; white-space: nowrap; color: var(--x-ink); }
.mi-x .mi-x-table thead tr > th { font-weight: 600; border-bottom-width: 2px; }
.mi-x .mi-x-tokens tr > td { padding-bottom: 0.7rem; cursor: pointer; border-right: 0.3rem solid var(--x-paper); }
.mi-x-table td b { font-weight: 650; } .mi-x-table td i { font-style: normal; margin-right: 0.1em; }
.mi-x .mi-x-table tbody tr > th { position: sticky; left: 0; background: var(--x-paper); padding: 0 0.3rem 0 0; }
.mi-x .mi-x-table tbody tr { background: none; }
.mi-x-table .mi-x-here { box-shadow: inset 0 0 0 2px var(--x-ink); }
.mi-x-rowhead { font: inherit; color: var(--x-ink); background: none; border: 1px solid transparent; border-radius: 4px; padding: 0.1rem 0.3rem; min-height: 1.6rem; cursor: pointer; white-space: nowrap; }
.mi-x-rowhead:hover { border-color: var(--x-accent); } .mi-x-rowhead[aria-pressed="true"] { border-color: var(--x-ink); font-weight: 650; }
.mi-x .mi-x-steps tr > .mi-x-good { color: var(--x-good); font-weight: 600; } .mi-x .mi-x-steps tr > .mi-x-bad { color: var(--x-bad); font-weight: 600; }
.mi-x ul.mi-x-key { list-style: none; display: flex; flex-wrap: wrap; gap: 0.1rem 0.9rem; margin: 0.3rem 0 0; padding: 0; font-size: 0.82rem; color: var(--x-quiet); }
.mi-x-key li { margin: 0; } .mi-x-patch { display: inline-block; width: 0.8em; height: 0.8em; border: 1px solid var(--x-rule); border-radius: 2px; margin-right: 0.35em; vertical-align: -0.05em; }
.mi-x p.mi-x-prompt { display: flex; flex-wrap: wrap; gap: 0.2rem 0; font-size: 0.88rem; line-height: 1.35; font-variant-numeric: tabular-nums; margin-top: 0.3rem; }
.mi-x-prompt span { cursor: pointer; padding: 0 0.22em; border-bottom: 2px solid transparent; border-radius: 2px; }
.mi-x-prompt .mi-x-here { outline: 2px solid var(--x-ink); } .mi-x-prompt .mi-x-later { color: var(--x-quiet); }
.mi-x-panel { border: 1px solid var(--x-rule); border-radius: 6px; padding: 0 0.6rem; background: var(--x-paper); }
.mi-x-panel summary { cursor: pointer; font-weight: 600; font-size: 0.9rem; padding: 0.32rem 0; } .mi-x-panel[open] { padding-bottom: 0.6rem; }
.mi-x-panel > .mi-x-controls { margin: 0.3rem 0 0.5rem; }
.mi-x-button.mi-x-toggle[aria-pressed="false"] { text-decoration: none; border-style: solid; color: var(--x-ink); }
.mi-x-button.mi-x-toggle[aria-pressed="true"] { background: var(--x-ink); color: var(--x-paper); font-weight: 600; }
.mi-x-parts { display: grid; grid-template-columns: repeat(auto-fill, minmax(15.5rem, 1fr)); gap: 0.3rem 1rem; } .mi-x-parts .mi-x-label { min-width: 6.2em; font-weight: 400; }
.mi-x-field.mi-x-five { grid-column: span 5; } .mi-x-bottom { align-self: end; } .mi-x-bottom .mi-x-choice { gap: 0.1rem; } .mi-x select.mi-x-short { width: auto; flex: none; }
.mi-x-controls.mi-x-under { margin: 0.1rem 0 0.2rem; } .mi-x-under output { min-width: 9.5em; }
@media (max-width: 40rem) {
  .mi-x-pair { grid-template-columns: minmax(0, 1fr); } .mi-x-field.mi-x-five { grid-column: 1 / -1; }
  .mi-x .mi-x-table tr > th, .mi-x .mi-x-table tr > td { padding-left: 0.12rem; padding-right: 0.12rem; }   .mi-x table.mi-x-tokens { min-width: calc(3.3rem + var(--x-layers) * 3.45rem); } .mi-x-tokens thead th:first-child { width: 3.3rem; } .mi-x .mi-x-tokens tr > td { border-right-width: 0.15rem; font-size: 0.72rem; line-height: 1.15; }
  .mi-x-tokens td b, .mi-x-tokens td span { display: block; min-height: 1.15em; } .mi-x-rowhead { padding: 0.1rem; } .mi-x .mi-x-table thead tr > th { font-size: 0.72rem; }
  .mi-x-line:has(> .mi-x-short) { flex-wrap: wrap; } .mi-x-line:has(> .mi-x-short) > input { flex: 1 1 100%; }
}
`;
