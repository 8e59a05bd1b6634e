"""The numbered examples, run as a user runs them, each with a figure that is computed here in another way."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from converters.networks import network_from_arch
from smp_deploy.datasets import Scenes
from tests.conftest import made_once

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
SIZE, CLASSES, WINDOWS = (64, 96), 9, 5


def started(name: str, bundle: Path, *options: str, before: Path | None = None) -> subprocess.CompletedProcess[str]:
    paths = [str(path) for path in (before, ROOT) if path is not None]
    return subprocess.run(
        [sys.executable, str(EXAMPLES / name), str(bundle), *options],
        cwd=bundle.parent,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def said(name: str, bundle: Path, *options: str) -> str:
    result = started(name, bundle, *options)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    return result.stdout


@pytest.fixture(scope="module")
def exported_example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with what the first example wrote, and in ``said`` what it printed. Not to be changed."""

    def make(folder: Path) -> None:
        folder.mkdir()
        (folder / "said").write_text(said("01_export_a_live_module.py", folder / "road.bundle"))

    return made_once(tmp_path_factory, "examples", make)


@pytest.fixture
def road(exported_example: Path, tmp_path: Path) -> Path:
    """A copy of the first example's bundle, its parameters beside it."""
    return Path(shutil.copytree(exported_example, tmp_path / "road")) / "road.bundle"


def test_every_numbered_example_is_tested() -> None:
    scripts = [path.name for path in sorted(EXAMPLES.glob("[0-9]*.py"))]
    source, readme = Path(__file__).read_text(), (EXAMPLES / "README.md").read_text()
    assert len(scripts) == 6
    assert all(f'"{name}"' in source and f"`{name} road.bundle" in readme for name in scripts)


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_an_example_needs_the_public_names_alone(path: Path) -> None:
    homes = re.findall(r"^(?:from|import) ((?:smp_deploy|converters|engines)[\w.]*)", path.read_text(), re.MULTILINE)
    assert set(homes) == {"smp_deploy"}


def test_export_says_the_windows_and_phases(exported_example: Path) -> None:
    lines = (exported_example / "said").read_text().splitlines()
    tensors = load_file(exported_example / "road.safetensors")
    parameters = sum(
        tensor.numel() for name, tensor in tensors.items() if not re.search(r"running_|num_batches_tracked", name)
    )
    assert lines == [
        f"smp-resnet18: {parameters} parameters, frames of {SIZE}",
        f"windows: {', '.join(['2x2'] * WINDOWS)}",
        f"levels 2, reshape: {4**2} phases; fp32, fp16",
        f"levels 1, reshape: {4**1} phases; fp32, fp16",
    ]


def test_validate_says_every_check_and_passes(road: Path) -> None:
    *lines, verdict, agreement = said("02_validate.py", road).splitlines()
    printed = [line.split()[0] for line in lines]
    record = json.loads((road / "reports" / "validation.json").read_text())
    assert [line[9:].split(": ")[0] for line in lines] == [check["name"] for check in record["checks"]]
    assert any(line.startswith("passed   mean IoU of fp32 -> fp16: ") for line in lines)
    assert any(line.startswith("passed   PyTorch, run anew -> ") for line in lines)
    assert "failed" not in printed
    assert verdict.startswith(f"passed: {printed.count('passed')} passed, 0 failed, {printed.count('not')} not run; ")
    differing, of = map(int, re.findall(r"\b\d+\b", agreement))
    assert agreement == f"fp16: {differing} of {of} labels differ from fp32's"
    assert 0 <= differing < of / 100


