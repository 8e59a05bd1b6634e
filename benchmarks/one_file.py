"""A packed file beside the session and ``model.onnx``: time and memory of one frame, in ONNX Runtime and OpenVINO.

    python benchmarks/one_file.py BUNDLE [--rounds 3] [--lowerings reshape,strided] [--output FILE.json]

Rounds are interleaved; each run is a process of its own, which opens the graph, labels the bundle's reference frame
once to warm up, and once more with a clock. The peak is that process's, above what it held when the runtime was
imported. Packed files and ``model.onnx`` run as in a program that knows nothing of smp-deploy: with default options.
Labels are compared with the session's. Times mean something only on a machine that does nothing else; seconds of the
processor are less disturbed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from converters import pack
from engines import Bundle, Lowering, Schedule
from smp_deploy.machine import machine_facts

CHILD = Path(__file__).resolve().parent / "one_file_child.py"
RUNTIMES = ("onnxruntime", "openvino")


def contenders(bundle: Bundle, folder: Path, lowerings: list[str]) -> list[dict[str, Any]]:
    """What is run: names, and what a process is told."""
    found: list[dict[str, Any]] = []
    path, first = str(bundle.path), bundle.manifest.trunk()
    for lowering in lowerings:
        schedule = str(Schedule(first.levels, 1, Lowering(lowering)))
        of = {"bundle": path, "levels": first.levels, "lowering": lowering}
        found += [{"name": f"session, {schedule}", "form": "session", "runtime": name, **of} for name in RUNTIMES]
        for loop in ("loop", "unrolled"):
            target = folder / f"{lowering}-{loop}.onnx"
            pack(bundle, target, levels=first.levels, lowering=lowering, loop=loop)
            name = f"packed, {loop}, {schedule}"
            found += [{"name": name, "form": "file", "runtime": held, "file": str(target)} for held in RUNTIMES]
    model = str(bundle.file(bundle.manifest.model))
    found += [{"name": "model.onnx", "form": "model", "runtime": name, "file": model} for name in RUNTIMES]
    return found


def run(contender: dict[str, Any], folder: Path) -> dict[str, Any]:
    """One process: seconds by the clock and of the processor, and its peak."""
    command = [sys.executable, str(CHILD), json.dumps(contender), str(folder)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise SystemExit(f"{contender['name']} in {contender['runtime']} failed:\n{result.stderr}")
    measured: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return measured


def main() -> None:
    """Run, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--lowerings", default="reshape", help="of the bundle's first levels, with commas")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    bundle = Bundle.open(options.bundle)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        frame, _ = bundle.reference_arrays(bundle.manifest.reference[0])
        np.save(folder / "frame.npy", frame)
        all_contenders = contenders(bundle, folder, options.lowerings.split(","))
        runs: list[list[dict[str, Any]]] = [[] for _ in all_contenders]
        labels: list[np.ndarray] = [np.zeros(0)] * len(all_contenders)
        for _ in range(options.rounds):
            for index, contender in enumerate(all_contenders):
                runs[index].append(run(contender, folder))
                labels[index] = np.load(folder / "labels.npy")
                print(f"{contender['runtime']}, {contender['name']}: {runs[index][-1]}", file=sys.stderr, flush=True)
    rows = [
        {
            "name": contender["name"],
            "runtime": contender["runtime"],
            "peak_mib": round(max(one["peak_bytes"] for one in measured) / 2**20, 1),
            "cpu_seconds": round(statistics.median(one["cpu_seconds"] for one in measured), 3),
            "seconds": round(statistics.median(one["seconds"] for one in measured), 3),
            "opening_seconds": round(statistics.median(one["opening_seconds"] for one in measured), 3),
            "labels_that_differ": int((found != labels[0]).sum()),
        }
        for contender, measured, found in zip(all_contenders, runs, labels, strict=True)
    ]
    height, width = bundle.manifest.input.size
    print(f"{bundle.manifest.network.source} at {height}x{width}, {options.rounds} rounds")
    for row in rows:
        print(
            f"{row['runtime']:12} {row['name']:48} {row['peak_mib']:8.1f} MiB {row['cpu_seconds']:8.2f} s of CPU "
            f"{row['seconds']:8.2f} s {row['opening_seconds']:6.2f} s to open, {row['labels_that_differ']} differ"
        )
    if options.output is not None:
        document = {"machine": machine_facts(), "size": [height, width], "rounds": options.rounds, "rows": rows}
        options.output.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
