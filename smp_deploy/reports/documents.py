"""The record of a validation: one JSON document, and the arrays that its pictures are made from."""

from __future__ import annotations

import io
import json
import math
import platform
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from engines.bundle.bundle import Bundle
from engines.bundle.staging import write_file
from engines.errors import BundleError, InputError, OutputError
from engines.parity.checks import Check, Status, tolerance_of
from engines.schedules.schedule import Precision
from smp_deploy.reports.records import Validation

if TYPE_CHECKING:
    from converters.verification import Findings

VALIDATION = "validation.json"
ARRAYS = "validation.npz"
RECORD_VERSION = 1
"""Raised by every change that an older reader would misunderstand."""

_PACKAGES = ("smp-deploy", "numpy", "torch", "onnx", "onnxruntime-gpu", "onnxruntime", "tensorrt", "tensorrt-rtx")
_MOST_OVERLAYS = 5
_OVERLAY_ARRAYS = ("image", "expected", "actual", "ties")


def document_of(
    bundle: Bundle,
    checks: Sequence[Check],
    *,
    seconds: float,
    overrides: Mapping[str, float],
    frames: Sequence[str],
    commands: Sequence[str],
    findings: Findings | None = None,
) -> dict[str, Any]:
    """All that a validation has shown, with the tolerances it was held to and what it ran on."""
    manifest = bundle.manifest
    return {
        "record_version": RECORD_VERSION,
        "bundle": str(bundle.path),
        "verdict": verdict_of(checks),
        "counts": {status.value: sum(check.status is status for check in checks) for status in Status},
        "not_proven": [f"{check.name}: {check.detail}" for check in checks if check.status is Status.NOT_RUN],
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "seconds": round(seconds, 1),
        "network": {"source": manifest.network.source, "parameters": manifest.network.parameters},
        "frame": list(manifest.input.size),
        "outputs": manifest.outputs.value,
        "frames": list(frames),
        "tolerances": {
            precision.value: _plain(tolerance_of(precision, overrides))
            for precision in dict.fromkeys((Precision.FP32, *manifest.trunk().graphs))
        },
        "overrides": dict(overrides),
        "checks": [check_as_json(check) for check in checks],
        **({} if findings is None else _figures(findings, [record.name for record in manifest.classes])),
        "machine": {"system": f"{platform.system()} {platform.machine()}", "python": platform.python_version()},
        "tools": {"at export": manifest.tools, "here": _versions()},
        "files": {name: record.sha256 for name, record in manifest.files.items()},
        "commands": list(commands),
    }


def verdict_of(checks: Sequence[Check]) -> str:
    """``passed`` says that all that ran passed, and that something ran."""
    if any(check.failed for check in checks):
        return "failed"
    return "passed" if any(check.status is Status.PASSED for check in checks) else "not run"


def check_as_json(check: Check) -> dict[str, Any]:
    """One check; infinities and NaN, which JSON lacks, as text."""
    return {
        "kind": check.kind.value,
        "name": check.name,
        "subject": check.subject,
        "status": check.status.value,
        "measured": _number(check.measured),
        "tolerance": check.tolerance,
        "detail": check.detail,
        "location": check.location,
    }


def record_name(backend: str | None) -> str:
    """File name of a record: a backend's own proof stands beside the bundle's."""
    return VALIDATION if backend is None else f"validation-{backend}.json"


