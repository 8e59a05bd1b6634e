"""Schedules beside what a user would do instead: time and memory of SMP-18 at 256x512, fp32, on the CPU.

    python benchmarks/side_by_side.py [--rounds 3] [--quick]

Rounds are interleaved: in each one every contender runs once, in a fresh process, one frame to warm up and then the
frame that is timed. Peak memory is that process's, above an empty one. All contenders have the same weights, with
batch norms folded, start from the same uint8 frame and end with labels, which are compared. Writes
``docs/results/side-by-side.json``, a readable page and a picture. About half an hour on two idle cores.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from engines import Bundle, Lowering, Precision, Schedule, Session

REPOSITORY = Path(__file__).resolve().parent.parent
RESULTS = REPOSITORY / "docs" / "results"
MODULE = Path(__file__).stem

EAGER, COMPILED = "PyTorch eager", "torch.compile"
WHOLE, WHOLE_WITHOUT_ARENA = "ONNX Runtime, whole graph", "ONNX Runtime, whole graph, no arena"
WHOLE_DILATED = "ONNX Runtime, whole graph dilated"
OPENVINO_WHOLE, OPENVINO_DILATED = "OpenVINO, whole graph", "OpenVINO, whole graph dilated"
OPENVINO_BF16 = "OpenVINO in bf16"
TUNED = "tuned"
INSTEAD = (
    f"{EAGER}, split",
    f"{EAGER}, dilated",
    f"{COMPILED}, split",
    f"{COMPILED}, dilated",
    WHOLE,
    WHOLE_DILATED,
    OPENVINO_WHOLE,
    OPENVINO_DILATED,
)
"""What the tuned schedule is to be faster than, all in fp32."""


@dataclass(frozen=True)
class Job:
    """One run of a contender, as its process is told."""

    contender: str
    directory: str
    width: int
    schedule: tuple[int, int, str] | None = None
    backend: str = "onnxruntime"
    precision: str = "fp32"


@dataclass
class Measured:
    """What the rounds gave for one contender."""

    name: str
    schedule: Schedule | None = None
    backend: str = "onnxruntime"
    """Of a schedule."""
    precision: str = "fp32"
    seconds: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)
    """Of all threads."""
    peak_bytes: list[int] = field(default_factory=list)
    """Above the empty process."""
    labels_differ: int = 0
    """From those of the first contender."""


def run(job: dict[str, Any]) -> tuple[float, float]:
    """Warm up, time one frame, leave its labels in the directory; seconds by the clock and of the processor.

    Called in a fresh process.
    """
    directory = Path(job["directory"])
    frame = np.load(directory / "frame.npy")
    if job["schedule"] is not None:
        labelled = _session(directory, job)
    elif job["contender"].startswith("ONNX Runtime"):
        labelled = _onnxruntime(directory, job["contender"])
    elif job["contender"].startswith("OpenVINO"):
        labelled = _openvino(directory, job["contender"], job["precision"])
    else:
        labelled = _pytorch(directory, job["contender"], job["width"])
    labelled(frame)
    started, used = time.perf_counter(), time.process_time()
    labels = labelled(frame)
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - used
    np.save(directory / "labels.npy", labels)
    return seconds, cpu_seconds


Labelled = Callable[[np.ndarray], np.ndarray]


def _session(directory: Path, job: dict[str, Any]) -> Labelled:
    levels, sub_batch, lowering = job["schedule"]
    schedule = Schedule(levels, sub_batch, Lowering(lowering))
    session = Session.open(directory / "bundle", job["backend"], precision=job["precision"], schedule=schedule)
    return session.predict


def _onnxruntime(directory: Path, contender: str) -> Labelled:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.enable_cpu_mem_arena = contender != WHOLE_WITHOUT_ARENA
    graph = "dilated.onnx" if contender == WHOLE_DILATED else "bundle/model.onnx"
    session = onnxruntime.InferenceSession(str(directory / graph), options, providers=["CPUExecutionProvider"])
    return lambda frame: session.run(None, {"frames": frame[None]})[0][0].argmax(0).astype(np.uint8)


def _openvino(directory: Path, contender: str, precision: str) -> Labelled:
    import openvino

    graph = "dilated.onnx" if contender.startswith(OPENVINO_DILATED) else "bundle/model.onnx"
    hint = {"fp32": "f32"}.get(precision, precision)
    config = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": hint}
    compiled = openvino.Core().compile_model(str(directory / graph), "CPU", config)
    return lambda frame: compiled(frame[None])[0][0].argmax(0).astype(np.uint8)


def _pytorch(directory: Path, contender: str, width: int) -> Labelled:
    import torch

    network: Any = _whole_network(directory, width, dilated=contender.endswith("dilated"))
    if contender.startswith(COMPILED):
        network = torch.compile(network, dynamic=False)

    def labelled(frame: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return network(torch.from_numpy(frame[None]))[0].argmax(0).to(torch.uint8).numpy()

    return labelled


def _whole_network(directory: Path, width: int, *, dilated: bool) -> Any:
    """Frames uint8 ``(n, H, W, 3)`` to logits; batch norms folded, splits as they are or as dilation."""
    from safetensors.torch import load_file
    from torch import nn

    from converters.analysis.network import traced_network
    from converters.graphs.stages import Normalization, WholeNetwork
    from converters.networks import network_from_arch
    from converters.rewriting.loops import looped_from_network
    from converters.rewriting.lowerings import lowered

    network = network_from_arch("smp-resnet18", width=width).eval()
    network.load_state_dict(load_file(directory / "weights.safetensors"))
    traced = traced_network(network)
    graph: Any = traced.graph
    if dilated:
        looped = looped_from_network(traced, 0)
        top, left, bottom, right = looped.border
        # The loop's form reads planes that have the first convolution's zeros around them.
        graph = nn.Sequential(nn.ZeroPad2d((left, right, top, bottom)), lowered(looped, Lowering.DILATED).graph)
    size = np.load(directory / "frame.npy").shape[:2]
    return WholeNetwork(Normalization(), graph, size, size).eval()


def sgemm(size: int) -> float:
    """GFLOP/s of square matrix products, the best of several in PyTorch and in numpy. Called in a fresh process."""
    import torch

    a = np.random.default_rng(0).standard_normal((size, size), np.float32)
    tensor, times = torch.from_numpy(a), []
    for _ in range(5):
        for multiply in (lambda: a @ a, lambda: tensor @ tensor):
            started = time.perf_counter()
            multiply()
            times.append(time.perf_counter() - started)
    return 2 * size**3 / min(times) / 1e9


def prepare(directory: Path, size: tuple[int, int], width: int) -> Bundle:
    """Frame, weights, bundle and dilated whole graph."""
    import torch
    from safetensors.torch import save_file

    from converters.exporting import export
    from converters.graphs.from_torch import onnx_from_torch
    from converters.graphs.weights import SharedWeights
    from converters.networks import network_from_arch

    sys.path.insert(0, str(REPOSITORY))
    from tests.networks import with_statistics

    np.save(directory / "frame.npy", np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8))
    network = with_statistics(lambda: network_from_arch("smp-resnet18", width=width), seed=0)
    save_file(network.state_dict(), directory / "weights.safetensors")
    bundle = export(
        network,
        directory / "bundle",
        size=size,
        source="smp-resnet18",
        width=width,
        precisions=(),
        levels=(2, 3),
        lowerings=Lowering,
    )
    whole = _whole_network(directory, width, dilated=True)
    frames = torch.zeros((), dtype=torch.uint8).expand(2, *size, 3)
    model = onnx_from_torch(whole, {"frames": frames}, output_name="logits", opset=bundle.manifest.opset, batch="batch")
    with SharedWeights(directory / "dilated.bin") as weights:
        weights.save_graph(model, directory / "dilated.onnx")
    return bundle


def contenders(bundle: Bundle, frame: np.ndarray, *, seconds: float) -> list[Measured]:
    """What a user would do instead, the tuned schedule, the schedules that bound memory, and the tuned on OpenVINO."""
    from engines.backends.openvino import OPENVINO
    from smp_deploy.benchmarking.tuner import tune

    def tuned(backend: str, precision: Precision = Precision.FP32) -> Schedule:
        best = tune(bundle, backend, precision, frame=frame, levels=(2,), rounds=3, seconds=seconds).record
        return best.measurements[0].schedule

    fastest = tuned("onnxruntime")
    schedules = [Schedule(levels, 1, lowering) for levels in (2, 3) for lowering in Lowering]
    ours = [Measured(f"{TUNED}: {fastest}", fastest), *(Measured(str(s), s) for s in schedules if s != fastest)]
    on_openvino = [(Precision.FP32, "OpenVINO")]
    instead = [*INSTEAD, WHOLE_WITHOUT_ARENA]
    all_measured = [Measured(name) for name in instead]
    if OPENVINO.refusal(Precision.BF16) is None:
        on_openvino.append((Precision.BF16, OPENVINO_BF16))
        all_measured.append(Measured(f"{OPENVINO_DILATED} in bf16", precision="bf16"))
    for precision, title in on_openvino:
        best = tuned("openvino", precision)
        ours.append(Measured(f"{TUNED} on {title}: {best}", best, "openvino", precision.value))
    return [*all_measured, *ours]


def rounds_of(all_measured: list[Measured], directory: Path, width: int, rounds: int) -> list[float]:
    """Run every contender once in every round, and the matrix products; their GFLOP/s."""
    import msgspec

    from smp_deploy.benchmarking.peak_memory import peak_of

    reference: np.ndarray | None = None
    gflops = []
    for number in range(rounds):
        gflops.append(peak_of(f"{MODULE}:sgemm", 2048).returned)
        for measured in all_measured:
            s = measured.schedule
            named = None if s is None else (s.levels, s.sub_batch, s.lowering.value)
            job = Job(measured.name, str(directory), width, named, measured.backend, measured.precision)
            peak = peak_of(f"{MODULE}:run", msgspec.to_builtins(job), timeout_s=3600)
            seconds, cpu_seconds = peak.returned
            measured.seconds.append(seconds)
            measured.cpu_seconds.append(cpu_seconds)
            measured.peak_bytes.append(peak.work_bytes)
            labels = np.load(directory / "labels.npy")
            reference = labels if reference is None else reference
            measured.labels_differ = int((labels != reference).sum())
            print(
                f"round {number + 1} of {rounds}: {measured.name}: {seconds:.2f} s, {peak.work_bytes / 2**20:.0f} MiB",
                flush=True,
            )
    return gflops


def result_of(all_measured: list[Measured], bundle: Bundle, gflops: list[float], rounds: int) -> dict[str, Any]:
    """The figures, and the ratios that the project promises."""
    from statistics import median

    import onnxruntime
    import torch

    from engines.backends.openvino import OPENVINO
    from engines.devices.processor import processor_title
    from smp_deploy.machine import machine_facts

    manifest = bundle.manifest
    trunk = manifest.trunk(2)
    work = manifest.frame_operations(trunk)
    rows = [
        {
            "name": m.name,
            "ours": m.schedule is not None,
            "backend": None if m.schedule is None else m.backend,
            "precision": m.precision,
            "levels": None if m.schedule is None else m.schedule.levels,
            "sub_batch": None if m.schedule is None else m.schedule.sub_batch,
            "seconds": m.seconds,
            "median_s": median(m.seconds),
            "min_s": min(m.seconds),
            "cpu_seconds": m.cpu_seconds,
            "peak_mib": median(m.peak_bytes) / 2**20,
            "share_of_sgemm": work / min(m.seconds) / 1e9 / max(gflops),
            "labels_differ": m.labels_differ,
        }
        for m in all_measured
    ]
    by_name = {row["name"]: row for row in rows}
    tuned = next(row for row in rows if row["name"].startswith(f"{TUNED}: "))
    whole = by_name[WHOLE]

    def bounded(levels: int) -> dict[str, Any]:
        return min(
            (r for r in rows if (r["backend"], r["levels"], r["sub_batch"]) == ("onnxruntime", levels, 1)),
            key=lambda row: row["median_s"],
        )

    memory = {
        f"levels {levels}, sub-batch 1": {
            "schedule": bounded(levels)["name"],
            "memory": bounded(levels)["peak_mib"] / whole["peak_mib"],
            "memory_without_arena": bounded(levels)["peak_mib"] / by_name[WHOLE_WITHOUT_ARENA]["peak_mib"],
            "time": bounded(levels)["median_s"] / whole["median_s"],
            "time_of_minimums": bounded(levels)["min_s"] / whole["min_s"],
        }
        for levels in (2, 3)
    }
    speed = {
        name: {
            "median": tuned["median_s"] / by_name[name]["median_s"],
            "min": tuned["min_s"] / by_name[name]["min_s"],
        }
        for name in INSTEAD
    }
    return {
        "machine": {**machine_facts(), "device": processor_title()},
        "onnxruntime": onnxruntime.__version__,
        "torch": torch.__version__,
        "openvino": OPENVINO.runtime(),
        "bf16": OPENVINO.refusal(Precision.BF16) or "run",
        "size": list(manifest.input.size),
        "operations": work,
        "rounds": rounds,
        "sgemm_gflops": gflops,
        "contenders": rows,
        "tuned_time_relative_to": speed,
        "bounded_relative_to_whole_graph": memory,
    }


def page(result: dict[str, Any]) -> str:
    """The result for people."""
    machine, pixels = result["machine"], result["size"][0] * result["size"][1]
    lines = [
        "# Side by side",
        "",
        f"SMP-18 of random weights, {result['size'][0]}x{result['size'][1]}, fp32, on {machine['device']} "
        f"with {machine['instructions']} ({machine['system']}, {machine['memory']}), without a GPU; ONNX Runtime "
        f"{result['onnxruntime']}, {result['openvino']}, PyTorch {result['torch']}. Made by "
        f"`python benchmarks/side_by_side.py`: {result['rounds']} interleaved rounds, every contender in a fresh "
        "process. Memory is the peak above an empty process, with numpy and onnxruntime imported; PyTorch's own "
        f"libraries count, and OpenVINO's. The frame takes {result['operations'] / 1e9:.0f} GFLOP; matrix products "
        f"reached {max(result['sgemm_gflops']):.0f} GFLOP/s. A share above 1 is faster than matrix products of the "
        "same number of operations. CPU seconds are those of all threads, the least of the rounds.",
        "",
        *([] if result["bf16"] == "run" else [f"bf16 was not run: {result['bf16']}.", ""]),
        *_on_noise(result["contenders"]),
        "![memory against time](side-by-side.png)",
        "",
        "| what runs | median, s | fastest, s | CPU, s | share of sgemm | peak, MiB | labels that differ |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in sorted(result["contenders"], key=lambda row: row["median_s"]):
        lines.append(
            f"| {row['name']} | {row['median_s']:.2f} | {row['min_s']:.2f} | {min(row['cpu_seconds']):.2f} "
            f"| {row['share_of_sgemm']:.2f} | {row['peak_mib']:.0f} | {row['labels_differ']} of {pixels} |"
        )
    lines += ["", "Time of the tuned schedule relative to (wanted: below 1):", ""]
    lines += ["| | of medians | of the fastest | of CPU seconds |", "| --- | --- | --- | --- |"]
    cpu = {row["name"]: min(row["cpu_seconds"]) for row in result["contenders"]}
    tuned = next(seconds for name, seconds in cpu.items() if name.startswith(f"{TUNED}:"))
    for name, ratio in result["tuned_time_relative_to"].items():
        lines.append(f"| {name} | {ratio['median']:.2f} | {ratio['min']:.2f} | {tuned / cpu[name]:.2f} |")
    lines += ["", "Relative to the whole graph in ONNX Runtime, with its arena as it is by default:", ""]
    lines += [
        "| | memory | without the arena | time | of the fastest | wanted |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    wanted = ("1/10 in at most the same time", "1/18")
    for (name, ratio), target in zip(result["bounded_relative_to_whole_graph"].items(), wanted, strict=True):
        lines.append(
            f"| {name} ({ratio['schedule']}) | 1/{1 / ratio['memory']:.1f} | 1/{1 / ratio['memory_without_arena']:.1f} "
            f"| {ratio['time']:.2f} | {ratio['time_of_minimums']:.2f} | {target} |"
        )
    return "\n".join([*lines, ""])


def _on_noise(contenders: list[dict[str, Any]]) -> list[str]:
    """What to look at where the machine had other work."""
    spread = max(row["median_s"] / row["min_s"] for row in contenders)
    if spread < _QUIET:
        return []
    return [
        f"The machine had other work meanwhile: medians are up to {spread:.1f} times the fastest. CPU seconds and the "
        "fastest say more than medians.",
        "",
    ]


_QUIET = 1.15
"""Medians of an idle machine are within so many times the fastest."""


def plot(result: dict[str, Any], path: Path) -> None:
    """Memory against time."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(9, 5.5), layout="constrained")
    for ours, colour, label in ((False, "#b04a2f", "instead"), (True, "#1f6f8b", "schedules")):
        rows = [row for row in result["contenders"] if row["ours"] is ours]
        axes.scatter([r["median_s"] for r in rows], [r["peak_mib"] for r in rows], c=colour, label=label, zorder=3)
    # Names that would lie over each other are moved apart, from the top down.
    lowest = float("inf")
    for row in sorted(result["contenders"], key=lambda row: -row["peak_mib"]):
        y = min(row["peak_mib"], lowest / 1.13)
        lowest = y
        axes.annotate(
            row["name"],
            (row["median_s"], row["peak_mib"]),
            (1.02, y),
            textcoords=axes.get_yaxis_transform(),
            fontsize=8,
            va="center",
            arrowprops={"arrowstyle": "-", "color": "#bbbbbb", "linewidth": 0.6},
            annotation_clip=False,
        )
    axes.set(
        yscale="log",
        xlabel="seconds a frame, median",
        ylabel="peak memory above an empty process, MiB",
        title=f"SMP-18, {result['size'][0]}x{result['size'][1]}, fp32, {result['machine']['device']}",
    )
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=lowest / 1.1)
    for set_formatter in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
        set_formatter("{x:g}")
    axes.grid(which="both", color="#eeeeee")
    axes.legend(loc="upper left")
    figure.savefig(path, dpi=110)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="SMP-18 of width 8 at 64x96, into the working directory")
    arguments = parser.parse_args()
    size, width = ((64, 96), 8) if arguments.quick else ((256, 512), 64)
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        print("exporting the bundle and the dilated graph", flush=True)
        bundle = prepare(directory, size, width)
        frame = np.load(directory / "frame.npy")
        print("tuning on this machine", flush=True)
        all_measured = contenders(bundle, frame, seconds=0.2 if arguments.quick else 5)
        gflops = rounds_of(all_measured, directory, width, arguments.rounds)
    result = result_of(all_measured, bundle, gflops, arguments.rounds)
    target = Path.cwd() if arguments.quick else RESULTS
    (target / "side-by-side.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    (target / "side-by-side.md").write_text(page(result), encoding="utf-8")
    plot(result, target / "side-by-side.png")
    print(page(result))


if __name__ == "__main__":
    main()
