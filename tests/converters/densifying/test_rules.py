"""Each rule against the strided network itself: phase (0, 0) everywhere, other phases inside the border."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the field's name for it

from converters.densifying import densify
from tests.strided import Function, noise, relative, shifted, with_values

EXACT = 1e-10


def judged(layer: nn.Module, size: tuple[int, int] = (24, 36)) -> tuple[float, float, int]:
    """The largest differences at phase (0, 0) and at all others inside the border, and how many positions those are."""
    network = with_values(nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), layer, nn.Conv2d(4, 4, 1)))
    dense, report = densify(network, size)
    (rows, columns), (height, width) = report.size_multiple, report.padded_size
    margin = (2 * rows * columns, 2 * rows * columns)
    big = noise((height + 2 * margin[0] + rows, width + 2 * margin[1] + columns))
    x = big[..., margin[0] : margin[0] + height, margin[1] : margin[1] + width]
    with torch.no_grad():
        z, first, others, positions = dense(x), network(x), 0.0, 0
        for row in range(rows):
            for column in range(columns):
                expected, inside = shifted(network, big, margin, (height, width), (row, column))
                actual = z[..., row::rows, column::columns]
                others = max(others, float(((actual - expected) * inside).abs().max() / expected.abs().max()))
                positions += int(inside.sum())
        return relative(z[..., ::rows, ::columns], first), others, positions


def called(function: Callable[[Tensor], Tensor]) -> nn.Module:
    return Function(function)


LAYERS: dict[str, Callable[[], nn.Module]] = {
    "k7 s2 p3": lambda: nn.Conv2d(4, 4, 7, 2, 3),
    "k3 s2 p1": lambda: nn.Conv2d(4, 4, 3, 2, 1),
    "k2 s2 p0": lambda: nn.Conv2d(4, 4, 2, 2),
    "k4 s2 p1": lambda: nn.Conv2d(4, 4, 4, 2, 1),
    "k1 s2": lambda: nn.Conv2d(4, 4, 1, 2),
    "k4 s4": lambda: nn.Conv2d(4, 4, 4, 4),
    "k3 s3": lambda: nn.Conv2d(4, 4, 3, 3),
    "k3 s2 p2 d2": lambda: nn.Conv2d(4, 4, 3, 2, 2, dilation=2),
    "k3x5 s2x1": lambda: nn.Conv2d(4, 4, (3, 5), (2, 1), (1, 2)),
    "depthwise": lambda: nn.Conv2d(4, 4, 3, 2, 1, groups=4, bias=False),
    "reflected": lambda: nn.Conv2d(4, 4, 3, 2, 1, padding_mode="reflect"),
    "replicated": lambda: nn.Conv2d(4, 4, 3, 2, 1, padding_mode="replicate"),
    "circular": lambda: nn.Conv2d(4, 4, 3, 2, 1, padding_mode="circular"),
    "padded before, as TensorFlow does": lambda: nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(4, 4, 3, 2)),
    "same": lambda: nn.Sequential(nn.Conv2d(4, 4, 5, padding="same"), nn.Conv2d(4, 4, 2, 2)),
    "function": lambda: called(lambda x: F.conv2d(x, x.new_ones(4, 1, 3, 3), stride=2, padding=1, groups=4)),
    "max k2": lambda: nn.MaxPool2d(2),
    "max k3 s2 p1": lambda: nn.MaxPool2d(3, 2, 1),
    "max k3 s2, ceil": lambda: nn.MaxPool2d(3, 2, ceil_mode=True),
    "max k2 s2, dilated, ceil": lambda: nn.MaxPool2d(2, 2, dilation=2, ceil_mode=True),
    "max, function by name": lambda: called(lambda x: F.max_pool2d(input=x, kernel_size=3, stride=2, padding=1)),
    "torch.max_pool2d": lambda: called(lambda x: torch.max_pool2d(x, 2)),
    "average k2": lambda: nn.AvgPool2d(2),
    "average k3 s2 p1": lambda: nn.AvgPool2d(3, 2, 1),
    "average without padding": lambda: nn.AvgPool2d(3, 2, 1, count_include_pad=False),
    "average k3 s2, ceil": lambda: nn.AvgPool2d(3, 2, ceil_mode=True),
    "average k4 s2 p1, ceil": lambda: nn.AvgPool2d(4, 2, 1, ceil_mode=True),
    "average, divisor": lambda: nn.AvgPool2d(2, divisor_override=3),
    "average, function": lambda: called(lambda x: F.avg_pool2d(x, (2, 3))),
    "LP": lambda: nn.Sequential(nn.Softplus(), nn.LPPool2d(2, 2)),
    "slice": lambda: called(lambda x: x[:, :, ::2, ::2]),
    "slice from the second": lambda: called(lambda x: x[..., 1::2, 1::3]),
    "nearest": lambda: called(lambda x: F.interpolate(x, scale_factor=0.5)),
    "unshuffle": lambda: nn.Sequential(nn.PixelUnshuffle(2), nn.Conv2d(16, 4, 1)),
    "space to depth by slices": lambda: called(
        lambda x: x[..., ::2, ::2] + 2 * x[..., 1::2, ::2] + 3 * x[..., ::2, 1::2] + 5 * x[..., 1::2, 1::2]
    ),
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_at_every_shift(name: str) -> None:
    first, others, positions = judged(LAYERS[name]())
    assert first <= EXACT
    assert others <= EXACT
    assert positions > 100


@pytest.mark.parametrize("name", ["k3 s2 p1", "max k3 s2, ceil", "average k3 s2 p1", "k3 s3"])
def test_an_odd_frame_is_padded(name: str) -> None:
    first, others, positions = judged(LAYERS[name](), (23, 35))
    assert first <= EXACT
    assert others <= EXACT
    assert positions > 100


@pytest.mark.parametrize(
    ("layers", "size"),
    [
        # 30 rows become 14 and then 6, each an output more than half of what is left.
        ([nn.Conv2d(3, 4, 3, 2), nn.ReLU(), nn.Conv2d(4, 4, 3, 2)], (31, 31)),
        ([nn.Conv2d(3, 4, 3), nn.MaxPool2d(2), nn.Conv2d(4, 4, 2)], (30, 30)),
    ],
)
def test_layers_without_padding_are_refused_by_name(layers: list[nn.Module], size: tuple[int, int]) -> None:
    network = with_values(nn.Sequential(*layers))
    with pytest.raises(Exception, match=rf"the network returns a map of \d+x\d+ \({len(layers) - 1} .*pad its layers"):
        densify(network, size)


def test_a_plain_split_on_request() -> None:
    """The paper's form: the max pool's elements at the phase, without the maximum."""
    network = with_values(nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.MaxPool2d(3, 2, 1), nn.Conv2d(4, 2, 1)))
    dense, report = densify(network, (12, 16), max_pool="split")
    x = noise((12, 16))
    with torch.no_grad():
        expected = network[2](network[0](x))
        assert relative(dense(x), expected) <= EXACT
    assert [row.done for row in report.layers if row.name == "1"] == ["split by 2x2 in its place, another function"]


def test_a_layer_that_is_called_twice_with_other_paddings() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pool, self.conv = nn.MaxPool2d(3, 2, 1), nn.Conv2d(3, 4, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.pool(self.conv(x))
            context = self.pool(F.adaptive_avg_pool2d(x, (6, 6)))
            return self.pool(x) + context.mean((2, 3), keepdim=True)

    network = with_values(Twice())
    dense, _ = densify(network, (16, 24))
    x = noise((16, 24))
    with torch.no_grad():
        assert relative(dense(x)[..., ::4, ::4], network(x)) <= EXACT
    assert dense.state_dict().keys() == network.state_dict().keys()
