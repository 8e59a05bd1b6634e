"""What the tensors of a graph should be: from PyTorch, or from another graph that passed.

- A trunk in a lower precision has the same nodes as the one in fp32: every tensor is known.
- In fp32, every convolution of a layer is run in PyTorch on what it was given (with ``network=``).
- Without the network, another graph knows what its layers gave, wherever both hold the same pixels.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import nn

from converters.analysis.levels import levels_within
from converters.graphs.identity import module_of
from converters.graphs.layers import OPERATORS, names_of_nodes
from converters.reproductions.pieces import (
    OUTPUT,
    Known,
    Piece,
    Tensors,
    Weights,
    error_of,
    part_between,
    piece_of,
    smallest_piece,
)
from converters.verification.chain import EXACT
from converters.verification.layers import Placed, placed
from converters.verification.outputs import expected_output
from converters.verification.probes import ProbedGraph, planes_of, probed
from converters.verification.subject import Frame, Subject
from engines.backends.onnxruntime.runner import OnnxRuntimeRunner
from engines.bundle.manifest import OutputKind, TrunkRecord
from engines.errors import BackendError
from engines.schedules.phases import Phase, Size
from engines.schedules.schedule import Lowering, Precision

DIFFERS = 1e-4
"""Relative to a tensor's largest value: fp32 in another order of summation stays below a tenth of it."""


