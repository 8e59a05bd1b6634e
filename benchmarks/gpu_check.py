"""Everything that needs a GPU, on any NVIDIA machine: parity, memory, latency, rearrangement, PyTorch beside it.

``make gpu-check``, or with a machine's own Python, from the repository: ``PYTHONPATH=. python3 benchmarks/gpu_check.py
[--bundle BUNDLE]``. Whichever of TensorRT, TensorRT-RTX and ONNX Runtime with CUDA is there is measured; what is not
there is listed as *not run*, with the reason. Writes ``docs/results/<gpu>.json`` and a page beside it, unless nothing
could be run. Exit code 0 when all that ran is right, 1 when a check failed, 3 when there is no GPU or nothing ran.

``--cpu`` takes ONNX Runtime on the CPU in place of a GPU and writes nothing: to try the script itself.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))

from engines import (  # noqa: E402 - found through the line above
    BACKENDS,
    Backend,
    Bundle,
    Lowering,
    Precision,
    Schedule,
    Session,
    build_engine,
)
from engines.backends.base import Kind  # noqa: E402
from engines.backends.tensorrt.settings import BuildOptions  # noqa: E402
from engines.devices.gpus import gpus  # noqa: E402
from engines.errors import InputError, MissingDependency, SmpDeployError  # noqa: E402
from engines.executors.device import DeviceExecutor  # noqa: E402
from engines.executors.timing import stage_times_ms  # noqa: E402
from engines.parity.comparison import label_agreement  # noqa: E402
from engines.parity.tolerances import TOLERANCES  # noqa: E402

RESULTS = REPOSITORY / "docs" / "results"
GPU_BACKENDS = tuple(backend for backend in BACKENDS if backend.kind is Kind.GPU)
PRECISIONS = (Precision.FP32, Precision.FP16)
SCHEDULES = (
    *(Schedule(2, sub_batch, lowering) for lowering in Lowering for sub_batch in (1, 4)),
    Schedule(2, 16),
    Schedule(3, 4),
)
NO_GPU = "there is no NVIDIA GPU"


@dataclass
class Row:
    """One thing measured, or why it was not."""

    what: str
    precision: str
    schedule: str
    status: str
    """``passed``, ``failed`` or ``not run``."""
    reason: str = ""
    figures: dict[str, Any] = field(default_factory=dict)


def rows_of_backend(bundle: Bundle, backend: Backend, repeats: int) -> Iterator[Row]:
    """A row for each precision and schedule; the bundle gains the engines that are built."""
    for precision in PRECISIONS:
        for schedule in SCHEDULES:
            yield _row(bundle, backend, precision, schedule, repeats)


def _row(bundle: Bundle, backend: Backend, precision: Precision, schedule: Schedule, repeats: int) -> Row:
    """What is absent is *not run*: a trunk, a package, an engine that does not load. What began and broke failed."""
    named = (backend.name, precision.value, str(schedule))
    try:
        opened = _with_engine(bundle, backend, precision, schedule)
    except (InputError, MissingDependency) as error:
        return Row(*named, "not run", str(error))
    except SmpDeployError as error:
        return Row(*named, "failed", f"the build broke: {error}")
    free_before = _free_bytes()
    try:
        session = Session.open(opened, backend, precision=precision, schedule=schedule)
    except SmpDeployError as error:
        return Row(*named, "not run", str(error))
    free_after = _free_bytes()
    try:
        with session:
            figures = _figures(session, precision, repeats)
    except SmpDeployError as error:
        return Row(*named, "failed", f"broke: {error}")
    if free_before is not None and free_after is not None:
        figures["taken_bytes"] = free_before - free_after
    status = "passed" if figures["agreement"] >= TOLERANCES[precision].label_agreement else "failed"
    return Row(*named, status, figures=figures)


def _with_engine(bundle: Bundle, backend: Backend, precision: Precision, schedule: Schedule) -> Bundle:
    """The bundle, with the engine that this needs; it is built as ``build-engine`` builds it."""
    if not backend.needs_engines:
        return bundle
    named = {"levels": schedule.levels, "lowering": schedule.lowering, "sub_batch": schedule.sub_batch}
    return build_engine(bundle, backend, precision, options=BuildOptions(max_aux_streams=0), **named).bundle


def _figures(session: Session, precision: Precision, repeats: int) -> dict[str, Any]:
    """Parity with PyTorch's logits of the bundle's first reference case, memory, milliseconds."""
    bundle = session.bundle
    case = bundle.manifest.reference[0]
    frame, logits = bundle.reference_arrays(case)
    labels = session.predict(frame)
    (row, column), (h, w) = case.phase, case.window
    at_phase = labels[row::h, column::w]
    known = logits[:, : at_phase.shape[0], : at_phase.shape[1]]
    agreement = label_agreement(at_phase, known, TOLERANCES[precision].of_ties)
    figures: dict[str, Any] = {
        "agreement": agreement.judged(TOLERANCES[precision]),
        "latency_ms": _median_ms(lambda: session.predict(frame), repeats),
        "frame_to_frame_ms": _frame_to_frame_ms(session, frame, repeats),
        "notes": list(session.executor.notes),
    }
    executor = session.executor
    if isinstance(executor, DeviceExecutor):
        group = session.grid.sub_batches(session.schedule.sub_batch)[0]
        runs = [stage_times_ms(executor, frame, group) for _ in range(repeats)]
        figures["stages_ms"] = {stage: statistics.median(run[stage] for run in runs) for stage in runs[0]}
        plans = sum(_plan_bytes(bundle))
        figures["predicted_bytes"] = plans + sum(
            size for purpose, size in executor.memory().items() if purpose != "pinned"
        )
    return figures


def _plan_bytes(bundle: Bundle) -> Iterator[int]:
    """Of the engine built last. Plans hold the weights, which are the part of them that the device keeps."""
    engine = bundle.manifest.engines[-1]
    yield bundle.manifest.files[engine.engine].size
    yield bundle.manifest.files[engine.prepare].size


def _free_bytes() -> int | None:
    """Free memory of the GPU; ``None`` where nothing tells."""
    if not gpus():
        return None
    try:
        from engines.devices.cuda import CudaDevice

        device = CudaDevice()
        with device.current():
            return device.free_bytes()
    except SmpDeployError:
        return None


def _median_ms(call: Callable[[], object], repeats: int) -> float:
    call()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        call()
        times.append((time.perf_counter() - started) * 1000)
    return statistics.median(times)


def _frame_to_frame_ms(session: Session, frame: np.ndarray, repeats: int) -> float:
    """Of frames one after the other, where the next one is uploaded while this one is computed."""
    started = time.perf_counter()
    count = sum(1 for _ in session.predict_all([frame] * (repeats + 1)))
    return (time.perf_counter() - started) * 1000 / count


def rows_of_pytorch(bundle: Bundle, device: str, repeats: int) -> Iterator[Row]:
    """The same network in PyTorch: eager and compiled, in the same precisions."""
    try:
        import torch

        from smp_deploy.training import network_from_weights
    except ImportError as error:
        for how in ("PyTorch eager", "torch.compile"):
            yield Row(how, "", "", "not run", f"{error.name} is not installed")
        return
    if device == "cuda" and not torch.cuda.is_available():
        for how in ("PyTorch eager", "torch.compile"):
            yield Row(how, "", "", "not run", "PyTorch sees no CUDA device")
        return
    height, width = bundle.manifest.input.padded_size
    network, _ = network_from_weights(CHECKPOINT)
    for precision, dtype in ((Precision.FP32, torch.float32), (Precision.FP16, torch.float16)):
        ready = network.eval().to(device, dtype)
        planes = torch.rand(1, 3, height, width, device=device, dtype=dtype)
        for how, function in (("PyTorch eager", ready), ("torch.compile", torch.compile(ready))):

            def run(function: Any = function, planes: Any = planes) -> None:
                with torch.inference_mode():
                    function(planes).argmax(1)
                if device == "cuda":
                    torch.cuda.synchronize()

            try:
                latency_ms = _median_ms(run, repeats)
            except torch.AcceleratorError as error:
                yield Row(how, precision.value, "whole frame", "failed", f"broke: {str(error).partition(chr(10))[0]}")
                continue
            except (RuntimeError, ImportError) as error:
                # Its own exceptions derive from RuntimeError; the first line says what it lacks.
                yield Row(how, precision.value, "whole frame", "not run", str(error).partition("\n")[0])
                continue
            yield Row(how, precision.value, "whole frame", "passed", figures={"latency_ms": latency_ms})


CHECKPOINT = REPOSITORY / "smp_deploy" / "data" / "camvid-smp18.safetensors"


def bundle_of_the_shipped_network(size: tuple[int, int], target: Path) -> Bundle:
    """SMP-18 as it is shipped, exported for frames of ``size``. Raises ImportError without the extra [export]."""
    from converters.exporting import export
    from smp_deploy.training import network_from_weights

    network, weights = network_from_weights(CHECKPOINT)
    return export(network, target, size=size, source=weights.arch, width=weights.width)


def rearrangement(rows: list[Row]) -> list[dict[str, Any]]:
    """What the reshape lowering takes longer than the best one, as a share of its own time: the rearrangement."""
    shares = []
    for row in rows:
        others = [
            other.figures["latency_ms"]
            for other in rows
            if (other.what, other.precision) == (row.what, row.precision)
            and "latency_ms" in other.figures
            and other.schedule.rpartition(", ")[0] == row.schedule.rpartition(", ")[0]
        ]
        if row.schedule.endswith("reshape") and len(others) == len(Lowering) and "latency_ms" in row.figures:
            own = row.figures["latency_ms"]
            share = {"share": 1 - min(others) / own, "backend": row.what, "precision": row.precision}
            shares.append({**share, "schedule": row.schedule})
    return shares


def page(result: dict[str, Any]) -> str:
    """The result for people."""
    lines = [f"# {result['gpu']}", "", f"Made by `python benchmarks/gpu_check.py` on {result['machine']}.", ""]
    lines += ["| what | precision | schedule | status | agreement | latency, ms | frame to frame, ms | memory, MiB |"]
    lines += ["| --- | --- | --- | --- | --- | --- | --- | --- |"]
    for row in result["rows"]:
        figures = row["figures"]
        cells = [row["what"], row["precision"], row["schedule"], row["status"]]
        cells += [f"{figures['agreement']:.4%}" if "agreement" in figures else ""]
        cells += [f"{figures[name]:.2f}" if name in figures else "" for name in ("latency_ms", "frame_to_frame_ms")]
        memory = [figures.get(name) for name in ("predicted_bytes", "taken_bytes")]
        cells += [" predicted, ".join("?" if size is None else f"{size / 2**20:.0f}" for size in memory) + " taken"]
        lines.append("| " + " | ".join(cells) + " |")
    for status in ("failed", "not run"):
        lines += ["", f"{status.capitalize()}:", ""]
        lines += [
            f"- {' '.join(filter(None, (row['what'], row['precision'], row['schedule'])))}: {row['reason']}"
            for row in result["rows"]
            if row["status"] == status
        ]
    lines += ["", "Rearrangement, by comparison of the lowerings:", ""]
    lines += [f"- {s['backend']} {s['precision']} {s['schedule']}: {s['share']:.1%}" for s in result["rearrangement"]]
    return "\n".join(lines) + "\n"


def measured(options: argparse.Namespace, folder: Path) -> list[Row]:
    """All rows."""
    backends = BACKENDS[:1] if options.cpu else GPU_BACKENDS
    if not options.cpu and not gpus():
        names = (*(backend.name for backend in backends), "PyTorch eager", "torch.compile")
        return [Row(name, "", "", "not run", NO_GPU) for name in names]
    try:
        bundle = (
            Bundle.open(options.bundle)
            if options.bundle
            else bundle_of_the_shipped_network(options.size, folder / "bundle")
        )
    except ImportError as error:
        reason = f"{error.name} is not installed, so nothing can be exported; name a bundle with --bundle"
        return [Row(backend.name, "", "", "not run", reason) for backend in backends]
    rows = []
    for backend in backends:
        for row in rows_of_backend(bundle, backend, options.repeats):
            print(f"{row.what} {row.precision} {row.schedule}: {row.status} {row.reason or row.figures}", flush=True)
            rows.append(row)
        # Building does not change the bundle on disk that others were given; the next backend reads it anew.
        bundle = Bundle.open(bundle.path)
    for row in rows_of_pytorch(bundle, "cpu" if options.cpu else "cuda", options.repeats):
        print(f"{row.what} {row.precision}: {row.status} {row.reason or row.figures}", flush=True)
        rows.append(row)
    return rows


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, help="a bundle to measure; engines are added to it")
    parser.add_argument("--size", type=_size, default=(256, 512), help="of the shipped network's frames")
    parser.add_argument("--repeats", type=int, default=11)
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--cpu", action="store_true", help="ONNX Runtime on the CPU, to try this script")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = measured(options, Path(folder))
    found = gpus()
    result = {
        "gpu": found[0].name if found else "no GPU",
        "machine": ", ".join(f"{gpu.name} ({gpu.compute_capability})" for gpu in found) or "a machine without a GPU",
        "rows": [asdict(row) for row in rows],
        "rearrangement": rearrangement(rows),
    }
    print(page(result))
    ran = [row for row in rows if row.status != "not run"]
    if ran and not options.cpu:
        options.output.mkdir(parents=True, exist_ok=True)
        stem = re.sub(r"[^a-z0-9]+", "-", result["gpu"].lower()).strip("-")
        (options.output / f"{stem}.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
        (options.output / f"{stem}.md").write_text(page(result), encoding="utf-8")
    if any(row.status == "failed" for row in rows):
        return 1
    return 0 if ran and (found or options.cpu) else 3


def _size(text: str) -> tuple[int, int]:
    height, _, width = text.partition("x")
    return int(height), int(width)


if __name__ == "__main__":
    sys.exit(main())
