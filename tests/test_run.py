import pytest
import torch

from mi_lab.run import Node, knock_out, run

NAMES = {"P14L2H3": Node(2, 3, 14), "L0H1": Node(0, 1), "P3L1MLP": Node(1, None, 3), "L5MLP": Node(5)}


@pytest.mark.parametrize(("name", "node"), NAMES.items())
def test_a_node_and_its_name_are_one(name, node):
    assert node.name == str(node) == name
    assert Node.parse(name) == node


@pytest.mark.parametrize("name", ["", "H1", "P1", "L1", "P1H2L3", "L-1H0", "L1H1 ", "l1h1", "L1MLP2"])
def test_what_is_no_node_is_refused(name):
    with pytest.raises(ValueError, match="is not a node: write P14L2H3"):
        Node.parse(name)


@pytest.mark.parametrize("values", [(-1, 0), (0, -2), (0, 0, -1), (0.0, 1), (None, 1), (True, 0)])
def test_a_node_counts_from_zero(values):
    with pytest.raises(ValueError, match="must be a whole number from 0 on"):
        Node(*values)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("L2H0", "node L2H0: the model's layers are 0..1"),
        ("L0H2", "node L0H2: the model's heads are 0..1"),
        ("P8L0H0", "node P8L0H0: the positions are 0..7"),
        ("L0MLP", r"node L0MLP: the model has no MLP \(attention only\)"),
    ],
)
def test_a_node_outside_the_model_is_refused(make_model, make_tokens, name, message):
    model = make_model()
    with pytest.raises(ValueError, match=message):
        Node.parse(name).check(model.config)
    with pytest.raises(ValueError, match=message):
        run(model, make_tokens(), edit={name: 0.0})


def test_a_node_behind_the_sequence_is_refused(make_model, make_tokens):
    with pytest.raises(ValueError, match=r"positions are 0..4"):
        run(make_model(), make_tokens(n_ctx=5), edit={Node(0, 0, 5): 0.0})


def test_a_run_is_the_model(make_model, make_tokens):
    model, tokens = make_model(d_mlp=12), make_tokens()
    out = run(model, tokens)
    assert torch.equal(out.logits, model(tokens))
    assert out.recorded == {}
    assert not out.logits.requires_grad


def test_everything_can_be_recorded(make_model, make_tokens):
    model, tokens = make_model(d_mlp=12), make_tokens()
    out = run(model, tokens, record="*")
    assert tuple(out.recorded) == model.activations()
    assert torch.equal(out["logits"], out.logits)
    assert out["blocks.1.attn.z"].shape == (5, 8, 2, 3)
    assert out["blocks.1.attn.pattern"].sum(-1).allclose(torch.ones(5, 2, 8))
    parts = out["embed"] + out["pos_embed"]
    for layer in range(2):
        torch.testing.assert_close(out[f"blocks.{layer}.resid_pre"], parts)
        parts = parts + out[f"blocks.{layer}.attn.out"] + out[f"blocks.{layer}.mlp.out"]
    torch.testing.assert_close(out["blocks.1.resid_post"], parts)


def test_patterns_name_several_activations(make_model, make_tokens):
    out = run(make_model(), make_tokens(), record=["blocks.*.attn.pattern", "embed"])
    assert list(out.recorded) == ["embed", "blocks.0.attn.pattern", "blocks.1.attn.pattern"]


def test_an_unknown_name_gets_the_nearest(make_model, make_tokens):
    for options in ({"record": "blocks.0.attn.patern"}, {"edit": {"blocks.0.attn.patern": 0.0}}):
        with pytest.raises(ValueError, match=r"did you mean 'blocks\.0\.attn\.pattern'"):
            run(make_model(), make_tokens(), **options)


def test_what_was_not_recorded_is_named(make_model, make_tokens):
    out = run(make_model(), make_tokens(), record="embed")
    with pytest.raises(KeyError, match="'logit' was not recorded; recorded: embed"):
        out["logit"]


