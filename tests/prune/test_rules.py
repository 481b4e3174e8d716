"""Single operators: what they freeze, what they pass on, and that a wrong rule is found out."""

import functools

import numpy as np
import prune_nets as nets
import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - as everyone calls it

from edgekit.errors import PassError
from edgekit.graph.capture import capture
from edgekit.prune import coupling, rules_index, rules_linear, rules_shape, rules_spatial
from edgekit.prune.atoms import Fixed, components
from edgekit.prune.config import PruneConfig
from edgekit.prune.factor import blocks
from edgekit.prune.prune import prune
from edgekit.prune.registry import RULES, Entry, Op, count

HALF = PruneConfig(sparsity=0.5, minimum_channels=1)


class Between(nn.Module):
    """Two convolutions (12 channels, 6 in) with something between them."""

    def __init__(self, function, width=12, read=None):
        super().__init__()
        self.a = nn.Conv2d(3, width, 3, padding=1)
        self.b = nn.Conv2d(read or width, 6, 1)
        self.c = nn.Conv2d(6, 2, 1)
        self.function = function

    def forward(self, x):
        return self.c(torch.sigmoid(self.b(self.function(self.a(x)))))


def between(function, width=12, read=None):
    torch.manual_seed(0)
    net = Between(function, width, read).eval()
    return capture(net, (torch.randn(2, 3, 8, 8),), dynamic=None)


class Beside(nn.Module):
    """Many of them, on one input: capturing one network is faster than capturing thirty."""

    def __init__(self, functions):
        super().__init__()
        self.names = {name: f"n{i}" for i, name in enumerate(functions)}
        for name, function in functions.items():
            setattr(self, self.names[name], Between(function))

    def forward(self, x):
        return tuple(getattr(self, short)(x) for short in self.names.values())


@functools.cache
def beside(kind):
    """Names of the parts, and the report on all of them."""
    torch.manual_seed(0)
    net = Beside({"passing": PASSING, "freezing": FREEZING}[kind]).eval()
    program = capture(net, (torch.randn(2, 3, 8, 8),), dynamic=None)
    _, report = prune(program, HALF, seed=0)
    assert report.zero_mask_max_error <= 1e-12
    return net.names, report


def part(kind, name):
    """Layers of one part that were halved, and the causes that froze a layer of it."""
    names, report = beside(kind)
    prefix = f"{names[name]}."
    halved = {
        layer.removeprefix(prefix)
        for g in report.groups
        for layer in g.layers
        if layer.startswith(prefix) and g.after * 2 == g.before
    }
    causes = {
        cause
        for cause, frozen in report.frozen.items()
        if f"{prefix}a" in frozen.layers and cause not in {"(input)", "(output)"}
    }
    return halved, causes


CONSTANT = torch.rand(12, 1, 1, generator=torch.Generator().manual_seed(0))
FILTER = torch.randn(12, 12, 1, 1, generator=torch.Generator().manual_seed(1))
SCALE = torch.rand(12, 1, 1, 1, generator=torch.Generator().manual_seed(2))
LINE = torch.linspace(0, 1, 14)
ORDER = torch.tensor([3, 1, 4, 11, 5, 9, 2, 6, 10, 0, 8, 7])

