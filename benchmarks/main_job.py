"""The main job at full width, measured: parity of the shipped graphs, and time and memory of the export.

Writes ``docs/results/main-job.json`` and a readable page beside it. Parity needs no idle machine; the times do.
Run it from the repository: ``python benchmarks/main_job.py [--quick | --times]``. The whole takes about half an hour on
two cores, most of it PyTorch and ONNX Runtime at 256x512; the times alone take two minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from safetensors.torch import save_file
from torch import nn

from converters.exporting import export
from converters.networks import network_from_arch
from engines import Session

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))
from tests.networks import uneven_network, with_statistics  # noqa: E402 - the tests' own networks

RESULTS = REPOSITORY / "docs" / "results"
ARCHS = ("smp-resnet18", "smp-resnet34", "smp-resnet101", "fcn32s-resnet18", "fcn8s-resnet18")
SIZES = ((64, 96), (100, 130), (256, 512))
COMMAND = str(Path(sys.executable).with_name("smp-deploy"))


def parity(directory: Path, sizes: tuple[tuple[int, int], ...]) -> Iterator[dict[str, Any]]:
    """Relative error of logits and share of equal labels, network by network and size by size."""
    networks = {arch: lambda arch=arch: with_statistics(lambda: network_from_arch(arch), seed=0) for arch in ARCHS}
    for name, factory in {**networks, "own: 3x2, 2x2, 1x4, depthwise": uneven_network}.items():
        network = factory()
        for size in sizes:
            bundle = export(
                network, directory / "parity", size=size, precisions=(), lowerings=("reshape",), replace=True
            )
            frame = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
            expected = _torch_logits(network, frame, bundle.manifest.input.padded_size)
            options = onnxruntime.SessionOptions()
            options.enable_cpu_mem_arena = False
            whole = onnxruntime.InferenceSession(
                str(bundle.path / "model.onnx"), options, providers=["CPUExecutionProvider"]
            )
            logits = whole.run(None, {"frames": frame[None]})[0][0]
            with Session.open(bundle) as session:
                labels = session.predict(frame)
            yield {
                "network": name,
                "size": f"{size[0]}x{size[1]}",
                "logits_relative_error": float(np.abs(logits - expected).max() / np.abs(expected).max()),
                "merged_phases_equal_labels": float((labels == logits.argmax(0)).mean()),
            }


def _torch_logits(network: nn.Module, frame: np.ndarray, padded: tuple[int, int]) -> np.ndarray:
    """Normalised and padded by numpy, so that nothing of the export takes part."""
    planes = np.zeros((1, 3, *padded), np.float32)
    mean, std = np.array((0.485, 0.456, 0.406)), np.array((0.229, 0.224, 0.225))
    height, width = frame.shape[:2]
    planes[0, :, :height, :width] = ((frame / 255 - mean) / std).transpose(2, 0, 1)
    with torch.inference_mode():
        return network(torch.from_numpy(planes))[0, :, :height, :width].numpy()


def help_seconds() -> float:
    """Median of eleven runs of ``smp-deploy --help``."""
    times = []
    for _ in range(11):
        started = time.perf_counter()
        subprocess.run([COMMAND, "--help"], check=True, capture_output=True)
        times.append(time.perf_counter() - started)
    return sorted(times)[5]


def export_at_full_resolution(directory: Path) -> dict[str, float]:
    """Seconds, processor seconds and peak resident GiB of ``smp-deploy export`` of SMP-18 at 1024x2048."""
    checkpoint = directory / "smp18.safetensors"
    save_file(network_from_arch("smp-resnet18").state_dict(), checkpoint)
    script = (
        "import resource, subprocess, sys, time\n"
        "started = time.perf_counter()\n"
        "subprocess.run(sys.argv[1:], check=True, capture_output=True)\n"
        "used = resource.getrusage(resource.RUSAGE_CHILDREN)\n"
        "print(time.perf_counter() - started, used.ru_utime + used.ru_stime, used.ru_maxrss / 2**20)\n"
    )
    arguments = [COMMAND, "export", checkpoint, "--arch", "smp-resnet18", "--size", "1024x2048", "-o", directory / "b"]
    command = [sys.executable, "-c", script, *map(str, arguments)]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    return dict(zip(("export_s", "export_cpu_s", "export_peak_gib"), map(float, printed), strict=True))


def page(result: dict[str, Any]) -> str:
    """The result for people."""
    lines = [
        "# The main job, measured",
        "",
        f"Made by `python benchmarks/main_job.py` on {result['machine']}, Python {result['python']}, "
        f"torch {result['torch']}, ONNX Runtime {result['onnxruntime']}. Networks have random weights and batch-norm "
        "statistics far from the identity; the frame is uniform noise.",
        "",
        "| what | measured | wanted |",
        "| --- | --- | --- |",
        f"| `smp-deploy --help`, median of 11 | {result['help_s']:.2f} s | at most 0.3 s |",
        f"| export of SMP-18 at 1024x2048, all trunks in fp32 and fp16 | {result['export_s']:.0f} s "
        f"({result['export_cpu_s']:.0f} s of processor time) | at most 60 s |",
        f"| its peak memory (RSS) | {result['export_peak_gib']:.1f} GiB | at most 4 GiB |",
        "",
        "Largest error of a logit of `model.onnx` in ONNX Runtime against PyTorch, relative to the largest logit "
        "(wanted: at most 1e-5), and share of pixels where the merged phases have the label of the whole graph:",
        "",
        "| network | frame | logits | equal labels |",
        "| --- | --- | --- | --- |",
    ]
    for row in result["parity"]:
        lines.append(
            f"| {row['network']} | {row['size']} | {row['logits_relative_error']:.1e} "
            f"| {row['merged_phases_equal_labels']:.5%} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    less = parser.add_mutually_exclusive_group()
    less.add_argument("--quick", action="store_true", help="leave the large frame out, and write nothing")
    less.add_argument("--times", action="store_true", help="measure times and memory anew, keep the parity written")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        result: dict[str, Any] = {
            "machine": f"{platform.machine()}, {os.cpu_count()} cores, no GPU",
            "python": platform.python_version(),
            "torch": torch.__version__,
            "onnxruntime": onnxruntime.__version__,
            "help_s": help_seconds(),
            **export_at_full_resolution(directory),
            "parity": [],
        }
        if options.times:
            result["parity"] = json.loads((RESULTS / "main-job.json").read_text(encoding="utf-8"))["parity"]
        else:
            for row in parity(directory, SIZES[:2] if options.quick else SIZES):
                print(row, flush=True)
                result["parity"].append(row)
    print(page(result))
    if not options.quick:
        RESULTS.mkdir(parents=True, exist_ok=True)
        (RESULTS / "main-job.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
        (RESULTS / "main-job.md").write_text(page(result), encoding="utf-8")


if __name__ == "__main__":
    main()
