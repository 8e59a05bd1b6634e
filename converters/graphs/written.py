"""Proof that a graph, as it was written, computes what the network in PyTorch does.

The rewrites are proven in PyTorch; what comes after them is others' work, and ours: the exporter's translation, which
knows not every option of every layer, and the names, weights and types of the file. So every file is opened in ONNX
Runtime and run once, at its own size, for the smallest batch. A graph in fp32 must equal PyTorch; one in another
precision must equal PyTorch with the rounding of that precision.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import fx, nn

from converters.graphs.identity import Part, part_of
from converters.graphs.lifetimes import live_bytes
from converters.graphs.locating import layer_that_differs
from converters.graphs.quantization.emulation import emulated
from converters.graphs.stages import Trunk
from converters.memory import available_bytes
from converters.pooling import Window
from engines.backends.onnxruntime.runner import OnnxRuntimeRunner
from engines.bundle.manifest import OutputKind
from engines.errors import BackendError, MissingDependency, NetworkError, OutOfMemory
from engines.schedules.phases import Phase
from engines.schedules.schedule import Precision


@dataclass(frozen=True)
class _Bound:
    """Of differences, relative to the largest logit once they are centred over the classes."""

    largest: float
    mean: float


_BOUNDS = {
    # Rounding stays far below and a mistake far above, as for the rewrites.
    Precision.FP32: _Bound(1e-4, 1e-4),
    # Activations are not rounded on a CPU; trained networks are off by a hundredth at most.
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

Values = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class TrunkProof:
    """What a trunk is proven against, in all its precisions."""

    trunk: Trunk
    """The stage that was exported, in fp32."""
    feed: Feed
    """One phase."""
    ranges: Mapping[str, float]
    """For int8, by module: the magnitude at its input that becomes 127."""

    @cached_property
    def expected(self) -> Values:
        """PyTorch's logits."""
        return _computed(self.trunk.network, self.feed)

    def predictions(self, logits: Values) -> NDArray[Any]:
        """What the trunk makes of logits."""
        with torch.inference_mode():
            made: NDArray[Any] = self.trunk.predictions(torch.from_numpy(logits)).numpy()
        return made

    def emulated(self, model: ir.Model, precision: Precision) -> Values:
        """The same with the rounding that a graph has."""
        if precision is Precision.FP32:
            return self.expected
        return _computed(emulated(self.trunk.network, model, precision, self.ranges), self.feed)


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
            _compare(name, results[_output(model)][None], _computed(stage, feed)[None], Precision.FP32)

    def prove_whole(
        self, name: str, stage: nn.Module, feed: Feed, phase: Phase, window: Window, expected: Values
    ) -> None:
        """``model.onnx``, on a batch of one frame.

        Args:
            name: of the file.
            stage: that was exported.
            feed: the frame.
            phase: of the frame, at which PyTorch's logits are known.
            window: whose phases it is one of.
            expected: these logits ``(classes, i, j)``, of the padded frame.
        """
        model = ir.load(self.stage / name)
        results = self._results(name, model, Precision.FP32, feed)
        if results is not None:
            actual = results[_output(model)][..., phase[0] :: window[0], phase[1] :: window[1]]
            wanted = expected[None, :, : actual.shape[2], : actual.shape[3]]
            _compare(name, actual, wanted, Precision.FP32, _Where(self.stage / name, stage, feed))

    def prove_trunk(self, name: str, precision: Precision, proof: TrunkProof) -> None:
        """A trunk in a precision, on one phase.

        fp16 is compared with fp32; where that is far, as in a network that a rounded weight throws off, with weights
        that are rounded alike.
        """
        if precision is Precision.BF16:
            _check(self.stage / name)
            self.on_step(f"{name} is valid ONNX; ONNX Runtime has no bf16 on a CPU, so its results are not proven")
            return
        model = ir.load(self.stage / name)
        logits, output = _logits(model, proof.trunk.predictions.outputs), _output(model)
        if logits.name != output:
            model.graph.outputs.append(logits)
        results = self._results(name, model, precision, proof.feed)
        if results is None:
            return
        actual = results[str(logits.name)]
        if precision is Precision.FP16 and not np.isfinite(actual).all():
            self.on_step(
                f"{name} does not give finite logits on a reference frame: something is too large for fp16; "
                "smp-deploy debug-precision finds what to keep in fp32"
            )
            return
        where = _Where(self.stage / name, proof.trunk, proof.feed) if precision is Precision.FP32 else None
        # A trunk that gives logits gives them at their places.
        given: Callable[[Values], Values] = proof.predictions if logits.name == output else np.asarray
        if precision is Precision.INT8 or not _is_near(actual, given(proof.expected), precision):
            _compare(name, actual, given(proof.emulated(model, precision)), precision, where)
        if logits.name == output:
            return
        predictions = proof.predictions(actual)
        # Labels are equal, and a softmax nearly so.
        bound = 0.0 if predictions.dtype == np.uint8 else 1e-6
        if not np.abs(results[output] - predictions).max() <= bound:
            raise NetworkError(f"{name}: its {output} in ONNX Runtime are not those of its logits")

    def _results(self, name: str, model: ir.Model, precision: Precision, feed: Feed) -> dict[str, Values] | None:
        """What ONNX Runtime gives, as float32; ``None`` where it cannot be had here, which is said."""
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
                return {output: np.asarray(value, np.float32) for output, value in runner.infer(feed).items()}
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
        return f", first in {layer}" if layer else ", behind its last layer"


