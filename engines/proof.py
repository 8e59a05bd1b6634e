"""The proof on the target: a backend against the stored outputs of PyTorch, without PyTorch and without ``onnx``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
import numpy as np

from engines.bundle.bundle import Bundle
from engines.bundle.manifest import EngineRecord, OutputKind
from engines.errors import BundleError
from engines.parity.checks import Check, Kind, label_agreement, relative_error, softmax, tolerance_of
from engines.parity.metrics import by_phase, shift_of_labels
from engines.schedules.schedule import Precision, Schedule
from engines.session import Session


def provenance_checks(bundle: Bundle) -> Iterator[Check]:
    """Every engine's build record against the bundle: built from these graphs and these weights."""
    for engine in bundle.manifest.engines:
        yield _provenance_check(bundle, engine)


def _provenance_check(bundle: Bundle, engine: EngineRecord) -> Check:
    record = _record(bundle, engine)
    files, manifest = bundle.manifest.files, bundle.manifest
    trunk = manifest.trunk_of(engine.schedule)
    expected = {
        "weights": (record.get("weights_sha256"), files[manifest.weights].sha256),
        "graph": (record.get("graph_sha256"), files[trunk.graphs[engine.precision]].sha256),
        "prepare": (record.get("prepare_sha256"), files[manifest.prepare].sha256),
        "plan": (record.get("plan_sha256"), files[engine.engine].sha256),
        "plan of prepare": (record.get("prepare_plan_sha256"), files[engine.prepare].sha256),
    }
    wrong = [name for name, (held, wanted) in expected.items() if held != wanted]
    effective = str(record.get("effective_precision", ""))
    detail = "of graph, weights, prepare and both plans: hashes that are not the bundle's"
    if effective:
        detail += f"; the engine computes in {effective}"
    check = Check.at_most("provenance of the engine", engine.engine, len(wrong), 0, detail, Kind.PROVENANCE)
    return check.located(f"{engine.engine}: built from other {' and '.join(wrong)}") if wrong else check


def backend_checks(
    bundle: Bundle,
    backend: str,
    precision: Precision,
    *,
    schedule: Schedule | None = None,
    overrides: Mapping[str, float] | None = None,
) -> Iterator[Check]:
    """A session's predictions against PyTorch's outputs for the bundle's reference frames.

    Raises what :meth:`Session.open` raises: a backend that was asked for and is not there is an error.
    """
    if not bundle.manifest.reference:
        raise BundleError(f"{bundle.path} has no reference outputs to compare with; export it again")
    tolerance, kind = tolerance_of(precision, overrides), bundle.manifest.outputs
    name = f"PyTorch -> {backend}, {precision.value}"
    with Session.open(bundle, backend, precision=precision, schedule=schedule) as session:
        for index, case in enumerate(bundle.manifest.reference):
            image, logits = bundle.reference_arrays(case)
            prediction = session.predict(image)
            (row, column), (h, w) = case.phase, case.window
            actual = prediction[..., row::h, column::w]
            # The padded pixels of the phase are cropped in a prediction, so they are cropped here too.
            expected = logits[:, : actual.shape[-2], : actual.shape[-1]]
            where = f"reference frame {index}, phase {case.phase}, {session.schedule}"
            if kind is not OutputKind.LABELS:
                wanted = expected if kind is OutputKind.LOGITS else softmax(expected)
                error = relative_error(np.asarray(actual, np.float32), wanted)
                yield Check.at_most(name, where, error, tolerance.logits, f"relative error of {kind.value}")
                continue
            agreement = label_agreement(actual, expected, tolerance.of_ties)
            check = Check.at_least(
                name, where, agreement.judged(tolerance), tolerance.label_agreement, f"label agreement: {agreement}"
            )
            yield check.located(_location(bundle, actual, expected.argmax(0), backend)) if check.failed else check


def _location(bundle: Bundle, actual: np.ndarray[Any, Any], expected: np.ndarray[Any, Any], backend: str) -> str:
    shift = shift_of_labels(actual.astype(np.int64), expected)
    if shift is not None:
        return f"{backend}: labels are shifted by {shift} (rows, columns)"
    window = bundle.manifest.windows[-1] if bundle.manifest.windows else (1, 1)
    errors = by_phase(actual != expected, window)
    row, column = np.unravel_index(int(np.nanargmax(errors)), errors.shape)
    return f"{backend}: {np.nanmax(errors):.1%} of the labels at phase {(int(row), int(column))} differ"


def _record(bundle: Bundle, engine: EngineRecord) -> dict[str, Any]:
    record = msgspec.json.decode(bundle.file(engine.record).read_bytes())
    if not isinstance(record, dict):
        raise BundleError(f"{engine.record} is no build record: it holds no JSON object")
    return record
