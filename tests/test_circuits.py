"""Circuits against dense matrices, against `run` on hand-built inputs, and on a known circuit."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mi_lab.circuits import (
    Factored,
    composition,
    direct_logit_attribution,
    effective_embedding,
    head_outputs,
    key_path,
    ov_circuit,
    qk_circuit,
    unembedding_directions,
)
from mi_lab.model import Attention, Block, LayerNorm, Transformer, TransformerConfig
from mi_lab.run import run
from mi_lab.studies.sorting.circuit import attention_order, copying_margin, hand_made_sorter, untrained_twin
from mi_lab.studies.sorting.task import SortingTask

V = 7


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def scrambled(norm: str | None, *, positions: bool = False, seed: int = 0) -> Transformer:
    """A float64 model in which every weight, bias and LayerNorm parameter is drawn at random."""
    config = TransformerConfig(
        n_layers=1, n_heads=3, d_model=10, d_head=4, n_ctx=5, d_vocab=V, d_vocab_out=6, norm=norm  # type: ignore[arg-type]
    )  # fmt: skip
    model = Transformer(config).double().eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.copy_(0.5 * noise + (1.0 if name.endswith(".w") else 0.0))
        if not positions:
            model.pos_embed.W_pos.zero_()
    return model


def attention(model: Transformer) -> Attention:
    block = model.blocks[0]
    assert isinstance(block, Block)
    return block.attn


def centred(logits: Tensor) -> Tensor:
    return logits - logits.mean(-1, keepdim=True)


# Factored -----------------------------------------------------------------------------------------
@pytest.mark.parametrize(("rows", "rank", "columns"), [(9, 3, 7), (4, 6, 5), (5, 1, 5)])
def test_a_factored_matrix_equals_its_dense_product(rows, rank, columns):
    m = Factored(random(2, rows, rank), random(2, rank, columns, seed=1))
    dense = m.left @ m.right
    n = min(rows, columns)
    torch.testing.assert_close(m.full(), dense)
    torch.testing.assert_close(m.norm(), torch.linalg.matrix_norm(dense))
    torch.testing.assert_close(m.trace_of(n), dense.diagonal(dim1=-2, dim2=-1)[..., :n])
    expected = torch.linalg.svdvals(dense)
    found = m.singular_values()
    torch.testing.assert_close(found, expected[..., : found.shape[-1]])
    assert float(expected[..., rank:].sum()) < 1e-10  # what the thin form leaves out is zero


def test_leading_axes_of_a_factored_matrix_broadcast():
    m = Factored(random(5, 2), random(3, 2, 4, seed=1))
    assert m.full().shape == (3, 5, 4)
    torch.testing.assert_close(m.norm(), torch.linalg.matrix_norm(m.full()))
    torch.testing.assert_close(m.trace_of(4), m.full().diagonal(dim1=-2, dim2=-1))


# Composition --------------------------------------------------------------------------------------
def test_composition_equals_its_dense_definition_and_lies_between_0_and_1():
    for seed in range(20):
        a = Factored(random(8, 2, seed=seed), random(2, 8, seed=seed + 100))
        b = Factored(random(8, 3, seed=seed + 200), random(3, 8, seed=seed + 300))
        dense = (a.full() @ b.full()).norm() / (a.full().norm() * b.full().norm())
        found = composition(a, b)
        torch.testing.assert_close(found, dense)
        assert 0 < float(found) < 1


def test_composition_is_1_when_the_second_reads_just_what_the_first_writes_and_0_when_none_of_it():
    e = torch.eye(6, dtype=torch.float64)
    writes = Factored(random(6, 1), e[:1])  # writes along axis 0
    assert float(composition(writes, Factored(e[:, :1], random(1, 6, seed=1)))) == pytest.approx(1.0)
    assert float(composition(writes, Factored(e[:, 1:2], random(1, 6, seed=1)))) == 0.0


# Tables over tokens -------------------------------------------------------------------------------
@pytest.mark.parametrize("norm", ["LN", None])
def test_the_qk_table_holds_the_scores_that_a_forward_pass_gives(norm):
    model = scrambled(norm)
    table = qk_circuit(model)
    pairs = torch.cartesian_prod(torch.arange(V), torch.arange(V))  # (key, query): key first, query second
    scores = run(model, pairs, record="blocks.0.attn.scores")["blocks.0.attn.scores"]
    for (key, query), score in zip(pairs.tolist(), scores, strict=True):
        torch.testing.assert_close(table[:, query, key], score[:, 1, 0])
        torch.testing.assert_close(table[:, query, query], score[:, 1, 1])


def test_the_qk_table_leaves_positions_out():
    with_positions, without = scrambled("LN", positions=True), scrambled("LN")
    torch.testing.assert_close(qk_circuit(with_positions), qk_circuit(without))


def test_the_ov_table_is_the_change_of_centred_logits_when_a_head_is_removed_without_layer_norm():
    model = scrambled(None)
    with torch.no_grad():
        attention(model).b_V.zero_()
    table = ov_circuit(model).full()
    tokens = torch.arange(V)[:, None]  # one token: all attention goes to it
    clean = run(model, tokens).logits[:, 0]
    for head in range(3):
        without = run(model, tokens, edit={f"L0H{head}": 0.0}).logits[:, 0]
        torch.testing.assert_close(table[head], centred(clean - without))


def test_the_ov_table_equals_what_a_head_writes_through_layer_norm():
    model = scrambled("LN")
    with torch.no_grad():
        attention(model).b_V.zero_()
    z = run(model, torch.arange(V)[:, None], record="blocks.0.attn.z")["blocks.0.attn.z"]
    written = head_outputs(model, z)[:, 0]  # [token, head, d_model]
    assert isinstance(model.ln_final, LayerNorm)
    expected = centred(torch.einsum("thd,d,dv->htv", written, model.ln_final.w, model.unembed.W_U))
    torch.testing.assert_close(ov_circuit(model).full(), expected.detach())


def test_the_effective_embedding_is_what_the_heads_read():
    model = scrambled("LN")
    read = run(model, torch.arange(V)[:, None], record="blocks.0.attn.v")["blocks.0.attn.v"][:, 0]
    attn = attention(model)
    expected = torch.einsum("vd,hde->vhe", effective_embedding(model), attn.W_V) + attn.b_V
    torch.testing.assert_close(read, expected.detach())


def test_unembedding_directions_are_centred_over_outputs():
    for norm in ("LN", None):
        assert float(unembedding_directions(scrambled(norm)).sum(1).abs().max()) < 1e-10


# Attribution to what is written --------------------------------------------------------------------
def test_head_outputs_and_bias_sum_to_the_attention_layers_output():
    model = scrambled("LN", positions=True)
    tokens = torch.tensor([[0, 3, 6, 1], [5, 5, 2, 4]])
    names = ("blocks.0.attn.z", "blocks.0.attn.out")
    out = run(model, tokens, record=names)
    total = head_outputs(model, out[names[0]]).sum(2) + attention(model).b_O
    torch.testing.assert_close(total.detach(), out[names[1]])


def test_direct_logit_attribution_of_all_parts_sums_to_the_centred_logit_without_layer_norm():
    model = scrambled(None, positions=True)
    tokens = torch.tensor([[0, 3, 6, 1], [5, 5, 2, 4]])
    right = torch.tensor([[1, 2, 3, 4], [0, 5, 0, 5]])
    names = ("embed", "pos_embed", "blocks.0.attn.z")
    out = run(model, tokens, record=names)
    bias = attention(model).b_O.detach().expand(2, 4, -1)
    whole = sum(
        direct_logit_attribution(model, part, right) for part in (out["embed"], out["pos_embed"], bias)
    )
    by_head = direct_logit_attribution(model, head_outputs(model, out["blocks.0.attn.z"]), right)
    assert by_head.shape == (2, 4, 3)
    logits = centred(out.logits).gather(-1, right[..., None])[..., 0]
    b_U = centred(model.unembed.b_U.detach())[right]
    torch.testing.assert_close(whole + by_head.sum(-1) + b_U, logits)


def test_direct_logit_attribution_sums_to_the_centred_logit_times_the_layer_norms_scale():
    model = scrambled("LN", positions=True)
    tokens, right = torch.tensor([[0, 3, 6, 1]]), torch.tensor([[1, 2, 3, 4]])
    out = run(model, tokens, record=("blocks.0.resid_post",))
    resid = out["blocks.0.resid_post"]
    level = resid.mean(-1, keepdim=True).expand_as(resid)  # LayerNorm takes the mean away before it scales
    scale = (resid.var(-1, correction=0) + model.config.eps).sqrt()
    found = direct_logit_attribution(model, resid - level, right) / scale
    assert isinstance(model.ln_final, LayerNorm)
    bias = centred(model.ln_final.b @ model.unembed.W_U + model.unembed.b_U).detach()[right]
    torch.testing.assert_close(found + bias, centred(out.logits).gather(-1, right[..., None])[..., 0])


# Controls: a model whose circuit is known, and its untrained twin -----------------------------------
TASK = SortingTask(length=4, n_numbers=12)
ONE_HEAD = TransformerConfig(n_layers=1, n_heads=1, d_model=16, d_head=14, n_ctx=9, d_vocab=13)


@pytest.mark.parametrize("norm", ["LN", None])
def test_the_hand_made_sorters_copying_and_order_are_found(norm):
    config = TransformerConfig(**{**ONE_HEAD.to_dict(), "norm": norm})
    model = hand_made_sorter(TASK, config, a=20.0, b=2.0)
    table = ov_circuit(model).full()[0, :12, :12]
    assert (table.argmax(1) == torch.arange(12)).all()
    # OV = a I over the numbers, as it was written down (the output SEP takes part in the centring)
    torch.testing.assert_close(
        table - table.mean(1, keepdim=True), 20 * (torch.eye(12) - 1 / 12), atol=1e-3, rtol=0
    )
    torch.testing.assert_close(copying_margin(model, TASK), torch.full((1, 12), 20.0), atol=1e-3, rtol=0)
    qk = qk_circuit(model)[0]
    for q in range(11):
        torch.testing.assert_close(qk[q, q + 1 : 12].diff(), torch.full((10 - q,), -2.0), atol=1e-3, rtol=0)
    assert attention_order(model, TASK)[0] == pytest.approx((-1.0, 1.0, 1.0))


def test_an_untrained_twin_has_neither_copying_nor_order():
    model = hand_made_sorter(TASK, ONE_HEAD)
    for seed in range(3):
        twin = untrained_twin(model, seed)
        copied = ov_circuit(twin).full()[0, :12, :12].argmax(1) == torch.arange(12)
        assert copied.float().mean() < 0.5
        rho, auc, near = attention_order(twin, TASK)[0]
        assert rho > -0.3
        assert auc < 0.75
        assert near < 0.7


# paths over an earlier head -----------------------------------------------------------------------
@pytest.mark.parametrize("norm", [None, "LN"])
def test_a_path_over_an_earlier_head_is_its_share_of_the_score(norm):
    """Scores with and without what one earlier head wrote at the key, its attention fixed on one token."""
    config = TransformerConfig(n_layers=2, n_heads=2, d_model=10, d_head=4, n_ctx=5, d_vocab=V, norm=norm)
    model = Transformer(config, generator=torch.Generator().manual_seed(3)).double().eval()
    with torch.no_grad():
        model.pos_embed.W_pos.zero_()
        model.blocks[0].attn.b_O.normal_(generator=torch.Generator().manual_seed(4))
    paths = key_path(model, 1, 0)
    assert paths.shape == (2, 2, V, V)
    tokens = torch.tensor([[4, 2, 6, 1, 5]])
    only_one = torch.zeros(2, 5, 5, dtype=torch.float64)
    only_one[:, :, 0] = 1.0  # every head of layer 0 reads token 4, at every position
    edit = {"blocks.0.attn.pattern": only_one}
    value = run(model, tokens, record="blocks.0.attn.z", edit=edit)["blocks.0.attn.z"]
    record = ("blocks.1.attn.scores", "blocks.1.resid_pre", "blocks.1.attn.q")
    whole = run(model, tokens, record=record, edit=edit)
    for earlier in range(2):
        z = value.clone()
        z[:, :, earlier] = 0
        parts = edit | {"blocks.0.attn.z": z}
        # the length at the key is that of the whole run; queries are those of the embedding alone
        without = run(model, tokens, record="blocks.1.resid_pre", edit=parts)["blocks.1.resid_pre"][0, 2]
        resid = whole["blocks.1.resid_pre"][0, 2]
        scale = 1.0
        if norm == "LN":
            scale = float((resid.var(unbiased=False) + config.eps) ** -0.5)
        written = resid - without
        written = (written - written.mean() * (norm == "LN")) * scale
        attn = attention_of(model, 1)
        q = effective_embedding(model, layer=1)[6] @ attn.W_Q
        got = torch.einsum("he,hde,d->h", q.view(2, -1), attn.W_K, written) / 2.0
        torch.testing.assert_close(got, scale * paths[:, earlier, 6, 4])


def attention_of(model: Transformer, layer: int) -> Attention:
    block = model.blocks[layer]
    assert isinstance(block, Block)
    return block.attn


@pytest.mark.parametrize(("layer", "through"), [(0, 0), (1, 1), (1, 2), (2, 1), (1, -1)])
def test_a_path_must_come_from_an_earlier_layer(layer, through):
    config = TransformerConfig(n_layers=2, n_heads=1, d_model=8, d_head=4, n_ctx=5, d_vocab=V)
    with pytest.raises(ValueError, match="the second must be the earlier one"):
        key_path(Transformer(config), layer, through)
