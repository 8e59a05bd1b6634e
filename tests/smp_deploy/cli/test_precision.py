"""The options of lower precision and debug-precision, as a user types them."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest
from PIL import Image

from converters.reference import noise_frame
from engines import Bundle, OutputKind, Precision, Session
from engines.bundle.manifest import CalibrationRecord
from smp_deploy.cli.debug_precision import _command
from smp_deploy.cli.export import _kept
from tests.conftest import Cli, overriding

NETWORK = """
import torch
from torch import nn
from converters.pooling import MergePool2d, SplitPool2d

def tiny():
    torch.manual_seed(0)
    split = SplitPool2d(2)
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), split, nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(),
                         nn.Conv2d(8, 4, 1), MergePool2d(split))
"""
EXPORT = ("export", "--model", "nets:tiny", "--size", "32x48", "--levels", "1", "--opset", "22")


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network's code, frames, and folders of what are none."""
    path = tmp_path_factory.mktemp("work")
    (path / "nets.py").write_text(NETWORK)
    for folder in ("frames", "empty", "constant", "small", "text"):
        (path / folder).mkdir()
    for seed in range(2):
        Image.fromarray(noise_frame((32, 48), seed)).save(path / "frames" / f"{seed}.png")
    Image.new("RGB", (48, 32), (7, 7, 7)).save(path / "constant" / "black.png")
    Image.new("RGB", (48, 30)).save(path / "small" / "small.png")
    (path / "text" / "note.png").write_text("no image")
    return path


@pytest.fixture(scope="module")
def bundle(cli: Cli, work: Path) -> Path:
    """All precisions, the last layer of int8 in fp32."""
    options = [word for name in ("fp16", "bf16", "int8") for word in ("--precision", name)]
    # The default method is percentile.
    calibration = ("--calibration-images", "frames", "--calibration-percentile", "99.9")
    result = cli(*EXPORT, *options, *calibration, "--keep-fp32", "int8:5", "-o", "bundle", cwd=work)
    assert result.returncode == 0, result.stderr
    assert "calibrating int8 on 2 frames (percentile)" in result.stderr
    return work / "bundle"


def test_the_manifest_says_how_int8_was_made(bundle: Path) -> None:
    manifest = Bundle.open(bundle).manifest
    calibration = manifest.calibration
    assert calibration is not None
    assert (calibration.method, calibration.percentile, calibration.frames) == ("percentile", 99.9, 2)
    assert set(calibration.ranges) == {"0", "3", "5"}
    assert manifest.keep_fp32 == {Precision.INT8: ["5"]}
    assert manifest.trunk().convolutions[Precision.INT8] == {Precision.INT8: 2, Precision.FP32: 1}


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_run_labels_as_a_session_in_every_precision(
    cli: Cli, bundle: Path, work: Path, tmp_path: Path, precision: str
) -> None:
    result = cli("run", bundle, work / "frames" / "0.png", "-o", tmp_path, "--precision", precision)
    assert result.returncode == 0, result.stderr
    with Session.open(bundle, precision=Precision(precision)) as session:
        expected = session.predict(noise_frame((32, 48), 0))
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "0-labels.png")), expected)


def test_bf16_on_the_cpu_is_one_clear_message(cli: Cli, bundle: Path, work: Path, tmp_path: Path) -> None:
    result = cli("run", bundle, work / "frames", "-o", tmp_path, "--precision", "bf16")
    assert result.returncode == 3
    assert result.stderr.splitlines()[-1] == (
        "smp-deploy: ONNX Runtime has no bf16 convolution on the CPU; run fp16 or fp32 here, and bf16 on a GPU"
    )


@pytest.mark.parametrize(("flag", "counts"), [("--bf16", {"BF16": 3}), ("--int8", {"INT8": 2, "FLOAT": 1})])
def test_engines_of_the_new_precisions(cli: Cli, bundle: Path, flag: str, counts: dict[str, int]) -> None:
    pytest.importorskip("tensorrt_rtx", reason="not run: tensorrt_rtx is not installed")
    result = cli("build-engine", bundle, flag, "--flavour", "tensorrt-rtx", "--json")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["convolutions"] == counts


def test_debug_precision_prints_modules_and_verdict(cli: Cli, bundle: Path, work: Path) -> None:
    result = cli("debug-precision", bundle, "--precision", "fp16", "--images", work / "frames", "--json")
    assert result.returncode == 0, result.stderr
    said = json.loads(result.stdout)
    assert {entry["module"] for entry in said["modules"]} == {"0", "3", "5"}
    assert (said["before"]["passed"], said["proposal"], said["command"]) == (True, [], None)
    assert said["frames"] == 2
    shown = cli("debug-precision", bundle, "--precision", "fp16")
    assert "each module alone in fp16, worst first" in shown.stdout
    assert "all together: error of logits" in shown.stdout
    assert "nothing needs to stay in fp32" in shown.stderr