PASSING = {
    "threshold": lambda x: F.threshold(x, 0.1, 3.0),
    "exp": torch.exp,
    "where": lambda x: torch.where(x > 0, x, torch.cos(x)),
    "masked_fill": lambda x: x.masked_fill(x < 0, 2.0),
    "clamp and power": lambda x: x.clamp(0.1, 2) ** 0.5,
    "division by itself": lambda x: x / (x.abs() + 1e-3) + 1 / (2 + x),
    "logarithm of what becomes zero": lambda x: torch.log(x.abs()),
    "alpha dropout": lambda x: F.alpha_dropout(F.selu(x), training=False),
    "cast": lambda x: x.to(torch.float64).to(torch.float32),
    "local pooling": lambda x: F.avg_pool2d(F.max_pool2d(x, 2), 2),
    "norm over pixels": lambda x: F.instance_norm(x) + x.amax((2, 3), keepdim=True),
    "variance over pixels": lambda x: x - x.var(3, keepdim=True) + x.std((2, 3), keepdim=True),
    "softmax over pixels": lambda x: torch.softmax(x.flatten(2), -1).unflatten(2, (8, 8)),
    "channels last": lambda x: (x.permute(0, 2, 3, 1) * torch.ones(12)).movedim(-1, 1),
    "squeeze": lambda x: (x.unsqueeze(2).squeeze(2).transpose(1, 3)).transpose(3, 1),
    "roll of pixels": lambda x: torch.roll(x, (1, 1), (2, 3)),
    "roll of channels": lambda x: torch.roll(torch.roll(x, (3, 2), (1, 2)), -3, 1),
    "reflection": lambda x: F.pad(x, (1, 1, 1, 1), mode="reflect"),
    "interpolation": lambda x: F.interpolate(x, (12, 12), mode="bicubic"),
    "pixel_unshuffle and back": lambda x: F.pixel_shuffle(F.pixel_unshuffle(x, 2), 2),
    "stack and sum": lambda x: torch.stack([x, torch.tanh(x)], 1).sum(1),
    "stack and index": lambda x: torch.stack([x, torch.tanh(x)])[1],
    "repeat": lambda x: x.repeat(1, 2, 1, 1)[:, 6:18],
    "pixels of a slice written": lambda x: torch.slice_scatter(x, x[:, :, :-1] + 1, 2, 1),
    "every second channel": lambda x: torch.cat([x[:, ::2], x[:, 1::2]], 1),
    "weight normalisation": lambda x: F.conv2d(x, torch._weight_norm(FILTER, SCALE, 0)),
    "standardised weights": lambda x: F.conv2d(
        x, F.batch_norm(FILTER.flatten(1)[None], None, None, training=True).view_as(FILTER)
    ),
    "the larger": lambda x: torch.max(x, x.flip(2)),
    "sliced pixels": lambda x: x[:, :, 1:-1, ::2],
    "constant": lambda x: x * CONSTANT + LINE[:12, None, None],
    "zeros": lambda x: torch.cat([x.new_zeros(x.shape[0], 4, 8, 8), x[:, :8]], 1) + x,
    "sum with an ellipsis": lambda x: torch.einsum("...chw,c->...chw", x, CONSTANT.flatten()),
    "attention of channels": lambda x: torch.einsum("bcij,bcjk->bcik", x, x),
    "matmul of channels": lambda x: (
        x.flatten(2) @ x.flatten(2).mT @ x.flatten(2)
    ).unflatten(2, (8, 8)),
    "flatten through linear sizes": lambda x: x.reshape(-1, 12 * 64).view(-1, 12, 8, 8),
    "layer norm": lambda x: F.layer_norm(x.movedim(1, 3), (12,)).movedim(3, 1),
    "rms norm": lambda x: F.rms_norm(x.movedim(1, 3), (12,), CONSTANT.flatten()).movedim(3, 1),
    "a single group": lambda x: F.group_norm(x, 1, CONSTANT.flatten(), CONSTANT.flatten()),
    "layer norm written out": lambda x: (
        (x - x.mean(1, keepdim=True)) / (x.var(1, keepdim=True, unbiased=False) + 1e-5).sqrt()
    ),
    "rms norm written out": lambda x: x * torch.rsqrt(x.pow(2).mean(1, keepdim=True) + 1e-6),
    "variance with Bessel's correction": lambda x: x / (1 + x.var(1, keepdim=True)),
    "unit length": lambda x: x / torch.linalg.vector_norm(x, dim=1, keepdim=True),
    "share of the sum": lambda x: x.exp() / x.exp().sum(1, keepdim=True),
    "unfold to columns": lambda x: F.unfold(x, 1).unflatten(2, (8, 8)),
    "columns and back": lambda x: F.fold(F.unfold(x, 3, padding=1), (8, 8), 3, padding=1),
    "windows": lambda x: x.unfold(2, 2, 2).mean(-1),
    "running sum over pixels": lambda x: x.cumsum(2) + x.sort(3)[0] + x.topk(8, 3)[0],
    "triangle of pixels": torch.triu,
    "picked pixels": lambda x: x[:, :, torch.arange(7, -1, -1)] + x[:, :, :, [1] * 8],
    "gathered pixels": lambda x: x.gather(3, (x > 0).long()),
    "repeated and summed": lambda x: F.avg_pool2d(x.repeat_interleave(2, 2), (2, 1)),
    "group split and back": lambda x: x.view(-1, 3, 4, 8, 8).flatten(1, 2),
}  # fmt: skip


@pytest.mark.parametrize("name", PASSING)
def test_an_operator_that_passes_channels_on(name):
    assert part("passing", name) == ({"a", "b"}, set())


