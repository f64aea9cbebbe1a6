/**
 * What every token looks at, layer by layer: a table with a row for each token and a column for each
 * layer. The strip in a cell is its attention by relation (own edge, levels above, levels below, other
 * edges, tokens of no edge), the word the token it looks at most, so that a chain that climbs is seen as a
 * row that changes its colour.
 */

import { argmax } from "../analysis.js";
import { h, say } from "./dom.js";
import { percent } from "./draw.js";
import { TOKEN_COLOURS } from "./tree_draw.js";
import { relationMass, relationOf, RELATIONS, tokenName } from "./pathfinding_run.js";
import { placesOf, TOKEN_CLASSES, treeWord } from "./tree_question.js";

/** @typedef {import("./pathfinding_run.js").PathfindingResult} PathfindingResult */
/** @typedef {{cell: HTMLTableCellElement, sign: HTMLElement, bead: HTMLElement, word: Text, drawn: string}} Cell */
/** @typedef {{row: HTMLTableRowElement, head: HTMLButtonElement, cells: Cell[]}} Line */

const LATER = 250; // ms until a table out of sight follows
const RELATION_NAMES = ["own edge", "one above", "two above", "three or more above", "one below", "two below", "three or more below", "other edges", "no edge"];
const RELATION_SIGNS = ["own", "\u25b21", "\u25b22", "\u25b23+", "\u25bc1", "\u25bc2", "\u25bc3+", "", ""];
/** Beads in a line of text. */
export const BEAD_SIGNS = { source: "\u25cf", target: "\u25a0", comma: "\u25c6" };
/** Set once for all cells (tree_style.js): a mixture in each would be read anew at every change. @param {number} i */
const relationInk = (i) => `var(--x-relation-${i})`;

/**
 * The table of one explorer.
 * @param {(position: number, layer: number) => void} go  a cell was pressed, or a row's name (layer -1)
 */
export function treeTable(go) {
  const body = h("tbody");
  const head = h("tr");
  const caption = h("caption", { class: "mi-x-unseen" });
  const table = h("table", { class: "mi-x-table mi-x-tokens" }, caption, h("thead", {}, head), body);
  const key = h("ul", { class: "mi-x-key" }, ...RELATION_NAMES.map((name, i) =>
    h("li", {}, h("span", { class: "mi-x-patch", style: `background:${relationInk(i)}` }), RELATION_SIGNS[i] && RELATION_SIGNS[i] !== name.split(" ")[0] ? `${RELATION_SIGNS[i]} ` : "", name)));
  /** @type {Line[]} */
  let lines = [];
  let layers = 0;

  /** @param {number} count */
  const resize = (count) => {
    while (lines.length < count) {
      const at = lines.length;
      const position = () => Number(lines[at].row.dataset.position);
      const button = h("button", { type: "button", class: "mi-x-rowhead", onclick: () => go(position(), -1) });
      const cells = Array.from({ length: layers }, (_, l) => {
        const [sign, bead, word] = [h("b"), h("i"), document.createTextNode("")];
        return { cell: h("td", { onclick: () => go(position(), l) }, sign, " ", h("span", {}, bead, word)), sign, bead, word, drawn: "" };
      });
      const row = h("tr", {}, h("th", { scope: "row" }, button), ...cells.map(({ cell }) => cell));
      body.append(row);
      lines.push({ row, head: button, cells });
    }
    while (lines.length > count) lines.pop()?.row.remove();
  };

  /** @param {PathfindingResult} result @param {string} kind @param {number} position @param {number} layer */
  const drawNow = (result, kind, position, layer) => {
    const { question, tokens } = result;
    if (layers !== result.layers) {
      resize(0);
      layers = result.layers;
      table.style.setProperty("--x-layers", String(layers));
      head.replaceChildren(h("th", { scope: "col" }, "token"), ...Array.from({ length: layers }, (_, l) => h("th", { scope: "col" }, `layer ${l}`)));
    }
    const rows = tableRows(result, kind);
    resize(rows.length);
    say(caption, "What each token looks at most in each layer, and how that edge is related to its own.");
    rows.forEach((at, i) => {
      const line = lines[i];
      line.row.dataset.position = String(at);
      say(line.head, rowWord(result, at));
      line.head.setAttribute("aria-label", `look from ${tokenName(result, at)}`);
      line.head.setAttribute("aria-pressed", String(at === position));
      line.cells.forEach((one, l) => {
        const weights = result.pattern[l].subarray(at * tokens.length, at * tokens.length + at + 1);
        const top = argmax(weights);
        const mass = relationMass(result, l, at);
        const marked = at === position && l === layer;
        const drawn = `${question.edges} ${at} ${top} ${marked} ${[...mass].map((x) => x.toFixed(2))}`;
        if (drawn === one.drawn) return;
        one.drawn = drawn;
        const { bead, colour, word } = keyWord(result, top);
        say(one.sign, RELATION_SIGNS[RELATIONS.indexOf(relationOf(result, at, top))]);
        say(one.bead, bead);
        if (one.word.data !== word) one.word.data = word;
        one.bead.style.color = colour;
        one.cell.style.background = massStrip(mass);
        one.cell.className = marked ? "mi-x-here" : "";
        one.cell.title = `${tokenName(result, at)}, layer ${l}: most to the ${tokenName(result, top)} (${percent(weights[top])}); ${spokenMass(mass)}`;
      });
    });
  };

  const box = h("div", {}, h("div", { class: "mi-x-scroll", tabindex: "0", role: "group", "aria-label": "what every token looks at" }, table), key);
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  let timer;
  let inSight = true;
  let draw = () => {};
  const follow = () => {
    clearTimeout(timer);
    draw();
    draw = () => {};
  };
  const watch = new IntersectionObserver((entries) => {
    inSight = entries[entries.length - 1].isIntersecting;
    if (inSight) follow();
  }, { rootMargin: "100px" });
  watch.observe(box);
  return {
    box,
    /**
     * At once if the table is seen, else when it comes into sight or the reader's hand rests.
     * @param {PathfindingResult} result
     * @param {string} kind  which token of each edge: source, target or comma
     * @param {number} position
     * @param {number} layer
     */
    draw(result, kind, position, layer) {
      draw = () => drawNow(result, kind, position, layer);
      clearTimeout(timer);
      if (inSight) follow();
      else timer = setTimeout(follow, LATER);
    },
    stop() {
      clearTimeout(timer);
      watch.disconnect();
    },
  };
}

