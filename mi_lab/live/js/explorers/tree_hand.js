/**
 * The reader's hand on the drawn tree: look from a node, make it the goal, give it another parent, swap
 * two labels; by pressing, by dragging, by keyboard (arrows walk in the tree, Enter acts, Escape lets go).
 */

import { segments } from "./controls.js";
import { s } from "./dom.js";
import { treeLayout } from "./tree_draw.js";
import { childrenOf } from "./tree_question.js";

/** @typedef {import("./tree_question.js").Question} Question */
/** @typedef {"look" | "goal" | "move" | "swap"} Tool */

const TREE_TOOLS = [
  { value: "look", text: "look from it", title: "its token looks; a bead on an edge is a token too" },
  { value: "goal", text: "make it the goal", title: "only leaves can be goals" },
  { value: "move", text: "move it", title: "press a node, then its new parent; or drag it there" },
  { value: "swap", text: "swap labels", title: "press two nodes: they exchange their labels" },
];

/** What pressing a node does. */
export class TreeHand {
  /** @type {Tool} */
  tool = "look";
  /** @type {number | null} */
  chosen = null;
  focus = -1;
  /** @type {{node: number, line: SVGElement, pointer: number} | null} */
  #drag = null;

  /**
   * @param {import("./frame.js").Frame} frame
   * @param {SVGElement} svg
   * @param {{question: () => Question | null, act: (tool: Tool, node: number, first: number) => void, redraw: () => void}} explorer
   *   act: with one node (look, goal) or two: the one in hand, and where it goes
   */
  constructor(frame, svg, explorer) {
    this.frame = frame;
    this.svg = svg;
    this.explorer = explorer;
    this.tools = segments(frame, "tool", "Press a node to", TREE_TOOLS, (tool) => {
      this.tool = /** @type {Tool} */ (tool);
      this.letGo();
    });
    this.tools.show(this.tool);
    svg.addEventListener("click", (event) => {
      const node = nodeAt(event.target);
      if (node !== null) this.press(node);
    });
    svg.addEventListener("keydown", (event) => this.#key(/** @type {KeyboardEvent} */ (event)));
    svg.addEventListener("focusin", (event) => {
      const node = nodeAt(event.target);
      if (node !== null) this.focus = node;
    });
    svg.addEventListener("pointerdown", (event) => this.#down(/** @type {PointerEvent} */ (event)));
    svg.addEventListener("pointermove", (event) => this.#over(/** @type {PointerEvent} */ (event)));
    svg.addEventListener("pointerup", (event) => this.#up(/** @type {PointerEvent} */ (event)));
    svg.addEventListener("pointercancel", () => this.#drop());
  }

  /** Put down what is in hand. */
  letGo() {
    this.chosen = null;
    this.frame.accept("tree");
    this.explorer.redraw();
  }

  /** @param {number} node */
  press(node) {
    this.focus = node;
    if (this.tool === "look" || this.tool === "goal") return this.explorer.act(this.tool, node, node);
    if (this.chosen === null) {
      this.chosen = node;
      this.frame.announce(`${node} picked up. ${this.tool === "move" ? "Choose its new parent" : "Choose the node to swap with"}; Escape puts it back.`);
      return this.explorer.redraw();
    }
    const first = this.chosen;
    this.chosen = null;
    if (first === node) return this.letGo();
    this.explorer.act(this.tool, node, first);
    this.explorer.redraw();
  }

  /** Where Tab goes. @param {Question} question */
  focusIn(question) {
    if (this.focus < 0 || this.focus >= question.n) this.focus = question.root;
    return this.focus;
  }

  /** Draw anew and keep the keyboard where it was. @param {() => void} draw */
  keepFocus(draw) {
    const root = /** @type {Document | ShadowRoot} */ (this.svg.getRootNode());
    const before = nodeAt(root.activeElement);
    const here = before !== null && this.svg.contains(root.activeElement);
    draw();
    if (here) this.#mark(this.focus)?.focus();
  }

  /** @param {number} node @returns {SVGGElement | null} */
  #mark(node) {
    return this.svg.querySelector(`[data-node="${node}"]`);
  }

  /** @param {KeyboardEvent} event */
  #key(event) {
    const question = this.explorer.question();
    const node = nodeAt(event.target);
    if (!question || node === null || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "Enter" || event.key === " ") this.press(node);
    else if (event.key === "Escape" && this.chosen !== null) {
      this.letGo();
      this.frame.announce("Put back.");
    } else {
      const next = treeNeighbour(question, node, event.key);
      if (next === null) return;
      this.focus = next;
      for (const mark of this.svg.querySelectorAll("[data-node]")) mark.setAttribute("tabindex", nodeAt(mark) === next ? "0" : "-1");
      this.#mark(next)?.focus();
    }
    event.preventDefault();
  }

  // ---- dragging: a node onto its new parent -----------------------------------------------------------

  /** @param {PointerEvent} event */
  #down(event) {
    const node = nodeAt(event.target);
    if (node === null || this.tool !== "move" || this.chosen !== null || event.button !== 0) return;
    const line = s("path", { stroke: "var(--x-accent)", "stroke-width": 2.5, "stroke-dasharray": "5 4", fill: "none", "pointer-events": "none" });
    this.#drag = { node, line, pointer: event.pointerId };
  }

  /** @param {PointerEvent} event */
  #over(event) {
    const drag = this.#drag;
    if (!drag || event.pointerId !== drag.pointer) return;
    if (!drag.line.isConnected) {
      this.svg.append(drag.line);
      this.svg.setPointerCapture(event.pointerId);
    }
    const box = this.svg.getBoundingClientRect();
    const from = this.#mark(drag.node)?.getBoundingClientRect();
    if (!from) return this.#drop();
    const scale = (this.svg.getAttribute("viewBox") ?? "0 0 1 1").split(" ").map(Number)[2] / box.width;
    const place = (/** @type {number} */ x, /** @type {number} */ y) => `${((x - box.left) * scale).toFixed(1)} ${((y - box.top) * scale).toFixed(1)}`;
    drag.line.setAttribute("d", `M${place(from.left + from.width / 2, from.top + from.height / 2)}L${place(event.clientX, event.clientY)}`);
  }

  /** @param {PointerEvent} event */
  #up(event) {
    const drag = this.#drag;
    const moved = drag?.line.isConnected;
    this.#drop();
    if (!drag || !moved) return; // a press: the click says it
    const root = /** @type {Document | ShadowRoot} */ (this.svg.getRootNode());
    const target = nodeAt(root.elementFromPoint(event.clientX, event.clientY));
    if (target === null || target === drag.node) return;
    this.focus = drag.node;
    this.explorer.act("move", target, drag.node);
  }

  #drop() {
    this.#drag?.line.remove();
    this.#drag = null;
  }
}

/** The node that an element is part of. @param {EventTarget | null} element */
function nodeAt(element) {
  const mark = element instanceof Element ? element.closest("[data-node]") : null;
  return mark ? Number(mark.getAttribute("data-node")) : null;
}

/**
 * Where an arrow key leads: up to the parent, down to a child, sideways along the level.
 * @param {Question} question @param {number} node @param {string} key
 */
function treeNeighbour(question, node, key) {
  const { x, level } = treeLayout(question);
  if (key === "ArrowUp") return question.parent[node] < 0 ? null : question.parent[node];
  if (key === "ArrowDown") return childrenOf(question, node).sort((a, b) => x[a] - x[b])[0] ?? null;
  if (key !== "ArrowLeft" && key !== "ArrowRight") return null;
  const row = question.parent.flatMap((_, k) => (level[k] === level[node] ? [k] : [])).sort((a, b) => x[a] - x[b]);
  return row[row.indexOf(node) + (key === "ArrowLeft" ? -1 : 1)] ?? null;
}
