"""What a forward pass does with shapes is followed for the frame's size, and every form of it is the network."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the field's name for it

from converters.analysis.network import traced_network
from converters.analysis.received import working_copy
from converters.analysis.tracing import graph_from_network, shared_graph
from converters.exporting import export
from converters.pooling import MergePool2d, SplitPool2d, merge, split
from converters.rewriting.lowerings.base import LoweredNetwork
from converters.rewriting.proof import noise_case
from converters.rewriting.sampling import sampled_from_network
from converters.trunks import proven_trunks
from engines.errors import NetworkError
from tests.converters.test_exporting import frame_of, run_onnx, torch_logits

SIZE = (24, 32)
Forward = Callable[[Any, Tensor], Tensor]


class Does(nn.Module):
    """A function of a module and a map, and what the module holds."""

    def __init__(self, what: Forward, **held: Any) -> None:
        super().__init__()
        self.what = what
        for name, value in held.items():
            if isinstance(value, Tensor) and not isinstance(value, nn.Parameter):
                self.register_buffer(name, value)
            else:
                setattr(self, name, value)

    def forward(self, x: Tensor) -> Tensor:
        return self.what(self, x)


class Levels(nn.Module):
    """Two levels, and something at the deeper one; or another way through the same layers."""

    def __init__(self, body: nn.Module | None = None, way: Forward | None = None) -> None:
        super().__init__()
        self.first, self.split, self.second = nn.Conv2d(3, 4, 3, padding=1), SplitPool2d(2), convolution()
        self.deeper, self.body, self.head = SplitPool2d((2, 1)), body or nn.ReLU(), nn.Conv2d(4, 3, 1)
        self.inner, self.merge = MergePool2d(self.deeper), MergePool2d(self.split)
        self.way = way

    def split_twice(self, x: Tensor) -> Tensor:
        return self.deeper(self.second(self.split(self.first(x))))

    def merged(self, x: Tensor) -> Tensor:
        return self.merge(self.inner(self.head(x)))

    def forward(self, x: Tensor) -> Tensor:
        return self.merged(self.body(self.split_twice(x))) if self.way is None else self.way(self, x)


def convolution() -> nn.Conv2d:
    return nn.Conv2d(4, 4, 3, padding=1)


def normed(channels: int) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(channels)
    with torch.no_grad():
        norm.running_mean.normal_()  # type: ignore[union-attr]
        norm.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
        norm.weight.normal_()
    return norm


def hooked(layer: nn.Module, *, named: bool = False) -> nn.Module:
    """Doubles what comes in, and takes something off what comes out."""
    if named:
        layer.register_forward_pre_hook(
            lambda _, given, names: (given, {name: 2 * x for name, x in names.items()}), with_kwargs=True
        )
    else:
        layer.register_forward_pre_hook(lambda _, given: (2 * given[0],))
    layer.register_forward_hook(lambda _, given, output: output - 0.25)
    return layer


def same_padding(module: Any, x: Tensor) -> Tensor:
    """As ports from TensorFlow pad."""
    sizes = x.shape[-2:]
    pads = [max((math.ceil(side / 1) - 1) * 1 + 3 - side, 0) for side in sizes]
    if pads[0] > 0 or pads[1] > 0:
        x = F.pad(x, [pads[1] // 2, pads[1] - pads[1] // 2, pads[0] // 2, pads[0] - pads[0] // 2])
    return module.conv(x)


def numbers_of_sizes(module: Any, x: Tensor) -> Tensor:
    rows, columns = int(x.shape[2]), float(x.size(3))
    return module.conv(x) * rows / columns + int(np.ceil(x.shape[3] / 5)) + math.sqrt(x.shape[2])


def rows_in_turn(module: Any, x: Tensor) -> Tensor:
    return torch.stack([x[:, :, row] * (row + 1) for row in range(x.shape[2])], 2)


def grid_by_size(module: Any, x: Tensor) -> Tensor:
    key = tuple(x.shape[-2:])
    if key not in module.grids:
        module.grids[key] = torch.linspace(-1, 1, x.shape[-1]) + torch.linspace(-1, 1, x.shape[-2])[:, None]
    return x + module.grids[key]


def attention(module: Any, x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    positions = x.flatten(2).transpose(1, 2)
    return x + module.attention(positions, positions, positions)[0].transpose(1, 2).reshape(n, c, h, w)


def attention_positions_first(module: Any, x: Tensor) -> Tensor:
    positions = x.flatten(2).permute(2, 0, 1)
    looked, _ = module.attention(positions, positions, positions, need_weights=False)
    return x + looked.permute(1, 2, 0).view(*x.shape)


def attention_in_windows(module: Any, x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    x = F.pad(x, (0, (4 - w % 4) % 4, 0, (4 - h % 4) % 4))
    _, _, rows, columns = x.shape
    parts = x.view(n, c, rows // 4, 4, columns // 4, 4).permute(0, 2, 4, 3, 5, 1).reshape(-1, 16, c)
    parts = torch.softmax(parts @ parts.transpose(1, 2) + module.bias[module.index.view(-1)].view(16, 16), -1) @ parts
    images = parts.shape[0] // (rows // 4 * (columns // 4))
    parts = parts.view(images, rows // 4, columns // 4, 4, 4, -1).permute(0, 5, 1, 3, 2, 4)
    return parts.reshape(n, c, rows, columns)[:, :, :h, :w].contiguous()


def asserted(module: Any, x: Tensor) -> Tensor:
    torch._assert(x.shape[1] == 4, f"channels: {x.shape}")
    assert x.shape[3] % 2 == 0, "odd"
    assert x.ndim == 4
    torch._check(x.shape[2] > 1)
    if x.shape[2] % 2 or x.dtype != torch.float32 or not isinstance(x, Tensor):
        raise ValueError("odd")
    return 2 * x


def table(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(*shape))


BODIES: dict[str, Callable[[], nn.Module]] = {
    "decision": lambda: Does(lambda m, x: m.conv(x) if x.shape[2] % 8 else 2 * x, conv=convolution()),
    "decision of this size": lambda: Does(lambda m, x: m.conv(x) if x.size(2) > 5 else 2 * x, conv=convolution()),
    "decision by the batch": lambda: Does(lambda m, x: 3 * x if x.shape[0] > 7 else 2 * x),
    "chosen by size": lambda: Does(lambda m, x: {(6, 16): 3, (1, 2): 2}.get(tuple(x.shape[-2:]), 5) * x),
    "same padding": lambda: Does(same_padding, conv=nn.Conv2d(4, 4, 3)),
    "numbers": lambda: Does(numbers_of_sizes, conv=convolution()),
    "loop over rows": lambda: Does(rows_in_turn),
    "assertions": lambda: Does(asserted),
    "stored by size": lambda: Does(grid_by_size, grids={}),
    "table sliced": lambda: Does(lambda m, x: x + m.t[:, :, : x.shape[2], : x.shape[3]], t=table(1, 4, 64, 64)),
    "buffer sliced": lambda: Does(lambda m, x: x + m.t[..., : x.shape[2], : x.shape[3]], t=torch.randn(1, 4, 64, 64)),
    "attribute sliced": lambda: Does(
        lambda m, x: x + m.t[0][:, : x.shape[2], : x.shape[3]], t=[torch.randn(4, 64, 64)]
    ),
    "table interpolated": lambda: Does(
        lambda m, x: x + (m.t if m.t.shape[2:] == x.shape[2:] else F.interpolate(m.t, x.shape[2:], mode="bicubic")),
        t=table(1, 4, 3, 3),
    ),
    "buffer interpolated": lambda: Does(
        lambda m, x: x + F.interpolate(m.t, size=x.shape[2:], mode="bilinear"), t=torch.randn(1, 4, 3, 3)
    ),
    "coordinates": lambda: Does(
        lambda m, x: torch.cat([x[:, :2], m.xy.expand(x.shape[0], -1, x.shape[2], -1)], 1), xy=torch.randn(1, 2, 1, 16)
    ),
    "coordinates made": lambda: Does(
        lambda m, x: x
        + torch.cat([torch.zeros(x.shape[0], 3, *x.shape[2:]), torch.arange(x.shape[3]).expand_as(x[:, :1])], 1)
    ),
    "batch of a view": lambda: Does(lambda m, x: (2 * x.view(x.size(0), x.size(1), -1)).view(*x.shape)),
    "batch of new tensors": lambda: Does(
        lambda m, x: x + torch.ones(x.shape[0], 4, 1, 1) + x.new_ones(x.shape[0], 1, 1, 1)
    ),
    "batch by division": lambda: Does(lambda m, x: x.reshape(x.numel() // math.prod(x.shape[1:]), 4, *x.shape[2:]) * 2),
    "buffer decides": lambda: Does(lambda m, x: int(m.t[0]) * x if m.t.sum() > 2 else x, t=torch.tensor([2, 1])),
    "layer by name": lambda: Does(lambda m, x: m.norm(input=m.conv(input=x)), conv=convolution(), norm=normed(4)),
    "pools by name": lambda: Does(
        lambda m, x: m.up(x=m.conv(input=m.down(x=x))),
        down=(down := SplitPool2d(2)), up=MergePool2d(down), conv=convolution(),
    ),
    "functional pools by name": lambda: Does(
        lambda m, x: merge(x=m.conv(split(window=(1, 2), x=F.relu(input=m.conv(x)))), window=(1, 2)), conv=convolution()
    ),
    "norm after a tied weight": lambda: Does(
        lambda m, x: m.norm(m.conv(x)) + F.conv_transpose2d(x, m.conv.weight, padding=1),
        conv=convolution(), norm=normed(4),
    ),
    "hooked layer": lambda: hooked(convolution()),
    "hooked block": lambda: hooked(nn.Sequential(convolution(), nn.ReLU())),
    "hooked module": lambda: hooked(Does(lambda m, x: 1 - x)),
    "hooked layer by name": lambda: Does(lambda m, x: m.conv(input=x), conv=hooked(convolution(), named=True)),
    "attention": lambda: Does(attention, attention=nn.MultiheadAttention(4, 2, batch_first=True)),
    "attention, positions first": lambda: Does(attention_positions_first, attention=nn.MultiheadAttention(4, 2)),
    "attention in windows": lambda: Does(
        attention_in_windows, bias=table(9), index=(torch.arange(256) % 9).view(16, 16)
    ),
    "unfold": lambda: Does(lambda m, x: F.unfold(x, 3, padding=1).view(x.shape[0], 4, 9, *x.shape[2:]).amax(2)),
    "unfold of a tensor": lambda: Does(
        lambda m, x: F.pad(x, (1, 1, 1, 1)).unfold(2, 3, 1).unfold(3, 3, 1).amax((4, 5))
    ),
    "fold": lambda: Does(lambda m, x: F.fold(F.unfold(x, 3, padding=1), x.shape[2:], 3, padding=1)),
    "pixel unshuffle": lambda: Does(
        lambda m, x: F.pixel_shuffle(m.conv(F.pixel_unshuffle(x, 2)), 2), conv=nn.Conv2d(16, 16, 3, padding=1)
    ),
}  # fmt: skip


def by_name(network: Any, x: Tensor) -> Tensor:
    x = network.second(input=network.split(x=torch.sigmoid(input=network.first(input=x))))
    return network.merge(x=network.inner(x=network.head(input=network.deeper(x=F.relu(input=x)))))


def sizes_of_the_image(network: Any, x: Tensor) -> Tensor:
    """Used inside of levels, where maps are smaller."""
    deep = network.split_twice(x)
    deep = deep + F.interpolate(deep.mean((2, 3), keepdim=True), size=(x.shape[2] // 4, x.shape[3] // 2))
    return network.merged(deep + torch.arange(deep.shape[3], device=x.device, dtype=x.dtype) * (x.shape[3] / 100))


def resized_where_smaller(network: Any, x: Tensor) -> Tensor:
    logits = network.merged(network.split_twice(x))
    return logits if logits.shape[2:] == x.shape[2:] else F.interpolate(logits, x.shape[2:])


def checked(network: Any, x: Tensor) -> Tensor:
    if any(side % 4 for side in x.shape[-2:]):
        raise ValueError("sides must be multiples of 4")
    return network.merged(network.split_twice(x))


def times_its_split_batches(network: Any, x: Tensor) -> Tensor:
    deep = network.split_twice(x)
    return network.merged(deep * (deep.shape[0] // x.shape[0]))


def coordinates_are_split(network: Any, x: Tensor) -> Tensor:
    return network.merged(network.split_twice(x + network.body.xy.expand(x.shape[0], -1, -1, -1)))


WAYS: dict[str, Callable[[], nn.Module]] = {
    "everything by name": lambda: Levels(way=by_name),
    "sizes of the image": lambda: Levels(way=sizes_of_the_image),
    "resized where smaller": lambda: Levels(way=resized_where_smaller),
    "checked": lambda: Levels(way=checked),
    "ratio of batches": lambda: Levels(way=times_its_split_batches),
    "coordinates of the image": lambda: Levels(
        Does(lambda m, x: x, xy=torch.randn(1, 3, *SIZE)), coordinates_are_split
    ),
    "hooks of the network": lambda: hooked(Levels()),
    "hooked first layer": lambda: _hooked_inside("first"),
    "hooked producer": lambda: _hooked_inside("second"),
    "hooked split": lambda: _hooked_inside("deeper"),
    "hooked merge": lambda: _hooked_inside("inner"),
}


def _hooked_inside(layer: str) -> nn.Module:
    network = Levels()
    hooked(network.get_submodule(layer))
    return network


NETWORKS = {**{name: (lambda make=make: Levels(make())) for name, make in BODIES.items()}, **WAYS}


@pytest.mark.parametrize("name", list(NETWORKS))
def test_every_trunk_is_the_network_in_every_sub_batch(name: str) -> None:
    torch.manual_seed(0)
    network = NETWORKS[name]().eval()
    case = noise_case(traced_network(working_copy(network), SIZE))
    frame = torch.randn(1, 3, *SIZE)
    with torch.no_grad():
        expected = network(frame.clone())[0]
    forms = list(proven_trunks(case))
    assert {form.looped.levels for form in forms} == set(range(case.network.most_levels + 1))
    for form in forms:
        for sub_batch in (1, 2, 3, None):
            error = (together(form, frame[0], sub_batch) - expected).abs().max() / expected.abs().max()
            assert error <= 2e-6, (form.looped.levels, form.lowering, sub_batch)


def together(form: LoweredNetwork, frame: Tensor, sub_batch: int | None) -> Tensor:
    """The logits of a frame, so many phases at a time; all by default."""
    grid = form.looped.grid(SIZE, SIZE)
    top, left, bottom, right = grid.border
    planes = F.pad(frame, (left, right, top, bottom)).numpy()
    merged = torch.zeros(3, *SIZE)
    for phases in grid.sub_batches(min(sub_batch or grid.largest_sub_batch, grid.largest_sub_batch)):
        with torch.no_grad():
            logits = form.graph(*(torch.tensor(array) for array in grid.feed(planes, phases).values()))
            for undo in form.merges:
                logits = undo(logits)
        for (row, column), part in zip(phases, logits, strict=True):
            merged[:, row :: grid.window[0], column :: grid.window[1]] = part
    return merged


@pytest.mark.parametrize(
    ("name", "levels"),
    [("assertions", 1), ("decision", 1), ("checked", 1), ("resized where smaller", 1), ("everything by name", 1)],
)
def test_what_is_asked_of_a_shape_keeps_no_level_from_the_windows(name: str, levels: int) -> None:
    assert traced_network(NETWORKS[name]().eval(), SIZE).cut_levels == levels


@pytest.mark.parametrize(
    ("name", "proven"),
    [
        ("decision", (8, 6)),
        ("decision of this size", (24, 24)),
        ("loop over rows", (24, 24)),
        ("numbers", (24, 32)),
        ("table sliced", (8, 6)),
        ("coordinates of the image", (24, 32)),
    ],
)
def test_the_proof_is_on_the_least_frame_where_all_is_decided_alike(name: str, proven: tuple[int, int]) -> None:
    case = noise_case(traced_network(working_copy(NETWORKS[name]()), SIZE))
    assert case.size == proven
    assert case.grown == (proven != (8, 6))


def test_a_decision_between_two_sizes_is_proven_between_them() -> None:
    body = Does(lambda m, x: m.conv(x) if x.shape[2] > 3 else 2 * x, conv=convolution())
    assert noise_case(traced_network(working_copy(Levels(body)), (64, 96))).size == (16, 12)


COUNTED = (
    r"it makes a Python number of how many images there are .* give x.shape\[0\] itself, or -1 \(in layer body; li"
)

REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "decision by values": (
        lambda: Does(lambda m, x: 2 * x if x.max() > 0 else x),
        r"^Levels cannot be traced: it decides by the values of a tensor; .* \(in layer body; line \d+ of",
    ),
    "decision by a parameter": (
        lambda: Does(lambda m, x: 2 * x if m.t > 0 else x, t=table(1)),
        r"^Levels cannot be traced: it decides by the values of a tensor; .* \(in layer body; line \d+ of",
    ),
    "item": (
        lambda: Does(lambda m, x: x * x.max().item()),
        r"^Levels cannot be traced: it takes the values of a tensor out of it \(item\), and a trace has none \(in",
    ),
    "int of values": (
        lambda: Does(lambda m, x: x * int(x.max())),
        r"^Levels cannot be traced: it makes a Python number of the values of a tensor \(int\), .* \(in layer body;",
    ),
    "shape by values": (
        lambda: Does(lambda m, x: x * x.nonzero().shape[0]),
        r"^Levels cannot be traced: the shape of nonzero depends on the values of a tensor; .* \(in layer body; line",
    ),
    "len of the batch": (
        lambda: Does(lambda m, x: x.reshape(len(x), -1).reshape(x.shape)),
        COUNTED,
    ),
    "int of the batch": (
        lambda: Does(lambda m, x: x.reshape(int(x.shape[0]), -1).reshape(x.shape)),
        COUNTED,
    ),
    "loop over the batch": (
        lambda: Does(lambda m, x: torch.stack([x[index] for index in range(x.shape[0])])),
        COUNTED,
    ),
    "entries in turn": (
        lambda: Does(lambda m, x: torch.stack([entry * 2 for entry in x])),
        COUNTED,
    ),
    "a number for the batch": (
        lambda: Does(lambda m, x: 2 * x.view(8, 4, *x.shape[2:])),
        r"^Levels cannot be traced: reshape takes one image and fails on two: .* \(in layer body; line",
    ),
    "a number for the rest of the batch": (
        lambda: Does(lambda m, x: 2 * x.view(-1, 8, *x.shape[1:]).flatten(0, 1)),
        r"^computed phase by phase, the network fails on an image of 8x6 at reshape: shape '\[-1, 8, 4, 2, 3\]' is .*"
        "Split batches are entries of the batch, and any number of them is computed at a time",
    ),
    "a number of split batches": (
        lambda: Does(lambda m, x: x * x.shape[0]),
        r"^computed phase by phase, the network differs from the whole by .*\. mul mixes entries of t",
    ),
    "sets of split batches": (
        lambda: Does(lambda m, x: x.view(x.shape[0] // 4, 4, *x.shape[1:]).softmax(1).view(x.shape)),
        r"^computed phase by phase, the network fails on an image of 8x6 at reshape: shape '\[\d, 4, 4, 2, 3\]' is",
    ),
    "attention between split batches": (
        lambda: Does(
            lambda m, x: x
            + m.attention(*[x.flatten(2).transpose(1, 2)] * 3)[0].transpose(1, 2).reshape(x.shape),
            attention=nn.MultiheadAttention(4, 2),
        ),
        r"differs from the whole by .*\. (getitem|body.attention \(.*\)) mixes entries of the batch",
    ),
    "the first entry": (
        lambda: Does(lambda m, x: x + 5 * x[:1]),
        r"differs from the whole by .*\. getitem mixes entries of the batch",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", list(REFUSED))
def test_what_is_refused_is_named(name: str) -> None:
    torch.manual_seed(0)
    make, message = REFUSED[name]
    network = Levels(make()).eval()
    with pytest.raises(NetworkError, match=re.compile(message, re.DOTALL)):
        list(proven_trunks(noise_case(traced_network(working_copy(network), SIZE))))


def test_a_stored_map_that_is_split_without_the_batch_is_refused() -> None:
    def added(network: Any, x: Tensor) -> Tensor:
        return network.merged(
            network.deeper(network.second(network.split(network.first(x)) + network.split(network.xy)))
        )

    network = Levels(way=added)
    network.xy = table(1, 4, *SIZE)
    message = (
        r"^Levels cannot be traced: add takes one image and fails on two: .*\. Split batches are entries of the batch"
    )
    with pytest.raises(NetworkError, match=re.compile(message, re.DOTALL)):
        traced_network(network, SIZE)


def test_a_branch_that_fails_at_this_size_is_named() -> None:
    def refusing(module: Any, x: Tensor) -> Tensor:
        if x.shape[3] != 7:
            raise ValueError(f"7 columns, not {int(x.shape[3])}")
        return x

    with pytest.raises(NetworkError, match=r"^Levels cannot be traced: 7 columns, not 16 \(in layer body; line \d+ of"):
        traced_network(Levels(Does(refusing)), SIZE)


def test_splits_that_do_not_come_out_even_pad_the_frame() -> None:
    strided = nn.Sequential(nn.Conv2d(3, 4, 3, stride=3, padding=1), down := SplitPool2d((2, 4)), MergePool2d(down))
    network = nn.Sequential(strided, nn.Upsample(scale_factor=3))
    traced = traced_network(network, (25, 32))
    assert (traced.size_multiple, traced.size) == ((6, 12), (30, 36))
    network.size_multiple = (30, 1)
    assert traced_network(network, (25, 36)).size == (30, 36)


def test_a_network_that_is_traced_keeps_what_it_stores() -> None:
    network = Levels(Does(grid_by_size, grids={})).eval()
    handle = network.first.register_forward_hook(lambda module, given, output: setattr(module, "seen", output))
    shared_graph(network, SIZE)
    graph_from_network(network, SIZE)
    assert network.body.grids == {}
    assert not hasattr(network.first, "seen")
    handle.remove()
    assert not network.first._forward_hooks


def test_tracing_in_training_mode_counts_nothing() -> None:
    network = Levels(normed(4)).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    state = torch.get_rng_state()
    shared_graph(network, SIZE)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)


def test_a_network_in_training_decides_by_the_size_of_its_crops() -> None:
    body = Does(lambda m, x: m.conv(x) if x.shape[3] > 8 else 2 * x, conv=convolution())
    traced = traced_network(Levels(body).eval(), SIZE, shared=True)
    small, large = traced.at((8, 8)), traced.at((12, 32))
    assert (small.size, large.size) == ((8, 8), (12, 32))
    for found, size in ((small, (8, 8)), (large, (12, 32))):
        x = torch.randn(1, 3, *size)
        form = sampled_from_network(found, 0)
        torch.testing.assert_close(form.merged(form.logits(x, ())), traced.module(x))
    undecided = traced_network(Levels().eval(), SIZE, shared=True)
    assert undecided.at((8, 8)) is undecided


def test_exported_and_run_in_onnxruntime(tmp_path: Any) -> None:
    """One network with most of it: in ``model.onnx``, of two frames at once too."""
    torch.manual_seed(0)
    names = ("decision of this size", "same padding", "coordinates", "table interpolated", "attention", "hooked layer")
    network = Levels(nn.Sequential(*(BODIES[name]() for name in names))).eval()
    said: list[str] = []
    bundle = export(
        network, tmp_path / "bundle", size=SIZE, lowerings="reshape", precisions="fp32", outputs="logits",
        on_step=said.append,
    )  # fmt: skip
    assert any("proving on noise of 24x32, the least size that the network takes" in step for step in said)
    frames = np.stack([frame_of(SIZE), frame_of(SIZE)[::-1]])
    found = run_onnx(bundle.path / bundle.manifest.model, frames=frames)
    for logits, frame in zip(found, frames, strict=True):
        expected = torch_logits(network, frame, SIZE)
        assert abs(logits - expected).max() <= 2e-5 * abs(expected).max()