def store(
    bundle: Bundle, document: Mapping[str, Any], findings: Findings | None = None, *, name: str = VALIDATION
) -> None:
    """Write the record into the bundle's ``reports/``, file by file in one step. Raises :class:`OutputError`.

    Reports are not among the files whose hashes the manifest holds: they may be replaced at any time.
    """
    directory = made_directory(bundle)
    if findings is not None:
        from converters.verification.polygraphy_files import write_polygraphy_files

        arrays = {
            f"{kind}-{index}": getattr(overlay, kind)
            for index, overlay in enumerate(findings.overlays[:_MOST_OVERLAYS])
            for kind in _OVERLAY_ARRAYS
        }
        stream = io.BytesIO()
        np.savez_compressed(stream, **arrays)
        write_file(directory / ARRAYS, stream.getvalue())
        write_polygraphy_files(findings, directory)
    write_file(directory / name, (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode())


def made_directory(bundle: Bundle) -> Path:
    """The bundle's ``reports/``, made where it is missing. Raises :class:`OutputError`."""
    directory = bundle.path / "reports"
    try:
        directory.mkdir(exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot write to {directory}: {error.strerror}") from error
    return directory


def stored(bundle: Bundle) -> dict[str, Any]:
    """The bundle's last validation. Raises :class:`InputError` when there is none, or none that can be read."""
    path = bundle.path / "reports" / VALIDATION
    try:
        document = msgspec.json.decode(path.read_bytes())
    except FileNotFoundError as error:
        raise InputError(
            f"{bundle.path} has not been validated; run smp-deploy validate {bundle.path} first"
        ) from error
    except (OSError, msgspec.DecodeError) as error:
        raise BundleError(f"{path} cannot be read: {error}; run smp-deploy validate anew") from error
    found = document.get("record_version") if isinstance(document, dict) else None
    if found != RECORD_VERSION:
        raise BundleError(
            f"{path} has record version {found}, this smp-deploy reads {RECORD_VERSION}; run smp-deploy validate anew"
        )
    try:
        msgspec.convert(document, Validation)
    except msgspec.ValidationError as error:
        raise BundleError(f"{path} is no record of a validation: {error}; run smp-deploy validate anew") from error
    return dict(document)


def stored_overlays(bundle: Bundle, count: int) -> list[tuple[NDArray[Any], ...]]:
    """The arrays of the first ``count`` overlays; none where they are not kept.

    Of each the frame ``(H, W, 3)`` uint8, labels in fp32 and in the other precision ``(H, W)`` integers, and where
    they are ties ``(H, W)`` bool. Raises :class:`BundleError` for a file that cannot be read.
    """
    path = bundle.path / "reports" / ARRAYS
    if not path.exists():
        return []
    try:
        with path.open("rb") as stream, np.lib.npyio.NpzFile(stream) as arrays:
            return [tuple(arrays[f"{kind}-{index}"] for kind in _OVERLAY_ARRAYS) for index in range(count)]
    except (OSError, EOFError, ValueError, KeyError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        # numpy and zipfile report damage as any of these.
        raise BundleError(f"{path} cannot be read: {error}; run smp-deploy validate anew") from error


def _figures(findings: Findings, classes: Sequence[str]) -> dict[str, Any]:
    return {
        "window": list(findings.window),
        "layers": [
            {
                "name": name,
                "magnitude": _number(layer.magnitude),
                "largest": {precision: _number(value) for precision, value in layer.largest.items()},
                "error": {precision: _number(value) for precision, value in layer.error.items()},
            }
            for name, layer in findings.layers.items()
        ],
        "agreements": {
            precision: {
                "pixels": found.pixels,
                "differing": found.differing,
                "ties": found.ties,
                "near": found.near,
                "near_differing": found.near_differing,
                "by_phase": None if found.by_phase is None else found.by_phase.tolist(),
                "error_by_phase": None
                if found.error_by_phase is None
                else [[_number(value) for value in row] for row in found.error_by_phase.tolist()],
                "classes": [
                    {"name": name, "pixels": int(row.sum()), "agreeing": int(row[index])}
                    for index, (name, row) in enumerate(zip(classes, found.confusion, strict=True))
                ],
                "changes": _changes(found.confusion, classes),
            }
            for precision, found in findings.agreements.items()
        },
        "overlays": [
            {"name": overlay.name, "precision": overlay.precision} for overlay in findings.overlays[:_MOST_OVERLAYS]
        ],
    }


def _changes(confusion: Any, classes: Sequence[str]) -> list[dict[str, Any]]:
    """Which classes became which, the most frequent first."""
    off = confusion - np.diag(np.diag(confusion))
    order = np.argsort(-off, axis=None, kind="stable")[: int((off > 0).sum())]
    pairs = (np.unravel_index(int(place), off.shape) for place in order)
    return [{"from": classes[int(a)], "to": classes[int(b)], "pixels": int(off[a, b])} for a, b in pairs]


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _plain(tolerance: Any) -> dict[str, float]:
    return {name: getattr(tolerance, name) for name in tolerance.__dataclass_fields__}


def _number(value: float | None) -> float | str | None:
    return value if value is None or math.isfinite(value) else str(value)
