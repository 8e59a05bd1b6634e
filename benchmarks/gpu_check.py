"""Everything that needs a GPU, on any NVIDIA machine: parity, memory, latency, rates, PyTorch beside it.

    make gpu-check
    python benchmarks/gpu_check.py [--bundle BUNDLE]... [--minutes 8] [--rows KIND...]

Runs from the repository as it is, installed or not. Whichever of TensorRT, TensorRT-RTX and ONNX Runtime with CUDA is
there is measured; what is not there is listed as *not run*, with the reason. The most valuable comes first, and what
does not fit into the minutes is *not run*. ``docs/results/<gpu>.json`` and a page beside it are written after every
row, unless nothing could be run. Exit code 0 when all that ran is right, 1 when a check failed, 3 when there is no GPU
or nothing ran.

``--cpu`` takes ONNX Runtime on the CPU in place of a GPU and writes nothing without ``--output``: to try the script
itself.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "benchmarks")]

from gpu.copies import COPIES, copies_jobs  # noqa: E402 - found through the line above
from gpu.machine import machine_facts  # noqa: E402
from gpu.page import page, rearrangement  # noqa: E402
from gpu.pytorch import COMPILED, EAGER, PYTORCH, TRAINING, pytorch_jobs, training_job  # noqa: E402
from gpu.rates import FRAMES, MATRIX, frames_job, matrix_jobs  # noqa: E402
from gpu.results import Clock, Job, Results, Row, run_jobs  # noqa: E402
from gpu.sessions import (  # noqa: E402
    BUDGET,
    BUDGETS,
    CONTEXT,
    PARITY,
    PRECISIONS,
    SCHEDULES,
    Bench,
    Subject,
    budget_job,
    context_job,
    schedule_job,
    subjects_of,
)

from engines import BACKENDS, Backend, Bundle  # noqa: E402
from engines.backends.base import Kind  # noqa: E402
from engines.devices.gpus import gpus  # noqa: E402
from engines.errors import MachineError, SmpDeployError  # noqa: E402
from smp_deploy.benchmarking.device_memory import gauge_of_gpu  # noqa: E402

RESULTS = REPOSITORY / "docs" / "results"
CHECKPOINT = REPOSITORY / "smp_deploy" / "data" / "camvid-smp18.safetensors"
KINDS = (CONTEXT, MATRIX, PARITY, BUDGET, FRAMES, PYTORCH, TRAINING, COPIES)
GPU_BACKENDS = tuple(backend for backend in BACKENDS if backend.kind is Kind.GPU)
NO_GPU = "there is no NVIDIA GPU"


@dataclass(frozen=True)
class Sizes:
    """How large is what has no size of its own."""

    matrix: int
    crop: int
    width: int


ON_GPU, ON_CPU = Sizes(8192, 512, 64), Sizes(512, 64, 8)


def bundles_of(options: argparse.Namespace, folder: Path) -> dict[str, Bundle]:
    """By the names that rows have. Raises ImportError where there is none and nothing to export with."""
    if options.bundle:
        opened = [Bundle.open(path) for path in options.bundle]
        if len(opened) == 1:
            return {"": opened[0]}
        names = [bundle.path.resolve().name for bundle in opened]
        return {
            name if names.count(name) == 1 else str(bundle.path): bundle
            for name, bundle in zip(names, opened, strict=True)
        }
    return {"": bundle_of_the_shipped_network(options.size, folder / "bundle")}


def bundle_of_the_shipped_network(size: tuple[int, int], target: Path) -> Bundle:
    """SMP-18 as it is shipped, exported for frames of ``size``. Raises ImportError without the extra [export]."""
    from converters.exporting import export
    from smp_deploy.training import network_from_weights

    network, weights = network_from_weights(CHECKPOINT)
    return export(network, target, size=size, source=weights.arch, width=weights.width)


def absent(backends: tuple[Backend, ...], reason: str) -> Iterator[Row]:
    """What is not run where nothing can be."""
    for backend in backends:
        yield Row(PARITY, backend.name, reason=reason)
    for how in (EAGER, COMPILED):
        yield Row(PYTORCH, how, reason=reason)


def found_backends(backends: tuple[Backend, ...], results: Results) -> tuple[Backend, ...]:
    """Those that this machine supports; for the others a row says what is missing."""
    found = []
    for backend in backends:
        support = backend.support()
        if support.available:
            found.append(backend)
        else:
            results.add(Row(PARITY, backend.name, reason="; ".join(filter(None, (support.found, support.remedy)))))
    return tuple(found)


def jobs_of(
    bundles: dict[str, Bundle], backends: tuple[Backend, ...], bench: Bench, results: Results, device: str
) -> Iterator[Job]:
    """All jobs, the most valuable first: the fastest precision, then what stands beside it, then all that is left."""
    sizes = ON_GPU if device == "cuda" else ON_CPU
    subjects: list[Subject] = [
        subject for name, bundle in bundles.items() for on in backends for subject in subjects_of(name, bundle, on)
    ]
    fast = [subject for subject in subjects if subject.precision is PRECISIONS[0]] or subjects
    others = [subject for subject in subjects if subject not in fast]

    def schedules(chosen: list[Subject], *, first: bool) -> Iterator[Job]:
        for subject in chosen:
            wanted = [schedule for schedule in subject.schedules() if (schedule in SCHEDULES) is first]
            yield from (schedule_job(subject, schedule, bench) for schedule in wanted)

    in_pytorch = [
        job for name, bundle in different(bundles).items() for job in pytorch_jobs(name, bundle, bench, device)
    ]
    fastest = [job for job in in_pytorch if job.row.precision == in_pytorch[0].row.precision]
    if fast:
        yield context_job(fast[0], bench)
    yield from matrix_jobs(bench, device, sizes.matrix)
    yield from schedules(fast, first=True)
    for subject in fast:
        yield from (budget_job(subject, budget, bench) for budget in BUDGETS)
    yield from (frames_job(subject, bench, results.rows) for subject in fast)
    yield from schedules(others, first=True)
    yield from (job for subject in fast for job in copies_jobs(subject))
    yield from fastest
    yield training_job(bench, device, sizes.crop, sizes.width)
    yield from schedules(fast, first=False)
    yield from schedules(others, first=False)
    yield from (job for subject in others for job in copies_jobs(subject))
    yield from (frames_job(subject, bench, results.rows) for subject in others)
    yield from (job for job in in_pytorch if job not in fastest)


def different(bundles: dict[str, Bundle]) -> dict[str, Bundle]:
    """One of each network and size: PyTorch takes as long for the others."""
    kept: dict[tuple[Any, ...], tuple[str, Bundle]] = {}
    for name, bundle in bundles.items():
        network, frame = bundle.manifest.network, bundle.manifest.input
        kept.setdefault((network.source, network.width, len(bundle.manifest.classes), frame.size), (name, bundle))
    return dict(kept.values())


def measure(options: argparse.Namespace, results: Results, clock: Clock, folder: Path) -> None:
    """Every row."""
    device = "cpu" if options.cpu else "cuda"
    backends = BACKENDS[:1] if options.cpu else GPU_BACKENDS
    if not options.cpu and not gpus():
        for row in absent(backends, NO_GPU):
            results.add(row)
        return
    try:
        bundles = bundles_of(options, folder)
    except ImportError as error:
        reason = f"{error.name} is not installed, so nothing can be exported; name a bundle with --bundle"
        for row in absent(backends, reason):
            results.add(row)
        return
    gauge = None
    if not options.cpu:
        with suppress(MachineError):
            gauge = gauge_of_gpu()
    bench = Bench(gauge, options.repeats)
    results.head["machine"] = machine_facts(gauge)
    results.head["bundles"] = {name: facts_of(bundle) for name, bundle in bundles.items()}
    jobs = jobs_of(bundles, found_backends(backends, results), bench, results, device)
    run_jobs((job for job in jobs if job.row.kind in options.rows), results, clock)


def facts_of(bundle: Bundle) -> dict[str, Any]:
    """What a bundle is of."""
    manifest = bundle.manifest
    return {
        "network": manifest.network.source,
        "width": manifest.network.width,
        "size": list(manifest.input.size),
        "outputs": manifest.outputs.value,
        "operations": min(map(manifest.frame_operations, manifest.trunks)),
    }


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--bundle", type=Path, action="append", help="a bundle to measure, also several times; engines are added to it"
    )
    parser.add_argument("--size", type=_size, default=(256, 512), help="of the shipped network's frames")
    parser.add_argument("--minutes", type=float, default=8, help="what does not fit is not run (default: 8)")
    parser.add_argument("--rows", nargs="+", choices=KINDS, default=KINDS, metavar="KIND", help=", ".join(KINDS))
    parser.add_argument("--repeats", type=int, default=11, help="of what is timed (default: 11)")
    parser.add_argument("--output", type=Path, help="folder of the results (default: docs/results)")
    parser.add_argument("--cpu", action="store_true", help="ONNX Runtime on the CPU, to try this script")
    options = parser.parse_args()
    clock = Clock(options.minutes * 60)
    output = options.output or (None if options.cpu else RESULTS)
    found = gpus()
    gpu = found[0].name if found else "no GPU"
    head = {"gpu": gpu, "machine": {}, "bundles": {}, "minutes": options.minutes, "complete": False}
    stem = re.sub(r"[^a-z0-9]+", "-", gpu.lower()).strip("-")
    results = Results(head, lambda rows: {"rearrangement": rearrangement(rows)}, page, output, stem)
    try:
        with tempfile.TemporaryDirectory() as folder:
            measure(options, results, clock, Path(folder))
    except SmpDeployError as error:
        print(error, file=sys.stderr)
        return 3 if isinstance(error, MachineError) else 2
    results.finish()
    print(results.page())
    if any(row.status == "failed" for row in results.rows):
        return 1
    return 0 if results.ran and (found or options.cpu) else 3


def _size(text: str) -> tuple[int, int]:
    height, _, width = text.partition("x")
    return int(height), int(width)


if __name__ == "__main__":
    sys.exit(main())
