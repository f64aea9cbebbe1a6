"""Clusters: found where they were put, not found in noise, and measured against shuffled labels."""

import pytest
import torch

from mi_lab.clusters import clusters, kmeans, node_clusters, written
from mi_lab.model import Transformer
from mi_lab.run import Node, run
from tests.planted import CopyTask, planted


def blobs(n=60, classes=3, apart=10.0, seed=0, d=8):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (n,), generator=generator)
    centres = torch.randn(classes, d, generator=generator) * apart
    return centres[labels] + torch.randn(n, d, generator=generator), labels


def test_clusters_that_were_put_there_are_found():
    found = clusters(*blobs())
    assert found.agreement.value == found.kmeans.value == 1.0
    assert found.agreement.beats_null
    assert found.kmeans.beats_null
    assert sum(found.explained[:2]) > 0.9
    assert sum(found.explained) == pytest.approx(1.0)
    assert found.points.shape == (len(found.labels), 2)
    assert found.chance == pytest.approx(1 / 3)
    assert "3 classes" in repr(found)


def test_noise_is_beyond_its_null_no_more_than_one_time_in_a_hundred():
    found = [clusters(*blobs(n=60, apart=0.0, seed=s), permutations=200) for s in range(40)]
    for statistic in ("agreement", "kmeans"):  # P(3 or more of 40 at 1 %) is below 1 %
        assert sum(getattr(x, statistic).beats_null for x in found) <= 2
    assert max(x.agreement.null for x in found) < 0.75


def test_classes_can_be_linearly_apart_without_being_the_clusters():
    """One strong direction that has nothing to do with the class, one weak one that has."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(200) % 2
    x = torch.randn(200, 2, generator=generator) * 0.1
    x[:, 0] += 100.0 * torch.randint(2, (200,), generator=generator)
    x[:, 1] += labels
    found = clusters(x, labels)
    assert not found.kmeans.beats_null
    assert found.explained[0] > 0.99


def test_every_class_counts_the_same():
    x, labels = blobs(n=300)
    rare = (labels != 0) | (torch.arange(300) < 30)
    found = clusters(x[rare], labels[rare])
    counts = found.labels.bincount()
    assert counts.min() == counts.max() <= int((labels[rare] == 0).sum())


def test_kmeans_finds_the_tightest_clusters_and_lives_with_few_points():
    x, labels = blobs(n=90)
    group = kmeans(x, 3, torch.Generator().manual_seed(0))
    assert all(len(group[labels == c].unique()) == 1 for c in range(3))
    assert kmeans(torch.zeros(5, 2), 3, torch.Generator()).tolist() == [0] * 5


def test_a_planted_node_is_clustered_by_its_own_digit_only():
    task, model = CopyTask(), planted()
    tokens = task.sample(300, generator=torch.Generator().manual_seed(0))
    x = task.variables(tokens)["x"]
    own = node_clusters(model, tokens, Node(0, 0, 4), x[:, 0], twin=Transformer(model.config))
    assert own.agreement.value == own.kmeans.value == 1.0
    assert own.twin is not None
    assert own.twin.kmeans.value < 0.9
    assert not node_clusters(model, tokens, Node(0, 0, 4), x[:, 1]).agreement.beats_null


def test_what_a_node_writes_is_its_share_of_the_residual_stream(make_model, make_tokens):
    model, tokens = make_model(d_mlp=12), make_tokens()
    out = run(model, tokens, record=["blocks.1.attn.out", "blocks.1.mlp.out"])
    heads = sum(written(model, tokens, Node(1, h, 3)) for h in range(2)) + model.blocks[1].attn.b_O
    torch.testing.assert_close(heads, out["blocks.1.attn.out"][:, 3], rtol=1e-5, atol=1e-5)
    mlp = written(model, tokens, Node(1, None, 3)) + model.blocks[1].mlp.b_out
    torch.testing.assert_close(mlp, out["blocks.1.mlp.out"][:, 3], rtol=1e-5, atol=1e-5)


def test_bad_input_is_named(make_model, make_tokens):
    x, labels = blobs()
    with pytest.raises(
        ValueError, match=r"outputs \[n, d\] and labels \[n\] are needed, not \[60, 8\] and \[59\]"
    ):
        clusters(x, labels[:59])
    with pytest.raises(ValueError, match="2 to 6 classes, not 1"):
        clusters(x, labels * 0)
    with pytest.raises(ValueError, match="class 7 has 1 examples"):
        clusters(x, torch.where(torch.arange(60) == 5, 7, 0))
    with pytest.raises(ValueError, match="node L0H0 needs a position"):
        node_clusters(make_model(), make_tokens(), Node(0, 0), torch.zeros(5))
    with pytest.raises(ValueError, match="the model's shape"):
        node_clusters(
            make_model(), make_tokens(40), Node(0, 0, 3), torch.arange(40) % 2, twin=make_model(n_heads=1)
        )
