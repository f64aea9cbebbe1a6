/**
 * A binary tree as SVG, in the marks of `mi_lab.studies.pathfinding.drawing`: nodes are circles, the root
 * a rounded square, the goal a double ring; each edge carries three beads for its tokens, from above
 * source (disc), comma (diamond), target (square). Attention is an arrow to a bead, or to a node whose
 * token stands outside the edges.
 */

import { s } from "./dom.js";
import { percent } from "./draw.js";
import { childrenOf, leavesOf, rightPath } from "./tree_question.js";

/** @typedef {import("./tree_question.js").Question} Question */
/** @typedef {{kind: "node" | "source" | "target" | "comma", node: number}} Spot */
/** @typedef {{to: Spot, weight: number}} TreeArrow */

/**
 * @typedef {object} TreeScene
 * @property {Question} question
 * @property {Spot | null} start  the token that looks
 * @property {TreeArrow[]} arrows
 * @property {Map<number, number>} gathered  edges the token may know, with the layer they came in
 * @property {ArrayLike<number>} shade  by node: probability
 * @property {number[]} walked  the model's path
 * @property {number | null} chosen  a node in the reader's hand
 * @property {number} focus  the node that Tab goes to
 * @property {boolean} drag  may nodes be dragged
 * @property {(spot: Spot) => void} pressBead
 */

const NODE_RADIUS = 14;
const BEAD_PLACES = /** @type {const} */ ({ source: 0.24, comma: 0.5, target: 0.76 });
/** A kind of token keeps its colour everywhere. */
export const TOKEN_COLOURS = { source: "var(--x-head-0)", target: "var(--x-head-1)", comma: "var(--x-head-2)", node: "var(--x-neutral)" };

/**
 * x (in units of one node's room) and level of each node. A parent stands in the middle above its
 * children; subtrees stand as close as their outlines allow (the conditions of Reingold and Tilford).
 * @param {Question} question
 */
export function treeLayout(question) {
  const x = new Array(question.n).fill(0);
  const level = new Array(question.n).fill(0);
  /** @param {number} node @param {number} depth @returns {{nodes: number[], left: number[], right: number[]}} outlines from the node at 0 */
  const place = (node, depth) => {
    level[node] = depth;
    const below = childrenOf(question, node).map((child) => place(child, depth + 1));
    if (below.length === 2) {
      const [a, b] = below;
      let apart = -Infinity;
      for (let d = 0; d < Math.min(a.right.length, b.left.length); d++) apart = Math.max(apart, a.right[d] - b.left[d]);
      below.forEach((part, i) => {
        const move = (i ? 1 : -1) * (apart + 1) / 2;
        for (const k of part.nodes) x[k] += move;
        for (const side of [part.left, part.right]) side.forEach((_, d) => (side[d] += move));
      });
    }
    const deepest = Math.max(0, ...below.map(({ left }) => left.length));
    const outline = (/** @type {"left" | "right"} */ side, /** @type {(...x: number[]) => number} */ extreme) =>
      [0, ...Array.from({ length: deepest }, (_, d) => extreme(...below.flatMap((part) => (d < part[side].length ? [part[side][d]] : []))))];
    return { nodes: [node, ...below.flatMap(({ nodes }) => nodes)], left: outline("left", Math.min), right: outline("right", Math.max) };
  };
  place(question.root, 0);
  const least = Math.min(...x);
  return { x: x.map((value) => value - least), level };
}

/** Where everything is, in pixels. @param {Question} question @param {number} width */
function treeStage(question, width) {
  const { x, level } = treeLayout(question);
  const units = Math.max(...x, 1);
  const depth = Math.max(...level);
  const spacing = Math.min((width - 2 * NODE_RADIUS - 10) / units, 62);
  const gap = Math.min(Math.max(430 / depth, 44), 66);
  const left = (width - Math.max(...x) * spacing) / 2;
  const node = x.map((value, k) => [left + value * spacing, NODE_RADIUS + 16 + level[k] * gap]);
  const at = (/** @type {Spot} */ spot) => {
    const above = question.parent[spot.node];
    if (spot.kind === "node" || above < 0) return node[spot.node];
    const [[x0, y0], [x1, y1]] = [node[above], node[spot.node]];
    const rim = NODE_RADIUS / Math.hypot(x1 - x0, y1 - y0);
    const t = rim + (1 - 2 * rim) * BEAD_PLACES[spot.kind];
    return [x0 + (x1 - x0) * t, y0 + (y1 - y0) * t];
  };
  return { node, at, width, height: NODE_RADIUS + 16 + depth * gap + NODE_RADIUS + 20 };
}

/** @typedef {ReturnType<typeof treeStage>} TreeStage */

/**
 * Draw into `svg`; nodes are groups with data-node, to be pressed.
 * @param {SVGElement} svg
 * @param {number} width
 * @param {TreeScene} scene
 * @returns {number} the height
 */
