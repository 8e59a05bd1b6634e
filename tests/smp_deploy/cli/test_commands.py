"""The commands as a user types them, each in a process of its own."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from converters.palettes import CITYSCAPES
from engines import Bundle, Session
from engines.planning.sizes import shown_bytes
from tests.conftest import Cli, document

EXPORT = ("--arch", "smp-resnet18", "--size", "64x96")


def test_export_reads_classes_and_width_off_the_checkpoint(cli: Cli, checkpoint: Path, tmp_path: Path) -> None:
    said = document(cli("export", checkpoint, *EXPORT, "--levels", 2, "-o", tmp_path / "bundle", "--json"))
    manifest = Bundle.open(tmp_path / "bundle").manifest
    assert set(said["files"]) == set(manifest.files)
    assert (manifest.network.source, manifest.network.width, len(manifest.classes)) == ("smp-resnet18", 8, 19)
    assert manifest.network.checkpoint_sha256
    assert manifest.trunk().levels == 2


def test_export_of_a_users_own_network(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "nets.py").write_text(
        "from torch import nn\n"
        "from converters.pooling import MergePool2d, SplitPool2d\n"
        "def tiny():\n"
        "    split = SplitPool2d((2, 3))\n"
        "    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), split, nn.Conv2d(4, 3, 3, padding=1),"
        " MergePool2d(split))\n"
    )
    (tmp_path / "classes.txt").write_text("sky 1 2 3\nroad 4 5 6\nrest\n")
    options = ("--size", "9x14", "--class-names", "classes.txt", "--outputs", "logits", "--precision", "fp32")
    document(cli("export", "--model", "nets:tiny", *options, "-o", "out", "--json", cwd=tmp_path))
    manifest = Bundle.open(tmp_path / "out").manifest
    assert [record.name for record in manifest.classes] == ["sky", "road", "rest"]
    assert manifest.input.padded_size == (10, 15)
    assert manifest.windows == [(2, 3)]


def test_run_writes_labels_overlays_and_side_by_side(cli: Cli, exported: Bundle, image: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    said = document(cli("run", exported.path, image, "-o", out, "--side-by-side", "--json"))
    assert {path.name for path in out.iterdir()} == {"road-labels.png", "road-overlay.png", "road-side-by-side.png"}
    with Session.open(exported) as session:
        expected = session.predict(np.asarray(Image.open(image)))
    labels = np.asarray(Image.open(out / "road-labels.png"))
    np.testing.assert_array_equal(labels, expected)
    (entry,) = said["images"]
    assert sum(entry["classes"].values()) == pytest.approx(1)
    name, share = next(iter(entry["classes"].items()))
    index = [record.name for record in exported.manifest.classes].index(name)
    assert share == pytest.approx((expected == index).mean())


def test_run_resizes_only_when_asked(cli: Cli, exported: Bundle, tmp_path: Path) -> None:
    big = np.random.default_rng(0).integers(0, 256, (128, 192, 3), dtype=np.uint8)
    Image.fromarray(big).save(tmp_path / "big.png")
    refused = cli("run", exported.path, tmp_path / "big.png", "-o", tmp_path / "out")
    assert refused.returncode == 2
    assert "is 128x192 (height x width), the bundle takes 64x96" in refused.stderr
    document(cli("run", exported.path, tmp_path / "big.png", "-o", tmp_path / "out", "--resize", "--json"))
    with Image.open(tmp_path / "out" / "big-labels.png") as labels:
        assert labels.size == (192, 128)


def test_run_tells_progress_in_plain_lines_off_a_terminal(cli: Cli, exported: Bundle, image: Path, tmp_path) -> None:
    result = cli("run", exported.path, image, "-o", tmp_path / "out", "--sub-batch", 16)
    schedule, memory, first, last = result.stderr.splitlines()
    assert schedule == "schedule: levels 2, sub-batch 16, reshape (asked for)"
    planned = document(cli("plan", exported.path, "--json"))
    of_all = {tuple(held[name] for name in ("levels", "lowering", "sub_batch")): held for held in planned["schedules"]}
    peak = planned["process_bytes"] + of_all[2, "reshape", 16]["peak_bytes"]
    assert memory == f"memory, as predicted: {shown_bytes(peak)} of the process"
    assert first.startswith("1 image, phases: 0/16, ")
    assert last.startswith("1 image, phases: 16/16, ")
    assert last.endswith(" s elapsed, about 0 s left")
    assert "road-overlay.png" in result.stdout


def test_inspect(cli: Cli, exported: Bundle) -> None:
    said = document(cli("inspect", exported.path, "--json"))
    assert said["manifest"]["input"]["size"] == [64, 96]
    assert said["graphs"]["trunk.onnx"]["inputs"] == "windows float (phases, 3, 67, 99)"
    assert said["graphs"]["model.onnx"]["outputs"] == "logits float (batch, 19, 64, 96)"
    shown = cli("inspect", exported.path, "--classes").stdout
    for part in ("16 phases of level 2", "21 Conv", "traffic light", "weights.bin", "onnxscript"):
        assert part in shown


def test_validate_passes_on_a_good_bundle(
    cli: Cli, bundle: Path, checkpoint: Path, image: Path, tmp_path: Path
) -> None:
    mean = {f"module.{key}": value for key, value in load_file(checkpoint).items()}
    raw = {key: torch.ones_like(value) for key, value in mean.items()}
    torch.save({"state_dict": raw, "model_ema": mean}, tmp_path / "last.ckpt")
    # Labels in the colours of the classes, and two rows that nobody labelled.
    shown = np.array(CITYSCAPES.colours, np.uint8)[np.random.default_rng(1).integers(0, 19, (64, 96))]
    shown[:2] = CITYSCAPES.void[1]
    (tmp_path / "labels").mkdir()
    Image.fromarray(shown).save(tmp_path / "labels" / image.name)
    words = ("--checkpoint", tmp_path / "last.ckpt", "--weights", "model_ema", "--labels", tmp_path / "labels")
    said = document(cli("validate", bundle, *words, "--images", image, "--json"))
    checks = {(check["name"], check["subject"]): check for check in said["checks"]}
    missing = {check["name"] for check in checks.values() if check["status"] == "not run"}
    assert missing == {"fp16 graph -> engine"}
    assert {check["status"] for check in checks.values()} == {"passed", "not run"}
    assert checks["PyTorch, run anew -> trunk.onnx", "road.png, phase (0, 0)"]["value"] <= 1e-5
    assert checks["PyTorch -> model.onnx", "reference frame 0, phase (0, 0)"]["tolerance"] == 1e-5
    assert checks["trunk.onnx -> trunk.fp16.onnx", "road.png, 16 phases"]["value"] <= 1e-2
    assert checks["model.onnx -> merged phases of trunk.onnx", "reference frame 0"]["value"] <= 1e-5


def test_validate_fails_on_wrong_weights(cli: Cli, bundle: Path) -> None:
    """Weights exchanged together with their hash: nothing is damaged, but it is another network."""
    from engines.bundle.contents import record_of

    weights = bytearray((bundle / "weights.bin").read_bytes())
    values = np.frombuffer(weights, np.float32).copy()
    values[1::7] *= 1.05
    (bundle / "weights.bin").write_bytes(values.tobytes())
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["files"]["weights.bin"]["sha256"] = record_of(values.tobytes()).sha256
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    result = cli("validate", bundle, "--json")
    assert result.returncode == 1
    assert "checks failed" in result.stderr
    failed = {check["name"] for check in json.loads(result.stdout)["checks"] if check["status"] == "failed"}
    assert {"PyTorch -> model.onnx", "PyTorch -> trunk.onnx"} <= failed
    # The graphs still agree with each other: only PyTorch tells them apart.
    assert "model.onnx -> merged phases of trunk.onnx" not in failed


def test_build_engine_keeps_engine_and_record(cli: Cli, bundle: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="not run: tensorrt_rtx is not installed")
    said = document(cli("build-engine", bundle, "--fp16", "--sub-batch", 2, "--flavour", "tensorrt-rtx", "--json"))
    (engine,) = Bundle.open(bundle).engines
    assert said["convolutions"] == {"HALF": 21}
    assert (engine.precision.value, engine.schedule.sub_batch) == ("fp16", 2)
    record = json.loads((bundle / engine.record).read_text())
    assert record["graph_sha256"] == Bundle.open(bundle).manifest.files["trunk.fp16.onnx"].sha256
    assert record["input_shape"] == [2, 3, 67, 99]
    assert cli("build-engine", bundle, "--sub-batch", 17).returncode == 2


def test_flops_of_table_5(cli: Cli) -> None:
    said = document(cli("flops", "--table5", "--json"))
    assert {name: round(parts["total"] / 1e9, 2) for name, parts in said.items()} == {
        # The paper prints 2.65: 2.655 GFLOP, rounded the other way.
        "figure7-maxpool": pytest.approx(2.65, abs=0.01),
        "figure7-dilated": 9.92,
        "figure7-split": 9.92,
    }
    assert "9.68" in cli("flops", "--table5").stdout


def test_flops_of_a_known_network(cli: Cli) -> None:
    said = document(cli("flops", "--arch", "smp-resnet18", "--arch", "fcn32s-resnet18", "--json"))
    assert said["smp-resnet18"]["total"] / 1e12 == pytest.approx(46.9, abs=0.2)
    # The last layer works on 1024 split batches instead of one.
    assert said["smp-resnet18"]["layer4"] > 500 * said["fcn32s-resnet18"]["layer4"]
    assert cli("flops").returncode == 2


def test_flops_pad_a_frame_as_an_export_does(cli: Cli) -> None:
    padded = cli("flops", "--arch", "smp-resnet18", "--size", "360x480", "--json")
    assert padded.stderr == "smp-resnet18: frames of 360x480 are padded to 384x480\n"
    assert document(padded) == document(cli("flops", "--arch", "smp-resnet18", "--size", "384x480", "--json"))
    # Only shapes are followed, so no size is too large.
    whole = document(cli("flops", "--arch", "smp-resnet18", "--size", "320000x320000", "--json"))
    assert whole["smp-resnet18"]["total"] > 1e17


def test_doctor_says_what_is_there(cli: Cli) -> None:
    said = document(cli("doctor", "--json"))
    able = {capability["name"]: capability for capability in said["capabilities"]}
    assert able["export and validate"]["available"]
    assert "torch 2." in able["export and validate"]["found"]
    assert able["run and validate on the CPU (ONNX Runtime)"]["available"]
    assert said["machine"]["python"].startswith("3.")
    for capability in able.values():
        if not capability["available"] and capability["name"] != "NVIDIA GPU":
            assert capability["remedy"]
    assert cli("doctor").returncode == 0


def test_the_version_is_said(cli: Cli) -> None:
    for option in ("--version", "-V"):
        assert cli(option).stdout.startswith("smp-deploy, version 0.")
