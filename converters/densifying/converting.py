"""From a strided network to its dense form: :func:`converters.densify`."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import fx, nn

from converters.analysis.in_place import remove_in_place
from converters.analysis.network import traced_network
from converters.analysis.received import check_whole, own_copy, pinned_defaults
from converters.analysis.tracing import own_multiple, shared_graph
from converters.arguments import checked_size
from converters.densifying.arguments import by_position
from converters.densifying.checking import Conversion, checked
from converters.densifying.network import DenseNetwork
from converters.densifying.options import Densification, MaxPool
from converters.densifying.places import Stack, factor_of
from converters.densifying.plan import Plan
from converters.densifying.planning import planned
from converters.densifying.report import DensifyReport
from converters.densifying.upsampling import Upsampling
from converters.densifying.writing import Writer
from engines.errors import NetworkError
from engines.schedules.phases import Size, padded_size


def densify(
    network: nn.Module,
    size: Size,
    *,
    until: str | None = None,
    upsampling: Upsampling | str | None = None,
    max_pool: MaxPool | str = MaxPool.DENSE,
) -> tuple[DenseNetwork, DensifyReport]:
    """Make a strided network dense: each strided layer with stride 1 and a split behind it, merged at the end.

    The network is left unchanged. The dense one has its parameters as copies, under the same names, and is in the mode
    that it is in; it can be exported, and trained by shrink-expand steps. What it computes is checked against the
    strided network on a small image of noise, map by map.

    Args:
        network: maps ``(n, 3, H, W)`` to one map ``(n, classes, h, w)``, of the image's size or smaller by a stride.
        size: of the frames, ``(height, width)`` in pixels, of which it is made.
        until: the path of a module; strides behind it are kept, inside every shift. By default there are none.
        upsampling: what an interpolation back to a level becomes: ``"kernel"``, merges and its own kernel at stride 1,
            which is the mean over all shifts and keeps the accuracy of trained weights; or ``"merge"``, merges alone,
            which a loop can walk. By default the kernel, and merges for an interpolation that has none.
        max_pool: what a strided max pool becomes: ``"dense"``, the same pool at stride 1 and a split; or ``"split"``, a
            split alone, as in the paper.

    Returns the dense network and what was done to each layer.

    Raises :class:`NetworkError`, naming the layer, for what has no dense form, and :class:`InputError` for an argument
    that is wrong.
    """
    return densified(network, size, Densification.of(until, upsampling, max_pool))


def densified(network: nn.Module, size: Size, options: Densification) -> tuple[DenseNetwork, DensifyReport]:
    """As :func:`densify`, with its choices as one value."""
    size = checked_size(size)
    check_whole(network)
    with pinned_defaults():
        traced, strided, plan, padded, multiple = _plan(network, size, options)
        dense, written = _written(network, traced, strided, plan, options, multiple)
        found = checked(Conversion(network, strided, dense, written, plan, padded))
        windows = max((place.stack for place in plan.places.values()), key=len)
        report = DensifyReport(
            network=type(network).__name__,
            size=size,
            padded_size=padded,
            size_multiple=multiple,
            windows=windows,
            walkable_levels=traced_network(dense, padded, shared=True).most_levels,
            function=plan.end.standing,
            joins=tuple(plan.joins),
            layers=tuple(plan.rows),
            options=options,
            checked=found.maps,
            checked_size=found.size,
            difference=found.difference,
            precision=found.precision,
        )
    _like(dense, network)
    return dense, report


def _trace(network: nn.Module, size: Size) -> fx.GraphModule:
    graph = shared_graph(network, size)
    remove_in_place(graph, own_layers=True)
    by_position(graph)
    graph.recompile()
    return graph


def _plan(network: nn.Module, size: Size, options: Densification) -> tuple[nn.Module, fx.GraphModule, Plan, Size, Size]:
    """The copy that was traced, its trace, the plan, the padded size of these, and what sides are multiples of.

    How large a frame has to be padded is known when all strides are found, and these by following a frame.
    """
    rows, columns = own_multiple(network) or (1, 1)
    while True:
        padded = padded_size(size, (rows, columns))
        traced = own_copy(network).cpu().eval()
        strided = _trace(traced, padded)
        plan, error = planned(strided, padded, options)
        needed = _multiple(place.stack for place in plan.places.values())
        found = math.lcm(rows, needed[0]), math.lcm(columns, needed[1])
        if found == (rows, columns):
            break
        rows, columns = found
    if error is not None:
        raise error
    if needed == (1, 1):
        raise NetworkError(
            f"{type(network).__name__} has no strided layer: it computes every pixel of its image already"
        )
    return traced, strided, plan, padded, found


def _multiple(stacks: Iterable[Stack]) -> Size:
    totals = [factor_of(stack, ()) for stack in stacks]
    return math.lcm(*(height for height, _ in totals)), math.lcm(*(width for _, width in totals))


def _written(
    network: nn.Module,
    traced: nn.Module,
    strided: fx.GraphModule,
    plan: Plan,
    options: Densification,
    multiple: Size,
) -> tuple[DenseNetwork, dict[fx.Node, fx.Node]]:
    # Of what was traced: it has the tensors that the forward pass makes anew each time.
    root = own_copy(traced)
    writer = Writer(root)
    for node in strided.graph.nodes:
        if node.op == "output":
            merged = writer.merge(writer[node.all_input_nodes[0]], plan.end.stack, ())
            writer.graph.output(merged)
        elif (action := plan.actions.get(node)) is not None:
            writer.written[node] = action.write(writer, node)
        else:
            inputs = dict(writer.written)
            inputs |= {held: way.write(writer, held) for held, way in plan.adapted.get(node, {}).items()}
            inputs |= {held: writer.batch(inputs[map_]) for held, map_ in plan.batches.get(node, {}).items()}
            writer.written[node] = writer.keep(node, inputs)
    root.densification, root.size_multiple = options, multiple  # type: ignore[assignment]
    root.source = f"{type(network).__module__}.{type(network).__qualname__}"  # type: ignore[assignment]
    dense = DenseNetwork(root, writer.graph, type(network).__name__)
    # Sizes that the upsamplings were given.
    dense.graph.eliminate_dead_code()
    dense.graph.lint()
    dense.recompile()
    return dense, writer.written


def _like(dense: DenseNetwork, network: nn.Module) -> None:
    """Give a dense network the device and the modes of the strided one."""
    device = next((parameter.device for parameter in network.parameters()), torch.device("cpu"))
    dense.to(device).train(network.training)
    modes = {path: module.training for path, module in network.named_modules()}
    for path, module in dense.named_modules():
        module.training = modes.get(path, network.training)
