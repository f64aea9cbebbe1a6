/**
 * The page's model files: one little-endian binary for one or several models of one shape.
 *
 *     0   "MILABJS1"
 *     8   SHA-256 (32 bytes) of everything behind it
 *     40  length of the header, u32
 *     44  header: JSON {config, dtype, labels, vocab, extras, provenance}, padded with spaces
 *     ..  the tensors of each label in the order of `layout(config)`, then the extras; fp16 or fp32
 *
 * Written by `mi_lab/live/export.py`. Nothing in a file is ever executed or taken for HTML.
 */

import { sha256, hex } from "./sha256.js";

/**
 * The shape of a transformer: `mi_lab.model.TransformerConfig`.
 * @typedef {object} Config
 * @property {number} n_layers
 * @property {number} n_heads
 * @property {number} d_model
 * @property {number} d_head
 * @property {number} n_ctx
 * @property {number} d_vocab
 * @property {number} d_mlp  0: attention only
 * @property {number | null} d_vocab_out
 * @property {"relu" | "gelu"} act
 * @property {"LN" | null} norm
 * @property {number} eps
 */

/** @typedef {Map<string, Float32Array>} Tensors Weights under the names of `mi_lab.model.Transformer`. */
/** @typedef {{shape: number[], data: Float32Array}} Extra Anything else that a page needs, such as means. */

/**
 * @typedef {object} Model
 * @property {Config} config
 * @property {number[]} labels  one per model in the file: a seed or a step
 * @property {string[] | null} vocab
 * @property {Record<string, unknown>} provenance
 * @property {string} sha256  of the file, as the file itself says it
 * @property {(label?: number) => Tensors} tensors  the weights of one model; the first one by default
 * @property {Map<string, Extra>} extras
 */

/** A file that is not a whole model. The message is one sentence for the reader. */
export class ModelFileError extends Error {
  /** @param {string} message */
  constructor(message) {
    super(message);
    this.name = "ModelFileError";
  }
}

const MAGIC = "MILABJS1";
const HEADER = 44;

/**
 * Number of output tokens.
 * @param {Config} config
 */
export function vocabOut(config) {
  return config.d_vocab_out ?? config.d_vocab;
}

/**
 * Name and shape of every weight, in the file's order.
 * @param {Config} config
 * @returns {[string, number[]][]}
 */
export function layout(config) {
  const { n_layers, n_heads, d_model, d_head, d_mlp, norm } = config;
  /** @type {[string, number[]][]} */
  const all = [
    ["embed.W_E", [config.d_vocab, d_model]],
    ["pos_embed.W_pos", [config.n_ctx, d_model]],
  ];
  /** @param {string} name */
  const layerNorm = (name) => {
    if (norm) all.push([`${name}.w`, [d_model]], [`${name}.b`, [d_model]]);
  };
  for (let l = 0; l < n_layers; l++) {
    layerNorm(`blocks.${l}.ln1`);
    for (const x of "QKV") {
      all.push([`blocks.${l}.attn.W_${x}`, [n_heads, d_model, d_head]]);
      all.push([`blocks.${l}.attn.b_${x}`, [n_heads, d_head]]);
    }
    all.push([`blocks.${l}.attn.W_O`, [n_heads, d_head, d_model]], [`blocks.${l}.attn.b_O`, [d_model]]);
    if (!d_mlp) continue;
    layerNorm(`blocks.${l}.ln2`);
    all.push([`blocks.${l}.mlp.W_in`, [d_model, d_mlp]], [`blocks.${l}.mlp.b_in`, [d_mlp]]);
    all.push([`blocks.${l}.mlp.W_out`, [d_mlp, d_model]], [`blocks.${l}.mlp.b_out`, [d_model]]);
  }
  layerNorm("ln_final");
  all.push(["unembed.W_U", [d_model, vocabOut(config)]], ["unembed.b_U", [vocabOut(config)]]);
  return all;
}

/** @param {number[]} shape */
function sizeOf(shape) {
  return shape.reduce((n, x) => n * x, 1);
}

/**
 * Read a model file. Throws ModelFileError, which says what is wrong, for anything but a whole one.
 * @param {ArrayBuffer | Uint8Array} file
 * @param {{sha256?: string | undefined}} [expect]  the hash that the page was built with
 * @returns {Promise<Model>}
 */
