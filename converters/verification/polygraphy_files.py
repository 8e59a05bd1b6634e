"""Inputs and outputs in Polygraphy's JSON formats, for ``polygraphy run`` and ``polygraphy inspect data``."""

from __future__ import annotations

import shlex
from typing import Any

from converters.verification.findings import Findings
from converters.verification.subject import runnable
from engines.bundle.bundle import REPORTS, Bundle
from engines.errors import MissingDependency

INPUTS = "inputs.json"
"""Name of the feeds of the default trunk, one for each frame."""

OUTPUTS = "outputs.json"
"""Name of what the default trunk gave for them in ONNX Runtime, in every precision."""


def write_polygraphy_files(findings: Findings, bundle: Bundle) -> None:
    """Write both into the bundle's reports. Raises :class:`MissingDependency` and :class:`OutputError`."""
    try:
        from polygraphy.comparator import RunResults
        from polygraphy.json import to_json
    except ImportError as error:
        raise MissingDependency(str(error.name), "export") from error
    results: Any = RunResults()
    for precision, given in findings.outputs.items():
        results.add(given, runner_name=f"smp-deploy-onnxruntime-{precision}")
    bundle.write_report(INPUTS, to_json(findings.feeds).encode())
    bundle.write_report(OUTPUTS, to_json(results).encode())


def polygraphy_commands(bundle: Bundle) -> list[str]:
    """What to type for a look of one's own: the data, and the default trunk against what was stored."""
    trunk = bundle.manifest.trunk()
    reports, graph = bundle.path / REPORTS, bundle.path / bundle.trunk_graph(trunk, runnable(trunk)[-1])
    inputs, outputs = shlex.quote(str(reports / INPUTS)), shlex.quote(str(reports / OUTPUTS))
    return [
        f"polygraphy inspect data {inputs}",
        f"polygraphy run {shlex.quote(str(graph))} --onnxrt --load-inputs {inputs} --load-outputs {outputs}",
    ]
