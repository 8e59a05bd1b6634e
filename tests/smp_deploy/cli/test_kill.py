"""kill -9 while images are labelled, and engines that are damaged: nothing lost, one clear message."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from engines import Bundle
from tests.conftest import Cli


@pytest.mark.parametrize("images_done", [0, 1, 2])
def test_a_killed_run_leaves_whole_pictures(bundle: Path, tmp_path: Path, images_done: int) -> None:
    frames, output = tmp_path / "frames", tmp_path / "out"
    frames.mkdir()
    for index in range(3):
        pixels = np.random.default_rng(index).integers(0, 256, (64, 96, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(frames / f"{index}.png")
    # The process kills itself at the moment it writes its next picture: the worst one.
    script = (
        "import os, signal, sys\n"
        "import smp_deploy.cli.run as run\n"
        "from smp_deploy.cli.entry import main\n"
        "written = []\n"
        "real = os.fsync\n"
        "def fsync(descriptor):\n"
        "    written.append(descriptor)\n"
        # Each picture is flushed, and so is the directory that it is renamed in.
        f"    if len(written) > {4 * images_done}:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    real(descriptor)\n"
        "os.fsync = fsync\n"
        "sys.argv[0] = 'smp-deploy'\n"
        "main()\n"
    )
    command = [sys.executable, "-c", script, "run", str(bundle), str(frames), "-o", str(output)]
    assert subprocess.run(command, capture_output=True).returncode == -9
    pictures = sorted(output.glob("[!.]*.png"))
    assert len(pictures) == 2 * images_done
    for picture in pictures:
        with Image.open(picture) as image:
            image.load()
    Bundle.open(bundle)


def test_a_damaged_engine_is_one_message(cli: Cli, bundle: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="not run: tensorrt_rtx is not installed")
    assert cli("build-engine", bundle, "--flavour", "tensorrt-rtx").returncode == 0
    (engine,) = Bundle.open(bundle).engines
    path = bundle / engine.engine
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    # `run` looks at the machine first, and here it has no GPU.
    result = cli("validate", bundle, "--backend", "tensorrt-rtx")
    assert result.returncode == 2
    assert len(result.stderr.splitlines()) == 1
    assert f"{engine.engine} is not the file that was built (SHA-256 differs)" in result.stderr
