"""A packed file against a session of the bundle, in ONNX Runtime, on a reference frame.

fp32 runs as a stock host runs it. fp16 and int8 run as they are written, without ONNX Runtime's optimizations, on both
sides: on a CPU it computes fp16 in single precision and chooses where it rounds, by the graph around a node, and its
integer kernels saturate on some processors.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from converters.one_file.forms import InputForm, OutputForm
from converters.one_file.hosts import feed_of, is_exact, read_by_host, seen_by_graph
from converters.one_file.record import ProofRecord
from engines.backends.onnxruntime.cpu import ONNXRUNTIME_CPU
from engines.backends.onnxruntime.runner import OnnxRuntimeRunner
from engines.bundle.bundle import Bundle
from engines.bundle.manifest import OutputKind
from engines.errors import CheckFailed
from engines.executors.host import RunnerExecutor
from engines.parity.comparison import relative_error
from engines.parity.tolerances import tolerance_of
from engines.schedules.schedule import Precision, Schedule
from engines.session import Session


def proven(
    content: bytes, bundle: Bundle, schedule: Schedule, precision: Precision, takes: InputForm, gives: OutputForm
) -> ProofRecord:
    """What the comparison found, or why it could not be made.

    Labels are equal, pixel by pixel. Where a host scales pixels in floats, which are then not quite those of the
    frame, their agreement is that of the table for this precision; logits and probabilities are within its error of
    fp32.

    Raises :class:`CheckFailed` where they are not, :class:`MachineError` where ONNX Runtime does not run the file.
    """
    if reason := ONNXRUNTIME_CPU.refusal(precision):
        return ProofRecord(run=False, detail=reason)
    case = bundle.manifest.reference[0]
    frame, _ = bundle.reference_arrays(case)
    as_written = precision is not Precision.FP32
    with OnnxRuntimeRunner(content, precision, as_written=as_written) as runner:
        (result,) = runner.infer(feed_of(takes, frame, bundle.manifest.input)).values()
    found = read_by_host(gives, result)
    expected = _of_session(bundle, schedule, precision, seen_by_graph(takes, frame), as_written=as_written)
    on = f"{case.frame} in {ONNXRUNTIME_CPU.runtime()}{', as written' if as_written else ''}"
    if found.shape != expected.shape:
        raise CheckFailed(f"the packed file gives {found.shape} on {on}, and the session {expected.shape}")
    if gives.kind is OutputKind.LABELS:
        return _proven_labels(found, expected, on, 1.0 if is_exact(takes) else tolerance_of(precision).label_agreement)
    return _proven_maps(found, expected, on, gives.kind.value)


def _proven_labels(found: NDArray[np.generic], expected: NDArray[np.generic], on: str, least: float) -> ProofRecord:
    different = int((found != expected).sum())
    if 1 - different / expected.size < least:
        raise CheckFailed(
            f"the packed file labels {different} of {expected.size} pixels differently from the session, on {on}; "
            "nothing was written"
        )
    said = "all" if not different else f"{expected.size - different} of"
    # A merge that puts them elsewhere would not be seen.
    alike = "" if expected.min() < expected.max() else "; they are all of one class there, so this says little"
    return ProofRecord(run=True, detail=f"{said} {expected.size} labels equal the session's, on {on}{alike}")


def _proven_maps(found: NDArray[np.generic], expected: NDArray[np.generic], on: str, kind: str) -> ProofRecord:
    most = tolerance_of(Precision.FP32).logits
    error = relative_error(np.asarray(found, np.float32), np.asarray(expected, np.float32))
    if not error <= most:
        raise CheckFailed(
            f"the packed file's {kind} are {error:.3g} of the largest off the session's, above {most:g}, on {on}; "
            "nothing was written"
        )
    return ProofRecord(run=True, detail=f"{kind} within {error:.3g} of the session's, relative to the largest, on {on}")


def _of_session(
    bundle: Bundle, schedule: Schedule, precision: Precision, frame: NDArray[np.uint8], *, as_written: bool
) -> NDArray[np.generic]:
    manifest = bundle.manifest

    def opened(walked: Schedule) -> RunnerExecutor:
        trunk = manifest.trunk_of(walked)
        return RunnerExecutor(
            OnnxRuntimeRunner(bundle.file(manifest.prepare), as_written=as_written),
            OnnxRuntimeRunner(bundle.file(bundle.trunk_graph(trunk, precision)), precision, as_written=as_written),
            manifest.grid(trunk),
        )

    with Session(bundle, opened, schedule) as session:
        return session.predict(frame)
