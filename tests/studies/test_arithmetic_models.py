"""Recipes, the paper's table, transplants and measurements: what concerns models."""

from dataclasses import replace

import pytest
import torch

from mi_lab import checkpoint, zoo
from mi_lab.model import Transformer
from mi_lab.studies.arithmetic import measure, paper_table, transfer
from mi_lab.studies.arithmetic.recipes import CELLS, compact, config, recipes
from mi_lab.studies.arithmetic.task import ArithmeticTask
from mi_lab.studies.arithmetic.transfer import AS_CODED, PARTS, FromDonor, permuted, shuffled, transplant
from mi_lab.train import fit

TASK = ArithmeticTask(3)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def small(layers=2, heads=3, seed=0, width=12):
    """A model whose every weight is random, biases and LayerNorm too, so that no copy goes unseen."""
    generator = seeded(seed)
    model = Transformer(config(TASK, layers, heads, width=width), generator=generator)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    return model


def weights(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


# ---- the paper's table and the recipes ----


def test_the_table_has_every_row_of_the_paper():
    counts = [len(x) for x in (paper_table.ADDITION, paper_table.SUBTRACTION, paper_table.MIXED)]
    assert [*counts, len(paper_table.INITIALISED), len(paper_table.GROKFAST)] == [16, 7, 9, 14, 4]
    assert sorted({row.digits for row in paper_table.ROWS}) == list(range(5, 16))
    names = [row.name for row in paper_table.ROWS]
    assert len(set(names)) == len(names)
    assert "add_d6_l2_h3_t15K_s372001" in names
    assert "ins1_mix_d6_l3_h4_t40K_s372001" in names


def test_failures_stand_under_the_operations_that_a_model_has():
    for row in paper_table.ROWS:
        assert (row.sub_failures is None) or row.kind != "add"
        assert (row.add_failures is None) or row.kind != "sub"
    d14 = next(row for row in paper_table.ADDITION if row.digits == 14)
    assert (d14.add_failures, d14.useful_heads, d14.useful_mlps) == (199, 68, 35)


def test_every_configuration_of_the_paper_has_a_recipe():
    for row in paper_table.ROWS:
        recipe = recipes[row.cell]
        shape = recipe.config
        said = (shape.n_layers, shape.n_heads, shape.d_model, shape.d_head)
        assert said == (row.layers, row.heads, 96, 32)
        assert recipe.task.digits == row.digits
        assert recipe.task.operations == {"add": "+", "sub": "-"}.get(row.kind, "+-")
        assert (row.donor_cell is None) == (recipe.start is None)
        if row.donor_cell:
            assert recipe.start.donor == recipes[row.donor_cell]
        assert recipe.grokfast == ((0.98, 2.0) if row.grokfast else None)


def test_a_twin_with_grokfast_differs_in_nothing_else():
    twins = [name for name in recipes if name.endswith("_gf")]
    assert len(twins) == 5
    for name in twins:
        plain = recipes[name.removesuffix("_gf")]
        assert replace(recipes[name], name=plain.name, grokfast=None, description=plain.description) == plain


def test_paper_width_is_the_papers():
    shape = recipes["paper"].config
    assert (shape.d_model, shape.d_head, shape.d_mlp, shape.n_ctx) == (510, 170, 2040, 22)
    assert Transformer(shape).n_parameters == pytest.approx(6.28e6, rel=2e-3)
    assert recipes["paper_mix"].start.donor == recipes["paper"]


def test_names_are_unique_and_no_started_model_trains_from_scratch_by_mistake():
    assert len(recipes) >= len(CELLS)
    for name, recipe in recipes.items():
        assert name == recipe.name
        assert (recipe.start is not None) == name.startswith(("ins", "paper_mix"))
        if recipe.start is not None and recipe.start.every is not None:
            assert name.startswith(("ins2", "ins3"))
    assert recipes["ins3_mix_d6_l4_h3"].start.again == "heads_and_mlps"
    assert recipes["ins1_mix_d3_l2_h3_output"].start.parts == "with_output"
    assert recipes["ins1_mix_d5_l2_h3_subtraction"].start.donor == recipes["sub_d5_l2_h3"]


def test_a_recipe_trains():
    recipe = compact("mix", 3, 1, 2, steps=3, batch=16)
    history = fit(recipe, seeds=(0,), device="cpu", progress=False)
    assert torch.isfinite(history.loss).all()


# ---- transplants ----


def test_exactly_the_authors_parts_are_copied_into_the_first_heads():
    donor, target = small(2, 3, seed=1), small(3, 4, seed=2)
    before, theirs = weights(target), weights(donor)
    transplant(target, donor)
    for name, now in weights(target).items():
        leaf = name.split(".", 2)[-1] if name.startswith("blocks") else name
        inside = leaf in AS_CODED and not name.startswith("blocks.2")
        if inside and leaf.startswith("attn."):
            assert torch.equal(now[:3], theirs[name]), name
            assert torch.equal(now[3:], before[name][3:]), name
        else:
            assert torch.equal(now, (theirs if inside else before)[name]), name


def test_what_the_authors_left_out_is_left_out():
    for name in ("attn.W_O", "attn.b_O", "ln2.w", "ln2.b", "ln_final.b", "unembed.b_U"):
        assert name not in AS_CODED
        assert name in PARTS["whole"]


def test_a_whole_transplant_into_the_same_shape_is_the_donor_and_the_authors_is_not():
    tokens = TASK.sample(20, generator=seeded())
    donor = small(seed=1)
    whole, coded = small(seed=2), small(seed=2)
    transplant(whole, donor, parts="whole")
    transplant(coded, donor)
    assert torch.equal(whole(tokens), donor(tokens))
    assert (coded(tokens) - donor(tokens)).abs().max() > 0.1


def test_last_heads_and_single_heads_can_be_chosen():
    donor, target = small(2, 3, seed=1), small(2, 4, seed=2)
    before, theirs = weights(target), weights(donor)
    transplant(target, donor, parts="heads", into="last", only=[(1, 0)])
    now = weights(target)
    name = "blocks.1.attn.W_Q"
    assert torch.equal(now[name][1], theirs[name][0])
    assert all(torch.equal(now[name][h], before[name][h]) for h in (0, 2, 3))
    assert torch.equal(now["blocks.0.attn.W_Q"], before["blocks.0.attn.W_Q"])
    assert torch.equal(now["embed.W_E"], before["embed.W_E"])


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ({"layers": 1}, "n_layers 2, the model only 1"),
        ({"heads": 2}, "n_heads 3, the model only 2"),
        ({"width": 15}, "d_model 12, the model 15"),
    ],
)
def test_a_donor_that_does_not_fit_is_refused(target, message):
    with pytest.raises(ValueError, match=message):
        transplant(small(**target), small())