INT8 = ("--precision", "int8")


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (INT8, "--precision int8 needs --calibration-images"),
        ((*INT8, "--calibration-images", "empty"), "empty holds no image"),
        ((*INT8, "--calibration-images", "absent"), "absent is no file, folder or pattern"),
        ((*INT8, "--calibration-images", "text"), "note.png is no image that can be read"),
        ((*INT8, "--calibration-images", "constant"), "black.png has one value throughout, 7"),
        ((*INT8, "--calibration-images", "small"), "small.png is 30x48 (height x width); calibration images are of"),
        (
            (*INT8, "--calibration-images", "frames", "--calibration", "minmax", "--calibration-percentile", "99"),
            "--calibration-percentile is for --calibration percentile",
        ),
        (("--calibration-images", "frames"), "--calibration-images is for --precision int8"),
        (("--calibration", "minmax"), "--calibration is for --precision int8"),
        (("--precision", "bf16", "--opset", "18"), "bf16 needs opset 22 or later"),
        (("--keep-fp32", "9.*"), "'9.*' names no module of the network; it has"),
        (("--keep-fp32", "int8:3"), "--keep-fp32 names '3' for int8 trunks, and --precision has no int8"),
        (("--keep-fp32", "int4:3"), "--keep-fp32 int4 is unknown; known are fp32, tf32, fp16, bf16, int8"),
        (
            ("--precision", "fp32", "--keep-fp32", "3"),
            "--keep-fp32 is for the trunks of other precisions than fp32, and --precision has none",
        ),
        (("--calibration-percentile", "99"), "--calibration-percentile is for --precision int8"),
    ],
)
def test_options_that_cannot_be_met(cli: Cli, work: Path, options: tuple[str, ...], part: str) -> None:
    result = cli(EXPORT[0], *overriding(EXPORT[1:], *options), "-o", "refused", cwd=work)
    assert result.returncode == 2, result.stderr
    assert part in result.stderr
    assert "Traceback" not in result.stderr
    assert not (work / "refused").exists()


@pytest.mark.parametrize(
    ("patterns", "kept"),
    [
        (["head", "stem"], ("head", "stem")),
        (["int8:5"], {"int8": ("5",)}),
        (["a", "int8:b", "c"], {"fp16": ("a", "c"), "int8": ("a", "b", "c")}),
        # What is not to be written is for the export to refuse.
        (["bf16:a", "b"], {"fp16": ("b",), "int8": ("b",), "bf16": ("a", "b")}),
    ],
)
def test_patterns_go_to_the_trunks_that_they_name(patterns: list[str], kept: object) -> None:
    assert _kept(patterns, (Precision.FP32, Precision.FP16, Precision.INT8)) == kept


def test_the_proposed_export_is_that_of_the_bundle(exported: Bundle) -> None:
    manifest, trunk = exported.manifest, exported.manifest.trunk()
    # The defaults are left out, and what a bundle does not know has a placeholder.
    search = SimpleNamespace(proposal=("head",))
    assert _command(manifest, Precision.FP16, search) == (
        "smp-deploy export CHECKPOINT --arch smp-resnet18 --size 64x96 --precision fp16 --keep-fp32 fp16:head "
        "-o NEW_BUNDLE"
    )
    for source, checksum, named in (
        ("nets:my", None, "--model nets:my"),
        ("nets:my", "0" * 64, "CHECKPOINT --model nets:my"),
        # A network that was exported from memory: a factory of it is for its owner to name.
        ("tests.networks.UnevenNetwork", None, "--model PACKAGE.MODULE:FACTORY"),
        ("UnevenNetwork", "0" * 64, "CHECKPOINT --model PACKAGE.MODULE:FACTORY"),
    ):
        network = msgspec.structs.replace(manifest.network, source=source, checkpoint_sha256=checksum)
        assert _command(msgspec.structs.replace(manifest, network=network), Precision.FP16, search) == (
            # Of a network of one's own the classes are numbered unless they are named.
            f"smp-deploy export {named} --size 64x96 --precision fp16 --keep-fp32 fp16:head "
            "--class-names FILE -o NEW_BUNDLE"
        )
    own = msgspec.structs.replace(
        manifest,
        network=msgspec.structs.replace(manifest.network, source="nets:my", checkpoint_sha256="0" * 64),
        input=msgspec.structs.replace(manifest.input, mean=(0.5, 0.5, 0.5), std=(0.25, 0.5, 1.0)),
        outputs=OutputKind.LOGITS,
        opset=20,
        trunks=[msgspec.structs.replace(trunk, graphs=trunk.graphs | {Precision.INT8: "trunk.int8.onnx"})],
        keep_fp32={Precision.FP16: ["conv1"], Precision.INT8: ["layer4.*"]},
        calibration=CalibrationRecord(method="percentile", frames=1, ranges={}, percentile=99.0),
        classes=[msgspec.structs.replace(record, color=(1, 2, 3)) for record in manifest.classes],
    )
    assert _command(own, Precision.INT8, search) == (
        "smp-deploy export CHECKPOINT --model nets:my --size 64x96 --outputs logits --mean 0.5 0.5 0.5 "
        "--std 0.25 0.5 1.0 --opset 20 --levels 2 --lowering reshape --precision fp16 --keep-fp32 fp16:conv1 "
        "--precision int8 --keep-fp32 'int8:layer4.*' --keep-fp32 int8:head --calibration percentile "
        "--calibration-percentile 99.0 --calibration-images FRAMES --class-names FILE -o NEW_BUNDLE"
    )


def test_validate_of_what_rounds_nothing_is_not_run(cli: Cli, bundle: Path) -> None:
    result = cli("validate", bundle, "--backend", "onnxruntime", "--precision", "fp16", "--json")
    assert result.returncode == 3
    assert {check["status"] for check in json.loads(result.stdout)["checks"]} == {"not run"}
    assert "no check could run here: ONNX Runtime computes fp16 graphs in fp32 on a CPU" in result.stderr
