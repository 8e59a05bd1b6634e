"""What becomes of every node of a strided trace: found by following the sizes of its maps through it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from converters.analysis.convolutions import has_hooks
from converters.analysis.received import pinned_defaults
from converters.analysis.tracing import layer_of, name_of, split_window
from converters.densifying import ordinary
from converters.densifying.arguments import Call, call_of
from converters.densifying.batches import Batches
from converters.densifying.joining import GivenToAll, adaptions
from converters.densifying.options import Densification, MaxPool
from converters.densifying.places import Place, Stack, Standing
from converters.densifying.plan import Action, Plan
from converters.densifying.report import Fate, LayerRow
from converters.densifying.subsampling import (
    SUBSAMPLING,
    PlainSplit,
    Sampling,
    Unshuffling,
    subsampling_of,
)
from converters.densifying.until import nodes_until
from converters.densifying.upsampling import (
    INTERPOLATIONS,
    LEARNED,
    Merging,
    Shuffling,
    Transposing,
    kernel_of,
    target_of,
)
from converters.densifying.values import map_of
from engines.errors import NetworkError
from engines.schedules.phases import Size


def planned(graph: fx.GraphModule, size: Size, options: Densification) -> tuple[Plan, NetworkError | None]:
    """Plan the dense form of a strided network on images of ``size``.

    Gives what was found, and what ended it early: a refusal, or what a layer raised on an image of this size.
    """
    planner = _Planner(graph, size, options)
    dtype = next((held.dtype for held in graph.parameters() if held.is_floating_point()), torch.float32)
    try:
        with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad(), pinned_defaults():
            planner.run(torch.empty(1, 3, *size, dtype=dtype))
    except NetworkError as error:
        return planner.plan, error
    return planner.plan, None


class _Planner(fx.Interpreter):
    """Follows sizes, places and standings from node to node."""

    def __init__(self, graph: fx.GraphModule, size: Size, options: Densification) -> None:
        super().__init__(graph)
        self.extra_traceback = False
        self.graph_module = graph
        self.size, self.options = size, options
        self.plan = Plan()
        self.values: dict[fx.Node, Any] = {}
        self.seen: dict[Stack, set[Size]] = {}
        """By level, the rows and columns that maps on its grid have."""
        self.batches = Batches(self.plan)
        self.strides_until = nodes_until(graph, options.until)

    def run_node(self, n: fx.Node) -> Any:
        try:
            value = super().run_node(n)
        except Exception as error:
            # The layers are the user's and may raise anything.
            rows, columns = self.size
            raise NetworkError(f"the network fails on an image of {rows}x{columns} at {_said(n)}: {error}") from error
        self.values[n] = value
        if n.op == "output":
            self._end(n)
        elif n.op == "placeholder":
            self._put(n, Place((), True))
        elif map_of(value) is None:
            self.batches.note(n)
        elif (inputs := self._inputs(n)) and not ordinary.is_constant(n):
            self.batches.check(n, inputs[0], self.values)
            self._put(n, self._placed(n, inputs))
        return value

    def _inputs(self, node: fx.Node) -> list[fx.Node]:
        return [held for held in node.all_input_nodes if held in self.plan.places]

    def _put(self, node: fx.Node, place: Place) -> None:
        self.plan.places[node] = place
        size = self._size(node)
        if size is not None:
            self.plan.sizes[node] = size
            if place.on_grid:
                self.seen.setdefault(place.stack, set()).add(size)

    def _size(self, node: fx.Node) -> Size | None:
        """Rows and columns, of what has four axes."""
        value = map_of(self.values[node])
        return (int(value.shape[2]), int(value.shape[3])) if value is not None and value.ndim == 4 else None

    def _numbers(self, value: Any) -> Any:
        return fx.map_arg(value, lambda node: self.values[node])

    def _placed(self, node: fx.Node, inputs: list[fx.Node]) -> Place:
        if split_window(self.graph_module, node) is not None:
            raise NetworkError(f"{_said(node)} is a pooling layer: the network is dense as it is, export it like this")
        call = call_of(self.graph_module, node, self._numbers)
        if call is not None and call.source in self.plan.places:
            place = self._special(node, call)
            if place is not None:
                return place
        sampled = ordinary.step_of(node, self._numbers)
        if sampled is not None and self.plan.places[inputs[0]].on_grid:
            place = self._sampled(node, inputs[0], *sampled)
            if place is not None:
                return place
        return self._ordinary(node, inputs)

    def _special(self, node: fx.Node, call: Call) -> Place | None:
        """The place of a strided or an enlarging layer; ``None`` for one that does nothing of the kind here."""
        place, given, made = self.plan.places[call.source], self._size(call.source), self._size(node)
        if given is None or made is None:
            return None
        if call.kind in SUBSAMPLING:
            if max(call.pair("stride")) == 1 or _covers(call, given, made):
                return None
            self._check_plain(node)
            if not place.on_grid or self._is_behind(node):
                return self._kept(node, place, "strided inside each shift, as it was")
            if not isinstance(self.values[node], Tensor):
                raise NetworkError(f"{_said(node)} gives the places of its maxima: use a plain pool")
            return self._subsampled(node, call, place, given, made)
        if call.kind is nn.PixelUnshuffle:
            if not place.on_grid or self._is_behind(node):
                return self._kept(node, place, "strided inside each shift, as it was")
            factor = int(call.settings["downscale_factor"])
            return self._made_dense(node, Unshuffling(call.source, place, (factor, factor)), place, (factor, factor))
        if call.kind in (*INTERPOLATIONS, *LEARNED):
            return self._enlarged(node, call, place, given, made)
        return None

    def _subsampled(self, node: fx.Node, call: Call, place: Place, given: Size, made: Size) -> Place:
        stride = call.pair("stride")
        action: Action
        if call.kind is nn.MaxPool2d and self.options.max_pool is MaxPool.SPLIT:
            action = PlainSplit(call, place, stride, made, given)
        else:
            action = subsampling_of(call, _said(node), place, given, made)
        return self._made_dense(node, action, place, stride)

    def _made_dense(self, node: fx.Node, action: Action, place: Place, stride: tuple[int, int]) -> Place:
        self.plan.actions[node] = action
        self._say(node, Fate.DENSE, action.described(), place.stack)
        deeper = place.deeper(stride)
        if place.standing is Standing.SHIFTS:
            return deeper
        return self._joined(node, deeper)

    def _sampled(self, node: fx.Node, source: fx.Node, start: Size, step: Size) -> Place | None:
        place, given, made = self.plan.places[source], self._size(source), self._size(node)
        if given is None or made is None or step == (1, 1):
            return None
        if self._is_behind(node):
            return self._kept(node, place, "strided inside each shift, as it was")
        return self._made_dense(node, Sampling(source, place, step, start, made, given), place, step)

    def _enlarged(self, node: fx.Node, call: Call, place: Place, given: Size, made: Size) -> Place | None:
        if given == made or (call.kind is nn.ConvTranspose2d and max(call.pair("stride")) == 1):
            return None
        if call.kind in INTERPOLATIONS and max(made[0] / given[0], made[1] / given[1]) < 1 and place.on_grid:
            return self._reduced(node, call, place, given, made)
        if made in self.seen[place.stack] and not place.on_grid:
            # Inside its level, as every shift computes it.
            return self._kept(node, replace(place, on_grid=True), "resized inside each shift, as it was", on_grid=True)
        if not place.on_grid:
            target, within = self._level_of(place, made), True
        else:
            target, within = target_of(place, given, made), False
        if target is None or (within and call.kind in LEARNED):
            if not place.on_grid:
                return self._kept(node, place, "resized inside each shift, as it was")
            raise NetworkError(
                f"{_said(node)} makes a map of {made[0]}x{made[1]} of one of {given[0]}x{given[1]}, and no level of "
                f"the network has maps of that size: {_levels(self.seen)}"
            )
        self._check_plain(node)
        value = map_of(self.values[call.source])
        assert value is not None
        action: Action
        if call.kind is nn.ConvTranspose2d:
            action = Transposing(call, place.stack, target)
        elif call.kind is nn.PixelShuffle:
            action = Shuffling(call.source, int(call.settings["upscale_factor"]), place.stack, target)
        else:
            kernel = kernel_of(call, _said(node), self.options.upsampling)
            action = Merging(call.source, place.stack, target, kernel, value.shape[1], value.dtype, within)
        self.plan.actions[node] = action
        self._say(node, Fate.MERGED, action.described(), place.stack)
        smoothed = not isinstance(action, Merging) or action.kernel is not None
        wanted = Standing.MEAN if smoothed else Standing.STITCHED
        merged = Place(target, True, wanted)
        if place.standing is Standing.SHIFTS or place.standing is wanted:
            return merged
        return self._joined(node, merged)

    def _reduced(self, node: fx.Node, call: Call, place: Place, given: Size, made: Size) -> Place | None:
        """An interpolation to fewer rows and columns: that to the nearest takes every so many of them."""
        step = (given[0] // made[0], given[1] // made[1])
        if (made[0] * step[0], made[1] * step[1]) == given and call.settings["mode"] == "nearest":
            return self._sampled(node, call.source, (0, 0), step)
        raise NetworkError(
            f"{_said(node)} resizes a map to fewer rows and columns ({given[0]}x{given[1]} to {made[0]}x{made[1]}), "
            "which has no form of stride 1 here: use a pool or a strided convolution"
        )

    def _level_of(self, place: Place, made: Size) -> Stack | None:
        """The level whose maps have a size, and whose factor divides it."""
        for depth in range(len(place.stack) - 1, -1, -1):
            if made in self.seen.get(place.stack[:depth], ()):
                return place.stack[:depth]
        return None

    def _ordinary(self, node: fx.Node, inputs: list[fx.Node]) -> Place:
        """What is kept: it computes for every split batch what it computes for an image."""
        plan = self.plan
        stack, adapted = adaptions(node, inputs, plan.places, plan.sizes, self._axes)
        if adapted:
            plan.adapted[node] = adapted
        merged = any(not isinstance(held, GivenToAll) for held in adapted.values())
        standing, joined = ordinary.standing_of(self.graph_module, node, [plan.places[held] for held in inputs])
        if adapted:
            fate = Fate.JOINED if merged else Fate.KEPT
            self._say(node, fate, ", ".join(dict.fromkeys(held.described() for held in adapted.values())), stack)
        kept = self._grid(node, inputs, stack)
        place = Place(stack, kept, standing)
        return self._joined(node, place) if joined or merged else place

    def _grid(self, node: fx.Node, inputs: list[fx.Node], stack: Stack) -> bool:
        """Whether what a kept layer gives has the rows and columns of its level."""
        size = self._size(node)
        if size is None:
            ordinary.check_unfolded(self.graph_module, node, self._numbers)
            return False
        sizes = [self.plan.sizes[held] for held in inputs if self.plan.places[held].on_grid and held in self.plan.sizes]
        adapted = self.plan.adapted.get(node, {})
        sizes += [self.plan.sizes[held] for held in adapted if self.plan.sizes.get(held) == size]
        if not sizes:
            return size in self.seen.get(stack, ()) and size != (1, 1)
        if size == max(sizes) or ordinary.keeps_grid(self.graph_module, node):
            return True
        if size == (1, 1) or ordinary.leaves_grid(self.graph_module, node):
            if size == (1, 1) or ordinary.is_adaptive(self.graph_module, node):
                self._say(node, Fate.KEPT, f"of each shift by itself, {max(sizes)[0]}x{max(sizes)[1]} positions", stack)
            return False
        raise NetworkError(
            f"{_said(node)} makes a map of {size[0]}x{size[1]} of one of {max(sizes)[0]}x{max(sizes)[1]}, in a way "
            "that has no dense form here"
        )

    def _joined(self, node: fx.Node, place: Place) -> Place:
        known = {self.plan.places[held].standing for held in self._inputs(node)}
        if Standing.JOINED not in known:
            self.plan.joins.append(_said(node))
        return replace(place, standing=Standing.JOINED)

    def _kept(self, node: fx.Node, place: Place, what: str, *, on_grid: bool = False) -> Place:
        self._say(node, Fate.KEPT, what, place.stack)
        return place if on_grid else place.off_grid()

    def _say(self, node: fx.Node, fate: Fate, what: str, stack: Stack) -> None:
        kind = ordinary.kind_of(self.graph_module, node, self._numbers)
        self.plan.rows.append(LayerRow(ordinary.named(node), kind, fate, what, len(stack)))

    def _end(self, node: fx.Node) -> None:
        (result,) = node.all_input_nodes
        place = self.plan.places.get(result)
        size = self.plan.sizes.get(result)
        if place is None or size is None or not place.on_grid:
            raise NetworkError(
                f"the network returns what {_said(result)} gives, which is no map of the image: its rows and columns "
                "are those of pooled, flattened or reshaped values"
            )
        if target_of(place, size, self.size) != ():
            raise NetworkError(
                f"the network returns a map of {size[0]}x{size[1]} ({_said(result)}), whose split batches make none of "
                f"{self.size[0]}x{self.size[1]}: pad its layers so that they keep the size"
            )
        self.plan.end = place
        if place.stack:
            self.plan.rows.append(
                LayerRow("output", "", Fate.MERGED, f"merged, undoing {len(place.stack)} levels", len(place.stack))
            )

    def _axes(self, node: fx.Node) -> int:
        value = map_of(self.values[node])
        return 0 if value is None else value.ndim

    def _is_behind(self, node: fx.Node) -> bool:
        return self.strides_until is not None and node not in self.strides_until

    def _check_plain(self, node: fx.Node) -> None:
        """Raise :class:`NetworkError` for a layer that hooks may make another one."""
        layer = layer_of(self.graph_module, node)
        if layer is not None and has_hooks(layer) and not ordinary.has_norms_alone(layer):
            raise NetworkError(f"{_said(node)} has hooks, and what they do at stride 1 is not known: take them off")


def _covers(call: Call, given: Size, made: Size) -> bool:
    """Whether a pool's one window is the whole map: a statistic, and no lower resolution."""
    kernel = call.pair("kernel_size")
    return call.kind is not nn.Conv2d and made == (1, 1) and kernel[0] >= given[0] and kernel[1] >= given[1]


def _said(node: fx.Node) -> str:
    return name_of(node)


def _levels(seen: Mapping[Stack, set[Size]]) -> str:
    return "; ".join(
        f"level {len(stack)}: {', '.join(f'{h}x{w}' for h, w in sorted(sizes))}" for stack, sizes in seen.items()
    )
