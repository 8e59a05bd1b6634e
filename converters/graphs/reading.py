"""Graphs of a bundle as models: the one place where an ONNX file of somebody else becomes an object."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir

from engines.errors import BundleError


def graph_from_file(path: Path) -> ir.Model:
    """The model in a file. Raises :class:`BundleError` for what is none, also where a runtime would not see it."""
    try:
        return ir.load(path)
    except Exception as error:
        # A protobuf that does not parse, a type that is none, an edge that leads nowhere: they share no base.
        reason = str(error.__cause__ or error).strip().splitlines() or [type(error).__name__]
        raise BundleError(f"{path.name} is no graph that can be read: {reason[0][:200]}") from error
