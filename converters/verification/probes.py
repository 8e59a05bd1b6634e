"""Graphs with further outputs: what a layer gives, and how large it gets, without changing the bundle."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from converters.graphs.identity import Part, part_of
from converters.graphs.layers import matrix_products, names_of_nodes
from converters.graphs.lifetimes import extents_of
from converters.graphs.reading import graph_from_file
from converters.graphs.rounding import arithmetic_results, write_rounding
from engines.backends.onnxruntime.runner import OnnxRuntimeRunner
from engines.bundle.bundle import Bundle
from engines.errors import BackendError
from engines.schedules.schedule import Precision


class ProbedGraph:
    """A graph of a bundle whose tensors can be asked for by name.

    Args:
        path: of the graph, beside its weights.
        precision: of the network in it, which says how ONNX Runtime must run it.
        model: what to run in place of what the file says, with the file's weights.
    """

    def __init__(self, path: Path, precision: Precision = Precision.FP32, model: ir.Model | None = None) -> None:
        self.path = path
        self._precision = precision
        self.model = graph_from_file(path) if model is None else model

    @property
    def layer_outputs(self) -> dict[str, str]:
        """By layer, ``layer1.0.conv1``, the tensor that holds its whole output, in the order of the graph.

        That of a strided split is the concatenation of a convolution for each phase. It is called as the first of
        them.
        """
        names = names_of_nodes(self.model)
        outputs: dict[str, str] = {}
        for node in matrix_products(self.model):
            whole = _whole_output(node)
            outputs.setdefault(str(whole.name), names[node])
        return {layer: tensor for tensor, layer in outputs.items()}

    @property
    def arithmetic(self) -> dict[str, str]:
        """All float tensors that may be larger than those they are made from, by the name of their node."""
        names, found = names_of_nodes(self.model), {}
        for value in arithmetic_results(self.model):
            producer, index = value.producer(), value.index()
            assert producer is not None
            found[names[producer] + (f" (result {index})" if index else "")] = str(value.name)
        return found

    @property
    def first_input(self) -> str | None:
        """What the first layer reads; ``None`` in a graph without layers."""
        first = next(iter(matrix_products(self.model)), None)
        return None if first is None or first.inputs[0] is None else first.inputs[0].name

    @property
    def normalised(self) -> str | None:
        """The frame after its normalisation, before anything of the network; ``None`` where no node says it is that."""
        inside = [node for node in self.model.graph if part_of(node) is Part.NORMALIZE]
        return inside[-1].outputs[0].name if inside else None

    def logits(self, output: str) -> str:
        """The float tensor that labels or probabilities are made from; ``output`` itself where it is logits."""
        made = [node for node in self.model.graph if node.op_type in ("ArgMax", "Softmax")]
        read = made[-1].inputs[0] if made and output != "logits" else None
        return output if read is None else str(read.name)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of every tensor whose shape is known, for a batch of one; ``16*phases`` is 16."""
        values = ir.convenience.create_value_mapping(self.model.graph)
        return {
            name: extents_of(value.shape)
            for name, value in values.items()
            if value.shape is not None and not value.is_initializer()
        }

    def until(self, tensor: str) -> ProbedGraph:
        """The graph up to one of its tensors."""
        return ProbedGraph(self.path, self._precision, model_until(self.model, tensor))

    def runner(
        self, tensors: Iterable[str] = (), magnitudes: Iterable[str] = (), samples: Mapping[str, Sample] | None = None
    ) -> OnnxRuntimeRunner:
        """A runner that also gives ``tensors`` as float32, and for each of ``magnitudes`` three scalars.

        ``max:NAME`` and ``min:NAME`` are the largest and the smallest value, ``sum:NAME`` the sum of all magnitudes,
        which no value that is not finite leaves finite. ``samples`` cuts tensors down before they are given.
        """
        model = self.model.clone()
        write_rounding(model)
        graph, samples = model.graph, samples or {}
        given = {value.name for value in graph.outputs}
        values, tape = ir.convenience.create_value_mapping(graph), ir.tape.Tape(graph)

        def give(kind: str, value: ir.Value, name: str, **attributes: int) -> ir.Value:
            output = tape.op(kind, [value], attributes, output=ir.val(name, ir.DataType.FLOAT))
            graph.outputs.append(output)
            return output

        for name in dict.fromkeys((*tensors, *samples)):
            if name not in given:
                value = samples[name].of(values[name], tape) if name in samples else values[name]
                give("Cast", value, f"probe:{name}", to=ir.DataType.FLOAT.value)
        for name in dict.fromkeys(magnitudes):
            wide = tape.op("Cast", [values[name]], {"to": ir.DataType.FLOAT.value}, output=ir.val(f"float:{name}"))
            for kind, operator in (("max", "ReduceMax"), ("min", "ReduceMin"), ("sum", "ReduceL1")):
                give(operator, wide, f"{kind}:{name}", keepdims=0)
        content = ir.to_proto(model).SerializeToString()
        return OnnxRuntimeRunner(content, precision=self._precision, arena=False, weights=self.path.parent)


def _whole_output(layer: ir.Node) -> ir.Value:
    """What a layer gives, or the batch that its result is a part of."""
    (output,) = layer.outputs
    joining = (node for node, _ in output.uses() if node.op_type == "Concat" and node.attributes["axis"].as_int() == 0)
    return next((node.outputs[0] for node in joining), output)


def model_until(model: ir.Model, tensor: str) -> ir.Model:
    """A copy of a model up to one of its tensors, which is its output."""
    graph = ir.convenience.extract(model.graph, model.graph.inputs, [tensor])
    return ir.Model(graph, ir_version=model.ir_version)


class Sample:
    """A part of a tensor ``(B, C, i, j)``: entries of the batch, and every so many rows and columns."""

    def __init__(self, batch: tuple[int, int], offset: tuple[int, int], step: tuple[int, int]) -> None:
        self.batch, self.offset, self.step = batch, offset, step

    def of(self, value: ir.Value, tape: ir.tape.Tape) -> ir.Value:
        """The slice of a value."""
        end = np.iinfo(np.int64).max
        bounds = {
            "starts": [self.batch[0], *self.offset],
            "ends": [self.batch[1], end, end],
            "axes": [0, 2, 3],
            "steps": [1, *self.step],
        }
        given = [tape.initializer(ir.tensor(bound), f"{name}:{value.name}") for name, bound in bounds.items()]
        return tape.op("Slice", [value, *given], output=ir.val(f"sample:{value.name}"))


def planes_of(bundle: Bundle, image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """What ``prepare.onnx`` makes of a frame. Raises :class:`BackendError` for planes of another shape."""
    with OnnxRuntimeRunner(bundle.file(bundle.manifest.prepare)) as prepare:
        planes = np.asarray(prepare.infer({"frame": image})["planes"], np.float32)
    wanted = (3, *bundle.manifest.grid(bundle.manifest.trunk()).planes_size)
    if planes.shape != wanted:
        raise BackendError(f"{bundle.manifest.prepare} gives planes of {planes.shape} where {wanted} are expected")
    return planes


def probed(results: Mapping[str, NDArray[np.generic]], name: str) -> NDArray[np.float32]:
    """A tensor that a probing runner gave, whether it is an output of the graph or was added."""
    return np.asarray(results.get(f"probe:{name}", results.get(name)), np.float32)
