"""The proof finds what no rewrite can see."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from converters.analysis.network import traced_network
from converters.pooling import MergePool2d, SplitPool2d
from converters.rewriting.loops import looped_from_network
from converters.rewriting.lowerings import lowered
from converters.rewriting.proof import noise_case, prove_phases
from engines.errors import NetworkError
from engines.schedules.schedule import Lowering

SIZE = (8, 12)


class Between(nn.Module):
    """Something between a split and its merge."""

    def __init__(self, what: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.split, self.what = nn.Conv2d(3, 4, 3, padding=1), SplitPool2d(2), what
        self.merge = MergePool2d(self.split)

    def forward(self, x: Tensor) -> Tensor:
        return self.merge(self.what(self.split(self.conv(x))))


def prove(network: nn.Module) -> None:
    traced = traced_network(network.eval(), SIZE)
    prove_phases(lowered(looped_from_network(traced), Lowering.RESHAPE), noise_case(traced))


@pytest.mark.parametrize(
    ("mixing", "layer"),
    [
        (lambda x: x - x.mean(0, keepdim=True), "mean"),
        (lambda x: x.relu().softmax(0), "softmax"),
        (lambda x: x / x.abs().max(), "max_1"),
        (lambda x: x + x.flip(0), "flip"),
        (nn.BatchNorm2d(4, track_running_stats=False), r"what \(what\)"),
    ],
    ids=["mean", "softmax", "maximum", "flip", "norm"],
)
def test_layers_that_tie_phases_together_are_refused_by_name(mixing: Callable[[Tensor], Tensor], layer: str) -> None:
    with pytest.raises(NetworkError, match=rf"differs from the whole by \d.* {layer} mixes entries of the batch"):
        prove(Between(mixing))


def test_what_ties_all_phases_together_is_seen_one_phase_at_a_time() -> None:
    """Of a window of three, all phases go together, and their mean is that of the whole."""
    network = Between(lambda x: x - x.mean(0, keepdim=True))
    network.split = SplitPool2d((3, 1))
    network.merge = MergePool2d(network.split)
    with pytest.raises(NetworkError, match=r"differs from the whole by \d.* mean mixes entries of the batch"):
        prove(network)


@pytest.mark.parametrize(
    "chance",
    [lambda x: x + torch.rand_like(x), lambda x: nn.functional.dropout(x, 0.5, training=True)],
    ids=["noise", "dropout"],
)
def test_chance_is_told_from_mixing(chance: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(NetworkError, match=r"gives other logits each time it sees the same image, by \d"):
        prove(Between(chance))


class Counting(nn.Module):
    """Gives more each time."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0

    def forward(self, x: Tensor) -> Tensor:
        self.seen += 1
        return x * self.seen


def test_what_was_computed_before_is_told_from_mixing() -> None:
    with pytest.raises(NetworkError, match="depends on chance, or on what it computed before"):
        prove(Between(Counting()))


def half_precision(x: Tensor) -> Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return torch.einsum("nchw,dc->ndhw", x, torch.eye(4)).float()


@pytest.mark.parametrize(
    ("unseen", "why"),
    [
        (half_precision, r"it computes under torch.autocast, which no trace records \(in its forward\)"),
        (lambda x: 3 * x if type(x) is Tensor else x, "something in its forward leaves no trace"),
    ],
    ids=["autocast", "type"],
)
def test_what_leaves_no_trace_is_told_from_mixing(unseen: Callable[[Tensor], Tensor], why: str) -> None:
    with pytest.raises(NetworkError, match=rf"^the network differs from its trace by \d.* of its largest logit: {why}"):
        prove(Between(unseen))


@pytest.mark.parametrize(
    "asking",
    [
        lambda x: x.relu() if not isinstance(x, dict) else x["out"],
        lambda x: 3 * x if torch.is_tensor(x) else x,
        lambda x: 3 * x if isinstance(x, Tensor) else x,
    ],
    ids=["dict", "is_tensor", "isinstance"],
)
def test_what_asks_whether_it_has_a_tensor_is_told(asking: Callable[[Tensor], Tensor]) -> None:
    prove(Between(asking))


def test_hooks_of_the_network_itself_are_followed() -> None:
    network = Between(torch.relu)
    network.register_forward_pre_hook(lambda _, inputs: (2 * inputs[0],))
    network.register_forward_hook(lambda module, inputs, output: output - 0.5 * inputs[0][:, :1])
    prove(network)


class Stored(nn.Module):
    """Values for every position of a map of one size."""

    def __init__(self, *size: int) -> None:
        super().__init__()
        self.values = nn.Parameter(torch.randn(1, 4, *size))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.values


class Unpadded(nn.Module):
    """Two kernels of 7x7 without padding, and a resize to what came in."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(4, 4, 7), nn.Conv2d(4, 4, 7)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.interpolate(self.second(self.first(x)), size=x.shape[-2:])


@pytest.mark.parametrize(
    ("between", "taken"),
    [
        (nn.ReLU(), (4, 6)),
        (nn.Conv2d(4, 4, 9, padding=4, padding_mode="reflect"), (16, 24)),
        (Unpadded(), (32, 48)),
        (Stored(26, 33), (52, 66)),
    ],
    ids=["nothing", "reflected border", "no padding", "stored positions"],
)
def test_the_frame_of_the_proof_grows_until_the_network_takes_it(between: nn.Module, taken: tuple[int, int]) -> None:
    network = traced_network(Between(between).eval(), (52, 66))
    case = noise_case(network)
    assert case.x.shape == (1, 3, *taken)
    for levels in (0, 1):
        prove_phases(lowered(looped_from_network(network, levels), Lowering.RESHAPE), case)


def test_a_network_that_takes_no_size_is_refused_at_the_size_it_is_for() -> None:
    with pytest.raises(NetworkError, match=r"^the network fails on an image of 52x66: .* must match the size"):
        noise_case(traced_network(Between(Stored(5, 5)).eval(), (52, 66)))


def test_hooks_stay_in_effect() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    network[1].register_forward_hook(lambda module, inputs, output: 2 * output)
    prove(network)


@pytest.mark.parametrize("fine", [torch.relu, lambda x: x.softmax(1), lambda x: x + x.mean((2, 3), keepdim=True)])
def test_layers_that_stay_in_their_split_batch_pass(fine: Callable[[Tensor], Tensor]) -> None:
    prove(Between(fine))


def test_a_network_that_gives_no_numbers_is_refused() -> None:
    with pytest.raises(NetworkError, match="not finite"):
        prove(Between(lambda x: x * float("nan")))