def test_edits_change_exactly_their_node(make_model, make_tokens):
    model, tokens = make_model(d_mlp=12), make_tokens()
    clean = run(model, tokens, record="*")
    out = run(model, tokens, record="*", edit={"P3L1H1": 2.0, Node(1, None, 6): lambda post: post * 3})
    different = (out["blocks.1.attn.z"] != clean["blocks.1.attn.z"]).any(-1).any(0)  # [pos, head]
    assert different.nonzero().tolist() == [[3, 1]]
    assert (out["blocks.1.attn.z"][:, 3, 1] == 2.0).all()
    torch.testing.assert_close(out["blocks.1.mlp.post"][:, 6], 3 * clean["blocks.1.mlp.post"][:, 6])
    assert (out.logits != clean.logits).any(-1).any(0).tolist() == [i in (3, 6) for i in range(8)]


def test_nothing_is_left_in_the_model(make_model, make_tokens):
    model, tokens = make_model(), make_tokens()
    before = model(tokens)
    run(model, tokens, record="*", edit={"*.resid_mid": 0.0, "L0H0": 1.0})
    assert torch.equal(model(tokens), before)


def test_edits_of_one_activation_follow_one_another(make_model, make_tokens):
    edit = {"blocks.0.attn.z": 1.0, "L0H1": lambda z: z + 1, "P2L0H1": lambda z: z * 5}
    z = run(make_model(), make_tokens(), record="blocks.0.attn.z", edit=edit)["blocks.0.attn.z"]
    assert z[0, :, 0].unique().tolist() == [1.0]
    assert z[0, :, 1, 0].tolist() == [2.0, 2.0, 10.0, 2.0, 2.0, 2.0, 2.0, 2.0]


def test_an_edit_that_puts_back_the_value_changes_nothing(make_model, make_tokens):
    model, tokens = make_model(d_mlp=12), make_tokens()
    clean = run(model, tokens, record="*")
    again = run(model, tokens, edit=dict(clean.recorded))
    assert torch.equal(again.logits, clean.logits)


@pytest.mark.parametrize("value", [torch.zeros(4, 3), lambda z: z[:, :2]])
def test_a_wrong_shape_names_the_right_one(make_model, make_tokens, value):
    with pytest.raises(ValueError, match=r"edit of P2L0H1 has shape .* broadcast to \[5, 3\]"):
        run(make_model(), make_tokens(), edit={"P2L0H1": value})


def test_an_edit_must_be_a_number_or_tensor(make_model, make_tokens):
    with pytest.raises(ValueError, match="must give a tensor or a number, not str"):
        run(make_model(), make_tokens(), edit={"embed": lambda x: "zero"})


def test_gradients_reach_recorded_activations(make_model, make_tokens):
    out = run(make_model(), make_tokens(), record="blocks.0.attn.z", grad=True)
    (gradient,) = torch.autograd.grad(out.logits[:, -1].sum(), out["blocks.0.attn.z"])
    assert gradient.abs().sum() > 0


def test_a_renormalised_knock_out_hands_the_attention_on(make_model, make_tokens):
    model, tokens = make_model(), make_tokens()
    clean = run(model, tokens, record="*.pattern")["blocks.0.attn.pattern"]
    edit = {"blocks.0.attn.scores": knock_out([5, 6], 2, heads=1)}
    pattern = run(model, tokens, record="*.pattern", edit=edit)["blocks.0.attn.pattern"]
    wanted = clean.clone()
    wanted[:, 1, 5:7, 2] = 0
    wanted = wanted / wanted.sum(-1, keepdim=True)
    torch.testing.assert_close(pattern, wanted)


def test_a_plain_knock_out_loses_the_attention(make_model, make_tokens):
    model, tokens = make_model(), make_tokens()
    clean = run(model, tokens, record="*.pattern")["blocks.0.attn.pattern"]
    edit = {"blocks.0.attn.pattern": knock_out(slice(4, None), [0, 1], renormalise=False)}
    pattern = run(model, tokens, record="*.pattern", edit=edit)["blocks.0.attn.pattern"]
    wanted = clean.clone()
    wanted[:, :, 4:, :2] = 0
    assert torch.equal(pattern, wanted)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("pattern", knock_out(5, 2), "edits attn.scores, not this"),
        ("scores", knock_out(5, 2, renormalise=False), "edits attn.pattern, not this"),
        ("scores", knock_out([3, 0], 0), "query 0 would have no key left"),
        ("scores", knock_out(8, 0), r"knock_out: 8 is outside 0..7"),
    ],
)
def test_a_knock_out_that_cannot_be_is_refused(make_model, make_tokens, name, change, message):
    with pytest.raises(ValueError, match=message):
        run(make_model(), make_tokens(), edit={f"blocks.0.attn.{name}": change})
