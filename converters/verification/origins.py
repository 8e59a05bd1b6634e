"""Whose the weights and the stored logits of a bundle are."""

from __future__ import annotations

from collections.abc import Iterator

from converters.reference import digest_of_parameters
from converters.verification.subject import Subject
from engines.bundle.manifest import MANIFEST_NAME
from engines.bundle.records import Check, Kind, Quantity
from engines.parity.checks import Question


def origin_checks(subject: Subject) -> Iterator[Check]:
    """The network against the digest of its parameters that the export wrote.

    Without the network nothing here is proven, and it is said: stored logits that were computed from faulty graphs
    agree with them.
    """
    manifest = subject.bundle.manifest
    record = manifest.network
    stored = [case.logits for case in manifest.reference] + ([manifest.edges.logits] if manifest.edges else [])
    question = Question(
        kind=Kind.PROVENANCE,
        name=f"network -> {manifest.weights} and stored logits",
        subject=", ".join(stored),
        quantity=Quantity.OTHER_HASHES,
        tolerance=0,
        graph=manifest.weights,
    )
    if subject.network is None:
        of = f" (SHA-256 {record.checkpoint_sha256})" if record.checkpoint_sha256 else ""
        yield question.not_run(
            f"only the network of the checkpoint{of} shows that weights and stored logits are its own, and were not "
            "made from each other; the other checks take them for right"
        )
        return
    if record.parameters_sha256 is None:
        yield question.not_run(f"{MANIFEST_NAME} does not say which parameters it was exported from")
        return
    other = digest_of_parameters(subject.network) != record.parameters_sha256
    check = question.measured(int(other), "of the parameters and buffers")
    yield check.located(f"{MANIFEST_NAME}: the bundle was exported from other parameters") if other else check
