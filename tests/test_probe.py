"""Probes on concepts planted by hand, on models, and against what must defeat them."""

import pytest
import torch
from torch.nn import functional as F

from mi_lab import probe as module
from mi_lab.probe import control_task, probe, probe_sites, shuffled, untrained_twin
from mi_lab.studies import sorting


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def planted(n=1000, d=20, k=5, noise=0.3, seed=0):
    """x with class means far apart in a random k-dimensional subspace."""
    labels = torch.randint(k, (n,), generator=generator(seed))
    directions = torch.randn(k, d, generator=generator(seed + 1))
    return directions[labels] + noise * torch.randn(n, d, generator=generator(seed + 2)), labels


def exclusive_or(n=1500, d=10):
    x = torch.randn(n, d, generator=generator())
    return x, ((x[:, 0] > 0) ^ (x[:, 1] > 0)).long()


@pytest.mark.parametrize("kind", ["ridge", "logistic", "mlp"])
def test_a_planted_concept_is_found_and_shuffled_labels_are_not(kind):
    x, labels = planted()
    result = probe(x, labels, kind=kind, hidden=32, steps=150)
    assert result.f1 > 0.97
    assert result.accuracy > 0.97
    assert result.control.f1 < 0.3
    assert result.selectivity > 0.6
    assert (result.scores(x[:300]).argmax(-1) == labels[:300]).double().mean() > 0.97
    low, high = result.interval()[1:]
    assert low <= result.f1 <= high


def test_a_concept_that_is_not_linear_needs_a_hidden_layer():
    x, labels = exclusive_or()
    assert probe(x, labels, kind="ridge").accuracy < 0.62
    assert probe(x, labels, kind="logistic").accuracy < 0.62
    assert probe(x, labels, kind="mlp", hidden=64, steps=500, control=None).accuracy > 0.85


@pytest.mark.parametrize("kind", ["ridge", "logistic", "mlp"])
def test_yes_no_questions(kind):
    x = torch.randn(1200, 12, generator=generator())
    labels = torch.stack([x[:, 0] > 0, x[:, 1] + x[:, 2] > 1.5, x[:, 3] > 10], 1)  # the last one is never so
    result = probe(x, labels, kind=kind, hidden=32, steps=450)
    assert result.multi
    assert result.per_class[0] > 0.85
    assert result.per_class[1] > (0.4 if kind == "ridge" else 0.65)  # a rare yes: least squares is shy
    assert result.per_class[2].isnan()
    assert result.f1 == pytest.approx(float(result.per_class[:2].mean()))
    assert result.micro_f1 > 0.8
    assert result.accuracy > result.majority + 0.1
    assert result.control.micro_f1 < 0.65


def test_scores_are_those_of_the_definition():
    x, labels = planted(noise=2.0)
    result = probe(x, labels)
    f1 = []
    for c in range(5):
        says, is_ = result.predicted == c, result.truth == c
        right = float((says & is_).sum())
        precision, recall = right / float(says.sum()), right / float(is_.sum())
        f1.append(2 * precision * recall / (precision + recall))
    assert result.per_class.tolist() == pytest.approx(f1)
    assert result.f1 == pytest.approx(sum(f1) / 5)
    assert result.micro_f1 == pytest.approx(result.accuracy)
    assert result.interval("accuracy").value == pytest.approx(result.accuracy)
    assert result.interval("f1").value == pytest.approx(result.f1)
    assert 0.2 <= result.majority < 0.3


def test_the_interval_is_the_binomial_one_for_independent_rows():
    x, labels = planted(n=4000, noise=3.0)
    result = probe(x, labels, control=None)
    p = result.accuracy
    _, low, high = result.interval("accuracy")
    assert (high - low) == pytest.approx(2 * 1.96 * (p * (1 - p) / 800) ** 0.5, rel=0.15)


def test_rows_of_one_example_stay_together():
    """Copies of a row are no new evidence: pooling them must not narrow the interval, nor leak."""
    x, labels = planted(n=600, noise=3.0)
    once = probe(x, labels, control=None)
    often = probe(x.unsqueeze(1).expand(-1, 9, -1), labels, control=None)
    assert len(often.truth) == 9 * len(once.truth)
    assert often.accuracy == pytest.approx(once.accuracy, abs=0.02)
    width = [r.interval("accuracy").high - r.interval("accuracy").low for r in (once, often)]
    assert width[1] == pytest.approx(width[0], rel=0.15)


