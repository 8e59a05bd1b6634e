"""A network left as it is by a run that stores placeholders in it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn


@contextmanager
def left_as_it_is(network: nn.Module) -> Iterator[None]:
    """Undo what is stored in the modules of a network inside the ``with`` block: grids by size, weights by hooks."""
    before = [
        (vars(module), {key: (held, _content(held)) for key, held in vars(module).items()})
        for module in network.modules()
    ]
    try:
        yield
    finally:
        for attributes, kept in before:
            attributes.clear()
            attributes.update({key: _restored(held, content) for key, (held, content) in kept.items()})


def _content(held: Any) -> Any:
    return held.copy() if isinstance(held, (dict, list, set)) else None


def _restored(held: Any, content: Any) -> Any:
    """The container itself, with what it held: others know it, as the handles of hooks do."""
    if isinstance(held, (dict, set)):
        held.clear()
        held.update(content)
    elif isinstance(held, list):
        held[:] = content
    return held
