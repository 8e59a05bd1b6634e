"""The whole packed file as a model."""

from __future__ import annotations

import onnx_ir as ir

from converters.one_file.forms import InputForm, LoopForm, OutputForm
from converters.one_file.inputs import planes_from_input
from converters.one_file.nodes import Names, Nodes
from converters.one_file.results import result_of
from converters.one_file.trunks import predictions_of
from converters.one_file.walk import Walk


def packed_model(
    prepare: ir.Model,
    trunk: ir.Model,
    walk: Walk,
    *,
    loop: LoopForm,
    takes: InputForm,
    gives: OutputForm,
    classes: int,
) -> ir.Model:
    """One graph that does what a session does with these graphs on this walk.

    Raises :class:`BundleError` for graphs that this smp-deploy does not write, :class:`InputError` for a walk that the
    loop's form does not allow.
    """
    nodes = Nodes(Names())
    inputs, planes = planes_from_input(nodes, takes, walk.grid.frame_size, prepare)
    stack = predictions_of(nodes, loop, planes, trunk, walk, gives.kind)
    result = result_of(nodes, stack, walk, gives, classes)
    graph = nodes.graph("packed", inputs, [result])
    graph.opset_imports.update(trunk.opset_imports)
    return ir.Model(graph, ir_version=trunk.ir_version, producer_name="smp-deploy")
