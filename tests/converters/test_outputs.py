"""What a network must give: logits of several classes, and no decision of its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from converters.analysis.network import traced_network
from converters.analysis.received import half_types, working_copy
from converters.exporting import export
from converters.outputs import channels_of, check_channels, check_meaning
from converters.pooling import MergePool2d, SplitPool2d
from converters.reference import noise_frame
from converters.verification.validate import validate
from engines import OutputKind, Schedule, Session
from engines.errors import InputError, NetworkError

SIZE = (6, 10)
FAST = {"size": SIZE, "precisions": "fp32", "levels": 0}


class Head(nn.Module):
    """A convolution, and something behind it."""

    def __init__(self, classes: int, last: str = "") -> None:
        super().__init__()
        self.conv, self.last = nn.Conv2d(3, classes, 1), last

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        if self.last == "argmax":
            return x.argmax(1, keepdim=True)
        if self.last == "labels":
            return x.argmax(1, keepdim=True).float()
        if self.last == "double":
            return x.double()
        return x.softmax(1) if self.last == "softmax" else x


def head(classes: int = 3, last: str = "") -> nn.Module:
    torch.manual_seed(4)
    return Head(classes, last).eval()


def test_channels_are_counted() -> None:
    assert channels_of(traced_network(head(3)).graph, SIZE) == 3


@pytest.mark.parametrize(
    ("last", "words"),
    [
        ("argmax", r"gives torch\.int64; labels of its own: let it return what it takes them from$"),
        ("double", r"logits in torch\.float32, and this one gives torch\.float64$"),
    ],
)
def test_another_type_than_float32_is_refused(last: str, words: str) -> None:
    with pytest.raises(NetworkError, match=words):
        channels_of(traced_network(head(3, last)).graph, SIZE)


def test_one_channel_has_no_highest_of_several(tmp_path: Path) -> None:
    with pytest.raises(NetworkError, match=r"one channel, so every label is 0; with threshold=0\.5 "):
        export(head(1), tmp_path / "bundle", outputs="labels", **FAST)
    with pytest.raises(NetworkError, match="one channel, so every probability is 1; "):
        check_channels(1, OutputKind.PROBABILITIES)
    check_channels(1, OutputKind.LOGITS)
    check_channels(2, OutputKind.LABELS)


class OneLogit(nn.Module):
    """One logit a pixel, by way of two levels; a layer of its own is called ``threshold``."""

    def __init__(self) -> None:
        super().__init__()
        self.split = SplitPool2d(2)
        self.conv, self.threshold = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 1, 3, padding=1)
        self.merge = MergePool2d(self.split)

    def forward(self, x: Tensor) -> Tensor:
        return self.merge(self.threshold(torch.relu(self.split(self.conv(x)))))


@pytest.fixture
def one_logit() -> nn.Module:
    """With values on both sides of 0."""
    torch.manual_seed(5)
    return OneLogit().eval()


@pytest.mark.parametrize("threshold", [0.5, 0.45])
def test_a_threshold_makes_two_classes_of_one_logit(one_logit: nn.Module, threshold: float, tmp_path: Path) -> None:
    keys = set(one_logit.state_dict())
    bundle = export(one_logit, tmp_path / "bundle", size=SIZE, threshold=threshold, precisions="fp32")
    assert set(one_logit.state_dict()) == keys
    assert bundle.manifest.network.threshold == threshold
    assert len(bundle.manifest.classes) == 2
    frame = noise_frame(SIZE, seed=1)
    manifest = bundle.manifest.input
    with torch.no_grad():
        planes = (torch.from_numpy(frame) / 255 - torch.tensor(manifest.mean)) / torch.tensor(manifest.std)
        logits = one_logit(planes.permute(2, 0, 1)[None])[0, 0].numpy()
    expected = 1 / (1 + np.exp(-logits)) > threshold
    assert 0 < expected.sum() < expected.size
    sure = np.abs(logits - np.log(threshold / (1 - threshold))) > 1e-5
    for trunk in bundle.manifest.trunks:
        with Session.open(bundle, schedule=Schedule(trunk.levels, 1, trunk.lowering)) as session:
            assert (session.predict(frame) == expected)[sure].all()
    # The network as it is, without the threshold, is the one that was exported.
    assert not any(check.failed for check in validate(bundle, network=one_logit, keep=False).checks)
    with torch.no_grad():
        one_logit.conv.bias += 1
    assert any(check.failed for check in validate(bundle, network=one_logit, quick=True, keep=False).checks)


def test_a_threshold_is_for_labels_of_one_logit(one_logit: nn.Module, tmp_path: Path) -> None:
    for threshold in (0, 1, -0.5, float("nan"), "half"):
        with pytest.raises(InputError, match=r"^threshold= is a probability above 0 and below 1; received "):
            export(one_logit, tmp_path / "bundle", size=SIZE, threshold=threshold)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r'^threshold= decides labels, and outputs="logits" gives none$'):
        export(one_logit, tmp_path / "bundle", size=SIZE, threshold=0.5, outputs="logits")
    with pytest.raises(NetworkError, match=r"threshold= is for a network of one logit a pixel; this one gives 3$"):
        export(head(3), tmp_path / "bundle", threshold=0.5, **FAST)
    assert not (tmp_path / "bundle").exists()


def test_labels_of_its_own_are_refused(tmp_path: Path) -> None:
    with pytest.raises(NetworkError, match="gives whole numbers alone, which are labels of its own and no logits"):
        export(head(3, "labels"), tmp_path / "bundle", outputs="logits", **FAST)
    # One value throughout says nothing: a head of zeros has it.
    check_meaning(torch.zeros(1, 3, 4, 4), OutputKind.LABELS)


def test_a_softmax_of_its_own_is_refused_for_probabilities_alone() -> None:
    logits = head(3, "softmax")(torch.randn(1, 3, 8, 8)).detach()
    with pytest.raises(
        NetworkError, match=r"channels add up to one: it ends in a softmax of its own, and outputs=\"pr"
    ):
        check_meaning(logits, OutputKind.PROBABILITIES)
    for outputs in (OutputKind.LABELS, OutputKind.LOGITS):
        check_meaning(logits, outputs)
    check_meaning(logits - 0.1, OutputKind.PROBABILITIES)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precisions_become_fp32_and_it_is_said(dtype: torch.dtype, tmp_path: Path) -> None:
    network = head(3).to(dtype)
    said: list[str] = []
    bundle = export(network, tmp_path / "bundle", outputs="logits", on_step=said.append, **FAST)
    assert f"the network has weights in {dtype}: all is computed in fp32 with their values" in said
    assert {tensor.dtype for tensor in network.parameters()} == {dtype}, "what was handed over is left as it is"
    frame, manifest = noise_frame(SIZE, seed=0), bundle.manifest.input
    weight, bias = (tensor.detach().double().numpy() for tensor in network.parameters())
    planes = (frame / 255 - np.array(manifest.mean)) / np.array(manifest.std)
    expected = np.einsum("hwc,kc->khw", planes, weight[:, :, 0, 0]) + bias[:, None, None]
    with Session.open(bundle) as session:
        assert np.abs(session.predict(frame) - expected).max() <= 1e-6 * np.abs(expected).max()


def test_buffers_that_are_not_saved_count() -> None:
    network = head(3)
    assert half_types(network) == []
    network.register_buffer("scale", torch.ones(1, dtype=torch.float16), persistent=False)
    assert half_types(network) == ["torch.float16"]
    assert {tensor.dtype for tensor in working_copy(network).buffers()} == {torch.float32}
    with pytest.raises(
        NetworkError, match=r"exported in torch\.float32, and this one has torch\.float64: call \.float"
    ):
        working_copy(head(3).double())
