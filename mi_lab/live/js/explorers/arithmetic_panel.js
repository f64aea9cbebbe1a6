/** Below the map of nodes: the chosen node, what is replaced, and the scan with its failing questions. */

import { classWords } from "./algorithm_run.js";
import { REPLACEMENTS, replacedBy } from "./arithmetic_run.js";
import { replacement, spaced } from "./arithmetic_words.js";
import { segments } from "./controls.js";
import { h, say } from "./dom.js";
import { percent } from "./draw.js";
import { typeset } from "./arithmetic_task.js";

/** @typedef {import("./link.js").State} State */
/** @typedef {import("./frame.js").Frame} Frame */
/** @typedef {import("./arithmetic_scan.js").NodeCounts} NodeCounts */

const EXAMPLES_SHOWN = 3; // failing questions of a class

/** @param {string} text @param {() => void} onclick @param {string} [label] */
function panelButton(text, onclick, label) {
  return h("button", { type: "button", class: "mi-x-button", onclick, "aria-label": label }, text);
}

/**
 * The chosen node and all that are replaced.
 * @param {Frame} frame
 * @param {(node: string) => void} toggle
 * @param {(by: number) => void} move  along the positions
 */
export function nodePanel(frame, toggle, move) {
  const name = h("span", { class: "mi-x-node" });
  const act = panelButton("", () => toggle(frame.state.node));
  const back = panelButton("\u2039", () => move(-1), "previous position");
  const on = panelButton("\u203a", () => move(1), "next position");
  for (const one of [back, on]) one.classList.add("mi-x-arrow");
  const by = segments(frame, "mode", "replace by", REPLACEMENTS.map(({ value, short, title }) => ({ value, text: short, title })), (mode) => {
    const { node, edits } = frame.state;
    const own = replacedBy(frame.state, node);
    frame.set({ mode, edits: own ? edits.map((/** @type {string} */ edit) => (edit.startsWith(`${node}:`) ? `${node}:${mode}` : edit)) : edits });
  });
  const modeError = frame.field("mode", by.box, { show: (mode) => by.show(mode) });
  const chips = h("div", { class: "mi-x-chips", role: "group", "aria-label": "replaced nodes" });
  const nodeError = frame.field("node", name, {
    show: (node, state) => {
      say(name, spaced(node));
      const own = replacedBy(state, node);
      say(act, own ? "Put back" : "Replace");
      act.setAttribute("aria-label", own ? `Put back ${spaced(node)}` : `Replace ${spaced(node)} by ${replacement(state.mode).text}`);
    },
  });
  let shown = "";
  const editsError = frame.field("edits", chips, {
    show: (edits) => {
      chips.hidden = edits.length === 0;
      if (shown === edits.join()) return;
      shown = edits.join();
      const all = edits.map((/** @type {string} */ edit) => {
        const [node = "", mode = ""] = edit.split(":");
        return panelButton(`${spaced(node)}: ${replacement(mode).short} \u2715`, () => {
          toggle(node);
          act.focus();
        });
      });
      chips.replaceChildren(h("span", { class: "mi-x-label" }, "Replaced:"), ...all, ...(all.length > 1 ? [panelButton("Put all back", () => {
        frame.set({ edits: [] });
        act.focus();
      })] : []));
    },
  });
  const box = h("div", {}, h("div", { class: "mi-x-choice" }, h("span", { class: "mi-x-line" }, back, name, on), act, by.box), nodeError, modeError, editsError, chips);
  return { box };
}

/**
 * The scan: how many questions, progress, and the chosen node's failures by class.
 * @param {Frame} frame
 * @param {{start: (each: number) => void, stop: () => void, forget: () => void}} acts
 */
export function scanPanel(frame, { start, stop, forget }) {
  const id = `${frame.prefix}-each`;
  const each = h("select", { id }, ...[4, 12, 40].map((n) => h("option", { value: n }, `${n} of each class`)));
  each.value = "12";
  const go = panelButton("Scan all nodes", () => start(Number(each.value)));
  const end = panelButton("Stop", () => {
    stop();
    go.focus();
  });
  const older = panelButton("Back to the first count", () => {
    forget();
    go.focus();
  });
  const bar = h("progress", { max: "1", "aria-label": "nodes scanned" });
  const text = h("span", { role: "status" });
  const line = h("p", { class: "mi-x-busy", hidden: true }, bar, text);
  const error = frame.field("scan", go, { show: () => {} });
  const body = h("tbody");
  const caption = h("caption");
  const heads = ["class", "turn wrong", "for example"].map((word) => h("th", { scope: "col" }, word));
  const last = /** @type {HTMLElement} */ (heads[2]);
  const table = h("table", { class: "mi-x-table mi-x-classes" }, caption, h("thead", {}, h("tr", {}, ...heads)), body);
  const box = h("div", {}, h("div", { class: "mi-x-choice mi-x-scan" }, h("label", { for: id, class: "mi-x-label" }, "New questions,"), each, go, end, older), error, line, table);
  let shown = "";
  return {
    box,
    /** null: no scan is under way. @param {number | null} done @param {number} [total] */
    progress(done, total = 1) {
      line.hidden = done === null;
      go.disabled = done !== null;
      end.hidden = done === null;
      if (done === null) return;
      bar.value = done / total;
      say(text, `${done} of ${total} questions`);
    },
    /** @param {State} state @param {NodeCounts | null} counts */
    show(state, counts) {
      older.hidden = !counts?.here;
      table.hidden = !counts || state.fact === "question";
      const key = counts ? `${state.node} ${counts.questions} ${counts.here} ${state.model} ${state.seed}` : "";
      if (!counts || key === shown) return;
      shown = key;
      const node = counts.index(state.node);
      const examples = counts.examples.get(node) ?? [];
      say(caption, `Questions that turn wrong when ${spaced(state.node)} is replaced by ${replacement(counts.how).text}, by class.${counts.here ? "" : " Scan new ones to see which."}`);
      last.hidden = !counts.here;
      body.replaceChildren(...counts.names.map((name, i) => {
        const share = counts.within(node, name);
        const failed = counts.count(node, 1 + counts.tokens + i);
        const some = examples.filter((one) => one.name === name).slice(0, EXAMPLES_SHOWN)
          .map(({ text: question }) => h("button", { type: "button", class: "mi-x-link", onclick: () => frame.set({ question }) }, typeset(question)));
        return h("tr", {}, h("th", { scope: "row", title: classWords(name) }, name),
          h("td", {}, h("span", { class: "mi-x-share" }, share ? h("span", { class: "mi-x-bar", style: `width:${(100 * share).toFixed(1)}%` }) : null), ` ${failed || "none"} of ${counts.asked[name]}${share ? `, ${percent(share)}` : ""}`),
          h("td", { hidden: !counts.here }, ...some.flatMap((one, j) => (j ? [" ", one] : [one]))));
      }));
    },
  };
}