export async function readModel(file, expect = {}) {
  const bytes = new Uint8Array(file); // a Uint8Array is copied, so that its bytes are aligned
  if (bytes.length < HEADER || ascii(bytes.subarray(0, 8)) !== MAGIC) {
    throw new ModelFileError("This is not a model file of the lab.");
  }
  const named = hex(bytes.subarray(8, 40));
  const found = await sha256(bytes.subarray(40));
  if (found !== named) {
    throw new ModelFileError("The model file is damaged or cut short: its SHA-256 does not fit its contents.");
  }
  if (expect.sha256 !== undefined && expect.sha256 !== named) {
    throw new ModelFileError("The model file is whole, but not the one that this page was made for.");
  }
  const length = new DataView(bytes.buffer).getUint32(40, true);
  let header;
  try {
    header = JSON.parse(new TextDecoder().decode(bytes.subarray(HEADER, HEADER + length)));
  } catch {
    throw new ModelFileError("The model file's header can't be read.");
  }
  const config = checkConfig(header.config);
  const width = header.dtype === "float16" ? 2 : header.dtype === "float32" ? 4 : 0;
  const labels = header.labels;
  if (!width || !Array.isArray(labels) || !labels.length || !Array.isArray(header.extras)) {
    throw new ModelFileError("The model file's header lacks its type, its labels or its extras.");
  }
  const shapes = layout(config);
  const perModel = shapes.reduce((n, [, shape]) => n + sizeOf(shape), 0);
  const start = HEADER + length;
  /** @type {[string, number[]][]} */
  const extras = header.extras;
  const inExtras = extras.reduce((n, [, shape]) => n + sizeOf(shape), 0);
  const wanted = start + width * (perModel * labels.length + inExtras);
  if (bytes.length !== wanted) {
    throw new ModelFileError(`The model file has ${bytes.length} bytes, but its header speaks of ${wanted}.`);
  }
  /** @param {number} place @param {number} n */
  const floats = (place, n) => {
    const offset = start + width * place;
    if (width === 2) return halvesToFloats(new Uint16Array(bytes.buffer, offset, n));
    return new Float32Array(bytes.buffer.slice(offset, offset + 4 * n));
  };
  let place = perModel * labels.length;
  /** @type {Map<string, Extra>} */
  const extraMap = new Map();
  for (const [name, shape] of extras) {
    extraMap.set(name, { shape, data: floats(place, sizeOf(shape)) });
    place += sizeOf(shape);
  }
  return {
    config,
    labels,
    vocab: Array.isArray(header.vocab) ? header.vocab.map(String) : null,
    provenance: header.provenance ?? {},
    sha256: named,
    extras: extraMap,
    tensors(label = labels[0]) {
      const index = labels.indexOf(label);
      if (index < 0) throw new RangeError(`This file holds the models ${labels.join(", ")}, not ${label}.`);
      let at = perModel * index;
      /** @type {Tensors} */
      const out = new Map();
      for (const [name, shape] of shapes) {
        out.set(name, floats(at, sizeOf(shape)));
        at += sizeOf(shape);
      }
      return out;
    },
  };
}

/** @param {Uint8Array} bytes */
function ascii(bytes) {
  return String.fromCharCode(...bytes);
}

/**
 * The config of a header, if it is one.
 * @param {any} given
 * @returns {Config}
 */
export function checkConfig(given) {
  const config = { d_mlp: 0, d_vocab_out: null, act: "relu", norm: "LN", eps: 1e-5, ...given };
  const whole = (/** @type {unknown} */ x, least = 1) => Number.isInteger(x) && Number(x) >= least;
  const sizes = ["n_layers", "n_heads", "d_model", "d_head", "n_ctx", "d_vocab"];
  if (
    !sizes.every((name) => whole(config[name])) ||
    !whole(config.d_mlp, 0) ||
    !(config.d_vocab_out === null || whole(config.d_vocab_out)) ||
    !["relu", "gelu"].includes(config.act) ||
    !["LN", null].includes(config.norm) ||
    !(config.eps > 0)
  ) {
    throw new ModelFileError("The model file describes a model that this page can't run.");
  }
  return config;
}

/** @type {Float32Array | undefined} */
let halves;

/**
 * IEEE half precision to float, exactly, through a table of all 65536.
 * @param {Uint16Array} bits
 */
export function halvesToFloats(bits) {
  halves ??= Float32Array.from({ length: 65536 }, (_, h) => {
    const exponent = (h >> 10) & 31;
    const fraction = h & 1023;
    const size =
      exponent === 0 ? fraction * 2 ** -24
      : exponent < 31 ? (1 + fraction / 1024) * 2 ** (exponent - 15)
      : fraction ? NaN : Infinity;
    return h & 0x8000 ? -size : size;
  });
  const out = new Float32Array(bits.length);
  for (let i = 0; i < bits.length; i++) out[i] = halves[bits[i]];
  return out;
}
