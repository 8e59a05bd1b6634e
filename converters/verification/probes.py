"""Graphs with further outputs: what a layer gives, and how large it gets, without changing the bundle."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from converters.graphs.layers import OPERATORS
from converters.graphs.lifetimes import extent_of
from converters.graphs.rounding import arithmetic_outputs, write_rounding
from engines.backends.onnxruntime.runner import OnnxRuntimeRunner
from engines.bundle.bundle import Bundle
from engines.schedules.schedule import Precision


class ProbedGraph:
    """A graph of a bundle whose tensors can be asked for by name.

    Args:
        path: of the graph, beside its weights.
        precision: of the network in it, which says how ONNX Runtime must run it.
    """

    def __init__(self, path: Path, precision: Precision = Precision.FP32) -> None:
        self.path = path
        self._precision = precision
        self.model = onnx.load(path, load_external_data=False)
        known = (*self.model.graph.value_info, *self.model.graph.output, *self.model.graph.input)
        self.types = {value.name: value.type.tensor_type for value in known}

    @property
    def layers(self) -> list[str]:
        """The outputs of convolutions and matrix products, in the order of the graph."""
        return [node.output[0] for node in self.model.graph.node if node.op_type in OPERATORS]

    @property
    def layer_outputs(self) -> dict[str, str]:
        """By layer, ``layer1.0.conv1``, the tensor that holds its whole output.

        That of a strided split is the concatenation of a convolution for each phase.
        """
        concats = [node for node in self.model.graph.node if node.op_type == "Concat"]
        joined = {name: node.output[0] for node in concats for name in node.input}
        outputs: dict[str, str] = {}
        for name in self.layers:
            outputs.setdefault(layer_of(name), joined.get(name, name))
        # The convolutions of the further phases lead to the same concatenation: the first gives it its name.
        first = {name: layer for layer, name in reversed(outputs.items())}
        return {layer: name for layer, name in outputs.items() if first[name] == layer}

    @property
    def arithmetic(self) -> list[str]:
        """All float tensors that may be larger than those they are made from."""
        return arithmetic_outputs(self.model)

    @property
    def first_input(self) -> str | None:
        """What the first layer reads; ``None`` in a graph without layers."""
        return next((str(node.input[0]) for node in self.model.graph.node if node.op_type in OPERATORS), None)

    @property
    def normalised(self) -> str | None:
        """The frame after its normalisation, before anything of the network; ``None`` where nothing has its name."""
        inside = [node for node in self.model.graph.node if node.name.startswith("normalize/")]
        return str(inside[-1].output[0]) if inside else None

    def logits(self, output: str) -> str:
        """The float tensor that labels or probabilities are made from; ``output`` itself where it is logits."""
        made = [node for node in self.model.graph.node if node.op_type in ("ArgMax", "Softmax")]
        return str(made[-1].input[0]) if made and output != "logits" else output

    def shape(self, name: str) -> tuple[int, ...]:
        """For a batch of one; ``16*phases`` is 16."""
        return tuple(dim.dim_value or extent_of(dim.dim_param) for dim in self.types[name].shape.dim)

    def runner(
        self, tensors: Iterable[str] = (), magnitudes: Iterable[str] = (), samples: Mapping[str, Sample] | None = None
    ) -> OnnxRuntimeRunner:
        """A runner that also gives ``tensors`` as float32, and for each of ``magnitudes`` three scalars.

        ``max:NAME`` and ``min:NAME`` are the largest and the smallest value, ``sum:NAME`` the sum of all magnitudes,
        which no value that is not finite leaves finite. ``samples`` cuts tensors down before they are given.
        """
        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        write_rounding(model)
        graph, taken = model.graph, {value.name for value in self.model.graph.output}
        for name in dict.fromkeys((*tensors, *(samples or {}))):
            if name in taken:
                continue
            source = (samples or {})[name].added(graph, name) if samples and name in samples else name
            graph.node.append(helper.make_node("Cast", [source], [f"probe:{name}"], to=TensorProto.FLOAT))
            graph.output.append(helper.make_tensor_value_info(f"probe:{name}", TensorProto.FLOAT, None))
        for name in dict.fromkeys(magnitudes):
            graph.node.append(helper.make_node("Cast", [name], [f"float:{name}"], to=TensorProto.FLOAT))
            for kind, operator in (("max", "ReduceMax"), ("min", "ReduceMin"), ("sum", "ReduceL1")):
                graph.node.append(helper.make_node(operator, [f"float:{name}"], [f"{kind}:{name}"], keepdims=0))
                graph.output.append(helper.make_tensor_value_info(f"{kind}:{name}", TensorProto.FLOAT, []))
        return OnnxRuntimeRunner(
            model.SerializeToString(), precision=self._precision, arena=False, weights=self.path.parent
        )


class Sample:
    """A part of a tensor ``(B, C, i, j)``: entries of the batch, and every so many rows and columns."""

    def __init__(self, batch: tuple[int, int], offset: tuple[int, int], step: tuple[int, int]) -> None:
        self.batch, self.offset, self.step = batch, offset, step

    def added(self, graph: Any, name: str) -> str:
        """Add the slice to a graph; its name."""
        end = np.iinfo(np.int64).max
        values = {
            "starts": [self.batch[0], *self.offset],
            "ends": [self.batch[1], end, end],
            "axes": [0, 2, 3],
            "steps": [1, *self.step],
        }
        for key, value in values.items():
            graph.initializer.append(helper.make_tensor(f"{key}:{name}", TensorProto.INT64, [3], value))
        graph.node.append(helper.make_node("Slice", [name, *(f"{key}:{name}" for key in values)], [f"sample:{name}"]))
        return f"sample:{name}"


def layer_of(tensor: str) -> str:
    """``layer1.0.conv1`` of what its convolution gives, ``layer1.0.conv1/Conv_output``."""
    return tensor.removesuffix("_output").removesuffix("/Conv")


def planes_of(bundle: Bundle, image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """What ``prepare.onnx`` makes of a frame."""
    with OnnxRuntimeRunner(bundle.file(bundle.manifest.prepare)) as prepare:
        return np.asarray(prepare.infer({"frame": image})["planes"], np.float32)


def probed(results: Mapping[str, NDArray[np.generic]], name: str) -> NDArray[np.float32]:
    """A tensor that a probing runner gave, whether it is an output of the graph or was added."""
    return np.asarray(results.get(f"probe:{name}", results.get(name)), np.float32)