def test_noise_is_at_chance_out_of_sample():
    x = torch.randn(300, 200, generator=generator())  # enough directions to fit anything in sample
    labels = torch.randint(4, (300,), generator=generator(1))
    for kind in ("ridge", "logistic"):
        assert probe(x, labels, kind=kind, control=None).accuracy < 0.45


def test_a_negative_label_leaves_a_row_out():
    x, labels = planted()
    hidden = labels.clone()
    hidden[::3] = -1
    x = x.clone()
    x[::3] = 1e3  # would spoil everything
    result = probe(x, hidden)
    assert result.f1 > 0.97
    assert result.n_train + len(result.truth) == int((hidden >= 0).sum())
    assert (result.truth >= 0).all()


def test_rows_can_be_left_out_of_yes_no_questions():
    x = torch.randn(1000, 3, 6, generator=generator())
    labels, keep = x[..., :2] > 0, torch.rand(1000, 3, generator=generator(1)) < 0.5
    spoiled = torch.where(keep.unsqueeze(-1), x, 1e3)
    result = probe(spoiled, labels, kind="logistic", keep=keep)
    assert result.accuracy > 0.97
    assert result.n_train + len(result.truth) == int(keep.sum())


def test_the_same_seed_gives_the_same_probe():
    x, labels = planted(noise=2.0)
    for kind in ("logistic", "mlp"):
        one, two = (probe(x, labels, kind=kind, hidden=8, steps=9) for _ in range(2))
        assert torch.equal(one.predicted, two.predicted)
    assert not torch.equal(probe(x, labels, seed=1).example, probe(x, labels, seed=2).example)


def test_faint_directions_count():
    """A concept in directions a thousand times fainter than the rest, as residual streams have them."""
    x, labels = planted()
    x = torch.cat([1e-3 * x, torch.randn(1000, 20, generator=generator(7))], 1)
    assert probe(x, labels).f1 > 0.97


def test_shuffling_keeps_what_a_position_tells():
    keep = torch.rand(2, 50, 3, generator=generator()) < 0.6
    labels = torch.randint(5, (2, 50, 3), generator=generator(1)) + 10 * torch.arange(3)
    new = shuffled(labels, keep, generator(2))
    assert torch.equal(new[~keep], labels[~keep])
    for s in range(2):
        for p in range(3):
            rows = keep[s, :, p]
            assert new[s, rows, p].sort().values.tolist() == labels[s, rows, p].sort().values.tolist()
    assert (new != labels)[keep].double().mean() > 0.5


def test_a_control_task_is_a_function_of_the_type():
    types = torch.randint(30, (400, 2), generator=generator())
    labels = torch.randint(4, (400, 2), generator=generator(1))
    labels[0, 0] = -1
    task = control_task(types, labels)
    assert task[0, 0] == -1
    for t in range(30):
        assert len(task[(types == t) & (labels >= 0)].unique()) == 1
    assert task.unique().tolist() == [-1, 0, 1, 2, 3]


def test_selectivity_tells_a_concept_from_memory():
    """One-hot tokens: any labelling of them is learned, so the control task does as well as the task."""
    tokens = torch.randint(20, (2000,), generator=generator())
    labels = tokens % 2
    x = F.one_hot(tokens, 20) + 0.05 * torch.randn(2000, 20, generator=generator(1))
    result = probe(x, labels, control=control_task(tokens, labels))
    assert result.accuracy > 0.99
    assert abs(result.selectivity) < 0.02
    coarse = torch.cat([labels.unsqueeze(1).float(), torch.randn(2000, 5, generator=generator(2))], 1)
    assert probe(coarse, labels, control=control_task(tokens, labels)).selectivity > 0.2


# sites of a model -----------------------------------------------------------------------------------


