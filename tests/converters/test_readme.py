"""The page in a bundle: true figures, and lines that a shell in the bundle can run."""

from __future__ import annotations

import shlex

from engines import Bundle


def test_every_graph_of_the_bundle_has_its_line(exported: Bundle) -> None:
    text = (exported.path / "README.md").read_text(encoding="utf-8")
    commands = [shlex.split(line) for line in text.splitlines() if line.startswith("trtexec ")]
    graphs = [argument.partition("=")[2] for words in commands for argument in words if argument.startswith("--onnx=")]
    trunks = [name for trunk in exported.manifest.trunks for name in trunk.graphs.values()]
    assert graphs == [exported.manifest.prepare, *trunks]
    assert all((exported.path / graph).is_file() for graph in graphs)
    assert all("--stronglyTyped" in words for words in commands)
    plans = [words[-1] for words in commands]
    assert len(set(plans)) == len(plans)


def test_the_shapes_are_those_of_one_phase(exported: Bundle) -> None:
    lines = (exported.path / "README.md").read_text(encoding="utf-8").splitlines()
    # 64x96 with a border of 3 for the 7x7 convolution; of windows cut at 4x4 offsets, 3 rows and columns stay out.
    (default,) = [line for line in lines if "--onnx=trunk.onnx" in line]
    assert "--minShapes=windows:1x3x67x99 --optShapes=windows:1x3x67x99 --maxShapes=windows:1x3x67x99" in default


def test_the_table_gives_the_work_on_the_whole_frame(exported: Bundle) -> None:
    text = (exported.path / "README.md").read_text(encoding="utf-8")
    trunk = exported.manifest.trunk(2)
    assert f"| `trunk.onnx` | 2 | reshape | 16 | {16 * trunk.operations / 1e9:.1f} |" in text