class Graph:
    """A graph of a bundle, run once on a frame so that every tensor can be seen."""

    def __init__(
        self, subject: Subject, trunk: TrunkRecord | None, precision: Precision, frame: Frame, phase: Phase
    ) -> None:
        """``trunk`` is ``None`` for ``model.onnx``, which takes whole frames. Raises :class:`BackendError`."""
        bundle, manifest = subject.bundle, subject.bundle.manifest
        self._kind, self._windows, self._size = manifest.outputs, manifest.windows, manifest.input.padded_size
        self._phase = (0, 0) if trunk is None else phase
        self._outermost = trunk is not None and trunk.lowering is Lowering.STRIDED
        self.file = manifest.model if trunk is None else bundle.trunk_graph(trunk, precision)
        graph = ProbedGraph(bundle.file(self.file), precision)
        self.model, self._graph = graph.model, graph
        self.feed: Tensors
        if trunk is None:
            self.feed = {"frames": frame.image[None]}
        else:
            self.feed = manifest.grid(trunk).feed(planes_of(bundle, frame.image), [self._phase])
        self.names = {
            str(value.name): name + (f" ({index})" if index else "")
            for node, name in names_of_nodes(self.model).items()
            for index, value in enumerate(node.outputs)
            if value.dtype is not None and value.dtype.is_floating_point()
        }
        """By tensor: what its node is called, which is the same in every graph of the bundle for a layer's."""
        with graph.runner(self.names) as runner:
            results = runner.infer(dict(self.feed))
        self.values = {name: probed(results, name) for name in self.names}
        """float32 of every float tensor."""

    def placed(self, tensor: str) -> Placed | None:
        """A tensor on the grid of the frame."""
        return placed(self.values[tensor], self._size, self._windows, self._phase, outermost=self._outermost)

    def batches_of(self, value: NDArray[np.float32], like: str) -> NDArray[np.float32] | None:
        """``(C, i, j)`` of the grid as the split batches that a tensor holds; :func:`placed` backwards."""
        held = self.values[like]
        level = levels_within(self._windows, (self._size[0] // held.shape[2], self._size[1] // held.shape[3]))
        if level is None:
            return None
        grown = value[None]
        inner = level
        while inner and grown.shape[2] > held.shape[2] * _product(self._windows[inner:level], 0):
            inner -= 1
        for h, w in self._windows[inner:level]:
            batch, channels, i, j = grown.shape
            cut = grown.reshape(batch, channels, i // h, h, j // w, w)
            order = (3, 5, 0, 1, 2, 4) if self._outermost else (0, 3, 5, 1, 2, 4)
            grown = cut.transpose(order).reshape(batch * h * w, channels, i // h, j // w)
        return grown if grown.shape == held.shape else None

    @property
    def logits(self) -> str:
        """The tensor that labels or probabilities are made from."""
        return self._graph.logits(self._kind.value)

    @property
    def comparable(self) -> dict[str, str]:
        """By what they are: four-dimensional tensors that graphs of other lowerings hold too.

        Whole outputs of layers, results of other modules, and results of what belongs to no module (sums, functional
        activations) by kind, number and how many of the kind there are: other numbers are other nodes.
        """
        found = {name: tensor for name, tensor in self._graph.layer_outputs.items() if self.values[tensor].ndim == 4}
        others = [node for node in self.model.graph if node.op_type not in OPERATORS]
        plain = [node for node in others if not module_of(node)]
        counts = Counter(node.op_type for node in plain)
        seen: Counter[str] = Counter()
        for node in others:
            name, tensor = self.names.get(str(node.outputs[0].name)), str(node.outputs[0].name)
            if not module_of(node):
                seen[node.op_type] += 1
                name = f"{node.op_type} {seen[node.op_type]} of {counts[node.op_type]}"
            if name is not None and tensor in self.values and self.values[tensor].ndim == 4:
                found.setdefault(name, tensor)
        return found


def piece_in_precision(
    subject: Subject, trunk: TrunkRecord, precision: Precision, frame: Frame, phase: Phase
) -> Piece | None:
    """Of a trunk in another precision, beside the same trunk in fp32. Raises :class:`BackendError`."""
    suspect = Graph(subject, trunk, precision, frame, phase)
    exact = Graph(subject, trunk, Precision.FP32, frame, phase)
    of_name = {name: tensor for tensor, name in exact.names.items()}
    right = {
        tensor: exact.values[of_name[name]]
        for tensor, name in suspect.names.items()
        if name in of_name and exact.values[of_name[name]].shape == suspect.values[tensor].shape
    }
    again = partial(_by_graph, exact, {tensor: of_name[suspect.names[tensor]] for tensor in right})
    known = Known(right, suspect.values, suspect.feed, again)
    return smallest_piece(suspect.model, precision, known, subject.tolerance(precision).logits)


def piece_of_output(
    subject: Subject, trunk: TrunkRecord, precision: Precision, frame: Frame, phase: Phase
) -> Piece | None:
    """What a trunk makes of its logits, beside the argmax and softmax of numpy. Raises :class:`BackendError`."""
    kind = subject.bundle.manifest.outputs
    if kind is OutputKind.LOGITS:
        return None
    graph = Graph(subject, trunk, precision, frame, phase)
    logits = graph.logits
    put = graph.placed(logits)
    if put is None or put.window != subject.bundle.manifest.grid(trunk).window:
        return None
    values = ir.convenience.create_value_mapping(graph.model.graph)
    made = values[logits]
    given = {logits: graph.values[logits].astype(np.float32 if made.dtype is None else made.dtype.numpy())}
    expected = np.asarray(expected_output(put.values, kind)[None], np.float32)
    bound = 0.0 if kind is OutputKind.LABELS else EXACT
    piece = piece_of(
        graph.model, precision, given, values[kind.value], expected, bound, lambda piece, weights: piece.expected
    )
    return piece if piece.fails else None


def pieces_in_fp32(
    subject: Subject,
    trunk: TrunkRecord | None,
    frame: Frame,
    phase: Phase,
    others: Iterable[TrunkRecord | None],
) -> Iterator[Piece]:
    """Of a graph in fp32: beside PyTorch's layers, and beside each of the ``others``. Raises :class:`BackendError`."""
    suspect = Graph(subject, trunk, Precision.FP32, frame, phase)
    if subject.network is not None and (piece := _beside_modules(subject, suspect)) is not None:
        yield piece
    for other in others:
        known = _beside(subject, suspect, trunk, other, frame, phase)
        if known is not None and (piece := smallest_piece(suspect.model, Precision.FP32, known, DIFFERS)) is not None:
            yield piece


def _beside(
    subject: Subject, suspect: Graph, trunk: TrunkRecord | None, other: TrunkRecord | None, frame: Frame, phase: Phase
) -> Known | None:
    """What another graph says of the tensors; ``None`` where it holds other pixels."""
    phases = _covering(_window(subject, trunk), (0, 0) if trunk is None else phase, _window(subject, other))
    if not phases:
        return None
    graphs = [Graph(subject, other, Precision.FP32, frame, held) for held in phases]
    layers = graphs[0].comparable
    right, of_tensor = {}, {}
    for name, tensor in suspect.comparable.items():
        here, there = suspect.placed(tensor), layers.get(name)
        if here is None or there is None:
            continue
        wanted = _together([graph.placed(there) for graph in graphs], here)
        batches = None if wanted is None else suspect.batches_of(wanted, tensor)
        if batches is not None:
            right[tensor], of_tensor[tensor] = batches, there
    return Known(right, suspect.values, suspect.feed, partial(_by_graph, graphs[0], of_tensor))


def _window(subject: Subject, trunk: TrunkRecord | None) -> Size:
    return (1, 1) if trunk is None else subject.bundle.manifest.grid(trunk).window


def _covering(window: Size, phase: Phase, other: Size) -> list[Phase]:
    """The phases of another window that together hold all pixels of a phase of this one; none where none do."""
    if not (window[0] % other[0] or window[1] % other[1]):
        return [(phase[0] % other[0], phase[1] % other[1])]
    if other[0] % window[0] or other[1] % window[1]:
        return []
    return [
        (row, column) for row in range(phase[0], other[0], window[0]) for column in range(phase[1], other[1], window[1])
    ]


def _together(parts: Sequence[Placed | None], here: Placed) -> NDArray[np.float32] | None:
    """The values at the pixels of ``here``, of one graph that holds them all or of many that hold some each."""
    held = [part for part in parts if part is not None]
    if len(held) < len(parts):
        return None
    if len(held) == 1:
        return held[0].at(here.phase, here.window)
    whole = np.full((len(held[0].values), *here.values.shape[1:]), np.nan, np.float32)
    for part in held:
        if part.window[0] % here.window[0] or part.window[1] % here.window[1]:
            return None
        (row, column), (h, w) = part.phase, here.window
        at = (row - here.phase[0]) // h, (column - here.phase[1]) // w
        target = whole[:, at[0] :: part.window[0] // h, at[1] :: part.window[1] // w]
        if min(at) < 0 or target.shape != part.values.shape:
            return None
        target[...] = part.values
    return None if np.isnan(whole).any() else whole


def _beside_modules(subject: Subject, suspect: Graph) -> Piece | None:
    """The first convolution that does not give what its module gives for the same input."""
    assert subject.traced is not None
    # With the batch norms in their convolutions, as the graphs have them.
    modules = dict(subject.traced.graph.named_modules())
    for node in suspect.model.graph:
        layer = modules.get(module_of(node))
        given, output = node.inputs[0] if node.inputs else None, str(node.outputs[0].name)
        if not isinstance(layer, nn.Conv2d) or node.op_type != "Conv" or given is None or not _same_form(node, layer):
            continue
        held = suspect.values.get(str(given.name), suspect.feed.get(str(given.name)))
        if held is None:
            continue
        with torch.no_grad():
            made = copy.deepcopy(layer).double()(torch.from_numpy(np.asarray(held, np.float64)))
        expected = np.asarray(made.numpy(), np.float32)
        if error_of(suspect.values[output], expected) <= DIFFERS:
            continue
        inputs = {str(given.name): np.asarray(held, np.float32)}
        again = partial(_by_module, layer)
        return piece_of(suspect.model, Precision.FP32, inputs, node.outputs[0], expected, DIFFERS, again)
    return None


def _by_module(layer: nn.Conv2d, piece: Piece, weights: Weights) -> NDArray[np.float32]:
    """What a convolution of the same form gives with other weights."""
    (given,) = piece.inputs.values()
    held = {place: torch.from_numpy(np.asarray(array, np.float32)) for (_, place), array in weights.items()}
    with torch.no_grad():
        result = nn.functional.conv2d(
            torch.from_numpy(np.asarray(given, np.float32)),
            held[1],
            held.get(2),
            layer.stride,
            layer.padding,
            layer.dilation,
            layer.groups,
        )
    return np.asarray(result.numpy(), np.float32)


def _same_form(node: ir.Node, layer: nn.Conv2d) -> bool:
    """Whether a convolution is the layer's own, not one of a lowering that reads at other places."""
    attributes: dict[str, Any] = {name: held.value for name, held in node.attributes.items()}
    if isinstance(layer.padding, str):
        return False
    return (
        tuple(attributes.get("strides", (1, 1))) == tuple(layer.stride)
        and tuple(attributes.get("dilations", (1, 1))) == tuple(layer.dilation)
        and tuple(attributes.get("pads", (0, 0, 0, 0))) == (*layer.padding, *layer.padding)
        and attributes.get("group", 1) == layer.groups
    )


def _by_graph(exact: Graph, of_tensor: Mapping[str, str], piece: Piece, weights: Weights) -> NDArray[np.float32] | None:
    """What the same part of another graph gives for the piece's inputs, with the same weights."""
    target = of_tensor.get(piece.output)
    if target is None or not set(piece.inputs) <= set(of_tensor):
        return None
    feed = {of_tensor[name]: np.asarray(array, np.float32) for name, array in piece.inputs.items()}
    model = exact.model.clone()
    for node, name in names_of_nodes(model).items():
        for place, value in enumerate(node.inputs):
            if value is not None and (name, place) in weights and value.is_initializer():
                value.const_value = ir.tensor(np.asarray(weights[name, place], np.float32), name=value.name)
    try:
        part = part_between(model, feed, target)
    except ValueError:
        return None
    if set(names_of_nodes(part).values()) != set(piece.nodes):
        # Other nodes in between: it is not the same part.
        return None
    try:
        with OnnxRuntimeRunner(ir.to_proto(part).SerializeToString(), arena=False) as runner:
            return np.asarray(runner.infer(feed)[OUTPUT], np.float32)
    except BackendError:
        return None


def _product(windows: list[tuple[int, int]], side: int) -> int:
    return int(np.prod([window[side] for window in windows])) if windows else 1
