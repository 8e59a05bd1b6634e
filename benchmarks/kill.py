"""kill -9 at random moments of engine builds and of runs: nothing of the bundle is lost, no picture is half-written.

``python benchmarks/kill.py [--times 50]`` on any machine with TensorRT-RTX; no GPU is needed. Each process is killed at
a moment drawn from its usual duration. Afterwards the bundle must open, hold the engines that it held or one more, and
every picture must be whole. Writes ``docs/results/kill.json``.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image

from converters.exporting import export
from converters.networks import network_from_arch
from engines import Bundle

REPOSITORY = Path(__file__).resolve().parent.parent
COMMAND = str(Path(sys.executable).with_name("smp-deploy"))
SIZE = (64, 96)


def killed_after(command: list[str], seconds: float) -> bool:
    """Whether the process was still at work when it was killed."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        time.sleep(seconds)
        process.kill()
    return process.returncode == -signal.SIGKILL


def usual_seconds(command: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - started


def check_bundle(bundle: Path, engines_before: int) -> int:
    """Open it, which verifies every hash, and give the number of its engines."""
    held = len(Bundle.open(bundle).engines)
    if held not in (engines_before, engines_before + 1):
        raise SystemExit(f"the bundle held {engines_before} engines and now has {held}")
    return held


def check_pictures(folder: Path) -> int:
    """Every picture under its own name can be read to its end; their number."""
    pictures = sorted(folder.glob("[!.]*.png"))
    for picture in pictures:
        with Image.open(picture) as image:
            image.load()
    return len(pictures)


def main() -> None:
    """Kill, check, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    draw, counts = random.Random(options.seed), Counter[str]()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        bundle, frame, pictures = folder / "bundle", folder / "frame.png", folder / "pictures"
        export(network_from_arch("smp-resnet18", width=8), bundle, size=SIZE, levels=(2,))
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)).save(frame)
        build = [COMMAND, "build-engine", str(bundle), "--flavour", "tensorrt-rtx", "--force"]
        run = [COMMAND, "run", str(bundle), str(frame), "-o", str(pictures), "--side-by-side"]
        usual = {"build": usual_seconds(build), "run": usual_seconds(run)}
        held = check_bundle(bundle, 0)
        for index in range(options.times):
            kind, command = (("build", build), ("run", run))[index % 2]
            if kind == "run":
                shutil.rmtree(pictures, ignore_errors=True)
            struck = killed_after(command, draw.uniform(0.2, 1.05) * usual[kind])
            held = check_bundle(bundle, held)
            whole = check_pictures(pictures) if kind == "run" else 0
            counts[f"{kind} {'killed' if struck else 'finished before'}"] += 1
            print(f"{index + 1}/{options.times} {kind}: {'killed' if struck else 'had finished'}, {held} engines, "
                  f"{whole} pictures", flush=True)  # fmt: skip
        # What was left does not stand in the way.
        subprocess.run(build, check=True, capture_output=True)
        subprocess.run(run, check=True, capture_output=True)
        check_bundle(bundle, held)
        result = {"times": options.times, "lost": 0, "usual_s": usual, **counts}
    print(result)
    (REPOSITORY / "docs" / "results" / "kill.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