FREEZING = {
    "aten.cumsum": lambda x: x.cumsum(1),
    "aten.softmax": lambda x: x.softmax(1),
    "aten.amax": lambda x: x - x.amax(1, keepdim=True),
    "aten.argmax": lambda x: x + x.argmax(1, keepdim=True),
    "aten.sort": lambda x: x.sort(1)[0],
    "aten.topk": lambda x: x.topk(12, 1)[0],
    "aten.index": lambda x: x[:, torch.arange(11, -1, -1)],
    "aten.gather": lambda x: x.gather(1, torch.zeros_like(x, dtype=torch.int64)),
    "aten.unbind": lambda x: torch.stack(x.unbind(1), 1),
    "aten.arange": lambda x: x * torch.arange(12.0)[:, None, None],
    "aten.local_response_norm": lambda x: F.local_response_norm(x, 3),
    "edgekit_test.mix": lambda x: torch.ops.edgekit_test.mix(x),
}


@torch.library.custom_op("edgekit_test::mix", mutates_args=())
def mix(x: torch.Tensor) -> torch.Tensor:
    return x + x.flip(1)


@mix.register_fake
def _(x):
    return torch.empty_like(x)


@pytest.mark.parametrize("name", FREEZING)
def test_an_operator_that_mixes_channels_freezes_them(name):
    halved, causes = part("freezing", name)
    assert halved == {"b"}
    # local_response_norm falls apart into operators at capture: any of them may be named.
    assert causes == {name} or (name == "aten.local_response_norm" and causes)


def halved(program):
    """Layers that were halved."""
    _, report = prune(program, HALF, seed=0)
    assert report.zero_mask_max_error <= 1e-12
    return {name for g in report.groups if g.after * 2 == g.before for name in g.layers}


def test_a_flip_turns_the_coupling_round():
    assert halved(between(lambda x: x + x.flip(1))) == {"a", "b"}


def test_a_slice_over_a_coupled_residual():
    # Channels 0-5 are added to 6-11, so that they go in pairs.
    program = between(lambda x: x[:, :6] + x[:, 6:], read=6)
    assert halved(program) == {"a", "b"}
    pruned, _ = prune(program, HALF, seed=0)
    before, after = (p.module().state_dict()["a.bias"].tolist() for p in (program, pruned))
    kept = [before.index(v) for v in after]
    assert [k + 6 for k in kept[:3]] == kept[3:]


class Gate(nn.Module):
    """Weights that mix pixels with pixels, as gMLP's gates do with tokens."""

    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(3, 12, 3, padding=1)
        self.mix = nn.Linear(64, 64)
        self.head = nn.Linear(12, 2)

    def forward(self, x):
        y = self.a(x).flatten(2)
        return self.head((y * self.mix(y)).sum(2))


def test_weights_between_pixels_stay_and_are_named():
    torch.manual_seed(0)
    _, report = prune(capture(Gate().eval(), (torch.randn(2, 3, 8, 8),)), HALF, seed=0)
    assert report.zero_mask_max_error <= 1e-12
    assert report.frozen["(spatial)"].parameters == 64 * 64 + 64
    assert report.frozen["(spatial)"].layers == ("mix",)


def test_channels_that_are_read_as_coordinates_stay():
    def sample(x):
        return F.grid_sample(x, torch.tanh(x[:, :2].movedim(1, 3)), align_corners=False)

    _, report = prune(between(sample), HALF, seed=0)
    assert report.zero_mask_max_error <= 1e-12
    assert "aten.grid_sampler" in report.frozen


def _pass_on(argument):
    return lambda op: op.dims(argument)


