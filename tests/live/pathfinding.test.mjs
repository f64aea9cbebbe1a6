/** The pathfinding explorer without a page: questions, changes of trees, the task's law, donors, what is read off a run. */

import assert from "node:assert/strict";
import { test } from "node:test";
import { FieldError } from "../../mi_lab/live/js/explorers/frame.js";
import { gathered, relationMass, relationOf, RELATIONS, spotOf, tokenName } from "../../mi_lab/live/js/explorers/pathfinding_run.js";
import { checkPathfinding, wheresOf } from "../../mi_lab/live/js/explorers/pathfinding_state.js";
import { closedKeys, layersNamed, renamedDonor, replacedPositions, sharedNames, treeEdits } from "../../mi_lab/live/js/explorers/tree_donor.js";
import { treeLayout } from "../../mi_lab/live/js/explorers/tree_draw.js";
import {
  belowNode, childrenOf, classAt, freshQuestion, inOrder, leavesOf, movedUnder, orderOf, placesOf, questionTokens, readQuestion, rightPath,
  swappedNames, treeWord, upFrom, withGoal, writeQuestion,
} from "../../mi_lab/live/js/explorers/tree_question.js";
import { random } from "./tools.mjs";

const SMALL = "5>3,0>5,1>2,4>1,4>0|3"; // the dossier's example: path 4 0 5 3
const read = (/** @type {string} */ text, n = 6) => readQuestion(text, n, "text");

test("a question is read, written and put into tokens", () => {
  const question = read(` ${SMALL}:4>0>5>3 `);
  assert.equal(writeQuestion(question), SMALL);
  assert.deepEqual(rightPath(question), [4, 0, 5, 3]);
  assert.deepEqual(question.parent, [4, 4, 1, 5, -1, 0]);
  const words = questionTokens(question).map((token) => treeWord(token, 6)).join(" ");
  assert.equal(words, "5 >3 , 0 >5 , 1 >2 , 4 >1 , 4 >0 | 3 : 4 >0 >5 >3 , , ,");
  assert.deepEqual([0, 1, 2, 13, 14, 15, 16, 17, 18].map((p) => classAt(6, p)), ["source", "target", "comma", "target", "bar", "goal", "colon", "path", "path"]);
  assert.deepEqual(placesOf(16), { edges: 15, bar: 44, goal: 45, colon: 46, root: 47, context: 64, target: 3, bare: 19 });
});

for (const [text, message] of /** @type {[string, RegExp][]} */ ([
  ["", /edges, a bar and the goal/],
  ["5>3", /edges, a bar and the goal/],
  ["1>2|3|4", /edges, a bar and the goal/],
  ["5>3,0>5,1>2,4>1|3", /has 5 edges, not 4/],
  ["5>3,0>5,1>2,4>1,4>0,4>6|3", /“6” is not a node/],
  ["5>3,0>5,1>2,4>1,4>|3", /“4>” is not an edge/],
  ["5>3,0>5,1>2,4>1,|3", /Between two commas/],
  ["5>3,0>5,1>2,4>1,0>0|3", /leads back to itself/],
  ["5>3,0>5,1>2,4>1,5>1|3", /1 has two parents, 4 and 5/],
  ["5>3,5>0,5>1,4>2,4>5|3", /5 has three children/],
  ["5>3,3>5,1>2,4>1,4>0|2", /below itself/],
  ["5>3,0>5,1>2,4>1,4>0|5", /must be a leaf; 5 has children/],
  ["5>3,0>5,1>2,4>1,4>0|9", /“9” is not a node/],
  ["5>3,0>5,1>2,4>1,4>0|3:0>5", /root of this tree is 4, not “0”/],
  ["<img src=x>|3", /“<imgsrc=x>” is not an edge/],
])) {
  test(`refused: ${text || "nothing"}`, () => {
    assert.throws(() => read(text), (error) => error instanceof FieldError && error.field === "text" && message.test(error.message));
  });
}

