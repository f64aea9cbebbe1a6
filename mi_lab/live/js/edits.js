/**
 * Edits of a run: what is put in the place of which activation, and which attention is forbidden.
 *
 * The caller's list is compiled into one *sheet* per activation and one *mask* per layer. A sheet
 * says, for each row (token of the batch) and unit (head, or the whole row), whether it is covered
 * and by which values. Two runs differ exactly where their sheets and masks do: that is what the
 * engine's reuse is built on.
 */

/** @typedef {import("./weights.js").Config} Config */

/**
 * Activations of a run, or means: [batch, pos, (head,) width], patterns [batch, head, query, key].
 * @typedef {object} Activations
 * @property {number} batch
 * @property {number} n  positions
 * @property {Map<string, Float32Array>} values  by name, as `Session.get` gives them
 */

/**
 * What is put in an activation's place: a number; an array for all chosen [position, head, width],
 * for [head, width] at every position or for [width] of every head; or another run's activations.
 * @typedef {number | ArrayLike<number> | Activations} Value
 */

/**
 * @typedef {object} NodeEdit
 * @property {string} node  L0H1, P14L2H3, L0MLP or P3L1MLP, as in `mi_lab.run.Node`
 * @property {Value} value  0 ablates; a mean or another run's activations patch
 * @property {number} [row]  only this sequence of the batch
 */

/**
 * @typedef {object} ActivationEdit
 * @property {string} activation  a name of `activationNames`
 * @property {Value} value
 * @property {number[]} [positions]  default all
 * @property {number[]} [heads]  default all
 * @property {number} [row]
 */

/**
 * @typedef {object} KnockOut
 * @property {{layer: number, queries: number[], keys: number[], heads?: number[], renormalise?: boolean}} knockOut
 *   these queries may not look at these keys; renormalise (default): the attention goes elsewhere,
 *   else it is lost
 * @property {number} [row]
 */

/** @typedef {NodeEdit | ActivationEdit | KnockOut} Edit */

/** @typedef {{layer: number, head: number | null, position: number | null}} Node */

/**
 * @typedef {object} Sheet
 * @property {number} units  per row
 * @property {number} width
 * @property {Uint8Array} covered  [row, unit]
 * @property {Float32Array} values  [row, unit, width]
 */

/**
 * @typedef {object} Plan
 * @property {Map<string, Sheet>} sheets  by activation
 * @property {Map<number, Uint8Array>} masks  by layer: [batch, head, query, key], bits SCORES and PATTERN
 */

/** Forbidden before the softmax. */
export const SCORES = 1;
/** Forbidden after it. */
export const PATTERN = 2;

const NODE = /^(?:P(\d+))?L(\d+)(?:H(\d+)|MLP)$/;

/**
 * The node with this name. Throws RangeError for another text.
 * @param {string} name
 * @returns {Node}
 */
export function parseNode(name) {
  const match = NODE.exec(name);
  if (!match) throw new RangeError(`"${name}" is not a node: write P14L2H3, L2H3 or P3L1MLP.`);
  const [position, layer, head] = match.slice(1).map((x) => (x === undefined ? null : Number(x)));
  return { layer: layer ?? 0, head, position };
}

/**
 * P14L2H3 and the like.
 * @param {Node} node
 */
export function nodeName({ layer, head, position }) {
  return `${position === null ? "" : `P${position}`}L${layer}${head === null ? "MLP" : `H${head}`}`;
}

/**
 * Units per row and width of an activation that can be read and edited. Throws RangeError for a
 * name that the model does not have.
 * @param {string} name
 * @param {Config} config
 * @param {number} n  positions
 * @returns {{units: number, width: number}}
 */
export function siteShape(name, config, n) {
  const [, layer, leaf] = /^blocks\.(\d+)\.(.+)$/.exec(name) ?? [null, "0", name];
  if (Number(layer) < config.n_layers) {
    const inBlock = leaf !== name;
    if (inBlock && /^attn\.[qkvz]$/.test(leaf)) return { units: config.n_heads, width: config.d_head };
    if (inBlock && leaf === "attn.pattern") return { units: config.n_heads, width: n };
    if (inBlock && leaf === "mlp.post" && config.d_mlp) return { units: 1, width: config.d_mlp };
    const plain = inBlock
      ? ["resid_pre", "resid_mid", "resid_post", "attn.out", ...(config.d_mlp ? ["mlp.out"] : [])]
      : ["embed", "pos_embed", "ln_final"];
    if (plain.includes(leaf)) return { units: 1, width: config.d_model };
  }
  throw new RangeError(`The model has no activation "${name}".`);
}

