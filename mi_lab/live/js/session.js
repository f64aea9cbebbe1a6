/** A session: one run of an engine's model, with edits, every activation kept, and reuse. */

import { activationNames, compile, masksDiffer, sheetsDiffer, siteShape, unitPlace } from "./edits.js";
import { geluInPlace, reluInPlace } from "./gelu.js";
import { placeBuffers } from "./memory.js";
import { attentionRow, layerNorm, lose, sum } from "./rows.js";
import { vocabOut } from "./weights.js";

/** @typedef {import("./engine.js").Engine} Engine */
/** @typedef {import("./edits.js").Edit} Edit */
/** @typedef {import("./edits.js").Plan} Plan */
/** @typedef {import("./edits.js").Activations} Activations */
/** @typedef {{shape: number[], data: Float32Array}} Tensor */

/** @type {Plan} */
const NOTHING = { sheets: new Map(), masks: new Map() };

/** One run: tokens, edits, activations. */
export class Session {
  #plan = NOTHING;
  #version = -1;
  #dirty;
  #stale; // rows that a run up to an earlier row has left as they were
  #end = 0;

  /** @param {Engine} engine */
  constructor(engine) {
    const { config, batch, arena } = engine;
    this.engine = engine;
    this.places = placeBuffers(config, batch, (n) => arena.take(n));
    this.tokens = new Int32Array(batch * config.n_ctx);
    this.batch = 0;
    this.n = 0;
    /** Rows computed by the last `forward`, summed over layers: what reuse has saved is the rest. */
    this.computed = 0;
    this.#dirty = new Uint8Array(batch * config.n_ctx);
    this.#stale = new Uint8Array(batch * config.n_ctx);
  }

  /** Logits [batch, pos, vocab]; a view that the next `forward` overwrites. */
  get logits() {
    return this.#view(this.places.logits, this.rows * vocabOut(this.engine.config));
  }

  /** Tokens of all sequences together. */
  get rows() {
    return this.batch * this.n;
  }