test("orders of the edges are those of the task", () => {
  const question = readQuestion("5>14,5>3,7>5,7>4,9>7,1>9,1>2,0>11,0>13,12>15,12>1,6>0,6>10,8>12,8>6|3", 16, "text"); // dossier 2.2
  const forward = "8>6,8>12,6>0,6>10,12>1,12>15,0>11,0>13,1>2,1>9,9>7,7>4,7>5,5>3,5>14";
  assert.equal(writeQuestion(inOrder(question, "forward")), `${forward}|3`);
  assert.equal(writeQuestion(inOrder(question, "backward")), `${forward.split(",").reverse()}|3`);
  assert.equal(orderOf(inOrder(question, "backward")), "backward");
  assert.equal(orderOf(inOrder(question, "forward")), "forward");
  const mixed = inOrder(question, "random", random(1));
  assert.equal(orderOf(mixed), "random");
  assert.deepEqual([...mixed.edges].sort(), [...question.edges].sort());
  assert.deepEqual(mixed.parent, question.parent);
});

test("changes of the tree: goal, parent, labels", () => {
  const question = read(SMALL);
  assert.deepEqual(leavesOf(question), [2, 3]);
  assert.deepEqual(rightPath(withGoal(question, 2)), [4, 1, 2]);
  assert.throws(() => withGoal(question, 5), /5 has children/);
  const moved = movedUnder(question, 5, 1); // with 3 below it
  assert.deepEqual(rightPath(moved), [4, 1, 5, 3]);
  assert.equal(writeQuestion(moved), "5>3,1>5,1>2,4>1,4>0|3"); // in its place: the order was the reader's own
  assert.deepEqual(read(writeQuestion(moved)).parent, moved.parent);
  const sorted = inOrder(question, "backward");
  assert.equal(orderOf(movedUnder(sorted, 5, 1)), "backward");
  for (const [node, above, why] of /** @type {[number, number, RegExp][]} */ ([
    [4, 0, /4 is the root/], [0, 3, /3 is below 0/], [0, 0, /the node itself/], [1, 3, /3 is the goal/], [3, 4, /4 has two children already/],
  ])) assert.throws(() => movedUnder(question, node, above), (error) => error instanceof FieldError && error.field === "tree" && why.test(error.message));
  assert.equal(writeQuestion(movedUnder(question, 1, 4)), SMALL);
  const swapped = swappedNames(question, 3, 4);
  assert.equal(writeQuestion(swapped), "5>4,0>5,1>2,3>1,3>0|4");
  assert.deepEqual(rightPath(swapped), [3, 0, 5, 4]);
});

test("fresh trees follow the task's law", () => {
  const next = random(5);
  const second = [];
  for (let i = 0; i < 3000; i++) {
    const length = 1 + (i % 15);
    const question = freshQuestion(16, length, i % 2 ? "random" : "backward", next);
    const again = readQuestion(writeQuestion(question), 16, "text"); // a tree, the goal a leaf
    assert.deepEqual(again, question);
    assert.equal(rightPath(question).length, length + 1);
    if (i % 2 === 0) assert.equal(orderOf(question), "backward");
    second.push(childrenOf(question, question.root).length);
  }
  const withChoice = second.filter((_, i) => i % 15 !== 14);
  assert.ok(withChoice.every((count) => count === 2)); // a second chain hangs off the root
  // statistics of the authors' generator (dossier 2.1, 8): 3.9 leaves on average, each label as often
  const leaves = Array.from({ length: 1500 }, () => leavesOf(freshQuestion(16, 1 + Math.floor(15 * next()), "random", next)));
  const mean = leaves.reduce((sum, some) => sum + some.length, 0) / leaves.length;
  assert.ok(Math.abs(mean - 3.91) < 0.2, `${mean} leaves`);
  const zero = leaves.filter((some) => some.includes(0)).length / leaves.length;
  assert.ok(Math.abs(zero - mean / 16) < 0.04, `0 is a leaf in ${zero}`);
});

test("nodes of a drawn tree keep apart, parents stand between their children", () => {
  const next = random(11);
  for (let i = 0; i < 200; i++) {
    const question = freshQuestion(16, 1 + (i % 15), "backward", next);
    const { x, level } = treeLayout(question);
    question.parent.forEach((above, k) => {
      if (above >= 0) assert.equal(level[k], level[above] + 1);
      const below = childrenOf(question, k);
      if (below.length) assert.ok(Math.abs(x[k] - below.reduce((sum, c) => sum + x[c], 0) / below.length) < 1e-9);
      question.parent.forEach((_, other) => {
        if (other !== k && level[other] === level[k]) assert.ok(Math.abs(x[k] - x[other]) > 1 - 1e-9, `${k} and ${other}`);
      });
    });
    assert.equal(Math.min(...x), 0);
  }
});

