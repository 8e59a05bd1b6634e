"""Graphs that do not become objects are refused with their names, by every command that looks into them."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from converters.graphs.reading import graph_from_file
from engines.errors import BundleError
from tests.conftest import Cli
from tests.converters.verification.faults import edited


def other_type(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.elem_type = 99


def test_a_type_that_is_none_is_one_message(cli: Cli, bundle: Path) -> None:
    edited(bundle, "trunk-l2-strided.fp16.onnx", edit=other_type)
    words = "trunk-l2-strided.fp16.onnx is no graph that can be read: "
    with pytest.raises(BundleError, match=f"^{words}"):
        graph_from_file(bundle / "trunk-l2-strided.fp16.onnx")
    result = cli("inspect", bundle)
    assert result.returncode == 2
    assert len(result.stderr.splitlines()) == 1
    assert f"smp-deploy: {words}" in result.stderr


@pytest.mark.parametrize("content", [b"\xff" * 30, b"not a graph at all", b"\x08\x07\x3a\x02\x0a\x7f"])
def test_bytes_that_are_no_graph(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "trunk.onnx").write_bytes(content)
    with pytest.raises(BundleError, match=r"^trunk\.onnx is no graph that can be read: "):
        graph_from_file(tmp_path / "trunk.onnx")
