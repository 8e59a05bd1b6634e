"""The effective precision: in what type a graph's layers really compute."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from onnx import TensorProto

from converters.verification.probes import ProbedGraph
from converters.verification.subject import Subject
from engines.manifest import Precision
from engines.parity import Check, Kind

_LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_SHOWN = 3


def precision_checks(subject: Subject) -> Iterator[Check]:
    """Every graph: layers in the type its name promises.

    A graph of fp32 has no other; of another precision it has layers of that type, and those that were left in
    fp32 are named.
    """
    for trunk in subject.bundle.manifest.trunks:
        for precision, name in trunk.graphs.items():
            yield _check(ProbedGraph(subject.bundle.file(name)), name, precision)


def _check(graph: ProbedGraph, name: str, precision: Precision) -> Check:
    kinds = kinds_of_layers(graph)
    counts = Counter(kinds.values())
    detail = "layers by type: " + (", ".join(f"{count} {kind}" for kind, count in counts.items()) or "none")
    if precision is Precision.FP32:
        wrong = [layer for layer, kind in kinds.items() if kind != "fp32"]
        check = Check.at_most(f"precision of {name}", "graph", len(wrong), 0, detail, Kind.PRECISION)
        return check.located(f"{name}: {wrong[0]}") if wrong else check
    kept = [layer for layer, kind in kinds.items() if kind == "fp32"]
    reduced = len(kinds) - len(kept)
    if kept and reduced:
        detail += "; fp32: " + ", ".join(kept[:_SHOWN]) + (" and more" if len(kept) > _SHOWN else "")
    check = Check.at_least(f"precision of {name}", "graph", reduced, min(1, len(kinds)), detail, Kind.PRECISION)
    return check.located(f"{name}: every layer computes in fp32") if check.failed else check


def kinds_of_layers(graph: ProbedGraph) -> dict[str, str]:
    """The type of every convolution and matrix product, by name: ``fp32``, ``fp16``, ``int8`` and so on."""
    producers = {output: node for node in graph.model.graph.node for output in node.output}
    weights = {held.name: held.data_type for held in graph.model.graph.initializer}
    kinds = {}
    for node in graph.model.graph.node:
        if node.op_type not in _LAYERS:
            continue
        weight, kind = node.input[1], None
        while weight not in weights and weight in producers:
            producer = producers[weight]
            if producer.op_type == "DequantizeLinear":
                kind = "int8"
            weight = producer.input[0]
        kinds[node.name] = kind or _NAMES.get(weights.get(weight, TensorProto.FLOAT), "another type")
    return kinds


_NAMES = {
    TensorProto.FLOAT: "fp32",
    TensorProto.FLOAT16: "fp16",
    TensorProto.BFLOAT16: "bf16",
    TensorProto.INT8: "int8",
}