  /**
   * Run the model on one sequence of tokens or on several of one length, with edits.
   *
   * Rows (tokens) whose input, edits and past are those of the last run are not computed again:
   * a new token changes what is from there on, an edit in layer l what is behind it and above. With
   * `upTo`, rows from there on are left for a later run; what is read of them is of an earlier one.
   * Throws RangeError, with one sentence, for tokens or edits that don't fit; the last run then stays.
   * @param {ArrayLike<number> | ArrayLike<number>[]} tokens
   * @param {readonly Edit[]} [edits]
   * @param {number} [upTo]  only rows below it, for one sequence
   */
  forward(tokens, edits = [], upTo = Infinity) {
    const { config, version } = this.engine;
    const { flat, batch, n } = this.#read(tokens);
    const plan = compile(edits, config, batch, n);
    const reuse = this.#version === version && batch === this.batch && n === this.n;
    const old = reuse ? this.#plan : NOTHING;
    this.#version = -1; // until the run is whole
    this.batch = batch;
    this.n = n;
    this.computed = 0;
    const dirty = this.#dirty.fill(reuse ? 0 : 1);
    for (let row = 0; row < flat.length; row++) if (flat[row] !== this.tokens[row] || this.#stale[row]) dirty[row] = 1;
    this.#end = batch === 1 ? Math.min(upTo, n) : this.rows;
    this.tokens.set(flat);
    this.#mark(old, plan, ["embed", "pos_embed"]);
    this.#embed(plan);
    for (let l = 0; l < config.n_layers; l++) {
      const name = `blocks.${l}.`;
      this.#mark(old, plan, [`${name}resid_pre`, `${name}attn.q`, `${name}attn.k`, `${name}attn.v`]);
      this.#project(l, plan);
      this.#spread();
      this.#mark(old, plan, [`${name}attn.pattern`, `${name}attn.z`, `${name}attn.out`, `${name}resid_mid`]);
      this.#markMasks(old.masks.get(l), plan.masks.get(l));
      this.#attend(l, plan);
      this.#mark(old, plan, [`${name}mlp.post`, `${name}mlp.out`, `${name}resid_post`]);
      this.#mlp(l, plan);
    }
    this.#mark(old, plan, ["ln_final"]);
    this.#unembed(plan);
    this.#plan = plan;
    this.#version = version;
    for (let row = 0; row < this.rows; row++) this.#stale[row] = row < this.#end ? 0 : dirty[row];
    return this;
  }

  /** Forget the last run: the next one is computed whole. */
  forget() {
    this.#version = -1;
  }

  /**
   * An activation by its name in `activationNames`. q, k, v are copies, everything else is a view
   * that the next `forward` overwrites.
   * @param {string} name
   * @returns {Tensor}
   */
  get(name) {
    const { config } = this.engine;
    const { batch, n, rows } = this;
    if (name === "logits") return { shape: [batch, n, vocabOut(config)], data: this.logits };
    const { units, width } = siteShape(name, config, n);
    const { place, stride } = this.#site(name);
    if (name.endsWith("attn.pattern")) {
      return { shape: [batch, units, n, n], data: this.#view(place, rows * units * n) };
    }
    const inner = units * width;
    const perHead = /attn\.[qkvz]$/.test(name);
    const shape = perHead ? [batch, n, units, width] : [batch, n, width];
    if (stride === inner) return { shape, data: this.#view(place, rows * inner) };
    const data = new Float32Array(rows * inner);
    for (let r = 0; r < rows; r++) data.set(this.#view(place + r * stride, inner), r * inner);
    return { shape, data };
  }

  /**
   * Copies of activations, by default of all that nodes compute: for patching into another run.
   * @param {string[]} [names]
   * @returns {Activations}
   */
  snapshot(names = activationNames(this.engine.config).filter((x) => /attn\.z$|mlp\.post$/.test(x))) {
    const values = new Map(names.map((name) => [name, this.get(name).data.slice()]));
    return { batch: this.batch, n: this.n, values };
  }

  /**
   * Become a copy of another session's run, so that the next `forward` reuses what it shares with it.
   * @param {Session} other
   */
  copyFrom(other) {
    if (other.engine !== this.engine) throw new RangeError("the sessions belong to different engines");
    const start = this.places.embed;
    const from = other.places.embed;
    this.engine.arena.floats.copyWithin(start, from, from + other.places.normed - from);
    this.tokens.set(other.tokens);
    this.batch = other.batch;
    this.n = other.n;
    this.#plan = other.#plan;
    this.#stale.set(other.#stale);
    this.#version = other.#version;
    return this;
  }

  /**
   * Logits of a residual stream (or of what is written into it) by the model's own final LayerNorm and unembedding: [row, vocab].
   * A view that the next call overwrites.
   * @param {string} name  e.g. "blocks.2.resid_mid"
   */
  lens(name) {
    const { config } = this.engine;
    siteShape(name, config, this.n); // throws for an unknown name
    if (!/(^embed|resid_pre|resid_mid|resid_post|\.out)$/.test(name)) {
      throw new RangeError(`"${name}" is not written in the residual stream's space.`);
    }
    const { place } = this.#site(name);
    const { final, unembed } = this.engine.places;
    this.#norm(place, this.places.normed, final, 0, this.rows);
    const vocab = vocabOut(config);
    this.#gemm(this.places.normed, config.d_model, unembed, this.places.lens, vocab, 0, this.rows);
    return this.#view(this.places.lens, this.rows * vocab);
  }

  // ---- the parts of a run, each for dirty rows only -------------------------------------------------

  /** @param {Plan} plan */
  #embed(plan) {
    const { config, places } = this.engine;
    const { floats } = this.engine.arena;
    const { embed, pos } = this.places;
    const d = config.d_model;
    this.#runs((start, count) => {
      for (let row = start; row < start + count; row++) {
        const token = places.embed + this.tokens[row] * d;
        floats.copyWithin(embed + row * d, token, token + d);
        const position = places.pos + (row % this.n) * d;
        floats.copyWithin(pos + row * d, position, position + d);
      }
      this.#lay(plan, "embed", start, count);
      this.#lay(plan, "pos_embed", start, count);
    });
  }

  /** resid_pre, LayerNorm, q, k, v. @param {number} l @param {Plan} plan */
  #project(l, plan) {
    const { config, places } = this.engine;
    const { blocks, embed, pos, normed } = this.places;
    const { pre, qkv } = blocks[l];
    const d = config.d_model;
    const width = 3 * config.n_heads * config.d_head;
    this.#runs((start, count) => {
      if (l) this.#copy(blocks[l - 1].post, pre, start, count);
      else this.#sum(embed, pos, pre, start, count);
      this.#lay(plan, `blocks.${l}.resid_pre`, start, count);
      this.#norm(pre, normed, places.blocks[l].ln1, start, count);
      this.#gemm(config.norm ? normed : pre, d, places.blocks[l].qkv, qkv, width, start, count);
      for (const x of "qkv") this.#lay(plan, `blocks.${l}.attn.${x}`, start, count);
    });
  }

  /** Patterns, z, what attention writes, resid_mid. @param {number} l @param {Plan} plan */
  #attend(l, plan) {
    const { config, places, kernel } = this.engine;
    const { floats } = this.engine.arena;
    const { n } = this;
    const { pre, qkv, pattern, z, attnOut, mid } = this.places.blocks[l];
    const { n_heads, d_head, d_model } = config;
    const inner = n_heads * d_head;
    const scale = 1 / Math.sqrt(d_head);
    const mask = plan.masks.get(l);
    const name = `blocks.${l}.`;
    const given = plan.sheets.has(`${name}attn.pattern`);
    this.#runs((start, count) => {
      this.computed += count;
      for (let row = start; row < start + count; row++) {
        const b = Math.floor(row / n);
        const query = row - b * n;
        for (let h = 0; h < n_heads; h++) {
          const line = ((b * n_heads + h) * n + query) * n;
          const q = qkv + row * 3 * inner + h * d_head;
          const k = qkv + (b * n * 3 + 1) * inner + h * d_head;
          kernel.scores(q, k, 3 * inner, pattern + line, query + 1, d_head, scale);
          attentionRow(floats, pattern + line, query, n, mask, line);
        }
      }
      if (given) this.#lay(plan, `${name}attn.pattern`, start, count);
      for (let row = start; row < start + count; row++) {
        const b = Math.floor(row / n);
        const query = row - b * n;
        for (let h = 0; h < n_heads; h++) {
          const line = ((b * n_heads + h) * n + query) * n;
          if (mask) lose(floats, pattern + line, n, mask, line);
          const v = qkv + (b * n * 3 + 2) * inner + h * d_head;
          kernel.mix(pattern + line, v, 3 * inner, z + row * inner + h * d_head, given ? n : query + 1, d_head);
        }
      }
      this.#lay(plan, `${name}attn.z`, start, count);
      this.#gemm(z, inner, places.blocks[l].o, attnOut, d_model, start, count);
      this.#lay(plan, `${name}attn.out`, start, count);
      this.#sum(pre, attnOut, mid, start, count);
      this.#lay(plan, `${name}resid_mid`, start, count);
    });
  }

  /** The MLP and resid_post. @param {number} l @param {Plan} plan */
  #mlp(l, plan) {
    const { config, places, arena } = this.engine;
    const { d_model: d, d_mlp } = config;
    const { mid, hidden, mlpOut, post } = this.places.blocks[l];
    const { normed } = this.places;
    const act = config.act === "gelu" ? geluInPlace : reluInPlace;
    this.#runs((start, count) => {
      if (d_mlp) {
        this.#norm(mid, normed, places.blocks[l].ln2, start, count);
        this.#gemm(config.norm ? normed : mid, d, places.blocks[l].in, hidden, d_mlp, start, count);
        act(arena.floats, hidden + start * d_mlp, count * d_mlp);
        this.#lay(plan, `blocks.${l}.mlp.post`, start, count);
        this.#gemm(hidden, d_mlp, places.blocks[l].out, mlpOut, d, start, count);
        this.#lay(plan, `blocks.${l}.mlp.out`, start, count);
        this.#sum(mid, mlpOut, post, start, count);
      } else this.#copy(mid, post, start, count);
      this.#lay(plan, `blocks.${l}.resid_post`, start, count);
    });
  }

  /** @param {Plan} plan */
  #unembed(plan) {
    const { config, places } = this.engine;
    const { final, logits, blocks } = this.places;
    const { post } = blocks[config.n_layers - 1];
    this.#runs((start, count) => {
      this.#norm(post, final, places.final, start, count);
      this.#lay(plan, "ln_final", start, count);
      this.#gemm(final, config.d_model, places.unembed, logits, vocabOut(config), start, count);
    });
  }

  // ---- which rows are dirty -------------------------------------------------------------------------

  /** Rows where one of these sheets differs. @param {Plan} old @param {Plan} plan @param {string[]} names */
  #mark(old, plan, names) {
    for (const name of names) {
      const a = old.sheets.get(name);
      const b = plan.sheets.get(name);
      if (!a && !b) continue;
      for (let row = 0; row < this.rows; row++) {
        if (!this.#dirty[row] && sheetsDiffer(a, b, row)) this.#dirty[row] = 1;
      }
    }
  }

  /** @param {Uint8Array | undefined} a @param {Uint8Array | undefined} b */
  #markMasks(a, b) {
    if (!a && !b) return;
    const { n_heads } = this.engine.config;
    for (let row = 0; row < this.rows; row++) if (masksDiffer(a, b, n_heads, this.n, row)) this.#dirty[row] = 1;
  }

  /** A changed token changes, through attention, every later one of its sequence. */
  #spread() {
    for (let row = 0, hit = 0; row < this.rows; row++) {
      if (row % this.n === 0) hit = 0;
      this.#dirty[row] = hit |= this.#dirty[row];
    }
  }

  /** Each run of dirty rows. @param {(start: number, count: number) => void} visit */
  #runs(visit) {
    for (let row = 0; row < this.#end; row++) {
      if (!this.#dirty[row]) continue;
      const start = row;
      while (row < this.#end && this.#dirty[row]) row++;
      visit(start, row - start);
    }
  }

  // ---- arithmetic -----------------------------------------------------------------------------------

  /** @param {number} place @param {number} n */
  #view(place, n) {
    return this.engine.arena.view(place, n);
  }

  /**
   * @param {number} a @param {number} inner @param {import("./memory.js").Pair} matrix
   * @param {number} c @param {number} cols @param {number} start @param {number} count
   */
  #gemm(a, inner, matrix, c, cols, start, count) {
    const { w, b } = matrix;
    this.engine.kernel.gemm(a + start * inner, inner, w, b, c + start * cols, cols, count, inner, cols);
  }

  /**
   * LayerNorm of rows, or a copy if the model has none.
   * @param {number} from @param {number} to @param {import("./memory.js").Pair} weights
   * @param {number} start @param {number} count
   */
  #norm(from, to, weights, start, count) {
    const { config, arena } = this.engine;
    const d = config.d_model;
    const [x, y] = [from + start * d, to + start * d];
    if (config.norm) layerNorm(arena.floats, x, y, weights, d, count, config.eps);
    else arena.floats.copyWithin(y, x, x + count * d);
  }

  /** @param {number} from @param {number} to @param {number} start @param {number} count */
  #copy(from, to, start, count) {
    const d = this.engine.config.d_model;
    this.engine.arena.floats.copyWithin(to + start * d, from + start * d, from + (start + count) * d);
  }

  /** @param {number} a @param {number} b @param {number} to @param {number} start @param {number} count */
  #sum(a, b, to, start, count) {
    const d = this.engine.config.d_model;
    sum(this.engine.arena.floats, a + start * d, b + start * d, to + start * d, count * d);
  }

  /**
   * Lay the sheet of an activation, if there is one, on some rows.
   * @param {Plan} plan @param {string} name @param {number} start @param {number} count
   */
  #lay(plan, name, start, count) {
    const sheet = plan.sheets.get(name);
    if (!sheet) return;
    const { units, width, covered, values } = sheet;
    const { place, stride } = this.#site(name);
    const f = this.engine.arena.floats;
    for (let row = start; row < start + count; row++) {
      for (let unit = 0; unit < units; unit++) {
        const from = row * units + unit;
        if (!covered[from]) continue;
        const isPattern = name.endsWith("attn.pattern");
        const to = isPattern ? unitPlace(name, sheet, this.n, row, unit) : row * stride + unit * width;
        f.set(values.subarray(from * width, (from + 1) * width), place + to);
      }
    }
  }

  /**
   * Where an activation lies, and how far its rows are apart.
   * @param {string} name
   * @returns {{place: number, stride: number}}
   */
  #site(name) {
    const { n_heads, d_head, d_model: d, d_mlp } = this.engine.config;
    const inner = n_heads * d_head;
    const [, layer, leaf] = /^blocks\.(\d+)\.(.+)$/.exec(name) ?? [null, "0", name];
    const block = this.places.blocks[Number(layer)];
    const { embed, pos, final } = this.places;
    const found = {
      embed: [embed, d],
      pos_embed: [pos, d],
      ln_final: [final, d],
      resid_pre: [block.pre, d],
      resid_mid: [block.mid, d],
      resid_post: [block.post, d],
      "attn.q": [block.qkv, 3 * inner],
      "attn.k": [block.qkv + inner, 3 * inner],
      "attn.v": [block.qkv + 2 * inner, 3 * inner],
      "attn.pattern": [block.pattern, 0],
      "attn.z": [block.z, inner],
      "attn.out": [block.attnOut, d],
      "mlp.post": [block.hidden, d_mlp],
      "mlp.out": [block.mlpOut, d],
    }[leaf];
    if (!found) throw new RangeError(`The model has no activation "${name}".`);
    return { place: found[0], stride: found[1] };
  }

  /**
   * @param {ArrayLike<number> | ArrayLike<number>[]} tokens
   * @returns {{flat: Int32Array, batch: number, n: number}}
   */
  #read(tokens) {
    const { config, batch: most } = this.engine;
    const rows = /** @type {ArrayLike<number>[]} */ (typeof tokens[0] === "number" ? [tokens] : tokens);
    const batch = rows.length;
    const n = rows[0]?.length ?? 0;
    if (!n || rows.some((row) => row.length !== n)) throw new RangeError("Sequences must have one length of at least 1.");
    if (n > config.n_ctx) throw new RangeError(`This model reads at most ${config.n_ctx} tokens, not ${n}.`);
    if (batch > most) throw new RangeError(`This engine was made for ${most} sequences at a time, not ${batch}.`);
    const flat = new Int32Array(batch * n);
    rows.forEach((row, b) => {
      for (let i = 0; i < n; i++) {
        const token = row[i];
        if (!Number.isInteger(token) || token < 0 || token >= config.d_vocab) {
          throw new RangeError(`Token ${token} is outside this model's vocabulary 0..${config.d_vocab - 1}.`);
        }
        flat[b * n + i] = token;
      }
    });
    return { flat, batch, n };
  }
}