/**
 * Every name that can be read, in the order of computation; all but "logits" can be edited.
 * @param {Config} config
 */
export function activationNames(config) {
  const attn = ["q", "k", "v", "pattern", "z", "out"].map((x) => `attn.${x}`);
  const mlp = config.d_mlp ? ["mlp.post", "mlp.out"] : [];
  const names = ["embed", "pos_embed"];
  for (let l = 0; l < config.n_layers; l++) {
    for (const x of ["resid_pre", ...attn, "resid_mid", ...mlp, "resid_post"]) names.push(`blocks.${l}.${x}`);
  }
  return [...names, "ln_final", "logits"];
}

/**
 * Where a unit of an activation begins in its array.
 * @param {string} name
 * @param {{units: number, width: number}} shape
 * @param {number} n
 * @param {number} row  batch * n + position
 * @param {number} unit
 */
export function unitPlace(name, { units, width }, n, row, unit) {
  if (!name.endsWith("attn.pattern")) return (row * units + unit) * width;
  const b = Math.floor(row / n);
  return ((b * units + unit) * n + (row - b * n)) * n;
}

/**
 * Compile edits for runs of `batch` sequences of `n` tokens; later ones lie on top. Throws RangeError
 * with one sentence for anything that is not in the model or does not fit.
 * @param {readonly Edit[]} edits
 * @param {Config} config
 * @param {number} batch
 * @param {number} n
 * @returns {Plan}
 */
export function compile(edits, config, batch, n) {
  /** @type {Plan} */
  const plan = { sheets: new Map(), masks: new Map() };
  for (const edit of edits) {
    const sequences = edit.row === undefined ? range(batch) : chosen("sequence", [edit.row], batch);
    if ("knockOut" in edit) forbid(plan, edit.knockOut, config, batch, n, sequences);
    else cover(plan, "node" in edit ? ofNode(edit, config, n) : edit, config, batch, n, sequences);
  }
  for (const mask of plan.masks.values()) refuseBlind(mask, config, batch, n);
  return plan;
}

/**
 * @param {NodeEdit} edit
 * @param {Config} config
 * @param {number} n
 * @returns {ActivationEdit}
 */
function ofNode({ node, value }, config, n) {
  const { layer, head, position } = parseNode(node);
  chosen("layer", [layer], config.n_layers);
  if (head === null && !config.d_mlp) throw new RangeError(`${node}: the model has no MLP.`);
  const positions = position === null ? range(n) : [position];
  if (head === null) return { activation: `blocks.${layer}.mlp.post`, positions, value };
  return { activation: `blocks.${layer}.attn.z`, positions, heads: [head], value };
}

/**
 * @param {Plan} plan @param {ActivationEdit} edit @param {Config} config
 * @param {number} batch @param {number} n @param {number[]} sequences
 */
function cover(plan, edit, config, batch, n, sequences) {
  const name = edit.activation;
  const shape = siteShape(name, config, n);
  const { units, width } = shape;
  const positions = chosen("position", edit.positions ?? range(n), n);
  const heads = chosen("head", edit.heads ?? range(units), units);
  const read = reader(edit.value, name, shape, positions.length, heads.length, batch, n);
  let sheet = plan.sheets.get(name);
  if (!sheet) {
    const size = batch * n * units;
    sheet = { units, width, covered: new Uint8Array(size), values: new Float32Array(size * width) };
    plan.sheets.set(name, sheet);
  }
  for (const b of sequences) {
    positions.forEach((position, i) => {
      heads.forEach((head, j) => {
        const unit = (b * n + position) * units + head;
        sheet.covered[unit] = 1;
        read(sheet.values.subarray(unit * width, (unit + 1) * width), b, position, head, i, j);
      });
    });
  }
}

/**
 * A function that writes one unit's new value.
 * @param {Value} value @param {string} name @param {{units: number, width: number}} shape
 * @param {number} positions @param {number} heads @param {number} batch @param {number} n
 * @returns {(out: Float32Array, b: number, position: number, head: number, i: number, j: number) => void}
 */
