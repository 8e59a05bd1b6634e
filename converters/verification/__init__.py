"""Verification of a bundle on the machine that exports: PyTorch against every graph, in ONNX Runtime.

One file for each kind of check; every check is a function from a :class:`Subject` to checks.
"""

from collections.abc import Callable, Iterator

from converters.verification.chain import chain_checks
from converters.verification.engine_hops import engine_checks
from converters.verification.inputs import input_checks
from converters.verification.labels import label_checks
from converters.verification.layouts import layout_checks
from converters.verification.magnitudes import magnitude_checks
from converters.verification.precisions import precision_checks
from converters.verification.sub_batches import sub_batch_checks
from converters.verification.subject import IGNORED, Findings, Frame, Subject, reference_frames
from engines.parity.checks import Check

__all__ = ["CHECKS", "IGNORED", "Findings", "Frame", "Subject", "checks_of", "reference_frames"]

CHECKS: tuple[Callable[[Subject], Iterator[Check]], ...] = (
    layout_checks,
    input_checks,
    precision_checks,
    chain_checks,
    # These two read what the chain has found.
    magnitude_checks,
    label_checks,
    sub_batch_checks,
    engine_checks,
)
"""In this order: what is cheap and explains the rest comes first."""


def checks_of(subject: Subject) -> Iterator[Check]:
    """Make the checks one after the other, and give each as soon as it is made."""
    for checks in CHECKS:
        yield from checks(subject)
