"""Verification of a bundle on the machine that exports: PyTorch against every graph, in ONNX Runtime.

One file for each kind of check. A check takes what it needs as arguments: the :class:`Subject`, which is all that is
given, and what others have found; :func:`checks_of` puts them together.
"""

from collections.abc import Generator

import numpy as np
from numpy.typing import NDArray

from converters.verification.agreements import ComparedLabels, agreement_of, compared_labels
from converters.verification.chain import frame_checks, other_trunk_checks, unrunnable_checks, whole_checks
from converters.verification.constants import constant_checks
from converters.verification.edges import edge_checks
from converters.verification.engine_hops import engine_checks
from converters.verification.findings import Findings
from converters.verification.inputs import input_checks
from converters.verification.labels import label_checks
from converters.verification.layouts import layout_checks
from converters.verification.locating import layer_errors
from converters.verification.magnitudes import Magnitudes, largest_magnitudes, magnitude_checks, magnitudes_of
from converters.verification.origins import origin_checks
from converters.verification.precisions import precision_checks
from converters.verification.runs import Ran
from converters.verification.samples import Sampled, real_frame_checks, sampled_phases
from converters.verification.small_frames import left_out, small_frame_checks
from converters.verification.subject import IGNORED, Frame, Subject, reference_frames
from converters.verification.walking import walked_frames
from engines.bundle.records import Check
from engines.errors import BackendError
from engines.schedules.schedule import Precision

__all__ = ["IGNORED", "Findings", "Frame", "Subject", "checks_of", "reference_frames"]


def checks_of(subject: Subject) -> Generator[Check, None, Findings]:
    """Make the checks one after the other, and give each as soon as it is made; return what they have seen.

    What is cheap and explains the rest comes first.
    """
    manifest = subject.bundle.manifest
    yield from layout_checks(subject)
    yield from origin_checks(subject)
    yield from input_checks(subject)
    yield from precision_checks(subject)
    yield from constant_checks(subject)

    yield from unrunnable_checks(subject)
    first: Ran | None = None
    sampled: Sampled | None = None
    broken: dict[Precision, BackendError] = {}
    magnitudes_by_frame: list[Magnitudes] = []
    compared: list[ComparedLabels] = []
    feeds: list[dict[str, NDArray[np.generic]]] = []
    outputs: dict[str, list[dict[str, NDArray[np.generic]]]] = {}
    for walked in walked_frames(subject):
        yield from frame_checks(subject, walked)
        if first is None:
            first, sampled = walked.exact, walked.sampled(sampled_phases(walked.grid, subject.rotation))
        broken = walked.broken | broken
        magnitudes_by_frame.append(magnitudes_of(walked.results))
        compared += compared_labels(subject, walked)
        if walked.broken:
            # Feeds and outputs belong together.
            continue
        feeds.append(walked.feed)
        for precision, output in walked.outputs.items():
            outputs.setdefault(precision.value, []).append({manifest.outputs.value: output})
    # Only now, with the sessions of the trunk closed: the whole graph takes the most memory of all.
    assert first is not None, "there is always a frame"
    yield from whole_checks(subject, first)
    yield from other_trunk_checks(subject)

    magnitudes = largest_magnitudes(magnitudes_by_frame)
    yield from magnitude_checks(subject, magnitudes, broken)
    agreements = {
        precision: agreement_of(subject, [labels for labels in compared if labels.precision is precision])
        for precision in subject.precisions
        if any(labels.precision is precision for labels in compared)
    }
    yield from label_checks(subject, compared, agreements, broken)
    if sampled is not None:
        yield from real_frame_checks(subject, sampled)
    if subject.quick:
        yield left_out(subject)
    else:
        yield from edge_checks(subject)
        yield from small_frame_checks(subject)
    yield from engine_checks(subject)
    return Findings(
        manifest.grid(manifest.trunk()).window,
        magnitudes,
        layer_errors(subject),
        agreements,
        compared,
        feeds,
        outputs,
    )
