/** Pictures: SVG and canvas helpers in the book's colours, drawn at the size they are shown in. */

import { swatch } from "./controls.js";
import { h, s, say } from "./dom.js";

/** Below and above zero in heat maps, one tone for light and dark pages: as `mi_lab.plot.TONES`. */
const TONES = [[0x7a, 0x55, 0xc0], [0xcf, 0x6a, 0x0d]];

/** A head's colour in every figure. @param {number} head */
export function headColour(head) {
  return `var(--x-head-${head % 4})`;
}

/**
 * A number for readers: three digits and a true minus sign.
 * @param {number} x
 */
export function short(x) {
  const text = Math.abs(x) >= 100 ? x.toFixed(0) : Math.abs(x) >= 10 ? x.toFixed(1) : x.toFixed(2);
  return text.replace("-", "\u2212");
}

/** A share as a percentage. @param {number} p */
export function percent(p) {
  return p > 0.9995 ? "100\u00a0%" : `${(100 * p).toFixed(p >= 0.1 ? 0 : 1)}\u00a0%`;
}

/**
 * A drawing that is made anew when its place changes its width.
 * @param {string} label  what a screen reader says at first
 * @param {(svg: SVGElement, width: number) => number} draw  draws, returns the height
 */
export function drawing(label, draw) {
  const svg = s("svg", { role: "img", "aria-label": label });
  let width = 0;
  const redraw = () => {
    width ||= Math.round(svg.getBoundingClientRect().width); // measured once: it makes the page lay itself out
    const group = s("g");
    const height = draw(group, width || 640);
    svg.setAttribute("viewBox", `0 0 ${width || 640} ${height}`);
    svg.replaceChildren(group);
  };
  const watch = new ResizeObserver((entries) => {
    const now = Math.round(entries[entries.length - 1].contentRect.width);
    if (!now || Math.abs(now - width) < 1) return;
    width = now;
    redraw();
  });
  watch.observe(svg);
  return { svg, redraw, stop: () => watch.disconnect(), label: (/** @type {string} */ text) => svg.setAttribute("aria-label", text) };
}

/**
 * @typedef {object} StripRow
 * @property {string} label
 * @property {string} colour
 * @property {ArrayLike<number>} weights  by key position
 * @property {boolean} [dim]
 * @property {() => void} [press]
 */

/**
 * @typedef {object} StripToken
 * @property {string} text
 * @property {string} [title]
 * @property {boolean} [bad]
 * @property {boolean} [faint]
 * @property {() => void} [press]
 */

/**
 * Tokens in a line, and below them one line of attention weights per head.
 * @param {SVGElement} svg
 * @param {number} width
 * @param {{tokens: StripToken[], rows: StripRow[], query: number, wanted: number | null}} content
 *   query: the token that looks; wanted: the token that it ought to find
 */