def _compare(name: str, actual: Values, expected: Values, precision: Precision, where: _Where | None = None) -> None:
    """Raise :class:`NetworkError` where results ``(n, channels, ...)`` are not those of PyTorch."""
    if actual.shape != expected.shape:
        raise NetworkError(
            f"{name} gives {actual.shape} in ONNX Runtime, where PyTorch gives {expected.shape}{where or ''}"
        )
    if not np.isfinite(expected).all():
        raise NetworkError("the network's logits are not finite on a reference frame; check the checkpoint")
    if not _is_near(actual, expected, precision):
        relative = np.abs(actual - expected).max() / (np.abs(expected).max() or 1)
        why = (
            "torch.onnx does not write everything as PyTorch computes it: put it in other words"
            if precision is Precision.FP32
            else "The fp32 graph is right, so weights or scales of this one are not the network's"
        )
        raise NetworkError(
            f"{name}: what ONNX Runtime computes differs from PyTorch by {relative:.1e} of the largest logit"
            f"{where or ''}. {why}"
        )


def _is_near(actual: Values, expected: Values, precision: Precision) -> bool:
    """Whether results are as near as the precision explains."""
    bound = _BOUNDS[precision]
    if actual.shape != expected.shape:
        return False
    differences = np.abs(actual - expected)
    # One channel has nothing to be centred over.
    centred = expected - expected.mean(1, keepdims=True) if expected.shape[1] > 1 else expected
    scale = float(np.abs(centred).max())
    floor = _COARSEST * float(np.abs(expected).max()) + float(np.finfo(np.float32).tiny)
    near = differences.max() <= bound.largest * scale + floor and differences.mean() <= bound.mean * scale + floor
    return bool(near)


def _computed(stage: nn.Module, feed: Feed) -> Values:
    with torch.inference_mode():
        # Copies: PyTorch takes no array that is read-only, and a network may change its input.
        result = stage(*(torch.from_numpy(np.array(array)) for array in feed.values()))
    return result.numpy()  # type: ignore[no-any-return]


def _output(model: ir.Model) -> str:
    (output,) = model.graph.outputs
    return str(output.name)


def _logits(model: ir.Model, kind: OutputKind) -> ir.Value:
    """What labels or probabilities are made from; the output itself where it is logits."""
    if kind is not OutputKind.LOGITS:
        for node in model.graph:
            if part_of(node) is Part.PREDICTIONS:
                return next(value for value in node.inputs if value is not None and not value.is_initializer())
    return model.graph.outputs[0]


def _check(path: Path) -> None:
    try:
        onnx.checker.check_model(path, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise NetworkError(f"{path.name} cannot be used as it is written: {error}") from error
