"""The effective precision: in what type a graph's layers really compute."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import onnx_ir as ir

from converters.graphs.identity import module_of
from converters.graphs.layers import layers_of, precision_of
from converters.graphs.modules import modules_named
from converters.graphs.reading import graph_from_file
from converters.verification.subject import Subject
from engines.bundle.manifest import Manifest
from engines.bundle.records import Check, Kind, Quantity
from engines.parity.checks import Question
from engines.schedules.schedule import Precision


def precision_checks(subject: Subject) -> Iterator[Check]:
    """Every graph: each layer in the type that the manifest promises.

    That is the graph's precision, but for the modules that ``keep_fp32`` names, and in int8 for layers that are no
    convolution or were not calibrated.
    """
    manifest = subject.bundle.manifest
    for trunk in manifest.trunks:
        for precision, name in trunk.graphs.items():
            yield _check(manifest, precision, name, layers_of(graph_from_file(subject.bundle.file(name))))


def _check(manifest: Manifest, precision: Precision, name: str, layers: list[ir.Node]) -> Check:
    kinds = {str(layer.name): precision_of(layer) for layer in layers}
    modules = {module_of(layer) for layer in layers}
    kept = {module for pattern in manifest.keep_fp32.get(precision, ()) for module in modules_named(pattern, modules)}
    promised = {str(layer.name): _promised(manifest, precision, layer, kept) for layer in layers}
    wrong = [layer for layer, kind in kinds.items() if kind is not promised[layer]]
    counts = Counter(_shown(kind) for kind in kinds.values())
    detail = "layers by type: " + (", ".join(f"{count} {kind}" for kind, count in counts.items()) or "none")
    if kept:
        detail += f"; to stay in fp32: {', '.join(sorted(kept))}"
    question = Question(
        kind=Kind.PRECISION,
        name=f"precision of {name}",
        subject="graph",
        quantity=Quantity.OTHER_TYPES,
        tolerance=0,
        graph=name,
        precision=precision,
    )
    check = question.measured(len(wrong), detail)
    if not wrong:
        return check
    every = "every layer" if len(wrong) == len(kinds) else wrong[0]
    return check.located(f"{name}: {every} computes in {_shown(kinds[wrong[0]])}")


def _promised(manifest: Manifest, precision: Precision, layer: ir.Node, kept: set[str]) -> Precision:
    if module_of(layer) in kept:
        return Precision.FP32
    if precision is Precision.INT8:
        ranges = manifest.calibration.ranges if manifest.calibration else {}
        return Precision.INT8 if layer.op_type == "Conv" and module_of(layer) in ranges else Precision.FP32
    return precision


def _shown(kind: Precision | None) -> str:
    return "another type" if kind is None else kind.value
