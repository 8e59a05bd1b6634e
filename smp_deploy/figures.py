"""Figures that look the same wherever they are drawn."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any


@contextmanager
def own_settings(settings: Mapping[str, Any] | None = None) -> Iterator[None]:
    """Inside, matplotlib draws with its defaults and these settings; without matplotlib nothing is changed.

    On import it reads a ``matplotlibrc`` of the working directory, which may come from anybody: with ``text.usetex``
    there, every label would be given to the program ``latex``.
    """
    try:
        import matplotlib
    except ImportError:
        yield
        return
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        current: Any = matplotlib.rcParams
        current.update(settings or {})
        yield