export function strip(svg, width, { tokens, rows, query, wanted }) {
  const narrow = width < 520;
  const left = narrow ? 0 : 124;
  const cell = (width - left) / tokens.length;
  const size = Math.min(14, Math.max(8.5, cell * 0.56));
  const rowHeight = narrow ? 40 : 30;
  const middle = (/** @type {number} */ i) => left + (i + 0.5) * cell;
  tokens.forEach((token, i) => {
    const wide = token.text.length > 2;
    const text = s("text", { x: middle(i), y: 34, "text-anchor": "middle", "font-size": wide && cell >= 12 ? Math.max(8, Math.min(size, cell * 0.44)) : size,
      class: [token.bad ? "bad" : "", token.faint ? "faint" : ""].join(" "), "font-weight": i === query ? 700 : null }, token.text);
    if (i === query) svg.append(s("rect", { x: left + i * cell + 0.5, y: 19, width: cell - 1, height: 22, rx: 4, fill: "none", stroke: "var(--x-ink)", "stroke-width": 1.5 }));
    if (token.bad) svg.append(s("path", { d: `M${middle(i) - size * 0.62} 38 h${size * 1.24}`, stroke: "var(--x-bad)", "stroke-width": 1.5, "stroke-dasharray": "2 1.5" }));
    if (i === wanted) {
      svg.append(s("path", { d: `M${middle(i) - 4} 11 l4 6 l4 -6 z`, fill: "var(--x-good)" }));
      svg.append(s("text", { x: middle(i), y: 8, "text-anchor": "middle", "font-size": 10.5, style: "fill:var(--x-good)" }, "next"));
    }
    const every = Math.ceil(26 / cell); // not all words fit into narrow columns
    const near = Math.abs(i - query) < every && i !== query;
    if (cell >= 12 || i === query || (i % every === 0 && !near)) svg.append(text);
    if (!token.press) return;
    const hit = s("rect", { x: left + i * cell, y: 16, width: cell, height: 28, fill: "transparent", class: "press", onclick: token.press });
    if (token.title) hit.append(s("title", {}, token.title));
    svg.append(hit);
  });
  if (!narrow) svg.append(s("text", { x: 0, y: 34, "font-size": 12, class: "quiet" }, "tokens"));
  rows.forEach((row, r) => {
    const top = 48 + r * rowHeight + (narrow ? 14 : 0);
    const line = narrow ? top - 3 : top + 16.5;
    svg.append(s("rect", { x: 0, y: line - 9, width: 9, height: 9, rx: 2, fill: row.colour }));
    svg.append(s("text", { x: 14, y: line, "font-size": 12.5, "font-weight": 600, class: row.press ? "press" : null, onclick: row.press }, row.label));
    const group = s("g", { opacity: row.dim ? 0.35 : null });
    tokens.forEach((token, i) => {
      const x = left + i * cell + 0.75;
      group.append(s("rect", { x, y: top, width: Math.max(cell - 1.5, 1), height: 23, rx: 2, fill: "none", stroke: "var(--x-rule)", "stroke-width": i <= query ? 0.8 : 0.3 }));
      const weight = i <= query ? row.weights[i] : 0;
      if (!(weight > 0.004)) return;
      const rect = s("rect", { x, y: top, width: Math.max(cell - 1.5, 1), height: 23, rx: 2, fill: row.colour, "fill-opacity": Math.min(1, weight).toFixed(3) },
        s("title", {}, `${row.label} looks at ${token.text}: ${percent(weight)}`));
      group.append(rect);
      if (weight < 0.1 || cell < 13) return;
      const style = weight > 0.55 ? "fill:var(--x-paper)" : "fill:var(--x-ink)";
      group.append(s("text", { x: middle(i), y: top + 16, "text-anchor": "middle", "font-size": Math.min(11, cell * 0.5), style, "pointer-events": "none" },
        weight.toFixed(cell < 24 ? 1 : 2).replace(/^0|\.0+$/g, "")));
    });
    svg.append(group);
  });
  return 48 + rows.length * rowHeight + (narrow ? 2 : 0);
}

/**
 * Bars over numbers 0..n-1, upwards and downwards, some series beside each other.
 * @param {SVGElement} svg
 * @param {number} width
 * @param {number} top  where the panel begins
 * @param {{series: {values: ArrayLike<number>, colour: string | ((i: number) => string), dim?: boolean, name: string}[], n: number,
 *   height: number, low: number, high: number, title: string, ticks: number[], text: (x: number) => string,
 *   marked: number | null, unit: (i: number) => string}} panel
 * @returns {number} where it ends
 */
export function bars(svg, width, top, panel) {
  const left = 40;
  const cell = (width - left) / panel.n;
  const start = top + 18;
  const y = (/** @type {number} */ v) => start + panel.height * (1 - (v - panel.low) / (panel.high - panel.low || 1));
  svg.append(s("text", { x: 0, y: top + 10, "font-size": 12, "font-weight": 600 }, panel.title));
  if (panel.marked !== null) {
    svg.append(s("rect", { x: left + panel.marked * cell - 1, y: start - 2, width: cell + 2, height: panel.height + 4, fill: "var(--x-good)", opacity: 0.16 }));
  }
  for (const tick of panel.ticks) {
    svg.append(s("line", { x1: left, x2: width, y1: y(tick), y2: y(tick), stroke: tick === 0 ? "var(--x-quiet)" : "var(--x-rule)", "stroke-width": tick === 0 ? 1 : 0.6 }));
    svg.append(s("text", { x: left - 5, y: y(tick) + 4, "text-anchor": "end", "font-size": 11, class: "quiet" }, panel.text(tick)));
  }
  const wide = Math.max((cell - Math.min(2, cell * 0.2)) / panel.series.length, 0.8);
  panel.series.forEach((series, k) => {
    for (let i = 0; i < panel.n; i++) {
      const value = Math.max(panel.low, Math.min(panel.high, series.values[i]));
      const [a, b] = [y(Math.max(value, 0)), y(Math.min(value, 0))];
      if (b - a < 0.3) continue;
      const fill = typeof series.colour === "string" ? series.colour : series.colour(i);
      svg.append(s("rect", { x: (left + i * cell + k * wide).toFixed(2), y: a.toFixed(2), width: wide.toFixed(2), height: (b - a).toFixed(2), fill, opacity: series.dim ? 0.3 : null },
        s("title", {}, `${series.name}, ${panel.unit(i)}: ${panel.text(series.values[i])}`)));
    }
  });
  return start + panel.height + 4;
}