def test_a_token_is_where_it_stands_and_nowhere_before(make_model, make_tokens):
    model, tokens = make_model(), make_tokens(600)
    sites = {"embed": (0, "resid_pre", None), "after": (1, "resid_post", None)}
    table = probe_sites(model, tokens, sites, tokens[:, 3])
    f1, control = table.grid(), torch.tensor([row["control_f1"] for row in table.rows()]).view(2, 8)
    assert f1[0, 3] > 0.99
    assert f1[1, 3] > 0.9
    assert f1[0, [0, 1, 2, 4, 5, 6, 7]].max() < 0.3
    assert f1[1, :3].max() < 0.3  # causality
    assert f1[1, 4:].max() > 0.38  # an untrained model's attention mixes tokens: P2's control
    assert control.max() < 0.32
    assert table.results["after"][3].f1 == pytest.approx(float(f1[1, 3]))


def test_positions_can_be_pooled_with_labels_of_their_own(make_model, make_tokens):
    model, tokens = make_model(), make_tokens(300)
    labels = tokens[:, 1:4].clone()
    labels[:, 1] = -1
    table = probe_sites(model, tokens, {"own": (0, "resid_pre", [1, 2, 3])}, labels, pooled=True)
    assert table["own"].f1 > 0.99
    assert table["own"].n_train + len(table["own"].truth) == 600
    assert table.grid("accuracy").shape == (1, 1)
    assert str(table).startswith("own: F1 ")
    assert table.positions == {"own": (None,)}
    half = tokens[:, :3] >= 0
    half[:, 1:] = False
    assert (
        probe_sites(model, tokens, {"own": (0, "resid_pre", [1, 2, 3])}, labels, keep=half, pooled=True)[
            "own"
        ].n_train
        == 240
    )


def test_sites_may_have_labels_and_controls_of_their_own(make_model, make_tokens):
    model, tokens = make_model(), make_tokens(400)
    sites = {"a": (0, "resid_pre", [2]), "b": (0, "resid_pre", [5, 6])}
    labels = {"a": tokens[:, 2], "b": tokens[:, 5:7]}
    control = {name: control_task(y, y) for name, y in labels.items()}
    table = probe_sites(model, tokens, sites, labels, control=control)
    assert table.grid()[0, 1].isnan()
    assert table.grid()[1].min() > 0.99
    assert table["a"].selectivity == pytest.approx(0, abs=0.02)  # tokens in the embedding: pure memory
    assert table.grid("selectivity").shape == (2, 2)
    assert [row["position"] for row in table.rows()] == [2, 5, 6]


def test_a_table_is_the_probes_one_by_one_however_memory_is_divided(make_model, make_tokens, monkeypatch):
    model, tokens = make_model(n_layers=3), make_tokens(200)
    sites = {f"L{i}": (i, "resid_mid", [1, 4, 7]) for i in range(3)}
    options = {"labels": tokens[:, 1], "control": None}
    whole = probe_sites(model, tokens, sites, **options).grid()
    monkeypatch.setattr(module, "CHUNK_FLOATS", 1)
    parts = probe_sites(model, tokens, sites, **options, memory=1).grid()
    torch.testing.assert_close(parts, whole)
    from mi_lab.sites import capture

    alone = probe(capture(model, tokens, sites)["L1"][:, 1], tokens[:, 1], control=None)
    assert alone.f1 == pytest.approx(float(whole[1, 1]))


def test_edits_and_normalising_reach_the_probe(make_model, make_tokens):
    model, tokens = make_model(), make_tokens(300)
    site = {"end": (1, "resid_post", [7])}
    blind = {f"blocks.{i}.attn.out": 0.0 for i in range(2)}
    assert probe_sites(model, tokens, site, tokens[:, 2], edit=blind)["end"].f1 < 0.3
    seen = probe_sites(model, tokens, site, tokens[:, 2], normalise=True)["end"]
    assert seen.map.weight.sum(1).abs().max() < 1e-2 * seen.map.weight.abs().max()  # nothing along ones


def test_the_sorting_model_knows_what_comes_next_and_an_untrained_twin_much_less():
    model, task = sorting.load(), sorting.task()
    tokens = task.sample(1500, generator=generator())
    middle = task.answer.start + 5
    site, labels = {"middle": (0, "resid_post", [middle])}, tokens[:, middle + 1]
    trained, twin = (
        probe_sites(m, tokens, site, labels, kind="logistic")["middle"]
        for m in (model, untrained_twin(model))
    )
    assert trained.accuracy > 0.95
    assert twin.accuracy < 0.6
    assert trained.control.accuracy < 0.15