def test_unknown_parts_are_refused():
    with pytest.raises(ValueError, match="not 'everything'"):
        transplant(small(), small(), parts="everything")
    with pytest.raises(ValueError, match="belong together"):
        FromDonor(recipes["add_d3_l2_h3"], again="heads")
    with pytest.raises(ValueError, match="not 'noisy'"):
        FromDonor(recipes["add_d3_l2_h3"], variant="noisy")


def test_a_permuted_donor_computes_the_same_and_a_shuffled_one_does_not():
    tokens = TASK.sample(30, generator=seeded())
    donor = small(seed=3, width=24)
    other = permuted(donor, seeded(4))
    assert not torch.equal(other.blocks[0].mlp.W_in, donor.blocks[0].mlp.W_in)
    assert torch.allclose(other(tokens), donor(tokens), atol=1e-4)
    noise = shuffled(donor, seeded(4))
    assert (noise(tokens) - donor(tokens)).abs().max() > 0.1
    for name, value in weights(noise).items():
        assert torch.equal(value.flatten().sort().values, weights(donor)[name].flatten().sort().values), name


def test_a_published_donor_is_not_trained_again(tmp_path, monkeypatch):
    donor = compact("add", 3, 2, 3, steps=2, batch=8)
    other = replace(donor, steps=3)
    stack = fit(donor, seeds=(5,), device="cpu", progress=False).stack
    about = {"digest": donor.digest}
    checkpoint.save(
        tmp_path / "arithmetic" / f"{donor.name}.safetensors", stack, labels=(5,), provenance=about
    )
    monkeypatch.setattr(zoo, "folders", lambda: [tmp_path])
    zoo.read.cache_clear()
    monkeypatch.setattr(transfer, "fit", lambda *args, **options: pytest.fail("trained again"))
    assert torch.equal(FromDonor(donor).model(5).embed.W_E, stack.model(0).embed.W_E.half().float())
    monkeypatch.undo()
    monkeypatch.setattr(zoo, "folders", lambda: [tmp_path])
    for start, seed in ((FromDonor(donor), 6), (FromDonor(other), 5)):  # another seed, another version
        fresh = fit(start.donor, seeds=(seed,), device="cpu", progress=False).model()
        assert torch.equal(start.model(seed).embed.W_E, fresh.embed.W_E)
    zoo.read.cache_clear()


