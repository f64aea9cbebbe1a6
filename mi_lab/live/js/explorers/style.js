/**
 * How explorers look, anywhere: the book's colours where its style sheet is, Jupyter's or plain ones
 * elsewhere. Colour never stands alone.
 */

import { h } from "./dom.js";

const CSS = `
.mi-x { position: relative; --x-ink: var(--mi-ink, var(--jp-content-font-color1, #1c232e)); --x-quiet: var(--mi-quiet, var(--jp-content-font-color2, #566070));
  --x-paper: var(--mi-paper, var(--jp-layout-color0, #fff)); --x-shade: var(--mi-shade, var(--jp-layout-color1, #f5f6f8));
  --x-rule: var(--mi-rule, var(--jp-border-color1, #c9cfd8)); --x-accent: var(--mi-accent, #005a8e);
  --x-good: var(--mi-good, #006b4e); --x-bad: var(--mi-bad, #a63c00); --x-neutral: var(--mi-neutral, #6b7280);
  --x-head-0: var(--mi-head-0, #0072b2); --x-head-1: var(--mi-head-1, #d55e00); --x-head-2: var(--mi-head-2, #009e73); --x-head-3: var(--mi-head-3, #b0558a);
  color: var(--x-ink); background: var(--x-shade); border: 1px solid var(--x-rule); border-radius: 8px; padding: 0.75rem 0.95rem 0.85rem;
  font: 0.95rem/1.45 var(--mi-sans, system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif); box-sizing: border-box; max-width: 100%; min-width: 0; }
.mi-x *, .mi-x *::before { box-sizing: border-box; }
.mi-x p, .mi-x fieldset { margin: 0; padding: 0; border: 0; min-width: 0; }
.mi-x [hidden] { display: none !important; }
.mi-x-top { display: flex; flex-wrap: wrap; gap: 0.35rem 1rem; align-items: center; justify-content: space-between; margin-bottom: 0.65rem; }
.mi-x .mi-x-title { font-weight: 650; font-size: 1.05rem; }
.mi-x-tools { display: flex; flex-wrap: wrap; gap: 0.3rem; }
.mi-x-button { font: inherit; font-size: 0.85rem; line-height: 1.3; color: var(--x-ink); background: var(--x-paper); border: 1px solid var(--x-rule);
  border-radius: 5px; padding: 0.2rem 0.6rem; min-height: 1.85rem; cursor: pointer; white-space: nowrap; }
.mi-x-button:hover:not(:disabled) { border-color: var(--x-accent); color: var(--x-accent); }
.mi-x-button:disabled { color: var(--x-quiet); cursor: default; opacity: 0.55; }
.mi-x-button[aria-expanded="true"] { border-color: var(--x-accent); }
.mi-x-arrow { padding: 0; width: 1.85rem; font-size: 1.1rem; }
.mi-x-controls { display: grid; grid-template-columns: repeat(12, minmax(0, 1fr)); gap: 0.6rem 1.1rem; margin-bottom: 0.7rem; }
.mi-x-field { grid-column: span 6; } .mi-x-field.mi-x-wide { grid-column: 1 / -1; } .mi-x-field.mi-x-third { grid-column: span 4; } .mi-x-field.mi-x-small { grid-column: span 2; }
.mi-x-field > label, .mi-x-field > legend { display: block; font-size: 0.85rem; font-weight: 600; padding: 0; margin: 0 0 0.15rem; float: none; width: auto; line-height: 1.4; }
.mi-x .mi-x-hint { font-weight: 400; color: var(--x-quiet); }
.mi-x-line { display: flex; gap: 0.4rem; align-items: center; min-width: 0; }
.mi-x input[type="text"], .mi-x input[type="number"], .mi-x select { font: inherit; font-variant-numeric: tabular-nums; color: var(--x-ink); background: var(--x-paper);
  border: 1px solid var(--x-rule); border-radius: 5px; padding: 0.2rem 0.5rem; min-height: 1.95rem; min-width: 0; width: 100%; }
.mi-x input[type="text"] { flex: 1; letter-spacing: 0.01em; }
.mi-x input[type="number"] { width: 4.6rem; }
.mi-x input[aria-invalid="true"], .mi-x select[aria-invalid="true"] { border: 2px solid var(--x-bad); }
.mi-x input[type="range"] { flex: 1; min-width: 3rem; margin: 0; accent-color: var(--x-accent); height: 1.85rem; }
.mi-x output { min-width: 4.2em; font-variant-numeric: tabular-nums; font-size: 0.9rem; white-space: nowrap; }
.mi-x :focus-visible { outline: 3px solid var(--x-accent); outline-offset: 1px; }
.mi-x .mi-x-error { color: var(--x-bad); font-size: 0.88rem; } .mi-x .mi-x-error:empty { display: none; } .mi-x .mi-x-error:not(:empty) { margin-top: 0.25rem; } .mi-x-controls > .mi-x-error { grid-column: 1 / -1; }
.mi-x .mi-x-error:not(:empty)::before { content: "\\2715\\00a0"; }
.mi-x-choice { display: flex; flex-wrap: wrap; gap: 0.2rem 0.7rem; align-items: center; min-width: 0; } .mi-x-label { font-size: 0.88rem; font-weight: 600; }
.mi-x-swatch { display: inline-block; width: 0.7em; height: 0.7em; border-radius: 2px; margin-right: 0.4em; }
.mi-x-heads { display: flex; flex-wrap: wrap; gap: 0.45rem 1.6rem; align-items: center; } .mi-x-view > .mi-x-choice { margin-bottom: 0.5rem; } .mi-x-view svg + div { margin-top: 0.5rem; }
.mi-x-segments { display: inline-flex; border: 1px solid var(--x-rule); border-radius: 5px; background: var(--x-paper); overflow: clip; max-width: 100%; }
.mi-x-segments input { position: absolute; opacity: 0; width: 1px; height: 1px; margin: 0; }
.mi-x-segments label { padding: 0.22rem 0.7rem; font-size: 0.88rem; cursor: pointer; border-left: 1px solid var(--x-rule); margin: 0; min-height: 1.85rem; }
.mi-x-segments input:first-child + label { border-left: 0; }
.mi-x-segments input:checked + label { background: var(--x-ink); color: var(--x-paper); font-weight: 600; }
.mi-x-segments input:focus-visible + label { outline: 3px solid var(--x-accent); outline-offset: -3px; }
.mi-x-busy { display: flex; gap: 0.6rem; align-items: center; font-size: 0.88rem; color: var(--x-quiet); } .mi-x p.mi-x-busy { margin: 0 0 0.5rem; }
.mi-x-busy progress { width: 8rem; height: 0.5rem; accent-color: var(--x-accent); }
.mi-x p.mi-x-headline { font-size: 1.02rem; margin: 0.2rem 0 0.5rem; } .mi-x-headline:empty { display: none; }
.mi-x-views { display: grid; gap: 0.9rem; } .mi-x-views > * { min-width: 0; }
.mi-x-view { contain: layout style; background: var(--x-paper); border: 1px solid var(--x-rule); border-radius: 6px; padding: 0.55rem 0.7rem 0.6rem; }
.mi-x .mi-x-caption { font-size: 0.88rem; color: var(--x-quiet); margin: 0 0 0.35rem; } .mi-x-caption b { color: var(--x-ink); font-weight: 600; }
.mi-x-view svg { display: block; width: 100%; height: auto; overflow: visible; font-family: inherit; font-variant-numeric: tabular-nums; }
.mi-x-view svg text { fill: var(--x-ink); } .mi-x-view svg .quiet { fill: var(--x-quiet); } .mi-x-view svg .bad { fill: var(--x-bad); font-weight: 650; }
.mi-x-view svg .press { cursor: pointer; } .mi-x-view svg .faint { opacity: 0.42; }
.mi-x-maps { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(15rem, 100%), 1fr)); gap: 0.6rem 1.2rem; max-width: 44rem; }
.mi-x-map { margin: 0; } .mi-x-map canvas { display: block; width: 100%; aspect-ratio: 1; image-rendering: pixelated; cursor: crosshair; touch-action: pan-y; }
.mi-x figure.mi-x-map { margin: 0; max-width: 26rem; } .mi-x-map figcaption { font-size: 0.88rem; font-weight: 600; margin: 0 0 0.2rem; }
.mi-x-frame { position: relative; border: 1px solid var(--x-rule); margin-left: 1.9rem; }
.mi-x-mark { position: absolute; border: 2px solid var(--x-ink); pointer-events: none; }
.mi-x-tick { position: absolute; font-size: 0.72rem; line-height: 1; color: var(--x-quiet); font-variant-numeric: tabular-nums; }
.mi-x-axis { font-size: 0.8rem; color: var(--x-quiet); text-align: center; padding-top: 1rem; margin-left: 1.9rem; } .mi-x p.mi-x-axis { padding-top: 1.05rem; }
.mi-x-read { display: flex; flex-wrap: wrap; gap: 0.4rem 1rem; align-items: end; margin-top: 0.5rem; font-size: 0.92rem; } .mi-x-read p { flex: 1 1 14rem; }
.mi-x ol.mi-x-next { list-style: none; margin: 0; padding: 0; font-variant-numeric: tabular-nums; } .mi-x-next li { display: flex; gap: 0.5rem; align-items: center; margin: 0; line-height: 1.5; }
.mi-x-word { min-width: 3.2em; text-align: right; font-weight: 600; } .mi-x-bar { height: 0.7em; background: var(--x-neutral); border-radius: 2px; min-width: 1px; }
.mi-x-button[aria-pressed="false"] { color: var(--x-quiet); text-decoration: line-through; border-style: dashed; }
.mi-x-python pre { margin: 0.7rem 0 0.4rem; padding: 0.6rem 0.8rem; background: var(--x-paper); color: var(--x-ink); border: 1px solid var(--x-rule); border-radius: 5px;
  font: 0.82rem/1.5 var(--mi-mono, ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace); white-space: pre-wrap; overflow-wrap: anywhere; }
.mi-x-python pre code { font: inherit; background: none; border: 0; padding: 0; color: inherit; }
.mi-x .mi-x-unseen { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); white-space: nowrap; }
.mi-x-note { font-size: 0.85rem; color: var(--x-good); align-self: center; }
.mi-x .mi-x-try { font-size: 0.95rem; color: var(--x-quiet); margin-top: 0.7rem; }
.mi-x-try::before { content: "Try: "; font-weight: 600; color: var(--x-ink); }
@media (max-width: 40rem) {
  .mi-x { padding: 0.6rem; }
  .mi-x-field { grid-column: 1 / -1; } .mi-x-field.mi-x-third { grid-column: span 8; } .mi-x-field.mi-x-small { grid-column: span 4; }
  .mi-x-controls { gap: 0.45rem 0.8rem; }
  .mi-x-view { padding: 0.45rem; }
  .mi-x-segments label { padding: 0.22rem 0.55rem; }
}
@media (prefers-reduced-motion: no-preference) { .mi-x-button, .mi-x-segments label { transition: border-color 0.12s, background-color 0.12s; } }
@media print { .mi-x-tools, .mi-x-try { display: none; } }
`;

/**
 * Put a style sheet into the page, or into the shadow tree that holds the explorer, once.
 * @param {Node} place
 * @param {string} [name]  of a sheet that one explorer adds
 * @param {string} [css]
 */
export function installStyle(place, name = "all", css = CSS) {
  const root = place.getRootNode();
  const home = root instanceof ShadowRoot ? root : document.head;
  if (home.querySelector(`style[data-mi-x="${name}"]`)) return;
  home.append(h("style", { "data-mi-x": name }, css));
}