function reader(value, name, shape, positions, heads, batch, n) {
  const { width } = shape;
  if (typeof value === "number") return (out) => out.fill(value);
  if ("values" in value && value.values instanceof Map) {
    const other = /** @type {Activations} */ (value);
    const source = other.values.get(name);
    if (!source) throw new RangeError(`The other run has no activation "${name}".`);
    const isPattern = name.endsWith("attn.pattern");
    if ((isPattern ? other.n !== n : other.n < n) || ![1, batch].includes(other.batch)) {
      throw new RangeError("The other run has another number of tokens or sequences.");
    }
    return (out, b, position, head) => {
      const row = (other.batch === 1 ? 0 : b) * other.n + position;
      const from = unitPlace(name, shape, other.n, row, head);
      out.set(source.subarray(from, from + width));
    };
  }
  const array = /** @type {ArrayLike<number>} */ (value);
  const sizes = [positions * heads * width, heads * width, width];
  if (!sizes.includes(array.length)) {
    throw new RangeError(`A value for "${name}" has ${sizes.join(", ")} numbers, not ${array.length}.`);
  }
  const [perPosition, perHead] =
    array.length === sizes[0] ? [heads * width, width]
    : array.length === sizes[1] ? [0, width]
    : [0, 0];
  return (out, _b, _position, _head, i, j) => {
    const from = i * perPosition + j * perHead;
    for (let x = 0; x < width; x++) out[x] = array[from + x];
  };
}

/**
 * @param {Plan} plan @param {KnockOut["knockOut"]} spec @param {Config} config
 * @param {number} batch @param {number} n @param {number[]} sequences
 */
function forbid(plan, spec, config, batch, n, sequences) {
  const { layer, renormalise = true } = spec;
  chosen("layer", [layer], config.n_layers);
  const heads = chosen("head", spec.heads ?? range(config.n_heads), config.n_heads);
  const queries = chosen("query", spec.queries, n);
  const keys = chosen("key", spec.keys, n);
  const mask = plan.masks.get(layer) ?? new Uint8Array(batch * config.n_heads * n * n);
  plan.masks.set(layer, mask);
  for (const b of sequences)
    for (const h of heads)
      for (const q of queries)
        for (const k of keys) mask[((b * config.n_heads + h) * n + q) * n + k] |= renormalise ? SCORES : PATTERN;
}

/**
 * A query without any key left has no softmax.
 * @param {Uint8Array} mask @param {Config} config @param {number} batch @param {number} n
 */
function refuseBlind(mask, config, batch, n) {
  for (let row = 0; row < batch * config.n_heads * n; row++) {
    const query = row % n;
    let key = 0;
    while (key <= query && mask[row * n + key] & SCORES) key++;
    if (key > query) {
      throw new RangeError(`Query ${query} would have no key left to look at; use renormalise: false.`);
    }
  }
}

/**
 * Does a row differ between two runs, at this activation?
 * @param {Sheet | undefined} a
 * @param {Sheet | undefined} b
 * @param {number} row
 */
export function sheetsDiffer(a, b, row) {
  if (!a && !b) return false;
  const { units, width } = /** @type {Sheet} */ (a ?? b);
  for (let unit = row * units; unit < (row + 1) * units; unit++) {
    const inA = a ? a.covered[unit] : 0;
    if (inA !== (b ? b.covered[unit] : 0)) return true;
    if (!inA || !a || !b) continue;
    for (let x = unit * width; x < (unit + 1) * width; x++) if (!Object.is(a.values[x], b.values[x])) return true;
  }
  return false;
}

/**
 * Does what a query may look at differ between two runs, in any head?
 * @param {Uint8Array | undefined} a
 * @param {Uint8Array | undefined} b
 * @param {number} heads
 * @param {number} n
 * @param {number} row
 */
export function masksDiffer(a, b, heads, n, row) {
  if (!a && !b) return false;
  const sequence = Math.floor(row / n);
  for (let h = 0; h < heads; h++) {
    const start = ((sequence * heads + h) * n + (row % n)) * n;
    for (let k = start; k < start + n; k++) if ((a ? a[k] : 0) !== (b ? b[k] : 0)) return true;
  }
  return false;
}

/** @param {number} n */
function range(n) {
  return Array.from({ length: n }, (_, i) => i);
}

/**
 * @param {string} what
 * @param {number[]} which
 * @param {number} n
 */
function chosen(what, which, n) {
  for (const x of which) {
    if (!Number.isInteger(x) || x < 0 || x >= n) throw new RangeError(`There is no ${what} ${x}: they go from 0 to ${n - 1}.`);
  }
  return which;
}