def test_the_donor_comes_from_its_run_or_is_trained(tmp_path):
    donor = compact("add", 3, 2, 3, steps=2, batch=8)
    start = FromDonor(donor, again="heads", every=100)
    trained = fit(donor, seeds=(5,), device="cpu", out=tmp_path, progress=False).model()
    assert torch.equal(start.model(5, tmp_path).embed.W_E, trained.embed.W_E)
    assert torch.equal(start.model(5).embed.W_E, trained.embed.W_E)
    assert not torch.equal(replace(start, variant="shuffled").model(5).embed.W_E, trained.embed.W_E)
    target = Transformer(config(TASK), generator=seeded(9))
    before = target.blocks[0].mlp.W_in.clone()
    start.apply(target, trained, step=100)
    assert torch.equal(target.blocks[0].attn.W_Q, trained.blocks[0].attn.W_Q)
    assert torch.equal(target.blocks[0].mlp.W_in, before)
    start.apply(target, trained, step=0)
    assert torch.equal(target.blocks[0].mlp.W_in, trained.blocks[0].mlp.W_in)
    assert start.to_dict()["donor"] == "add_d3_l2_h3"
    assert start.to_dict()["digest"] == donor.digest


# ---- measurements ----


@pytest.fixture(scope="module")
def half_trained():
    """One digit, learned in part: right and wrong answers of every kind."""
    recipe = replace(compact("mix", 1, 1, 2, steps=150, batch=64), lr=2e-3)
    return fit(recipe, seeds=(0,), device="cpu", progress=False).model(), recipe.task


def test_the_fast_check_equals_grade(half_trained):
    model, task = half_trained
    tokens = torch.cat([q for o in "+-" for q in measure.every_question(task, o)])
    fast = measure.right(model, task, tokens, batch=64)
    assert torch.equal(fast, task.grade(model, tokens))
    assert 0 < int(fast.sum()) < len(fast)
    wrong = measure.all_wrong(model, task)
    assert sum(len(q) for q in wrong.values()) == int((~fast).sum())
    assert all((q[:, 1] == "0123456789+-".index(o)).all() for o, q in wrong.items())


def test_failures_by_class_add_up(half_trained):
    model, task = half_trained
    wrong = measure.all_wrong(model, task)
    classes = measure.by_class(model, task, 3000)
    assert list(classes) == ["S0", "S1", "M0", "N1", "N_swapped0"]
    total = {"+": 0.55 * classes["S0"].wrong + 0.45 * classes["S1"].wrong}
    total["-"] = 0.55 * classes["M0"].wrong + 0.45 * classes["N1"].wrong
    for operator, share in total.items():
        assert share / 3000 == pytest.approx(len(wrong[operator]) / 100, abs=0.04)
    plain = measure.uniform(model, task, 3000)
    for operator in "+-":
        assert plain[operator].wrong / 3000 == pytest.approx(len(wrong[operator]) / 100, abs=0.04)
    edges = measure.by_edge(model, task, 50)
    assert {"equal +", "equal -", "difference_6 -", "full_carry +"} <= edges.keys()
    assert "full_borrow -" not in edges


def test_failures_read_like_the_papers():
    count = measure.Failures(2, 1_000_000)
    assert count.per_million == 2
    assert str(count) == "2 of 1,000,000: 2/M [0.242, 7.22]"
    with pytest.raises(ValueError, match="too many to list"):
        next(measure.every_question(ArithmeticTask(5), "+"))