/**
 * Numbers below the bars.
 * @param {SVGElement} svg @param {number} width @param {number} top
 * @param {{n: number, every: number, marked: number | null, markText: string, present: readonly number[]}} axis
 */
export function numberAxis(svg, width, top, { n, every, marked, markText, present }) {
  const left = 40;
  const cell = (width - left) / n;
  const middle = (/** @type {number} */ i) => left + (i + 0.5) * cell;
  for (const i of present) svg.append(s("circle", { cx: middle(i), cy: top + 3, r: 2, fill: "var(--x-quiet)" }, s("title", {}, `${i} is in the list`)));
  for (let i = 0; i < n; i += every) {
    if (marked !== null && Math.abs(i - marked) * cell < 18) continue;
    svg.append(s("text", { x: middle(i), y: top + 18, "text-anchor": "middle", "font-size": 11, class: "quiet" }, i));
  }
  if (marked !== null) svg.append(s("text", { x: middle(marked), y: top + 18, "text-anchor": "middle", "font-size": 12, "font-weight": 700, style: "fill:var(--x-good)" }, markText));
  return top + 24;
}

/**
 * A square table of signed numbers as a picture whose cells can be pointed at.
 * @param {string} title
 * @param {string} colour
 * @param {string} down  what rows are
 * @param {string} across  what columns are
 * @param {(row: number, column: number) => void} point
 */
export function heatMap(title, colour, down, across, point) {
  const canvas = h("canvas", { role: "img", "aria-label": title, width: "1", height: "1" });
  const mark = h("div", { class: "mi-x-mark" });
  const ticks = h("div", { "aria-hidden": "true" });
  const frame = h("div", { class: "mi-x-frame" }, canvas, mark, ticks);
  const caption = h("figcaption", {}, swatch(colour), h("span", {}, title));
  const axis = h("p", { class: "mi-x-axis", "aria-hidden": "true" });
  const figure = h("figure", { class: "mi-x-map" }, caption, frame, axis);
  let n = 1;
  const at = (/** @type {PointerEvent} */ event) => {
    const box = canvas.getBoundingClientRect();
    const place = (/** @type {number} */ x, /** @type {number} */ size) => Math.max(0, Math.min(n - 1, Math.floor((x / size) * n)));
    point(place(event.clientY - box.top, box.height), place(event.clientX - box.left, box.width));
  };
  canvas.addEventListener("pointerdown", at);
  canvas.addEventListener("pointermove", (event) => event.pressure > 0 && at(event));
  return {
    figure,
    /** @param {ArrayLike<number>} values @param {number} size @param {number} largest @param {string} label */
    draw(values, size, largest, label) {
      n = size;
      canvas.width = canvas.height = n;
      const context = canvas.getContext("2d");
      if (!context) return;
      const image = context.createImageData(n, n);
      for (let i = 0; i < n * n; i++) {
        const x = values[i] / largest;
        const tone = TONES[x < 0 ? 0 : 1];
        image.data.set([tone[0], tone[1], tone[2], Math.round(255 * Math.min(1, Math.abs(x)))], 4 * i);
      }
      context.putImageData(image, 0, 0);
      canvas.setAttribute("aria-label", label);
      say(axis, `${across} \u2192   (down: ${down})`);
      const marks = [];
      for (let i = 0; i < n; i += 10) {
        const place = ((i + 0.5) / n) * 100;
        marks.push(h("span", { class: "mi-x-tick", style: `right:calc(100% + 5px);top:calc(${place}% - 0.5em)` }, i));
        marks.push(h("span", { class: "mi-x-tick", style: `top:calc(100% + 5px);left:${place}%;transform:translateX(-50%)` }, i));
      }
      ticks.replaceChildren(...marks);
    },
    /** @param {number} row @param {number} column */
    mark(row, column) {
      const size = 100 / n;
      mark.style.cssText = `left:calc(${column * size}% - 2px);top:calc(${row * size}% - 2px);width:calc(${size}% + 4px);height:calc(${size}% + 4px)`;
    },
  };
}
