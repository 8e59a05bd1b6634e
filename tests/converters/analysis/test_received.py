"""Networks as people have them: wrapped, computed weights, missing values, changed defaults."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the field's name for it

from converters.analysis.network import traced_network
from converters.analysis.received import pinned_defaults, working_copy
from converters.exporting import export
from converters.pooling import MergePool2d, SplitPool2d
from engines.errors import NetworkError
from tests.converters.test_exporting import frame_of, run_onnx, torch_logits

CHEAP = {"size": (8, 12), "levels": (0, 1), "lowerings": "reshape", "precisions": "fp32", "outputs": "logits"}


class Small(nn.Module):
    """One level; its second convolution as it is handed over."""

    def __init__(self, body: nn.Module | None = None) -> None:
        super().__init__()
        self.conv, self.split, self.body = (
            nn.Conv2d(3, 4, 3, padding=1),
            SplitPool2d(2),
            convolution() if body is None else body,
        )
        self.head, self.merge = nn.Conv2d(4, 2, 1), MergePool2d(self.split)

    def forward(self, x: Tensor) -> Tensor:
        return self.merge(self.head(self.body(self.split(self.conv(x)).relu())))


def convolution() -> nn.Conv2d:
    return nn.Conv2d(4, 4, 3, padding=1)


NORMED: dict[str, Callable[[nn.Module], nn.Module]] = {
    "weight_norm": nn.utils.weight_norm,
    "spectral_norm": nn.utils.spectral_norm,
    "new weight_norm": nn.utils.parametrizations.weight_norm,
    "new spectral_norm": nn.utils.parametrizations.spectral_norm,
}


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")
@pytest.mark.parametrize("used", [False, True], ids=["fresh", "after a step"])
@pytest.mark.parametrize("name", list(NORMED))
def test_computed_weights_are_made_once(name: str, used: bool) -> None:
    network = Small(NORMED[name](convolution()))
    x = torch.randn(1, 3, 8, 12)
    if used:
        network(x)
    kinds = [type(module) for module in network.modules()]
    copied = working_copy(network)
    assert type(copied.body) is nn.Conv2d
    assert set(dict(copied.body.named_parameters())) == {"weight", "bias"}
    # What was handed over is as it was, and can be trained on.
    assert [type(module) for module in network.modules()] == kinds
    expected = network.eval()(x)
    expected.sum().backward()
    torch.testing.assert_close(copied(x), expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(traced_network(network).graph(x), expected, rtol=0, atol=1e-6)


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")
def test_a_norm_of_the_old_kind_is_exported(tmp_path: Path) -> None:
    network = Small(nn.utils.weight_norm(convolution()))
    assert_exported(network, tmp_path)


def assert_exported(network: nn.Module, path: Path) -> None:
    bundle = export(network, path / "bundle", **CHEAP)
    frame = frame_of((8, 12))
    expected = torch_logits(copy.deepcopy(working_copy(network)), frame, (8, 12))
    logits = run_onnx(bundle.path / "model.onnx", frames=frame[None])[0]
    assert abs(logits - expected).max() <= 1e-5 * abs(expected).max()


def test_a_tensor_with_a_history_is_copied() -> None:
    network = Small()
    network.seen = network.conv(torch.randn(1, 3, 4, 4))
    assert torch.equal(working_copy(network).seen, network.seen.detach())
    assert network.seen.grad_fn is not None


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nn.DataParallel(Small()), "^DataParallel spreads a network over several GPUs: take .* its .module$"),
        (lambda: torch.compile(Small()), "^OptimizedModule is what torch.compile made, .* its ._orig_mod$"),
        (lambda: Small(torch.compile(convolution())), r"^body \(OptimizedModule\) is what torch.compile made, "),
        (lambda: torch.jit.script(nn.Sequential(nn.Conv2d(3, 2, 1))), "^RecursiveScriptModule is TorchScript, which "),
        (lambda: Small().to("meta"), "^conv.weight is on the meta device and has no values: load the weights first$"),
        (
            lambda: Small(nn.LazyConv2d(4, 3, padding=1)),
            r"^the layer 'body' is lazy and has no shape yet \(body\.weight\)",
        ),
        (
            lambda: torch.export.export(nn.Conv2d(3, 2, 1), (torch.ones(1, 3, 8, 12),)).module(),
            "is what torch.export m",
        ),
    ],
    ids=["DataParallel", "compiled", "compiled inside", "TorchScript", "meta", "lazy", "exported"],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_what_is_no_network_of_plain_layers_is_called_what_it_is(
    make: Callable[[], nn.Module], message: str, tmp_path: Path
) -> None:
    with pytest.raises(NetworkError, match=message):
        export(make(), tmp_path / "bundle", **CHEAP)
    if "values" not in message and "shape" not in message:
        # To follow shapes, values are not needed.
        with pytest.raises(NetworkError, match=message):
            traced_network(make(), shared=True)


def test_a_last_layer_that_gives_a_tuple_is_named(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Conv2d(3, 2, 1), nn.MaxPool2d(1, return_indices=True))
    with pytest.raises(
        NetworkError, match=r"^1 \(_1\), which ends the network, gives a tuple and not one tensor: wrap"
    ):
        export(network, tmp_path / "bundle", **CHEAP)


@pytest.fixture
def defaults() -> Iterator[None]:
    """PyTorch's own, also after a test that changes them."""
    yield
    torch.set_default_dtype(torch.float32)
    torch.set_default_device(None)


