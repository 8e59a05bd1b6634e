"""Proof that a graph, as it was written, computes what the network in PyTorch does.

The rewrites are proven in PyTorch; what comes after them is others' work, and ours: the exporter's translation, which
knows not every option of every layer, and the names, weights and types of the file. So every file is opened in ONNX
Runtime and run once, at its own size, for the smallest batch. A graph in fp32 must equal PyTorch; one in another
precision must equal PyTorch with the rounding of that precision.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn

from converters.graphs.identity import Part, part_of
from converters.graphs.lifetimes import live_bytes
from converters.graphs.locating import layer_that_differs
from converters.graphs.quantization.emulation import emulated
from converters.graphs.stages import Trunk
from converters.memory import available_bytes
from engines.backends.onnxruntime.runner import OnnxRuntimeRunner
from engines.errors import BackendError, MissingDependency, NetworkError, OutOfMemory
from engines.executors.runner import Array
from engines.schedules.schedule import Precision


@dataclass(frozen=True)
class _Bound:
    """Of differences, relative to the largest logit once they are centred over the classes."""

    largest: float
    mean: float


_BOUNDS = {
    # Rounding stays far below and a mistake far above, as for the rewrites.
    Precision.FP32: _Bound(1e-4, 1e-4),
    # Weights are rounded alike on both sides, and a runtime may round activations.
    Precision.FP16: _Bound(0.1, 0.02),
    # An activation that rounding in fp32 moves over the middle between two steps differs by a whole step; few do.
    Precision.INT8: _Bound(0.2, 5e-3),
}

_COARSEST = 4e-6
"""Relative to the largest logit, uncentred: what single precision leaves of differences beneath a common offset."""

_TIMES_LIVE_BYTES = 3
"""ONNX Runtime gives most tensors memory of their own, and PyTorch's come on top."""

Feed = Mapping[str, NDArray[np.generic]]
"""Inputs by name, in the order of the stage's arguments."""


@dataclass(frozen=True)
class WrittenGraphs:
    """Proves the graphs of a bundle that is being made.

    Every proof raises :class:`NetworkError` for a graph that ONNX Runtime does not take, or that computes something
    else than PyTorch, with the layer where that is seen first. A proof that cannot run says so.
    """

    stage: Path
    """The bundle's directory."""
    on_step: Callable[[str], None]

    def prove_prepare(self, name: str, stage: nn.Module, feed: Feed) -> None:
        """``prepare.onnx``, on a frame."""
        model = ir.load(self.stage / name)
        results = self._results(name, model, Precision.FP32, feed)
        if results is not None:
            _compare(name, results[_output(model)], _computed(stage, feed), Precision.FP32)

    def prove_whole(self, name: str, stage: nn.Module, feed: Feed, traced: nn.Module) -> None:
        """``model.onnx``, on a batch of one frame.

        Args:
            name: of the file.
            stage: around the network as it was handed over.
            feed: the frame.
            traced: the stage that was exported.
        """
        model = ir.load(self.stage / name)
        results = self._results(name, model, Precision.FP32, feed)
        if results is not None:
            where = _Where(self.stage / name, traced, feed)
            _compare(name, results[_output(model)], _computed(stage, feed), Precision.FP32, where)

    def prove_trunk(
        self, name: str, precision: Precision, trunk: Trunk, feed: Feed, ranges: Mapping[str, float]
    ) -> None:
        """A trunk, on one phase.

        Args:
            name: of the file.
            precision: of the network in it.
            trunk: the stage that was exported, in fp32.
            feed: its inputs.
            ranges: for int8, by module: the magnitude at its input that becomes 127.
        """
        if precision is Precision.BF16:
            _check(self.stage / name)
            self.on_step(f"{name} is valid ONNX; no CPU runs bf16 in ONNX Runtime, so its results are not proven")
            return
        model = ir.load(self.stage / name)
        logits, output = _logits(model), _output(model)
        if logits.name != output:
            model.graph.outputs.append(logits)
        results = self._results(name, model, precision, feed)
        if results is None:
            return
        actual = np.asarray(results[str(logits.name)], np.float32)
        network = emulated(trunk.network, model, precision, ranges)
        expected = _computed(network, feed)
        if precision is Precision.FP16 and torch.isfinite(expected).all() and not np.isfinite(actual).all():
            self.on_step(
                f"{name} does not give finite logits on a reference frame: something is too large for fp16; "
                "smp-deploy debug-precision finds what to keep in fp32"
            )
            return
        where = _Where(self.stage / name, trunk, feed) if precision is Precision.FP32 else None
        _compare(name, actual, expected, precision, where)
        with torch.inference_mode():
            predictions = trunk.predictions(torch.from_numpy(actual))
        wrong = np.abs(np.subtract(results[output], predictions.numpy(), dtype=np.float32)).max()
        if not wrong <= (0 if predictions.dtype is torch.uint8 else 1e-6 * max(1.0, float(np.abs(actual).max()))):
            raise NetworkError(f"{name}: its {output} in ONNX Runtime are not those of its logits")

    def _results(self, name: str, model: ir.Model, precision: Precision, feed: Feed) -> dict[str, Array] | None:
        """What ONNX Runtime gives; ``None`` where it cannot be had here, which is said."""
        needed, available = _TIMES_LIVE_BYTES * live_bytes(model), available_bytes()
        if needed > available:
            self.on_step(
                f"{name} is not proven in ONNX Runtime: that needs about {needed / 2**30:.1f} GiB of memory, "
                f"{available / 2**30:.1f} GiB are free"
            )
            return None
        content = ir.to_proto(model).SerializeToString()
        try:
            with OnnxRuntimeRunner(content, precision, weights=self.stage) as runner:
                return dict(runner.infer(feed))
        except (MissingDependency, OutOfMemory) as error:
            self.on_step(f"{name} is not proven in ONNX Runtime: {error}")
            return None
        except BackendError as error:
            raise NetworkError(f"{name} cannot be used as it is written: {error}") from error