export function drawTree(svg, width, scene) {
  const { question } = scene;
  const stage = treeStage(question, width);
  const way = rightPath(question);
  question.parent.forEach((above, k) => {
    if (above >= 0) edgeLine(svg, stage, scene, k, way.includes(k));
  });
  scene.walked.slice(1).forEach((b, i) => {
    const a = scene.walked[i];
    if (way[i + 1] === b || question.parent[b] !== a) return;
    const [[x0, y0], [x1, y1]] = [stage.node[a], stage.node[b]];
    svg.append(s("path", { d: `M${x0} ${y0}L${x1} ${y1}`, stroke: "var(--x-bad)", "stroke-width": 5, "stroke-dasharray": "7 5" }, s("title", {}, `the model steps from ${a} to ${b}`)));
  });
  const beads = s("g");
  question.parent.forEach((above, k) => {
    if (above < 0) return;
    for (const kind of /** @type {("source" | "comma" | "target")[]} */ (Object.keys(BEAD_PLACES))) beads.append(beadMark(stage, scene, { kind, node: k }, 0));
  });
  svg.append(beads);
  const arrows = [...scene.arrows].sort((a, b) => a.weight - b.weight);
  for (const arrow of arrows) arrowTo(svg, stage, scene, arrow);
  question.parent.forEach((_, k) => svg.append(nodeMark(stage, scene, k)));
  for (const [k, role, shift] of /** @type {[number, string, number][]} */ ([[question.root, "root", -NODE_RADIUS - 5], [question.goal, "goal", NODE_RADIUS + 14]])) {
    const [x, y] = stage.node[k];
    svg.append(s("text", { class: "halo", x, y: y + shift, "font-size": 12, "text-anchor": "middle", "pointer-events": "none" }, role));
  }
  for (const arrow of arrows) if (arrow.to.kind !== "node") svg.append(beadMark(stage, scene, arrow.to, arrow.weight));
  if (scene.start && scene.start.kind !== "node") {
    const [x, y] = stage.at(scene.start);
    svg.append(s("circle", { cx: x, cy: y, r: 9, fill: "none", stroke: "var(--x-ink)", "stroke-width": 2, "pointer-events": "none" }));
  }
  return stage.height;
}

/** @param {SVGElement} svg @param {TreeStage} stage @param {TreeScene} scene @param {number} k @param {boolean} onPath */
function edgeLine(svg, stage, scene, k, onPath) {
  const above = scene.question.parent[k];
  const [[x0, y0], [x1, y1]] = [stage.node[above], stage.node[k]];
  const d = `M${x0.toFixed(1)} ${y0.toFixed(1)}L${x1.toFixed(1)} ${y1.toFixed(1)}`;
  svg.append(s("path", { d, stroke: "var(--x-ink)", "stroke-width": onPath ? 5 : 1.5, "stroke-opacity": 0.5 }));
  const layer = scene.gathered.get(k);
  if (layer === undefined) return;
  svg.append(s("path", { d, stroke: "var(--x-head-3)", "stroke-width": 13, "stroke-opacity": 0.42, "stroke-linecap": "round" }));
  const side = x1 >= x0 ? 1 : -1;
  const text = layer < 0 ? "own" : `L${layer}`;
  svg.append(s("text", { x: (x0 + x1) / 2 + side * 11, y: (y0 + y1) / 2 - 2, "font-size": 11, "font-weight": 650, "text-anchor": side > 0 ? "start" : "end", class: "halo", style: "fill:var(--x-head-3)" }, text));
}

/** @param {TreeStage} stage @param {TreeScene} scene @param {Spot} spot @param {number} weight */
function beadMark(stage, scene, spot, weight) {
  const [x, y] = stage.at(spot);
  const r = 2.2 + 4.3 * Math.sqrt(weight);
  const look = { fill: TOKEN_COLOURS[spot.kind], stroke: "var(--x-paper)", "stroke-width": weight ? 0.8 : 0, "fill-opacity": weight ? 1 : 0.55 };
  const above = scene.question.parent[spot.node];
  const name = `${spot.kind} of ${above}>${spot.node}`;
  const shape = spot.kind === "source" ? s("circle", { cx: x, cy: y, r, ...look })
    : spot.kind === "target" ? s("rect", { x: x - 0.9 * r, y: y - 0.9 * r, width: 1.8 * r, height: 1.8 * r, ...look })
    : s("path", { d: `M${x} ${y - 1.2 * r}l${1.2 * r} ${1.2 * r}l${-1.2 * r} ${1.2 * r}l${-1.2 * r} ${-1.2 * r}z`, ...look });
  const hit = weight ? null : s("circle", { cx: x, cy: y, r: 7, fill: "transparent" });
  const title = s("title", {}, weight ? `${percent(weight)} of the attention goes to the ${name}` : name);
  return s("g", { class: "press", "data-bead": `${spot.kind}-${spot.node}`, onclick: () => scene.pressBead(spot) }, title, shape, hit);
}

