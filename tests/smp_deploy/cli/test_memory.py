"""``run --memory``: the process stays under its budget."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from engines import Bundle, Schedule
from engines.planning.planner import plan

KIB = 2**10


def peak_of_run(bundle: Bundle, image: Path, *options: object) -> tuple[int, str]:
    """The largest resident set of ``smp-deploy run`` as a process, in bytes, and what it said of its schedule."""
    program = str(Path(sys.executable).with_name("smp-deploy"))
    command = [program, "run", str(bundle.path), str(image), "-o", str(image.parent / "out"), *map(str, options)]
    with (image.parent / "said").open("w+") as said:
        # Spawned by a small process: a child of this one begins with this one's peak.
        spawning = "import os, sys; p = os.spawnv(os.P_NOWAIT, sys.argv[1], sys.argv[1:]); "
        waiting = "_, status, used = os.wait4(p, 0); print(status, used.ru_maxrss)"
        result = subprocess.run(
            [sys.executable, "-S", "-c", spawning + waiting, *command],
            stdout=subprocess.PIPE,
            stderr=said,
            text=True,
            check=True,
        )
        said.seek(0)
        text = said.read()
    status, kib = map(int, result.stdout.splitlines()[-1].split())
    assert os.waitstatus_to_exitcode(status) == 0, text
    return kib * KIB, text.splitlines()[0]


@pytest.fixture
def road(tmp_path: Path) -> Path:
    """A frame of the bundle ``broad`` in a file."""
    frame = np.random.default_rng(0).integers(0, 256, (512, 768, 3), dtype=np.uint8)
    Image.fromarray(frame).save(tmp_path / "road.png")
    return tmp_path / "road.png"


def test_the_process_of_run_stays_under_its_budget(broad: Bundle, road: Path) -> None:
    large, small = Schedule(0, 1), Schedule(2, 1)
    planned = plan(broad)
    needed = {c.schedule: -(-planned.needed_bytes(c) // KIB) for c in planned.candidates}
    # The least that each fits in, in KiB, and what is one short of the larger one.
    for budget, chosen in ((needed[large], large), (needed[large] - 1, small), (needed[small], small)):
        peak, said = peak_of_run(broad, road, "--memory", f"{budget}KiB")
        assert said.startswith(f"schedule: {chosen} (predicted peak ")
        assert peak <= budget * KIB
    # What the smallest budget excluded would have broken it.
    peak, said = peak_of_run(broad, road, "--levels", large.levels, "--sub-batch", large.sub_batch)
    assert said == f"schedule: {large} (asked for)"
    assert peak > needed[small] * KIB