def _uncoupled_glu(op):
    x = op.dims("self")
    return (x[0], x[1][: x[1].size // 2], *x[2:])


def _swapped_cat(op):
    value = list(rules_shape.cat(op))
    value[1] = np.roll(value[1], 1)
    return tuple(value)


def _wrong_shuffle(op):
    x = op.dims("self")
    squares = x[1].reshape(4, -1)
    op.unite(squares, np.broadcast_to(squares[:1], squares.shape))
    return (x[0], squares[0], Fixed("x"), Fixed("x"))


def _swapped_split(op):
    value = rules_shape.split(op)
    return value[::-1] if value[0][1].size == value[1][1].size else value


def _shifted_view(op):
    value = rules_shape.view(op)
    return tuple(d if isinstance(d, Fixed) else np.roll(d, 1) for d in value)


def _shifted_slice(op: Op, kept):
    rules_shape._set_slice(op, kept)
    if op.arguments["dim"] == 1 and isinstance(op.arguments["end"], int):
        size = count(kept, op.dims("self")[1], op.shape("self")[1])
        if op.arguments["end"] < size:
            op.set("start", op.arguments["start"] + 1)
            op.set("end", op.arguments["end"] + 1)


def _layer_norm(x):
    return F.layer_norm(x.movedim(1, 3), (12,)).movedim(3, 1)


def _viewed(x):
    return x.view(-1, 12, 64).unflatten(2, (8, 8))


def _gated(x):
    return F.glu(torch.cat([x.flip(1), x], 1), 1)


def _unshuffled(x):
    return F.pixel_unshuffle(F.pixel_shuffle(x, 2), 2)


def _attended(x):
    return F.scaled_dot_product_attention(*[x.permute(0, 2, 3, 1)] * 3).permute(0, 3, 1, 2)


def _scaled_norm(x):
    y = F.layer_norm(x.movedim(1, 3), (12,), CONSTANT.flatten().flip(0), CONSTANT.flatten())
    return y.movedim(3, 1)


def _grouped_queries(x):
    # Each channel is a head of the query; key and value have a head for each pair of channels.
    q = x.flatten(2).unflatten(2, (4, 16)).permute(0, 1, 3, 2)
    k = q.flip(1).unflatten(1, (6, 2)).sum(2)
    y = F.scaled_dot_product_attention(q, k, k, enable_gqa=True)
    return y.permute(0, 1, 3, 2).flatten(2).unflatten(2, (8, 8))


def _folded(x):
    pairs = torch.cat([x, x.flip(1)], 1).flatten(2)
    return F.avg_pool2d(F.fold(pairs, (8, 16), (1, 2), stride=(1, 2)), (1, 2))


def _uncoupled_columns(op):
    x = op.dims("self")
    return (x[0], x[1].reshape(-1, 2)[:, 0], Fixed("x"), Fixed("x"))


# What is wrong: the operator, a network that has it, and the rule and the rewrite to plant.
FAULTS = {
    "softmax passes": ("softmax", lambda x: x.softmax(1), _pass_on("self"), None),
    "norm not rewritten": ("layer_norm", _layer_norm, rules_spatial.layer_norm, None),
    "norm's scale uncoupled": (
        "layer_norm", _scaled_norm, _pass_on("input"), rules_spatial._set_normalized_shape,
    ),
    "group norm passes": ("group_norm", lambda x: F.group_norm(x, 3), _pass_on("input"), None),
    "glu uncoupled": ("glu", _gated, _uncoupled_glu, None),
    "cat misplaced": ("cat", lambda x: torch.cat([x[:, :6], x[:, 6:]], 1), _swapped_cat, None),
    "split swapped": (
        "split", lambda x: torch.cat(x.split(6, 1), 1), _swapped_split, rules_shape._set_split,
    ),
    "view shifted": ("view", _viewed, _shifted_view, rules_shape._set_view),
    "view not rewritten": ("view", _viewed, rules_shape.view, None),
    "slice shifted": (
        "slice", lambda x: torch.cat([x[:, 2:8]] * 2, 1), rules_shape.slice_, _shifted_slice,
    ),
    "pixel shuffle transposed": (
        "pixel_shuffle", _unshuffled, _wrong_shuffle, None,
    ),
    "mean passes unwatched": (
        "amax", lambda x: x - x.amax(1, keepdim=True), rules_spatial.averaged, None,
    ),
    "heads of the wrong query": (
        "scaled_dot_product_attention",
        _grouped_queries,
        _pass_on("query"),
        rules_linear._keep_scale,
    ),
    "index not renumbered": ("index", lambda x: x[:, ORDER], rules_index.index, None),
    "index misplaced": ("index", lambda x: x[:, ORDER], _pass_on("self"), rules_index._set_index),
    "columns uncoupled": (
        "col2im", _folded, _uncoupled_columns, None,
    ),
    "roll passes": ("roll", lambda x: torch.roll(x, 1, 1), _pass_on("self"), None),
    "flip passes": ("flip", lambda x: x.flip(1), _pass_on("self"), None),
    "scale forgotten": ("scaled_dot_product_attention", _attended, rules_linear.attention, None),
}  # fmt: skip


def _prune_often(program, config):
    for seed in range(4):  # one choice of channels may be symmetric by chance
        prune(program, config, seed=seed)


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_found_out(name, monkeypatch):
    operator, function, rule, rewrite = FAULTS[name]
    program = between(function)
    monkeypatch.setitem(RULES, f"aten::{operator}", Entry(rule, rewrite))
    config = HALF.model_copy(update={"importance": "random"})
    with pytest.raises(PassError):
        _prune_often(program, config)


def test_every_rule_says_what_it_does():
    for name, entry in RULES.items():
        assert entry.rule.__doc__, name
    named = {m.__name__ for m in coupling.RULE_MODULES}
    assert {e.rule.__module__ for e in RULES.values()} == named


def test_components_against_a_plain_search():
    generator = np.random.default_rng(0)
    for nodes, edges in ((1, 0), (50, 30), (200, 190), (500, 400)):
        left, right = generator.integers(0, nodes, (2, edges))
        parent = list(range(nodes))

        def find(a, parent=parent):
            while parent[a] != a:
                a = parent[a]
            return a

        for a, b in zip(left, right, strict=True):
            low, high = sorted((find(int(a)), find(int(b))))
            parent[high] = low
        expected = [find(a) for a in range(nodes)]
        assert components(nodes, left, right).tolist() == expected


def test_a_chain_of_a_hundred_thousand_is_fast():
    order = np.random.default_rng(0).permutation(100_000)
    assert not components(100_000, order[:-1], order[1:]).any()


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ((2, 3, 4), (2, 12), [((1, 2), (1,)), ((0,), (0,))]),
        ((24,), (2, 3, 4), [((0,), (0, 1, 2))]),
        ((4, 6), (8, 3), [((0, 1), (0, 1))]),
        ((5, 4, 6), (5, 6, 4), [((1, 2), (1, 2)), ((0,), (0,))]),
        ((7, 2), (7, 2), [((1,), (1,)), ((0,), (0,))]),
    ],
)
def test_views_fall_into_blocks(before, after, expected):
    assert blocks(before, after) == expected