@dataclass(frozen=True, eq=False)
class _Where:
    """What it takes to find the layer from which on a graph differs."""

    path: Path
    stage: nn.Module
    feed: Feed

    def __str__(self) -> str:
        network = self.stage.get_submodule(Part.NETWORK.value)
        assert isinstance(network, fx.GraphModule)
        layer = layer_that_differs(self.path, self.stage, network, self.feed, _BOUNDS[Precision.FP32].largest)
        return f", first behind {layer}" if layer else ", behind its last layer"


def _compare(name: str, actual: Array, expected: Tensor, precision: Precision, where: _Where | None = None) -> None:
    """Raise :class:`NetworkError` where results ``(n, channels, ...)`` are not those of PyTorch."""
    wanted, bound = expected.numpy(), _BOUNDS[precision]
    if actual.shape != wanted.shape:
        raise NetworkError(f"{name} gives {actual.shape} in ONNX Runtime, where PyTorch gives {wanted.shape}{where or ''}")
    if not np.isfinite(wanted).all():
        raise NetworkError("the network's logits are not finite on a reference frame; check the checkpoint")
    differences, largest = np.abs(actual - wanted), float(np.abs(wanted).max())
    # One channel has nothing to be centred over, nor have planes.
    centred = wanted - wanted.mean(1, keepdims=True) if wanted.ndim == 4 and wanted.shape[1] > 1 else wanted
    scale, floor = float(np.abs(centred).max()), _COARSEST * largest + float(np.finfo(np.float32).tiny)
    if differences.max() <= bound.largest * scale + floor and differences.mean() <= bound.mean * scale + floor:
        return
    raise NetworkError(
        f"{name}: what ONNX Runtime computes differs from PyTorch by {differences.max() / (largest or 1):.1e} of the "
        f"largest logit{where or ''}. torch.onnx does not write everything as PyTorch computes it; put what is "
        "written wrongly in other words"
    )


def _computed(stage: nn.Module, feed: Feed) -> Tensor:
    with torch.inference_mode():
        # Copies: PyTorch takes no array that is read-only, and a network may change its input.
        result = stage(*(torch.from_numpy(np.array(array)) for array in feed.values()))
    assert isinstance(result, Tensor)
    return result


def _output(model: ir.Model) -> str:
    (output,) = model.graph.outputs
    return str(output.name)


def _logits(model: ir.Model) -> ir.Value:
    """What predictions are made from; the output itself where nothing is made of it."""
    for node in model.graph:
        if part_of(node) is Part.PREDICTIONS:
            return next(value for value in node.inputs if value is not None and not value.is_initializer())
    return model.graph.outputs[0]


def _check(path: Path) -> None:
    try:
        onnx.checker.check_model(path, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise NetworkError(f"{path.name} cannot be used as it is written: {error}") from error
