"""The wheel: what it holds works outside the checkout; and the demo, which is the main job."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.conftest import Cli, made_once

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built and unpacked as an installer does."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    subprocess.run(
        [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(ROOT)], check=True
    )
    (wheel,) = folder.glob("*.whl")
    subprocess.run(
        [*pip, "install", "--no-deps", "--no-index", "--target", str(folder / "site"), str(wheel)], check=True
    )
    return folder / "site"


def test_an_installed_wheel_works_outside_the_checkout(site: Path, tmp_path: Path) -> None:
    script = (
        "import sys, engines, converters, smp_deploy.cli.entry as app\n"
        "for package in (engines, converters, app):\n"
        "    assert package.__file__.startswith(sys.argv[1]), package.__file__\n"
        "options = ['--arch', 'smp-resnet18', '--size', '32x32', '--levels', '2', '-o', 'bundle']\n"
        "sys.argv = ['smp-deploy', 'export', sys.argv[2], *options]\n"
        "app.main()\n"
    )
    checkpoint = site / "smp_deploy" / "data" / "camvid-smp18.safetensors"
    result = subprocess.run(
        [sys.executable, "-c", script, str(site), str(checkpoint)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    assert json.loads((tmp_path / "bundle" / "manifest.json").read_text())["network"]["width"] == 24


def test_the_wheel_holds_the_packages_and_nothing_else(site: Path) -> None:
    top = {path.name for path in site.iterdir() if not path.name.endswith(".dist-info")}
    assert top == {"smp_deploy", "converters", "engines", "bin"}
    for package in ("smp_deploy", "converters", "engines"):
        assert (site / package / "py.typed").exists()


@pytest.fixture(scope="session")
def demo(cli: Cli, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that ``smp-deploy demo`` makes."""

    def make(target: Path) -> None:
        result = cli("demo", "-o", target)
        assert result.returncode == 0, result.stderr

    return made_once(tmp_path_factory, "demo", make)


def test_the_demo_labels_a_road(demo: Path) -> None:
    pictures = demo / "pictures"
    names = {"camvid-frame-labels.png", "camvid-frame-overlay.png", "camvid-frame-side-by-side.png"}
    assert {path.name for path in pictures.iterdir()} == names
    summary = (demo / "summary.md").read_text(encoding="utf-8")
    assert [line.split("|")[1].strip() for line in summary.splitlines()[2:]] == [
        "export",
        "validate",
        "build-engine",
        "run",
    ]
    assert "18 passed, 4 not run; quick: without the proofs on generated frames" in summary
    with Image.open(pictures / "camvid-frame-labels.png") as image:
        labels = np.asarray(image)
    # What a person sees in the frame: road (3) below the middle, sky (0) at the top, a bus, a car (8) here, far ahead.
    assert (labels[300:, 200:400] == 3).mean() > 0.95
    assert (labels[172:192, 170:212] == 8).mean() > 0.9
    assert (labels[5:50, 120:200] == 0).mean() > 0.9
    # The pole (2) of the traffic light on the right, 4 pixels wide, in nearly every row.
    assert (labels[140:220, 354:358] == 2).any(1).mean() > 0.8


def test_the_demos_labels_are_those_of_the_annotation(cli: Cli, demo: Path, data: Path, tmp_path: Path) -> None:
    """On real frames of the validation part, which the network has not seen: far better than chance."""
    frames = sorted((data / "camvid" / "val").glob("*.png"))[::50]
    result = cli("run", demo / "bundle", *frames, "-o", tmp_path / "out")
    assert result.returncode == 0, result.stderr
    for frame in frames:
        with Image.open(tmp_path / "out" / f"{frame.stem}-labels.png") as image:
            labels = np.asarray(image)
        with Image.open(data / "camvid" / "valannot" / frame.name) as image:
            annotation = np.asarray(image)
        known = annotation < 11
        assert (labels == annotation)[known].mean() > 0.8
