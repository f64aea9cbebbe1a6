/** The in-page engine of mi_lab: one import for pages and widgets. */

export { allNodes, answer, argmax, attribution, meanActivations, measureOf, softmax, sweepNodes } from "./analysis.js";
export { Client, connect } from "./client.js";
export { activationNames, nodeName, parseNode } from "./edits.js";
export { createEngine, Engine } from "./engine.js";
export { loadModel } from "./load.js";
export { Donors, meansOf } from "./portable.js";
export { Session } from "./session.js";
export { checkConfig, layout, ModelFileError, readModel, vocabOut } from "./weights.js";