class Setting(nn.Module):
    """Sets a default while it runs."""

    def __init__(self, what: Callable[[], None]) -> None:
        super().__init__()
        self.what = what

    def forward(self, x: Tensor) -> Tensor:
        self.what()
        return x * 2


def set_double() -> None:
    torch.set_default_dtype(torch.float64)


def set_meta() -> None:
    torch.set_default_device("meta")


@pytest.mark.usefixtures("defaults")
@pytest.mark.parametrize("change", [set_double, set_meta], ids=["dtype", "device"])
@pytest.mark.parametrize("when", ["before", "in its forward"])
def test_defaults_that_a_network_sets_change_no_tensor_of_the_tool(
    change: Callable[[], None], when: str, tmp_path: Path
) -> None:
    network = Small() if when == "before" else Small(Setting(change))
    if when == "before":
        change()
    set_to = torch.get_default_dtype(), torch.get_default_device().type
    bundle = export(network, tmp_path / "bundle", **CHEAP)
    assert (torch.get_default_dtype(), torch.get_default_device().type) == set_to
    with pinned_defaults():
        frame = frame_of((8, 12))
        expected = torch_logits(working_copy(network), frame, (8, 12))
    logits = run_onnx(bundle.path / "model.onnx", frames=frame[None])[0]
    assert abs(logits - expected).max() <= 1e-5 * abs(expected).max()


def test_an_export_under_autocast_is_of_float32(tmp_path: Path) -> None:
    network, frame = Small(), frame_of((8, 12))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        bundle = export(network, tmp_path / "bundle", **CHEAP)
    expected = torch_logits(network, frame, (8, 12))
    logits = run_onnx(bundle.path / "model.onnx", frames=frame[None])[0]
    assert abs(logits - expected).max() <= 1e-5 * abs(expected).max()


@pytest.mark.parametrize("where", ["conv", "body"])
def test_a_hook_that_pads_ends_the_chain(where: str, tmp_path: Path) -> None:
    network = Small()
    layer = nn.Conv2d(3 if where == "conv" else 4, 4, 3)
    layer.register_forward_pre_hook(lambda _, inputs: (F.pad(inputs[0], (1, 1, 1, 1)),))
    setattr(network, where, layer)
    assert traced_network(network).cut_levels == (0 if where == "conv" else 1)
    assert_exported(network, tmp_path)


class Expands(nn.Module):
    """A stored value beside every position."""

    def __init__(self) -> None:
        super().__init__()
        self.token, self.conv = nn.Parameter(torch.randn(1, 2, 1, 1)), nn.Conv2d(6, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(torch.cat([x, self.token.expand(x.shape[0], -1, x.shape[2], x.shape[3])], 1))


def test_what_is_expanded_to_the_batch_is_exported(tmp_path: Path) -> None:
    assert_exported(Small(Expands()), tmp_path)