/** A node as a button; a title or a further word in it would have to be part of its name. @param {TreeStage} stage @param {TreeScene} scene @param {number} k */
function nodeMark(stage, scene, k) {
  const { question, chosen } = scene;
  const [x, y] = stage.node[k];
  const [isRoot, isGoal, starts] = [k === question.root, k === question.goal, scene.start?.kind === "node" && scene.start.node === k];
  const p = scene.shade[k] ?? 0;
  const ink = isGoal ? "var(--x-good)" : "var(--x-ink)";
  const shape = (/** @type {Record<string, any>} */ look) =>
    isRoot ? s("rect", { x: x - NODE_RADIUS, y: y - NODE_RADIUS, width: 2 * NODE_RADIUS, height: 2 * NODE_RADIUS, rx: 5, ...look }) : s("circle", { cx: x, cy: y, r: NODE_RADIUS, ...look });
  const family = question.parent[k] < 0 ? "the root" : `child of ${question.parent[k]}`;
  const leaf = leavesOf(question).includes(k) ? (isGoal ? ", the goal" : ", a leaf") : "";
  const said = `node ${k}, ${family}${leaf}${p >= 0.005 ? `, lens ${percent(p)}` : ""}${chosen === k ? ", picked up" : ""}`;
  const group = s("g", {
    class: `node press${scene.drag ? " drag" : ""}`, "data-node": k, role: "button", tabindex: k === scene.focus ? 0 : -1,
    "aria-label": said,
     "aria-pressed": chosen === null ? null : String(chosen === k),
  }, s("circle", { cx: x, cy: y, r: NODE_RADIUS + 4, fill: "transparent" }),
  shape({ fill: "var(--x-paper)", stroke: ink, "stroke-width": isRoot || isGoal ? 2.5 : 1.3 }));
  if (p >= 0.01) group.append(shape({ fill: "var(--x-head-3)", "fill-opacity": (Math.min(p, 1) * 0.6).toFixed(3) }));
  if (isGoal) group.append(s("circle", { cx: x, cy: y, r: NODE_RADIUS - 3.5, fill: "none", stroke: ink, "stroke-width": 1.3 }));
  if (chosen === k || starts) group.append(shape({ fill: "none", stroke: "var(--x-accent)", "stroke-width": 3.5, ...(chosen === k ? { "stroke-dasharray": "4 3" } : {}) }));
  group.append(s("text", { x, y: y + 4.8, "text-anchor": "middle", "font-size": 14, "font-weight": 600 }, k));
  return group;
}

/** A bent arrow from the token that looks; none where the two touch. @param {SVGElement} svg @param {TreeStage} stage @param {TreeScene} scene @param {TreeArrow} arrow */
function arrowTo(svg, stage, scene, { to, weight }) {
  if (!scene.start) return;
  const [[x0, y0], [x1, y1]] = [stage.at(scene.start), stage.at(to)];
  const far = Math.hypot(x1 - x0, y1 - y0);
  if (far < NODE_RADIUS) return; // a neighbour, or the token itself: its bead says it
  const [ux, uy] = [(x1 - x0) / far, (y1 - y0) / far];
  const bend = Math.max(0.2 * far, 14) * (x0 + x1 >= stage.width === y1 >= y0 ? 1 : -1);
  const [cx, cy] = [(x0 + x1) / 2 + uy * bend, (y0 + y1) / 2 - ux * bend];
  const unit = (/** @type {number} */ x, /** @type {number} */ y) => [x / (Math.hypot(x, y) || 1), y / (Math.hypot(x, y) || 1)];
  const [[ax, ay], [bx, by]] = [unit(cx - x0, cy - y0), unit(x1 - cx, y1 - cy)];
  const begin = scene.start.kind === "node" ? NODE_RADIUS + 1 : 4;
  const head = 5 + 5 * weight;
  const stop = (to.kind === "node" ? NODE_RADIUS : 4 + 3 * weight) + 1;
  if (far < begin + stop + head) return;
  const tip = [x1 - bx * stop, y1 - by * stop];
  const base = [tip[0] - bx * head, tip[1] - by * head];
  const line = `M${(x0 + ax * begin).toFixed(1)} ${(y0 + ay * begin).toFixed(1)}Q${cx.toFixed(1)} ${cy.toFixed(1)} ${base[0].toFixed(1)} ${base[1].toFixed(1)}`;
  const wedge = `M${tip.map((v) => v.toFixed(1)).join(" ")}L${(base[0] - by * head / 2).toFixed(1)} ${(base[1] + bx * head / 2).toFixed(1)}L${(base[0] + by * head / 2).toFixed(1)} ${(base[1] - bx * head / 2).toFixed(1)}z`;
  const ink = TOKEN_COLOURS[to.kind];
  svg.append(s("g", { opacity: (0.35 + 0.65 * weight).toFixed(2), "pointer-events": "none" },
    s("path", { d: line, fill: "none", stroke: ink, "stroke-width": (1.2 + 4.3 * weight).toFixed(1) }), s("path", { d: wedge, fill: ink })));
}
