"""Bad input: one clear line, exit code 2, no traceback, nothing half-written."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from converters.networks import network_from_arch
from engines import Bundle
from engines.bundle.manifest import SCHEMA_VERSION
from tests.conftest import Cli

EXPORT = ("--arch", "smp-resnet18", "--size", "64x96")


def refused(result: subprocess.CompletedProcess[str], *parts: str, code: int = 2) -> None:
    assert result.returncode == code, result.stderr
    said = [line for line in result.stderr.splitlines() if line]
    assert "Traceback" not in result.stderr
    assert said[-1].startswith(("smp-deploy: ", "Error: "))
    for part in parts:
        assert part in said[-1]
    assert not result.stdout


def left(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


@pytest.fixture
def work(checkpoint: Path, tmp_path: Path) -> Path:
    shutil.copy(checkpoint, tmp_path / "smp18.safetensors")
    return tmp_path


def test_absent_truncated_and_foreign_checkpoints(cli: Cli, work: Path) -> None:
    good = (work / "smp18.safetensors").read_bytes()
    (work / "cut.safetensors").write_bytes(good[: len(good) // 2])
    save_file(network_from_arch("smp-resnet50", width=2).state_dict(), work / "other.safetensors")
    (work / "evil.pt").write_bytes(pickle.dumps(os.getcwd))
    before = left(work)
    for name, part in {
        "absent.pt": "cannot read the checkpoint absent.pt: No such file or directory",
        "cut.safetensors": "cut.safetensors is truncated or no safetensors file",
        "other.safetensors": "other.safetensors does not fit the network",
        "evil.pt": "could run code",
    }.items():
        refused(cli("export", name, *EXPORT, "-o", "bundle", cwd=work), part)
        assert left(work) == before


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("--size", "64x96"), "either with --arch or with --model"),
        (("--arch", "smp-resnet18", "--model", "a:b", "--size", "64x96"), "either with --arch or with --model"),
        (("--arch", "smp-resnet19", "--size", "64x96"), "unknown architecture 'smp-resnet19'"),
        (("--arch", "smp-resnet18", "--size", "64"), "HEIGHTxWIDTH"),
        (("--arch", "smp-resnet18", "--size", "0x96"), "HEIGHTxWIDTH"),
        (("--model", "absent:thing", "--size", "64x96"), "cannot import 'absent'"),
        ((*EXPORT, "--std", "0", "1", "1"), "--std above zero"),
        ((*EXPORT, "--mean", "nan", "0", "0"), "--mean is finite"),
        (("--model", "a:b", "--size", "64x96", "--classes", "3"), "--classes and --width are for --arch"),
        ((*EXPORT, "--opset", "9"), "9 is not in the range 18<=x<=23"),
        ((*EXPORT, "--class-names", "absent.txt"), "cannot read the class file absent.txt"),
        ((*EXPORT, "--reference-images", "absent.png"), "absent.png is no file"),
    ],
)
def test_bad_options_of_export(cli: Cli, work: Path, arguments: tuple[str, ...], part: str) -> None:
    before = left(work)
    refused(cli("export", "smp18.safetensors", *arguments, "-o", "bundle", cwd=work), part)
    assert left(work) == before


@pytest.mark.parametrize(
    ("name", "make", "part"),
    [
        ("none.png", lambda path: path.write_text("no image"), "none.png is no image"),
        ("deep.png", lambda path: Image.fromarray(np.zeros((64, 96), np.uint16)).save(path), "16 bits a channel"),
        ("clear.png", lambda path: Image.new("RGBA", (96, 64)).save(path), "transparent pixels"),
        ("dot.png", lambda path: Image.new("RGB", (1, 1)).save(path), "is 1x1 (height x width)"),
        ("cut.png", lambda path: cut_image(path), "cut.png"),
    ],
)
def test_images_that_are_none(cli: Cli, exported: Bundle, tmp_path: Path, name: str, make, part: str) -> None:
    make(tmp_path / name)
    refused(cli("run", exported.path, tmp_path / name, "-o", tmp_path / "out"), part)
    assert left(tmp_path / "out") == set()


def cut_image(path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:3000])


@pytest.mark.parametrize("mode", ["L", "P", "1", "RGBA"])
def test_images_with_a_clear_meaning_are_labelled(cli: Cli, exported: Bundle, tmp_path: Path, mode: str) -> None:
    Image.new("RGB", (96, 64), (90, 90, 90)).convert(mode).save(tmp_path / "a.png")
    result = cli("run", exported.path, tmp_path / "a.png", "-o", tmp_path / "out")
    assert result.returncode == 0, result.stderr
    assert left(tmp_path / "out") == {"a-labels.png", "a-overlay.png"}


def test_frames_of_another_size_are_refused_before_any_check(cli: Cli, exported: Bundle, tmp_path: Path) -> None:
    Image.new("RGB", (90, 64)).save(tmp_path / "small.png")
    result = cli("validate", exported.path, "--images", tmp_path / "small.png")
    refused(result, "small.png is 64x90 (height x width), the bundle takes 64x96")
    assert "passed" not in result.stderr


def test_results_that_would_overwrite_an_image(cli: Cli, exported: Bundle, tmp_path: Path) -> None:
    for name in ("a.png", "a-labels.png"):
        Image.new("RGB", (96, 64)).save(tmp_path / name)
    before = (tmp_path / "a-labels.png").read_bytes()
    refused(cli("run", exported.path, tmp_path, "-o", tmp_path), "a-labels.png would be overwritten")
    assert (tmp_path / "a-labels.png").read_bytes() == before


def test_images_that_would_overwrite_each_other(cli: Cli, exported: Bundle, tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        Image.new("RGB", (96, 64)).save(tmp_path / folder / "same.png")
    refused(cli("run", exported.path, tmp_path / "one", tmp_path / "two", "-o", tmp_path / "out"), "named 'same'")


@pytest.mark.parametrize("command", [("inspect",), ("validate",), ("build-engine",), ("run",)])
def test_damaged_bundles(cli: Cli, bundle: Path, command: tuple[str, ...], tmp_path: Path) -> None:
    rest = ("x.png", "-o", tmp_path / "out") if command == ("run",) else ()
    if rest:
        Image.new("RGB", (96, 64)).save(tmp_path / "x.png")

    def say(path: Path) -> subprocess.CompletedProcess[str]:
        return cli(*command, path, *rest, cwd=tmp_path)

    refused(say(tmp_path / "absent"), "is not a bundle")
    manifest = json.loads((bundle / "manifest.json").read_text())
    for change, part in (
        ({"schema_version": SCHEMA_VERSION + 1}, f"schema version {SCHEMA_VERSION + 1}"),
        ({"model": "other.onnx"}, "does not list it"),
        (
            {"files": {**manifest["files"], "../../outside": {"sha256": "0" * 64, "size": 1}}},
            "Expected `str` matching regex",
        ),
    ):
        (bundle / "manifest.json").write_text(json.dumps({**manifest, **change}))
        refused(say(bundle), part)
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    (bundle / "trunk.onnx").write_bytes(b"tampered")
    refused(say(bundle), "trunk.onnx has 8 bytes")


def test_outputs_that_cannot_be_written(cli: Cli, work: Path, exported: Bundle) -> None:
    (work / "file").write_text("in the way")
    before = left(work)
    refused(cli("export", "smp18.safetensors", *EXPORT, "-o", "file/bundle", cwd=work), "cannot write to file")
    there = cli("export", "smp18.safetensors", *EXPORT, "-o", "file", cwd=work)
    refused(there, "file exists already; choose another place, or replace it with --force")
    Image.new("RGB", (96, 64)).save(work / "x.png")
    refused(cli("run", exported.path, "x.png", "-o", "file/out", cwd=work), "cannot write to file/out")
    refused(cli("run", exported.path, "x.png", "-o", "file", cwd=work), "file is a file; -o names the folder")
    assert left(work) == before | {"x.png"}


def small_disk(path: Path, size: str, *options: str) -> Path:
    """A file system of its own, which only an administrator may make."""
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", ",".join((f"size={size}", *options)), "tmpfs", str(path)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("not run: this user may not mount a file system")
    return path


def test_a_full_disk(cli: Cli, work: Path) -> None:
    disk = small_disk(work / "disk", "100k")
    try:
        result = cli("export", "smp18.safetensors", *EXPORT, "-o", "disk/bundle", cwd=work)
        refused(result, "cannot write disk/bundle: No space left on device")
        assert left(disk) == set()
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_disk_that_is_full_before_the_last_file(cli: Cli, tmp_path: Path) -> None:
    """The graphs fit, PyTorch's logits do not."""
    (tmp_path / "nets.py").write_text("from torch import nn\ndef one():\n    return nn.Conv2d(3, 2, 1)\n")
    disk = small_disk(tmp_path / "disk", "800k")
    try:
        result = cli("export", "--model", "nets:one", "--size", "256x512", "-o", "disk/bundle", cwd=tmp_path)
        refused(result, "cannot write disk/bundle: No space left on device")
        assert "reference outputs" in result.stderr
        assert left(disk) == set()
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_read_only_disk(cli: Cli, work: Path, exported: Bundle) -> None:
    disk = small_disk(work / "disk", "1m", "ro")
    try:
        refused(cli("export", "smp18.safetensors", *EXPORT, "-o", "disk/bundle", cwd=work), "Read-only file system")
        Image.new("RGB", (96, 64)).save(work / "x.png")
        refused(cli("run", exported.path, "x.png", "-o", "disk/out", cwd=work), "Read-only file system")
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize(
    ("kind", "step"),
    [
        (signal.SIGTERM, "tracing"),
        (signal.SIGINT, "model.onnx"),
        (signal.SIGTERM, "trunk.onnx"),
        (signal.SIGINT, "trunk-l2-strided.onnx"),
    ],
)
def test_an_interrupted_export_leaves_nothing(work: Path, kind: signal.Signals, step: str) -> None:
    command = [
        str(Path(sys.executable).with_name("smp-deploy")),
        "export",
        "smp18.safetensors",
        *EXPORT,
        "-o",
        "bundle",
    ]
    before = left(work)
    with subprocess.Popen(
        command,
        cwd=work,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        # A suite that a shell runs in the background inherits deaf ears for SIGINT.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        assert process.stderr is not None
        lines = []
        for line in process.stderr:
            lines.append(line)
            if step in line:
                break
        process.send_signal(kind)
        lines += process.stderr.readlines()
    assert process.returncode == 2
    assert lines[-1] == "smp-deploy: interrupted; nothing was left half-written\n"
    assert "Traceback" not in "".join(lines)
    assert left(work) == before


def test_an_unknown_command_or_option(cli: Cli) -> None:
    assert cli("exprot").returncode == 2
    refused(cli("run", "bundle", "x.png", "-o", "out", "--backend", "tensorflow"), "tensorflow")


def test_a_missing_extra_names_the_install_command(work: Path) -> None:
    blocker = "import sys; sys.modules['onnxscript'] = sys.modules['onnx_ir'] = None\n"
    script = blocker + "from smp_deploy.cli.entry import main; sys.argv[0] = 'smp-deploy'; main()"
    command = [sys.executable, "-c", script, "export", "smp18.safetensors", *EXPORT, "-o", "bundle"]
    result = subprocess.run(command, cwd=work, capture_output=True, text=True)
    refused(result, "pip install 'smp-deploy[export]'", code=3)


def test_a_network_on_no_gpu_says_what_is_missing(cli: Cli, exported: Bundle, tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("not run: this machine has a GPU")
    Image.new("RGB", (96, 64)).save(tmp_path / "x.png")
    result = cli("run", exported.path, tmp_path / "x.png", "-o", tmp_path / "out", "--backend", "onnxruntime-cuda")
    refused(result, "there is no NVIDIA driver on this machine", code=3)


@pytest.mark.parametrize("number", ["nan", "inf", "-inf"])
@pytest.mark.parametrize(
    "words",
    [
        ("bench", "b", "--duration"),
        ("bench", "b", "--warm-up"),
        ("validate", "b", "--rtol"),
        ("validate", "b", "--min-label-agreement"),
        ("tune", "b", "--duration"),
        ("export", "c.safetensors", *EXPORT, "-o", "x", "--calibration-percentile"),
    ],
    ids=" ".join,
)
def test_a_number_is_finite(cli: Cli, words: tuple[str, ...], number: str, tmp_path: Path) -> None:
    result = cli(*words, number, cwd=tmp_path)
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    assert "Invalid value for" in result.stderr
    assert left(tmp_path) == set()


def test_sizes_and_streams_that_no_machine_has(cli: Cli, work: Path) -> None:
    refused(
        cli("flops", "--arch", "smp-resnet18", "--width", "99999999", cwd=work),
        "received --classes 19, --width 99999999",
    )
    refused(
        cli("export", "smp18.safetensors", *EXPORT, "--width", "99999999", "-o", "b", cwd=work), "1 to 4096 channels"
    )
    assert "0<=x<=2147483647" in cli("build-engine", "b", "--max-aux-streams", "9999999999", cwd=work).stderr


def test_reference_images_of_another_size_are_named(cli: Cli, work: Path) -> None:
    Image.new("RGB", (90, 64)).save(work / "wrong.png")
    result = cli("export", "smp18.safetensors", *EXPORT, "--reference-images", "wrong.png", "-o", "b", cwd=work)
    refused(result, "wrong.png is 64x90", "reference images are of --size, 64x96")
    assert left(work) == {"smp18.safetensors", "wrong.png"}


@pytest.mark.parametrize("milliseconds", [50, 120, 200, 300])
def test_an_interruption_at_the_start_is_one_message(tmp_path: Path, milliseconds: int) -> None:
    # Whatever it was doing by then: importing, reading, or done. The interpreter's own start is not ours.
    script = (
        "import os, signal, sys, threading\n"
        "from smp_deploy.cli.entry import main\n"
        f"threading.Timer({milliseconds / 1000}, os.kill, (os.getpid(), signal.SIGINT)).start()\n"
        "sys.argv = ['smp-deploy', 'doctor']\n"
        "main()\n"
    )
    result = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert "Traceback" not in result.stderr.partition("Exception ignored")[0]
    if result.returncode:
        assert (result.returncode, result.stderr.strip().splitlines()[-1]) == (
            2,
            "smp-deploy: interrupted; nothing was left half-written",
        )
