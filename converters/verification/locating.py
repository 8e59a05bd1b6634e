"""Where a failure begins: the layer, the phase, or the graph. Asked only after a check has failed."""

from __future__ import annotations

from functools import partial

import numpy as np
from numpy.typing import NDArray

from converters.analysis.levels import levels_within
from converters.verification.inputs import fault_before_first_layer
from converters.verification.layers import first_that_differs, layers_of_model, layers_of_network, layers_of_trunk
from converters.verification.runs import attempted
from converters.verification.subject import Frame, Subject, runnable
from engines.bundle.manifest import TrunkRecord
from engines.errors import BackendError
from engines.parity.comparison import logit_error
from engines.parity.metrics import exchanged_phases, shift_of_labels
from engines.schedules.phases import Phase
from engines.schedules.schedule import Precision

_UNKNOWN = "every graph differs in the same way: give the network of the checkpoint, and PyTorch names the layer"


def in_trunk(subject: Subject, trunk: TrunkRecord, frame: Frame, actual: NDArray[np.float32]) -> str:
    """Why a trunk in fp32 differs from PyTorch: ``actual`` are its logits at the phase of the frame's case, or at
    some of the phases that it consists of."""
    assert frame.case is not None
    assert frame.logits is not None
    graph = trunk.graphs[Precision.FP32]
    levels = levels_within(subject.bundle.manifest.windows, frame.case.window)
    assert levels is not None
    words = None
    if actual.shape == frame.logits.shape:
        bound = subject.tolerance(Precision.FP32).logits
        words = exchanged_phases(actual, frame.logits, subject.bundle.manifest.windows[levels:], bound)
    if words:
        return f"{graph}: {words}"
    phase = _phase_in(trunk, subject, frame)
    suspects = layers_of_trunk(subject, trunk, Precision.FP32, frame, phase)
    if subject.traced is not None:
        right = layers_of_network(subject, subject.traced, frame, frame.case.phase, levels)
    else:
        right = layers_of_model(subject, frame, phase, trunk.levels)
    layer = first_that_differs(suspects, right)
    if layer:
        return f"{graph}: {layer}"
    return _UNKNOWN if subject.network is None else f"{graph}: after the last layer"


def in_model(subject: Subject, trunk: TrunkRecord, frame: Frame, whole: NDArray[np.float32]) -> str:
    """Why ``model.onnx`` differs from PyTorch, given its logits of the whole frame."""
    assert frame.case is not None
    assert frame.logits is not None
    manifest, bound = subject.bundle.manifest, subject.tolerance(Precision.FP32).logits
    levels = levels_within(subject.bundle.manifest.windows, frame.case.window)
    assert levels is not None
    (row, column), (h, w) = frame.case.phase, frame.case.window
    for other in ((r, c) for r in range(h) for c in range(w) if (r, c) != (row, column)):
        held = whole[:, other[0] :: h, other[1] :: w]
        if held.shape == frame.logits.shape and logit_error(held, frame.logits) <= bound:
            return f"{manifest.model}: phase {other} holds what belongs to phase {(row, column)}"
    words = exchanged_phases(whole[:, row::h, column::w], frame.logits, manifest.windows[levels:], bound)
    if words:
        return f"{manifest.model}: {words}"
    phase = _phase_in(trunk, subject, frame)
    suspects = layers_of_model(subject, frame, phase, trunk.levels)
    if subject.traced is not None:
        right = layers_of_network(subject, subject.traced, frame, frame.case.phase, levels)
    else:
        right = layers_of_trunk(subject, trunk, Precision.FP32, frame, phase)
    layer = first_that_differs(suspects, right)
    if layer:
        first = layer.startswith(f"{next(iter(suspects))} ")
        before = fault_before_first_layer(subject, frame) if first else None
        return f"{manifest.model}: {before or layer}"
    return _UNKNOWN if subject.network is None else f"{manifest.model}: after the last layer"