# bad input --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "svm"}, "kind must be 'ridge', 'logistic' or 'mlp', not 'svm'"),
        ({"held_out": 1.0}, "held_out must be a share between 0 and 1, not 1.0"),
        ({"penalty": -1.0}, "penalty must be at least 0, not -1.0"),
        ({"kind": "logistic", "intercept": False}, "intercept=False is for kind='ridge'"),
        ({"control": "random"}, "control must be 'shuffled', labels of your own or None, not 'random'"),
        ({"control": torch.zeros(3).long()}, r"control must have shape \[100\] or \[100, 1\], not \[3\]"),
        ({"control": torch.full((100,), -1)}, "control labels must have the labels' shape, and be there"),
        ({"x": torch.zeros(100).float()}, r"x must be Float\[n, d\] or Float\[n, pos, d\]"),
        ({"x": torch.zeros(100, 4).long()}, "x must be Float"),
        ({"x": torch.full((100, 4), torch.nan)}, "x holds NaN or infinite values"),
        ({"labels": torch.zeros(99).long()}, r"labels must have shape \[100\] or \[100, 1\], not \[99\]"),
        ({"labels": torch.zeros(100)}, "labels must be Int .* or Bool .* not torch.float32"),
        ({"labels": torch.full((100,), 3)}, "all labels are 3: nothing to tell apart"),
        ({"keep": torch.ones(100)}, "keep must be Bool, not torch.float32"),
        ({"keep": torch.ones(99).bool()}, r"keep must have shape \[100\] or \[100, 1\], not \[99\]"),
        ({"labels": torch.full((100,), -1)}, "of 100 examples, none to train on has a label"),
        ({"labels": torch.zeros(100, 3, 3, dtype=torch.bool)}, r"shape \[100, k\] or \[100, 1, k\]"),
        ({"x": torch.zeros(2, 4), "labels": torch.tensor([0, 1])}, "2 examples are too few to hold 20% of them out"),
    ],
)  # fmt: skip
def test_what_cannot_be_probed_is_refused(change, message):
    x, labels = planted(n=100, d=4, k=3)
    options = {"x": x, "labels": labels} | change
    with pytest.raises(ValueError, match=message):
        probe(options.pop("x"), options.pop("labels"), **options)


def test_bad_sites_and_labels_are_named(make_model, make_tokens):
    model, tokens = make_model(), make_tokens(50)
    site = {"a": (0, "resid_pre", [1, 2])}
    with pytest.raises(
        ValueError, match=r"site 'a': labels must have shape \[50\] or \[50, 2\], not \[50, 3\]"
    ):
        probe_sites(model, tokens, site, tokens[:, :3])
    with pytest.raises(ValueError, match="labels: none given for site 'a'"):
        probe_sites(model, tokens, site, {"b": tokens[:, 1]})
    with pytest.raises(ValueError, match="site 'a': all labels are 2"):
        probe_sites(model, tokens, site, torch.full((50,), 2))
    with pytest.raises(TypeError, match="unexpected keyword argument 'kinds'"):
        probe_sites(model, tokens, site, tokens[:, 1], kinds="ridge")
    table = probe_sites(model, tokens, site, tokens[:, 1])
    with pytest.raises(KeyError, match="'a' has 2 probes, one per position"):
        table["a"]
    with pytest.raises(KeyError, match="'b' is no site of this table; sites: a"):
        table["b"]
    with pytest.raises(ValueError, match=r"types .* must have the shape of labels"):
        control_task(tokens, tokens[:, 0])


def test_a_result_says_what_it_lacks():
    x, labels = planted(n=200)
    result = probe(x, labels, control=None)
    with pytest.raises(ValueError, match="this probe has no control"):
        result.selectivity  # noqa: B018
    with pytest.raises(ValueError, match="metric must be one of f1, micro_f1, accuracy, not 'auc'"):
        result.interval("auc")
    assert "200" not in str(result)
    assert str(probe(x, labels)).startswith("ridge probe, 5 classes: F1 ")