def test_the_wider_factor_of_a_view_is_pruned_first():
    program = nets.program("attention")
    pruned, _ = prune(program, HALF, seed=0)
    shapes = {tuple(p.shape) for n, p in pruned.module().named_parameters() if "qkv" in n}
    assert shapes == {(24, 8), (24,)}  # 3 · 2 heads · 4 of 8


@pytest.mark.parametrize(
    ("policy", "qkv", "q"), [("heads", (24, 8), (8, 8)), ("head-dim", (24, 8), (8, 8))]
)
def test_the_policy_says_what_attention_loses(policy, qkv, q):
    program = nets.program("attention")
    pruned, report = prune(program, HALF.model_copy(update={"attention": policy}), seed=0)
    state = pruned.module().state_dict()
    assert report.zero_mask_max_error <= 1e-12
    assert (tuple(state["qkv.weight"].shape), tuple(state["q.weight"].shape)) == (qkv, q)
    before = program.module().state_dict()["qkv.bias"][:16].reshape(2, 8)
    rows = [set(before[h].tolist()) & set(state["qkv.bias"].tolist()) for h in (0, 1)]
    assert sorted(map(len, rows)) == ([0, 8] if policy == "heads" else [4, 4])


def test_a_constant_order_of_channels_is_followed():
    program = between(lambda x: x[:, ORDER].index_select(1, ORDER))
    assert halved(program) == {"a", "b"}


def test_grouped_queries_lose_a_key_head_with_its_queries():
    program = between(_grouped_queries)
    pruned, report = prune(program, HALF, seed=0)
    assert report.zero_mask_max_error <= 1e-12
    before, after = (p.module().state_dict()["a.bias"].tolist() for p in (program, pruned))
    kept = [before.index(v) for v in after]
    # Key head i is a pair of channels from the end, and serves queries 2i and 2i + 1.
    assert len(kept) < 12
    assert {k ^ 1 for k in kept} == set(kept)


def test_normalisations_can_be_kept_whole():
    functions = [_layer_norm, lambda x: F.group_norm(x, 1), lambda x: x - x.mean(1, keepdim=True)]
    config = HALF.model_copy(update={"normalization": "keep"})
    for function, cause in zip(functions, ("layer_norm", "group_norm", "mean"), strict=True):
        _, report = prune(between(function), config, seed=0)
        assert f"aten.{cause}" in report.frozen
        assert {name for g in report.groups for name in g.layers} == {"b"}
