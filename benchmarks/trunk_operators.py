"""Where the time of a trunk goes: CPU time of one phase in ONNX Runtime, operator by operator, for every trunk.

    smp-deploy export smp18.safetensors --arch smp-resnet18 --size 256x512 --precision fp32 --levels 2 --levels 3 \
        --lowering reshape --lowering strided --lowering dilated -o smp18.bundle
    python benchmarks/trunk_operators.py smp18.bundle

One thread, and CPU time: both hold on a machine that has other work. Writes ``docs/results/trunk-operators.json`` and
a readable page.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch

from engines import Bundle, Precision, Schedule
from engines.devices.processor import processor_title
from smp_deploy.machine import machine_facts

RESULTS = Path(__file__).resolve().parent.parent / "docs" / "results"
REPEATS = 3
ARRANGES = ("Transpose", "Reshape", "Gather", "Slice", "Concat", "Pad", "ReorderInput", "ReorderOutput")
"""Operators that move and compute nothing; the last two change between ONNX Runtime's layouts."""


def least_cpu_s(work: Callable[[], object]) -> float:
    """Of several calls; the first is not counted."""
    times = []
    for _ in range(REPEATS + 1):
        started = time.process_time()
        work()
        times.append(time.process_time() - started)
    return min(times[1:])


def session_of(graph: Path, **changes: Any) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    for name, value in changes.items():
        setattr(options, name, value)
    return onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])


def shares_of_operators(graph: Path, feed: dict[str, np.ndarray]) -> dict[str, float]:
    """Share of the time of each kind of operator, by ONNX Runtime's profiler."""
    with tempfile.TemporaryDirectory() as folder:
        session = session_of(graph, enable_profiling=True, profile_file_prefix=f"{folder}/profile")
        for _ in range(2):
            session.run(None, feed)
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    times: Counter[str] = Counter()
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            times[event["args"]["op_name"]] += event["dur"]
    return {operator: duration / sum(times.values()) for operator, duration in times.most_common()}


def with_binding(graph: Path, feed: dict[str, np.ndarray]) -> float:
    """CPU time with input and output bound to memory beforehand, so that nothing is copied or allocated for them."""
    session = session_of(graph)
    binding = session.io_binding()
    for name, array in feed.items():
        binding.bind_cpu_input(name, array)
    binding.bind_output(session.get_outputs()[0].name)
    return least_cpu_s(lambda: session.run_with_iobinding(binding))


def measured(bundle: Bundle, schedule: Schedule, gflops: float) -> dict[str, Any]:
    """One trunk on the first phase of a frame of noise."""
    trunk = bundle.manifest.trunk_of(schedule)
    grid, graph = bundle.manifest.grid(trunk), bundle.file(bundle.trunk_graph(trunk, Precision.FP32))
    planes = np.random.default_rng(0).standard_normal((3, *grid.planes_size), np.float32)
    started = time.process_time()
    feed: dict[str, np.ndarray] = {"windows": grid.cut(planes, [(0, 0)])}
    cut_s = time.process_time() - started
    if grid.inner_windows:
        feed["offsets"] = grid.inner_offsets([(0, 0)])
    session = session_of(graph)
    seconds = least_cpu_s(lambda: session.run(None, feed))
    shares = shares_of_operators(graph, feed)
    return {
        "levels": trunk.levels,
        "lowering": trunk.lowering.value,
        "phase_s": seconds,
        "frame_s": seconds * len(grid.phases),
        "share_of_sgemm": trunk.operations / seconds / 1e9 / gflops,
        "convolutions": shares.get("Conv", 0.0),
        "rearrangement": sum(shares.get(operator, 0.0) for operator in ARRANGES),
        "operators": shares,
        "bound_s": with_binding(graph, feed),
        "cut_s": cut_s,
    }


def sgemm() -> float:
    """GFLOP/s of a thread, in CPU time: the better of PyTorch and numpy."""
    torch.set_num_threads(1)
    matrix = torch.rand(2048, 2048)
    array = matrix.numpy()
    seconds = min(least_cpu_s(lambda: matrix @ matrix), least_cpu_s(lambda: array @ array))
    return 2 * 2048**3 / seconds / 1e9


def page(result: dict[str, Any]) -> str:
    """The result for people."""
    lines = [
        "# Where the time of a trunk goes",
        "",
        f"{result['network']}, {result['size'][0]}x{result['size'][1]}, fp32, sub-batch 1, ONNX Runtime "
        f"{result['onnxruntime']} on one thread of {result['device']}. CPU time, the least of {REPEATS}. Matrix "
        f"products of PyTorch or numpy reached {result['sgemm_gflops']:.0f} GFLOP/s on a thread. Made by "
        "`python benchmarks/trunk_operators.py BUNDLE`.",
        "",
        "| levels | lowering | a phase, s | a frame, s | of sgemm | convolutions | rearrangement | bound memory, s |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in result["trunks"]:
        lines.append(
            f"| {row['levels']} | {row['lowering']} | {row['phase_s']:.3f} | {row['frame_s']:.1f} "
            f"| {row['share_of_sgemm']:.2f} | {row['convolutions']:.1%} | {row['rearrangement']:.1%} "
            f"| {row['bound_s']:.3f} |"
        )
    cut = max(row["cut_s"] / row["phase_s"] for row in result["trunks"])
    return "\n".join([*lines, "", f"Cutting the window of a phase takes at most {cut:.2%} of its time.", ""])


def main() -> None:
    """Measure, print, write."""
    bundle = Bundle.open(sys.argv[1])
    gflops = sgemm()
    rows = []
    for trunk in bundle.manifest.trunks:
        if trunk.levels:
            rows.append(measured(bundle, Schedule(trunk.levels, 1, trunk.lowering), gflops))
            print(rows[-1], flush=True)
    result = {
        "machine": machine_facts(),
        "device": processor_title(),
        "onnxruntime": onnxruntime.__version__,
        "network": bundle.manifest.network.source,
        "size": list(bundle.manifest.input.size),
        "sgemm_gflops": gflops,
        "trunks": rows,
    }
    print(page(result))
    (RESULTS / "trunk-operators.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    (RESULTS / "trunk-operators.md").write_text(page(result), encoding="utf-8")


if __name__ == "__main__":
    main()
