"""What commands say of a bundle."""

from __future__ import annotations

from statistics import median

from engines.backends.base import Backend
from engines.backends.memory import DeviceMemoryModel
from engines.bundle.bundle import Bundle
from engines.bundle.standing import of_digests
from engines.errors import BundleError, InputError, LayoutError
from engines.planning.sizes import shown_bytes
from engines.schedules.phases import Size
from engines.schedules.schedule import Precision, Schedule
from smp_deploy.cli.console import note
from smp_deploy.reports.benches import context_bytes, kept
from smp_deploy.reports.documents import stored, stored_proofs
from smp_deploy.reports.verdicts import judged


def bundle_rows(bundle: Bundle) -> list[tuple[str, str]]:
    """The facts of a manifest, as rows of a table."""
    manifest = bundle.manifest
    frame = manifest.input
    width = f", width {manifest.network.width}" if manifest.network.width else ""
    dense = ", made dense" if manifest.network.densified else ""
    padding = f", padded to {shown(frame.padded_size)}" if frame.padded_size != frame.size else ""
    return [
        ("network", f"{manifest.network.source}{width}, {manifest.network.parameters / 1e6:.3f} M parameters{dense}"),
        ("frame", f"uint8 {shown(frame.size)} x 3{padding}"),
        ("gives", f"{manifest.outputs.value} of {len(manifest.classes)} classes"),
        ("splits", ", ".join(shown(window) for window in manifest.windows) or "none"),
        ("loop", _loop(bundle)),
        ("graphs", f"{manifest.model}, {manifest.prepare} and the trunks; opset {manifest.opset}"),
        (
            "size",
            f"{sum(record.size for record in bundle.files.values()) / 1e6:.1f} MB in {len(bundle.files)} files",
        ),
    ]


def _loop(bundle: Bundle) -> str:
    trunk = bundle.manifest.trunk()
    grid = bundle.manifest.grid(trunk)
    if not trunk.levels:
        return "none: the trunk takes the whole frame, and no schedule bounds its memory"
    return (
        f"{len(grid.phases)} phases of level {trunk.levels}, each from a window of {shown(grid.crop_size)} "
        f"to predictions of {shown(grid.phase_size)}"
    )


TRUNK_COLUMNS = ("trunk", "levels", "lowering", "phases", "of", "sub-batch up to", "compute")


def trunk_rows(bundle: Bundle) -> list[tuple[str, ...]]:
    """The trunks of a bundle, as rows of a table with :data:`TRUNK_COLUMNS`."""
    manifest = bundle.manifest
    work = [manifest.frame_operations(trunk) for trunk in manifest.trunks]
    rows: list[tuple[str, ...]] = []
    for trunk, operations in zip(manifest.trunks, work, strict=True):
        grid = manifest.grid(trunk)
        names = ", ".join(f"{name} ({precision.value})" for precision, name in trunk.graphs.items())
        compute = f"{operations / 1e9:.1f} GFLOP, x{operations / max(min(work), 1):.2f}"
        shape = shown(grid.phase_size)
        rows.append(
            (names, str(trunk.levels), trunk.lowering.value, str(len(grid.phases)), shape, str(grid.largest_sub_batch),
             compute)
        )  # fmt: skip
    return rows


def tuning_summaries(bundle: Bundle) -> list[tuple[str, ...]]:
    """The device and runtime of every tuning, and its winner."""
    rows: list[tuple[str, ...]] = []
    for held in bundle.tunings:
        best = held.measurements[0]
        schedule = best.schedule
        where = f"{held.device}; {held.runtime}"
        rows.append((where, held.backend, held.precision.value, str(schedule), f"{median(best.frame_ms):.1f}"))
    return rows


def predicted_memory(
    bundle: Bundle, backend: Backend, precision: Precision, schedule: Schedule, device: str | None = None
) -> str | None:
    """What a session is predicted to take, on a GPU in both parts; ``None`` where the bundle says nothing of it."""
    model = backend.memory
    try:
        needed = model.needed_bytes(bundle.manifest, schedule, precision)
    except LayoutError:
        return None
    if not isinstance(model, DeviceMemoryModel):
        return f"{shown_bytes(needed)} of the process"
    return device_memory_text(needed, context_bytes(bundle, backend, device) or model.context_bytes)


def device_memory_text(session_bytes: int, context_bytes: int | None) -> str:
    """Both parts of what is taken of a GPU's memory."""
    beyond = "which were not measured" if context_bytes is None else f"which take {shown_bytes(context_bytes)}"
    return f"{shown_bytes(session_bytes)} beyond CUDA's context and the loaded kernels, {beyond}"


def validation_summary(bundle: Bundle) -> str:
    """What its records say of a bundle in one line: ``"passed: all 66 checks that ran passed"``."""
    try:
        record, proofs = stored(bundle), stored_proofs(bundle)
    except InputError as error:
        return f"not validated: {error}" if isinstance(error, BundleError) else "not validated"
    judgement = judged(bundle, record, proofs)
    return f"{judgement.verdict.value}: {judgement.headline}"


def warn_of_validation(bundle: Bundle) -> None:
    """Say so where its records are of other bytes than the bundle's, or one of them failed."""
    summary = validation_summary(bundle)
    if summary.startswith(("stale", "foreign", "failed")):
        note(f"validation {summary}")


def bench_summaries(bundle: Bundle) -> list[tuple[str, ...]]:
    """Where, what, the median and the memory of every measurement of ``bench``, and whether it is of these bytes."""
    rows: list[tuple[str, ...]] = []
    for run in kept(bundle):
        where, device = f"{run.machine.device}; {run.machine.runtime}", run.memory.device
        if device is not None:
            taken = device_memory_text(device.session_bytes, device.context_bytes)
        elif run.memory.process_bytes is not None:
            taken = f"{shown_bytes(run.memory.process_bytes)} of the process"
        else:
            taken = "not measured"
        what = (run.backend, run.precision.value, str(run.schedule))
        standing = of_digests(run.files, bundle).value
        rows.append((where, *what, f"{run.latency_ms.median:.1f}", taken, standing))
    return rows


def shown(size: Size) -> str:
    """``(1024, 2048)`` as ``1024x2048``."""
    return f"{size[0]}x{size[1]}"