/** Positions shown: one token of each edge, the tail, the path (of one too long its beginning). @param {PathfindingResult} result @param {string} kind */
export function tableRows({ question, walked, right }, kind) {
  const at = placesOf(question.n);
  const edges = question.edges.map((_, i) => 3 * i + TOKEN_CLASSES.indexOf(kind)).filter((p) => p < at.bar);
  return [...edges, at.bar, at.goal, at.colon, ...walked.slice(0, right.length + 2).map((_, i) => at.root + i)];
}

/** @param {PathfindingResult} result @param {number} position */
function rowWord({ question, tokens }, position) {
  const at = placesOf(question.n);
  if (position < at.bar) {
    return question.edges[Math.floor(position / 3)].join(">");
  }
  const word = treeWord(tokens[position], question.n);
  return position === at.goal ? `goal ${word}` : position === at.root ? `root ${word}` : word;
}

/** The key that is looked at most: its edge behind the mark of its bead. @param {PathfindingResult} result @param {number} key */
function keyWord({ question, tokens }, key) {
  const at = placesOf(question.n);
  if (key >= at.bar) {
    const word = key === at.goal ? "goal" : key === at.root ? "root" : treeWord(tokens[key], question.n);
    return { bead: "", colour: "", word };
  }
  const kind = /** @type {"source" | "target" | "comma"} */ (TOKEN_CLASSES[key % 3]);
  return { bead: BEAD_SIGNS[kind], colour: TOKEN_COLOURS[kind], word: question.edges[Math.floor(key / 3)].join(">") };
}

/** A strip below the word, as wide as the cell. @param {Float32Array} mass */
function massStrip(mass) {
  let from = 0;
  const parts = [];
  for (let i = 0; i < mass.length; i++) {
    if (mass[i] < 0.005) continue;
    const to = Math.min(100, from + 100 * mass[i]);
    parts.push(`${relationInk(i)} ${from.toFixed(1)}% ${to.toFixed(1)}%`);
    from = to;
  }
  return `linear-gradient(to right, ${parts.join(", ") || "transparent"}) no-repeat bottom / 100% 0.55rem`;
}

/** @param {Float32Array} mass */
function spokenMass(mass) {
  return [...mass.keys()].filter((i) => mass[i] >= 0.05).sort((a, b) => mass[b] - mass[a]).map((i) => `${RELATION_NAMES[i]} ${percent(mass[i])}`).join(", ");
}

