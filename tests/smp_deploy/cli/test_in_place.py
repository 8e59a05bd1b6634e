"""What comes to lie at an output while a command is at work stays, and so does what is not its own."""

from __future__ import annotations

import shutil
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from engines import Bundle
from tests.conftest import Cli, files_of


def while_at_work(
    begun: Callable[[], bool], act: Callable[[], object], command: Callable[[], subprocess.CompletedProcess[str]]
) -> subprocess.CompletedProcess[str]:
    """Run a command, and act as soon as it has begun."""
    done = threading.Event()

    def wait() -> None:
        while not begun() and not done.is_set():
            time.sleep(0.002)
        act()

    other = threading.Thread(target=wait)
    other.start()
    result = command()
    done.set()
    other.join()
    return result


def test_a_folder_that_comes_during_an_export_stays(cli: Cli, checkpoint: Path, tmp_path: Path) -> None:
    target = tmp_path / "bundle"

    def come() -> None:
        target.mkdir()
        (target / "photo.jpg").write_text("mine")

    result = while_at_work(
        lambda: any(tmp_path.glob(".bundle.*.partial")),
        come,
        lambda: cli(
            *("export", checkpoint, "--arch", "smp-resnet18", "--size", "32x32", "--levels", 2),
            *("--lowering", "reshape", "--precision", "fp32", "-o", target),
        ),
    )
    assert result.returncode == 2
    assert result.stderr.splitlines()[-1] == (
        f"smp-deploy: {target} exists already; choose another place, or replace it with --force"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]
    assert [(path.name, path.read_text()) for path in target.iterdir()] == [("photo.jpg", "mine")]


def test_labels_that_come_beside_an_image_during_a_run_stay(cli: Cli, exported: Bundle, tmp_path: Path) -> None:
    for name in "abcdef":
        noise = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / f"{name}.png")
    mine = tmp_path / "f-labels.png"
    result = while_at_work(
        (tmp_path / "a-labels.png").exists,
        lambda: mine.write_text("mine"),
        lambda: cli("run", exported.path, *(tmp_path / f"{name}.png" for name in "abcdef"), "-o", tmp_path),
    )
    assert result.returncode == 2
    assert result.stderr.splitlines()[-1] == (
        f"smp-deploy: {mine} is there already, and is not replaced; move it away, or choose another place"
    )
    assert mine.read_text() == "mine"
    assert (tmp_path / "e-overlay.png").exists()


@pytest.mark.parametrize("kind", ["bundle", "damaged bundle", "summary.md"])
def test_what_is_of_no_demo_is_not_replaced(cli: Cli, exported: Bundle, tmp_path: Path, kind: str) -> None:
    if kind == "summary.md":
        (tmp_path / kind).write_text("# Summary of my holidays\n")
    else:
        shutil.copytree(exported.path, tmp_path / "bundle")
    if kind == "damaged bundle":
        (tmp_path / "bundle" / "manifest.json").write_text("{}")
    before = files_of(tmp_path)
    result = cli("demo", "-o", tmp_path)
    assert result.returncode == 2
    name = "summary.md" if kind == "summary.md" else "bundle"
    assert result.stderr == (
        f"smp-deploy: {tmp_path / name} is there and is of no demo, so it is not replaced; choose another -o\n"
    )
    assert files_of(tmp_path) == before