test("donors keep the names that the rule says, and stay trees", () => {
  const next = random(3);
  for (let i = 0; i < 200; i++) {
    const question = freshQuestion(10, 1 + (i % 9), "random", next);
    const [, node] = question.edges[i % 9];
    assert.deepEqual(sharedNames(question, node, "none"), new Set());
    assert.deepEqual(sharedNames(question, node, "edge"), new Set([node, question.parent[node]]));
    assert.deepEqual(sharedNames(question, node, "up"), new Set(upFrom(question, node)));
    assert.deepEqual(sharedNames(question, node, "down"), new Set([question.parent[node], ...belowNode(question, node)]));
    const kept = sharedNames(question, node, ["none", "edge", "up", "down"][i % 4]);
    const donor = renamedDonor(question, kept, i, 2);
    assert.deepEqual(readQuestion(writeQuestion(donor), 10, "text"), donor);
    question.edges.forEach(([a, b], e) => {
      for (const [mine, theirs] of [[a, donor.edges[e][0]], [b, donor.edges[e][1]]]) {
        assert.equal(kept.has(mine), kept.has(theirs));
        if (kept.has(mine)) assert.equal(mine, theirs);
      }
    });
    assert.deepEqual(renamedDonor(question, kept, i, 2), donor); // the same at every draw
  }
  assert.deepEqual(replacedPositions(read(SMALL), "edges", "comma").map((one) => one.positions), [[2], [5], [8], [11]]); // none behind the last edge
  assert.deepEqual(replacedPositions(read(SMALL), "0", "all"), [{ edge: 4, positions: [12, 13] }]);
  assert.deepEqual(replacedPositions(read(SMALL), "root", "all"), [{ edge: null, positions: [17] }]);
  assert.deepEqual(layersNamed("1+", 4), [1, 2, 3]);
  assert.deepEqual(layersNamed("2", 4), [2]);
  assert.deepEqual(wheresOf(4), ["all", "1+", "2+", "0", "1", "2", "3"]);
  assert.deepEqual(closedKeys(6, 4, ["source", "target"], "own"), [3]);
});

// ---- what is read off a run -------------------------------------------------------------------------------

/** A result whose attention is given: [layer, query, key]. */
function resultOf(/** @type {string} */ text, /** @type {[number, number, number, number][]} */ entries, layers = 2) {
  const question = read(text);
  const tokens = questionTokens(question);
  const n = tokens.length;
  const pattern = Array.from({ length: layers }, () => new Float32Array(n * n));
  for (const [layer, query, key, weight] of entries) pattern[layer][query * n + key] = weight;
  return /** @type {any} */ ({ question, tokens, pattern, layers, walked: rightPath(question) });
}

test("attention is summed by how edges are related", () => {
  const root = placesOf(6).root;
  // edges: 0 5>3, 1 0>5, 2 1>2, 3 4>1, 4 4>0
  const result = resultOf(SMALL, [[0, 13, 4, 0.5], [0, 13, 1, 0.2], [0, 13, 13, 0.1], [0, 13, 10, 0.2], [1, 4, 13, 0], [1, root, 13, 0.25], [1, root, 15, 0.75]]);
  const mass = Object.fromEntries(RELATIONS.map((name, i) => [name, relationMass(result, 0, 13)[i]]));
  assert.deepEqual(Object.entries(mass).filter(([, x]) => x).map(([name, x]) => `${name} ${x.toFixed(1)}`), ["own 0.1", "down1 0.5", "down2 0.2", "other 0.2"]);
  assert.equal(relationOf(result, 1, 4), "up1");
  assert.equal(relationOf(result, 1, 13), "up2");
  assert.equal(relationOf(result, root, 13), "down1");
  assert.equal(relationOf(result, root, 1), "down3");
  assert.equal(relationOf(result, root, 15), "off");
  assert.deepEqual(spotOf(result, 13), { kind: "target", node: 0 });
  assert.deepEqual(spotOf(result, 15), { kind: "node", node: 3 });
  assert.deepEqual(spotOf(result, root + 1), { kind: "node", node: 0 });
  assert.equal(spotOf(result, 14), null);
  assert.equal(tokenName(result, 13), "target of 4>0");
  assert.equal(tokenName(result, root), "root 4");
});