def in_merge(
    subject: Subject, trunk: TrunkRecord, frame: Frame, merged: NDArray[np.float32], whole: NDArray[np.float32]
) -> str:
    """Why ``model.onnx`` and the merged phases differ."""
    manifest = subject.bundle.manifest
    words = exchanged_phases(whole, merged, manifest.windows, subject.tolerance(Precision.FP32).logits)
    if words:
        return f"{manifest.model}: {words}"
    phase = (0, 0)
    layer = first_that_differs(
        layers_of_trunk(subject, trunk, Precision.FP32, frame, phase),
        layers_of_model(subject, frame, phase, trunk.levels),
    )
    if layer:
        return f"{manifest.model} and {trunk.graphs[Precision.FP32]} part at {layer}"
    window = manifest.grid(trunk).window
    errors = np.abs(merged - whole).max(0)
    worst = max(
        ((r, c) for r in range(window[0]) for c in range(window[1])),
        key=lambda at: float(errors[at[0] :: window[0], at[1] :: window[1]].max()),
    )
    return f"the merge: phase {worst} differs most"


def in_precision(subject: Subject, trunk: TrunkRecord, precision: Precision, frame: Frame, phase: Phase) -> str:
    """The first layer of a trunk that leaves the tolerance of its precision."""
    bound = subject.tolerance(precision).logits
    exact = layers_of_trunk(subject, trunk, Precision.FP32, frame, phase)
    for name, value in layers_of_trunk(subject, trunk, precision, frame, phase).items():
        if not np.isfinite(value.values).all():
            return f"{trunk.graphs[precision]}: {name} is not finite"
        error = value.error(exact[name]) if name in exact else None
        if error is not None and not error <= bound:
            return f"{trunk.graphs[precision]}: {name} (relative error {error:.2g})"
    return f"{trunk.graphs[precision]}: after the last layer"


def at_phase(subject: Subject, trunk: TrunkRecord, precision: Precision, phase: Phase) -> str:
    """The first layer of a trunk that differs at one phase of the first frame: from ``model.onnx``, or in a lower
    precision from its own fp32 graph."""
    frame = subject.frames[0]
    if precision is not Precision.FP32:
        return in_precision(subject, trunk, precision, frame, phase).partition(": ")[2]
    suspects = layers_of_trunk(subject, trunk, precision, frame, phase)
    layer = first_that_differs(suspects, layers_of_model(subject, frame, phase, trunk.levels))
    return layer or "after the last layer, or on the small frame alone"


def in_output(subject: Subject, trunk: TrunkRecord, output: NDArray[np.generic], expected: NDArray[np.generic]) -> str:
    """What the merges and the argmax of a trunk did to its logits."""
    windows = subject.bundle.manifest.windows[trunk.levels :]
    grown = output if output.ndim == 3 else output[None]
    wanted = expected if expected.ndim == 3 else expected[None]
    words = exchanged_phases(np.asarray(grown, np.float32), np.asarray(wanted, np.float32), windows, 1e-6)
    if words:
        return f", after the logits: {words}"
    if output.ndim == 2:
        shift = shift_of_labels(np.asarray(output, np.int64), np.asarray(expected, np.int64))
        if shift is not None:
            return f", after the logits: labels are shifted by {shift} (rows, columns)"
    return ", after the logits"


def layer_errors(subject: Subject) -> dict[Precision, dict[str, float]]:
    """The error of every layer in every precision, at one phase of the trunk with the smallest phases.

    Relative to the layer's largest value in fp32.
    """
    trunks = [trunk for trunk in subject.bundle.manifest.trunks if len(trunk.graphs) > 1]
    if not trunks:
        return {}
    trunk = max(trunks, key=lambda trunk: trunk.levels)
    frame, phase = subject.judged[0], (0, 0)
    # What breaks here broke in the checks of the trunk, too: there it is a failure, here a figure that is absent.
    exact = attempted(partial(layers_of_trunk, subject, trunk, Precision.FP32, frame, phase))
    if isinstance(exact, BackendError):
        return {}
    errors: dict[Precision, dict[str, float]] = {}
    for precision in runnable(trunk)[1:]:
        found = attempted(partial(layers_of_trunk, subject, trunk, precision, frame, phase))
        if isinstance(found, BackendError):
            continue
        known = {name: value.error(exact[name]) for name, value in found.items() if name in exact}
        errors[precision] = {name: error for name, error in known.items() if error is not None}
    return errors


def _phase_in(trunk: TrunkRecord, subject: Subject, frame: Frame) -> Phase:
    """The trunk's phase that holds the first pixel of the frame's case."""
    assert frame.case is not None
    window = subject.bundle.manifest.grid(trunk).window
    return frame.case.phase[0] % window[0], frame.case.phase[1] % window[1]
