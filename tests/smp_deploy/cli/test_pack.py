"""``smp-deploy pack``: what it writes, says and refuses."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import onnx
import pytest

from converters.one_file.forms import (
    INPUT_LAYOUTS,
    LABEL_LAYOUTS,
    ColorOrder,
    InputKind,
    LabelType,
    LoopForm,
    YuvMatrix,
    YuvRange,
)
from engines import Bundle
from smp_deploy.cli.app import command_named
from tests.conftest import Cli, document


def test_a_file_and_its_description(exported: Bundle, cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "network.onnx"
    result = cli("pack", exported.path, "-o", path, "--levels", 3, "--sub-batch", 16, "--label-type", "int32")
    assert result.returncode == 0, result.stderr
    assert f"wrote {path} and {tmp_path / 'network.json'}" in result.stderr
    assert "levels 3, sub-batch 16, reshape: 4 iterations, loop" in result.stdout
    assert "labels int32 hw 64x96" in result.stdout
    assert "all 6144 labels equal the session's, on reference/frame-0.npy in onnxruntime" in result.stdout
    onnx.checker.check_model(path)
    again = cli("pack", exported.path, "-o", path)
    assert (again.returncode, again.stdout) == (2, "")
    assert f"smp-deploy: {path} exists already; choose another place, or replace it with --force" in again.stderr
    said = document(cli("pack", exported.path, "-o", path, "--force", "--json"))
    assert said == json.loads((tmp_path / "network.json").read_text())
    assert said["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert said["schedule"]["levels"] == 2


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (
            ("--precision", "int8"),
            2,
            "the bundle has no int8 trunk (it has fp16, fp32); export it with --precision int8",
        ),
        (("--precision", "bf16"), 3, "ONNX Runtime has no bf16 convolution on the CPU"),
        (("--levels", 6), 2, "the bundle has no trunk of levels 6"),
        (("--outputs", "logits"), 2, "its trunks hold nothing else; export it with --outputs logits"),
        (("--loop", "unrolled", "--levels", 4), 2, "--loop unrolled repeats the trunk for every sub-batch, at most 16"),
        (("--input-scale", 2), 2, "--input-scale is for --input scaled; received 'uint8'"),
        (("--input", "nv12", "--input-color", "bgr"), 2, "leave --input-layout and --input-color out"),
        (("--opset", 16), 2, "--opset is 17, or the bundle's own, 18; received 16"),
        (("--input-scale", 0), 2, "0.0 is not in the range x>0."),
        (("--label-type", "float"), 2, "Invalid value for '--label-type'"),
        (("--memory", "1GiB", "--sub-batch", 2), 2, "--memory chooses the schedule; leave out --levels"),
    ],
    ids=str,
)
def test_what_is_refused_is_one_message(
    exported: Bundle, cli: Cli, tmp_path: Path, options: tuple[object, ...], code: int, message: str
) -> None:
    result = cli("pack", exported.path, "-o", tmp_path / "network.onnx", *options)
    assert (result.returncode, result.stdout) == (code, "")
    assert message in " ".join(result.stderr.split())
    assert "Traceback" not in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_choices_of_options_are_those_of_the_operation() -> None:
    choices = {option.name: list(getattr(option.type, "choices", ())) for option in command_named("pack").params}
    for name, kind in {
        "loop": LoopForm,
        "input": InputKind,
        "input_color": ColorOrder,
        "yuv_matrix": YuvMatrix,
        "yuv_range": YuvRange,
        "label_type": LabelType,
    }.items():
        assert choices[name] == [member.value for member in kind]
    assert (choices["input_layout"], choices["output_layout"]) == (list(INPUT_LAYOUTS), list(LABEL_LAYOUTS))
