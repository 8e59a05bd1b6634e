"""Planted faults are cut down to pieces that fail alone, read back from their files and run by ONNX Runtime itself."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper
from torch import nn

from converters.reproductions import Unreproducible, reproduce
from converters.verification import Subject, checks_of, reference_frames
from engines import Bundle
from engines.bundle.records import Check
from engines.errors import OutputError
from tests.conftest import Cli
from tests.converters.verification.faults import (
    before_output,
    constant,
    edited,
    node_of,
    set_attribute,
    set_parameter,
)

TRUNKS = ("model.onnx", "trunk.onnx", "trunk-l1-strided.onnx")


def checked(bundle: Bundle, network: nn.Module | None = None) -> list[Check]:
    return list(checks_of(Subject(bundle, reference_frames(bundle), network=network)))


def weight(node: str, place: int = 1) -> Callable[[onnx.ModelProto], None]:
    """One weight of a layer is off by as much as the largest."""

    def spoil(values: np.ndarray) -> np.ndarray:
        changed = values.copy()
        changed.flat[0] += np.abs(values).max()
        return changed

    return lambda model: set_parameter(model, node, place, spoil)


def dilated(model: onnx.ModelProto) -> None:
    set_attribute(model, "convs.2/Conv", "dilations", [2, 2])
    set_attribute(model, "convs.2/Conv", "pads", [2, 2, 2, 2])


def exchanged(model: onnx.ModelProto) -> None:
    node = node_of(model, "splits.1/Transpose")
    order = list(next(held for held in node.attribute if held.name == "perm").ints)
    order[1], order[2] = order[2], order[1]
    set_attribute(model, node.name, "perm", order)


def other_activation(model: onnx.ModelProto) -> None:
    node_of(model, "Relu_2").op_type = "Abs"


def too_large(model: onnx.ModelProto) -> None:
    set_parameter(model, "convs.3/Conv", 1, lambda values: values * 60000)


def label_off_by_one(model: onnx.ModelProto) -> None:
    one = constant(model, "one", np.array(1, np.uint8))
    before_output(model, helper.make_node("Sub", ["right", one], ["labels"], name="less"))


def error_of_files(folder: Path) -> float:
    """Of the written piece, run as anybody would, against the written expectation; relative to its largest value."""
    inputs = json.loads((folder / "inputs.json").read_text())[0]
    arrays = sorted(folder.glob("input-*.npy"))
    session = onnxruntime.InferenceSession(folder / "piece.onnx", providers=["CPUExecutionProvider"])
    feed = {value.name: np.load(path) for value, path in zip(session.get_inputs(), arrays, strict=True)}
    assert set(inputs) == set(feed)
    for path in arrays:
        assert path.with_suffix(".bin").read_bytes() == np.load(path).tobytes()
    (actual,) = session.run(None, feed)
    expected = np.load(folder / "expected.npy")
    assert actual.shape == expected.shape
    return float(np.abs(actual.astype(np.float64) - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize(
    ("files", "fault", "nodes", "weights"),
    [
        (("trunk.onnx",), weight("convs.1/Conv"), ("convs.1",), True),
        (("trunk.onnx",), dilated, ("convs.2",), True),
        (("trunk.onnx",), dilated, ("convs.2",), False),
        (
            ("trunk.onnx",),
            exchanged,
            ("splits.1/Reshape", "splits.1/Transpose", "splits.1/Reshape_1", "Relu_1"),
            True,
        ),
        (
            ("trunk.onnx",),
            other_activation,
            ("splits.2/Reshape", "splits.2/Transpose", "splits.2/Reshape_1", "Relu_2", "convs.3"),
            True,
        ),
        (("trunk-l1-strided.onnx",), weight("convs.3/Conv"), ("convs.3",), True),
        (("model.onnx",), weight("convs.2/Conv"), ("convs.2",), True),
        (("model.onnx",), weight("head/Conv", 2), ("head",), True),
        (("trunk.fp16.onnx",), weight("convs.2/Conv"), ("convs.2",), True),
        (("trunk.fp16.onnx",), other_activation, ("Relu_2",), False),
        (("trunk.fp16.onnx",), too_large, ("convs.3",), True),
    ],
    ids=[
        *("weight", "dilation", "dilation, no weights", "exchanged phases", "activation"),
        *("strided", "whole graph", "bias", "weight in fp16", "activation in fp16, no weights", "overflow"),
    ],
)
def test_planted_faults_become_pieces_of_at_most_five_nodes(
    spoilt: Path,
    tmp_path: Path,
    files: tuple[str, ...],
    fault: Callable[..., None],
    nodes: tuple[str, ...],
    weights: bool,
) -> None:
    bundle = edited(spoilt, *files, edit=fault)
    piece = reproduce(bundle, tmp_path / "piece", checked(bundle), weights=weights)
    assert piece.nodes == nodes
    assert len(nodes) <= 5
    written = onnx.load(tmp_path / "piece" / "piece.onnx")
    assert len(written.graph.node) == len(nodes)
    error = error_of_files(tmp_path / "piece")
    assert error > piece.bound
    text = (tmp_path / "piece" / "README.md").read_text()
    assert f"# A piece of {files[0]} that is wrong by itself" in text
    assert all(f"`{name}`" in text for name in nodes)
    assert ("Random, of the mean and spread" in text) is not weights


def test_a_layer_that_is_wrong_in_every_graph_is_found_beside_pytorch(
    spoilt: Path, network: nn.Module, tmp_path: Path
) -> None:
    bundle = edited(spoilt, *TRUNKS, edit=weight("convs.1/Conv"))
    with pytest.raises(Unreproducible, match="with the network, PyTorch's layers are compared, too"):
        reproduce(bundle, tmp_path / "piece", checked(bundle))
    assert not (tmp_path / "piece").exists()
    piece = reproduce(bundle, tmp_path / "piece", checked(bundle, network), network=network)
    assert piece.nodes == ("convs.1",)
    assert error_of_files(tmp_path / "piece") > 1e-2


def test_what_is_made_of_logits_is_a_piece_beside_numpy(spoilt: Path, tmp_path: Path) -> None:
    bundle = edited(spoilt, "trunk.onnx", edit=label_off_by_one)
    piece = reproduce(bundle, tmp_path / "piece", checked(bundle))
    assert piece.nodes[0] == "predictions/ArgMax"
    assert piece.nodes[-1] == "less"
    assert error_of_files(tmp_path / "piece") > 0


def test_weights_that_are_the_fault_cannot_be_replaced(spoilt: Path, tmp_path: Path) -> None:
    bundle = edited(spoilt, "trunk.onnx", edit=weight("convs.1/Conv"))
    with pytest.raises(Unreproducible, match=r"convs\.1: the fault does not survive other weights"):
        reproduce(bundle, tmp_path / "piece", checked(bundle), weights=False)


def largest_weights(path: Path) -> np.ndarray:
    return max(map(onnx.numpy_helper.to_array, onnx.load(path).graph.initializer), key=lambda held: held.size)


def test_random_weights_are_none_of_the_networks(spoilt: Path, tmp_path: Path) -> None:
    bundle = edited(spoilt, "trunk.onnx", edit=dilated)
    for weights in (True, False):
        reproduce(bundle, tmp_path / str(weights), checked(bundle), weights=weights)
    own, random = (
        onnx.numpy_helper.to_array(
            max(onnx.load(tmp_path / name / "piece.onnx").graph.initializer, key=lambda t: np.prod(t.dims))
        )
        for name in ("True", "False")
    )
    assert own.shape == random.shape
    assert not np.isin(random, own).any()
    # 864 draws: the mean is within five of its standard errors.
    assert abs(random.mean() - own.mean()) < 5 * own.std() / np.sqrt(own.size)


def test_polygraphy_sees_it(spoilt: Path, tmp_path: Path) -> None:
    """The line of the README, as it stands there."""
    bundle = edited(spoilt, "trunk.onnx", edit=weight("convs.1/Conv"))
    reproduce(bundle, tmp_path / "piece", checked(bundle))
    text = (tmp_path / "piece" / "README.md").read_text()
    line = next(line for line in text.splitlines() if line.startswith("$ polygraphy"))
    program = [Path(sys.executable).with_name("polygraphy"), *line.split()[2:]]
    done = subprocess.run(program, cwd=tmp_path / "piece", capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout
    assert "FAILED" in done.stdout


def test_nothing_failed(good: Bundle, tmp_path: Path) -> None:
    with pytest.raises(Unreproducible, match="no check failed"):
        reproduce(good, tmp_path / "piece", checked(good))


def test_a_folder_that_is_there_is_kept(good: Bundle, tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(OutputError, match="exists already"):
        reproduce(good, tmp_path, [])
    assert (tmp_path / "note.txt").read_text() == "mine"


def test_the_command(cli: Cli, spoilt: Path, tmp_path: Path) -> None:
    edited(spoilt, "trunk.onnx", edit=weight("convs.1/Conv"))
    result = cli("validate", spoilt, "--reproduce", "piece", cwd=tmp_path)
    assert result.returncode == 1
    assert "piece: convs.1 alone is 0.131 off; its README.md says how to see it" in result.stderr
    assert error_of_files(tmp_path / "piece") > 1e-2
    again = cli("validate", spoilt, "--reproduce", "piece", cwd=tmp_path)
    assert again.returncode == 2
    assert "piece exists already" in again.stderr
    assert "--no-weights goes with --reproduce" in cli("validate", spoilt, "--no-weights").stderr
