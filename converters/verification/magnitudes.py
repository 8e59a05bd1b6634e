"""What is not finite, and what half precision cannot hold, with the layer it begins in."""

from __future__ import annotations

import math
from collections.abc import Iterator

from converters.verification.subject import Subject, runnable
from engines.backends.onnxruntime.cpu import ONNXRUNTIME_CPU
from engines.parity.checks import LARGEST_FP16, Check, Kind


def magnitude_checks(subject: Subject) -> Iterator[Check]:
    """The largest value of every tensor of the default trunk, over all phases that the chain has run."""
    layers, graphs = subject.findings.layers, subject.bundle.manifest.trunk().graphs
    runs = runnable(subject.bundle.manifest.trunk())
    for precision, graph in graphs.items():
        if precision not in runs:
            reason = ONNXRUNTIME_CPU.refusal(precision) or ""
            yield Check.not_run(f"NaN and Inf in {graph}", _on(subject), 0, reason, Kind.MAGNITUDE)
            continue
        held = {
            name: layer.magnitude if precision.value == "fp32" else layer.largest.get(precision.value, 0.0)
            for name, layer in layers.items()
        }
        spoilt = [name for name, magnitude in held.items() if not math.isfinite(magnitude)]
        check = Check.at_most(
            f"NaN and Inf in {graph}", _on(subject), len(spoilt), 0, "tensors that are not finite", Kind.MAGNITUDE
        )
        yield check.located(f"{graph}: {spoilt[0]}") if spoilt else check
    if any(precision.value == "fp16" for precision in graphs):
        largest = max((layer.magnitude for layer in layers.values()), default=0.0)
        over = [name for name, layer in layers.items() if not layer.magnitude <= LARGEST_FP16]
        at = over[0] if over else max(layers, key=lambda name: layers[name].magnitude, default="")
        check = Check.at_most(
            "overflow of fp16",
            _on(subject),
            largest,
            LARGEST_FP16,
            f"largest value in fp32, in {at}",
            Kind.MAGNITUDE,
        )
        yield check.located(at) if over else check


def _on(subject: Subject) -> str:
    return f"{len(subject.frames)} frame{'s' if len(subject.frames) > 1 else ''}"
