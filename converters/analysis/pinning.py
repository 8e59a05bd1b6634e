"""Which of the user's own layers compute one phase when their offsets are pinned."""

from __future__ import annotations

from torch import fx, nn

from converters.analysis.levels import Levels
from converters.analysis.tracing import layer_of
from converters.pooling import MergePool2d, SharedOffset, SplitPool2d


def pinnable_splits(network: nn.Module, graph: fx.GraphModule, levels: Levels) -> tuple[tuple[SplitPool2d, ...], ...]:
    """The user's own split layers of the first levels, level by level, as far as pinning their offsets would do.

    A functional split or merge has no offset. An offset that several levels share would be pinned in the wrong place
    too, and a merge that has none of its level's splits would not know what it is to undo. The levels end before the
    first one with such layers.

    Args:
        network: as the user handed it over.
        graph: its trace, whose modules have the network's paths.
        levels: of that graph.
    """
    layers: list[list[SplitPool2d | MergePool2d | None]] = [[] for _ in levels.windows]
    for node in (*levels.splits, *levels.merges):
        # A split ends on its level, a merge begins on it.
        level = len(levels.stacks[node]) - (node in levels.splits)
        traced = isinstance(layer_of(graph, node), (SplitPool2d, MergePool2d))
        original = network.get_submodule(str(node.target)) if traced else None
        assert original is None or isinstance(original, (SplitPool2d, MergePool2d))
        layers[level].append(original)
    found: list[tuple[SplitPool2d, ...]] = []
    for level, held in enumerate(layers):
        elsewhere = {layer.shared for other in (*layers[:level], *layers[level + 1 :]) for layer in other if layer}
        splits = tuple(layer for layer in held if isinstance(layer, SplitPool2d))
        if None in held or not _pinnable(splits, held, elsewhere):
            break
        found.append(splits)
    return tuple(found)


def _pinnable(
    splits: tuple[SplitPool2d, ...], held: list[SplitPool2d | MergePool2d | None], elsewhere: set[SharedOffset]
) -> bool:
    own = {layer.shared for layer in splits}
    return not own & elsewhere and {layer.shared for layer in held if layer is not None} <= own
