"""Nodes of a bundle's graph, copied into another one."""

from __future__ import annotations

from collections.abc import Iterable

import onnx_ir as ir

from converters.one_file.nodes import Nodes
from engines.errors import BundleError


def copied(
    nodes: Nodes,
    part: Iterable[ir.Node],
    given: dict[ir.Value, ir.Value],
    result: ir.Value,
    shared: dict[ir.Value, ir.Value],
    prefix: str = "",
) -> ir.Value:
    """Copy nodes, in their order, with their attributes and metadata; what stands for ``result`` in the copy.

    Args:
        nodes: where to.
        part: nodes of one graph, with all that they need but what is given.
        given: what stands for values that the part reads and does not compute.
        result: one that it computes.
        shared: constants that were copied before, by those of the part; new ones are added.
        prefix: of the names of the copies. Constants keep their names.

    Raises :class:`BundleError` for a node that holds a graph of its own.
    """
    known = dict(given)

    def value(held: ir.Value | None) -> ir.Value | None:
        if held is None or held in known:
            return None if held is None else known[held]
        if held not in shared:
            assert held.const_value is not None, held
            free = nodes.names.value(str(held.name))
            tensor = held.const_value
            shared[held] = ir.val(free, const_value=ir.tensor(tensor.numpy(), dtype=tensor.dtype, name=free))
            nodes.initializers.append(shared[held])
        return shared[held]

    for node in part:
        if any(
            attribute.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
            for attribute in node.attributes.values()
        ):
            raise BundleError(f"{node.name} of the bundle holds a graph of its own; such a node cannot be packed")
        outputs = [ir.val(nodes.names.value(f"{prefix}{held.name}") if held.name else "") for held in node.outputs]
        known.update(zip(node.outputs, outputs, strict=True))
        nodes.nodes.append(
            ir.Node(
                node.domain,
                node.op_type,
                [value(held) for held in node.inputs],
                node.attributes.values(),
                overload=node.overload,
                outputs=outputs,
                name=nodes.names.node(f"{prefix}{node.name}"),
                metadata_props=dict(node.metadata_props),
            )
        )
    return known[result]
