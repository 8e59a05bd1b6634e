"""What is held back of ``torch.onnx`` gives nothing: the same numbers, bit by bit, without it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.nn import functional as F  # noqa: N812 - the field's name for it

from converters.graphs.exporter import quick_exporter, quiet_exporter
from converters.pooling import MergePool2d, SplitPool2d

passes = pytest.importorskip("torch.onnx._internal.exporter._fx_passes", reason="not run: another torch.onnx")


def plain() -> nn.Module:
    split = SplitPool2d(2)
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), split, nn.Conv2d(4, 4, 1), nn.ReLU(), MergePool2d(split))


def in_place() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(inplace=True))


class Unknown(nn.Module):
    """``addcdiv`` of a mean of squares: operators that ONNX has no counterpart of."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.addcdiv(x, F.softplus(x), x.square() + 1, value=0.5)


IMAGES = np.random.default_rng(0).normal(size=(3, 3, 8, 8)).astype(np.float32)


def results(network: nn.Module, path: Path) -> np.ndarray:
    """What ONNX Runtime makes of the images with the graph that is written."""
    program = torch.onnx.export(
        network,
        (torch.zeros(2, 3, 8, 8),),
        dynamo=True,
        optimize=False,
        verbose=False,
        dynamic_shapes=({0: Dim("n")},),
    )
    assert program is not None
    program.save(path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: IMAGES})[0]


@pytest.mark.parametrize(("factory", "needed"), [(plain, False), (in_place, True), (Unknown, True)])
def test_it_decomposes_where_something_has_to_be(
    factory: type[nn.Module], needed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    network = factory().eval()
    decompose = passes.decompose_with_registry
    programs: list[ExportedProgram] = []

    def seen(program: ExportedProgram, registry: object) -> ExportedProgram:
        programs.append(program)
        return decompose(program, registry)

    monkeypatch.setattr(passes, "decompose_with_registry", seen)
    with quiet_exporter():
        expected = results(network, tmp_path / "full.onnx")
        assert len(programs) == 1
        with quick_exporter():
            received = results(network, tmp_path / "quick.onnx")
        assert passes.decompose_with_registry is seen
    assert len(programs) == 1 + needed
    np.testing.assert_array_equal(received, expected)
    with torch.no_grad():
        np.testing.assert_allclose(received, network(torch.from_numpy(IMAGES)).numpy(), rtol=1e-4, atol=1e-5)


def test_another_torch_onnx_does_as_it_always_did(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(passes, "decompose_with_registry")
    with quick_exporter():
        assert not hasattr(passes, "decompose_with_registry")
    assert not hasattr(passes, "decompose_with_registry")