test("what a token may have heard of doubles along a chain of pointers", () => {
  // layer 0: each target reads the edge into its source (0: 5>3, 1: 0>5, 4: 4>0), layer 1: the same again
  const climbs = /** @type {[number, number, number, number][]} */ ([0, 1].flatMap((layer) => [[layer, 4, 1, 0.9], [layer, 13, 4, 0.9]]));
  const result = resultOf(SMALL, climbs);
  assert.deepEqual([...gathered(result, 0, 13)], [[0, -1], [5, 0]]);
  assert.deepEqual([...gathered(result, 1, 13)], [[0, -1], [5, 0], [3, 1]]);
  const weak = resultOf(SMALL, [[0, 13, 4, 0.19]]);
  assert.deepEqual([...gathered(weak, 1, 13)], [[0, -1]]);
});

// ---- state --------------------------------------------------------------------------------------------------

const SPEC = /** @type {any} */ ({
  models: [{ name: "small", seed: 0, text: "small", nodes: 6, layers: 3 }], examples: {}, weights: {},
});
const STATE = {
  text: SMALL, model: "small", seed: 0, position: 17, layer: 1, show: "arrows", rows: "comma", closed: [], who: "path", where: "1+", closing: "moved",
  nodes: [], donor: "none", other: SMALL, site: "edges", part: "all", after: 1, rule: "down", draw: 0,
};

test("states are made whole or refused beside their field", () => {
  const check = (/** @type {any} */ changes) => checkPathfinding({ ...STATE, ...changes }, SPEC);
  assert.deepEqual(check({}), STATE);
  assert.deepEqual(check({ nodes: ["L2MLP-mean", "L0H0-mean", "L0H0-zero"], closed: ["goal", "source"] }).nodes, ["L0H0-zero", "L2MLP-mean"]);
  assert.equal(check({ layer: 7, position: 99, after: 8 }).layer, 2);
  assert.equal(check({ position: 99 }).position, 20);
  assert.equal(check({ site: "root" }).rule, "up");
  assert.equal(check({ site: "4" }).site, "edges");
  assert.equal(check({ where: "9" }).where, "all");
  for (const [changes, field] of /** @type {[any, string][]} */ ([
    [{ model: "x" }, "model"], [{ text: "1>1|1" }, "text"], [{ other: "" }, "other"], [{ layer: -1 }, "layer"], [{ position: 1.5 }, "position"],
    [{ show: "all" }, "show"], [{ closed: ["everything"] }, "closed"], [{ nodes: ["L0H0"] }, "nodes"], [{ site: "<b>" }, "site"], [{ draw: NaN }, "draw"],
  ])) assert.throws(() => check(changes), (error) => error instanceof FieldError && error.field === field);
});

test("edits say what a state changes", () => {
  const question = read(SMALL);
  const edits = (/** @type {any} */ changes) => treeEdits({ ...STATE, ...changes }, question, question, 3);
  assert.deepEqual(edits({}), []);
  assert.deepEqual(edits({ nodes: ["L0H0-zero", "L2MLP-mean"] }), [{ node: "L0H0", value: 0 }, { node: "L2MLP", value: "mean" }]);
  const closed = edits({ closed: ["target"], closing: "lost" });
  assert.deepEqual(closed.map((one) => "knockOut" in one && one.knockOut.layer), [1, 2]);
  assert.deepEqual(closed[0], { knockOut: { layer: 1, queries: [17, 18, 19, 20, 21, 22, 23], keys: [1, 4, 7, 10, 13], renormalise: false } });
  const donated = edits({ donor: "renamed", rule: "edge" });
  assert.equal(donated.length, 5); // an edge, a donor
  assert.equal(new Set(donated.map((one) => JSON.stringify("value" in one && one.value))).size, 5);
  assert.deepEqual(edits({ donor: "other", part: "target" }), [{ activation: "blocks.1.resid_post", positions: [1, 4, 7, 10, 13], value: { run: questionTokens(question) } }]);
});