def test_the_plan_marks_what_fits_and_the_session_opens_it(road: Path) -> None:
    text = said("03_plan_and_open_with_a_budget.py", road, "--memory", "89MiB")
    rows = re.findall(r"^(levels .+): ([\d.]+) MiB, compute x[\d.]+, fits: (True|False)$", text, re.MULTILINE)
    # Sub-batches of powers of two: 1 to 16 of the 16 phases of two levels, 1 to 4 of the 4 of one.
    assert len(rows) == 5 + 3
    assert {fits for _, _, fits in rows} == {"True", "False"}
    assert all((float(peak) <= 89) == (fits == "True") for _, peak, fits in rows)
    least = min(rows, key=lambda row: float(row[1]))[0]
    assert f"chosen: {least}\nbecause: predicted peak " in text
    assert text.endswith(f"opened: {least}; {4 ** int(least.split()[1].rstrip(','))} phases; labels {SIZE} uint8\n")


def test_an_engine_is_built_once(road: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="not run: tensorrt_rtx is not installed")
    result = started("04_build_an_engine.py", road)
    assert result.returncode == 0, result.stderr
    rows = re.findall(r"^(\w+) in [\d.]+ s: (\S+), ([\d.]+) MiB, (.+)$", result.stdout, re.MULTILINE)
    (plan,) = (path for path in (road / "engines").glob("trunk*.engine"))
    size = f"{plan.stat().st_size / 2**20:.2f}"
    assert rows == [
        (done, f"engines/{plan.name}", size, "levels 2, sub-batch 2, reshape") for done in ("built", "found")
    ]


def test_without_tensorrt_it_says_what_to_install(road: Path, tmp_path: Path) -> None:
    (tmp_path / "absent").mkdir()
    (tmp_path / "absent" / "tensorrt_rtx.py").write_text("raise ModuleNotFoundError(name='tensorrt_rtx')\n")
    result = started("04_build_an_engine.py", road, before=tmp_path / "absent")
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith("no engine is built: tensorrt_rtx is not installed; install it with: ")
    assert result.stderr.count("\n") == 1


def test_anytime_ends_with_the_whole_prediction(road: Path) -> None:
    text = said("05_anytime.py", road)
    steps = re.findall(r"^(\d+) of 16 phases: ([\d.]+)% computed, ([\d.]+)% final$", text, re.MULTILINE)
    assert [(int(done), float(share)) for done, share, _ in steps] == [(n, n / 16 * 100) for n in (4, 8, 12, 16)]
    # What was computed is final, and a part of what was filled in.
    assert all(float(share) <= float(final) for _, share, final in steps)
    assert steps[-1][2] == "100.00"
    assert "the last is predict's: True\n" in text
    (done,) = re.findall(r"^deadline 20 ms: (\d+) of 16 phases in [\d.]+ ms$", text, re.MULTILINE)
    assert int(done) in (4, 8, 12, 16)


def test_evaluation_is_that_of_pytorch(road: Path) -> None:
    text = said("06_evaluate.py", road, "--limit", "1")
    network = network_from_arch("smp-resnet18", classes=CLASSES, width=8).eval()
    network.load_state_dict(load_file(road.with_suffix(".safetensors")))
    scene = Scenes("val", size=SIZE).load(0)
    mean, std = np.float32((0.485, 0.456, 0.406)), np.float32((0.229, 0.224, 0.225))
    image = torch.from_numpy((scene.image / np.float32(255) - mean) / std).permute(2, 0, 1).unsqueeze(0)
    with torch.inference_mode():
        labels = network(image)[0].argmax(0).numpy()
    height, width = SIZE
    assert text.startswith(f"1 frame(s), {height * width} pixels, ")
    (accuracy,) = re.findall(r"^pixel accuracy ([\d.]+)%", text, re.MULTILINE)
    # Rounding decides between two classes at a few pixels at most.
    assert float(accuracy) / 100 == pytest.approx((labels == scene.labels).mean(), abs=3 / labels.size)
    for number, name in enumerate(Scenes.info.classes):
        (iou,) = re.findall(rf"^  {name} +([\d.]+|nan)$", text, re.MULTILINE)
        union = ((labels == number) | (scene.labels == number)).sum()
        both = ((labels == number) & (scene.labels == number)).sum()
        expected = both / union if union else float("nan")
        assert float(iou) == pytest.approx(expected, abs=0.002, nan_ok=True)
