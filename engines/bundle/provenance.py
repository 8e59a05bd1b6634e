"""Whether an engine is what its build record says: built from the bundle's graphs and weights."""

from __future__ import annotations

from engines.bundle.bundle import Bundle
from engines.bundle.manifest import EngineRecord
from engines.bundle.records import BuildRecord


def other_files(bundle: Bundle, engine: EngineRecord, record: BuildRecord) -> list[str]:
    """Which of weights, graph, prepare, plan and plan of prepare are others in the build record than in the bundle."""
    files, manifest = bundle.files, bundle.manifest
    trunk = manifest.trunk_of(engine.schedule)
    expected = {
        "weights": (record.weights_sha256, manifest.weights),
        "graph": (record.graph_sha256, trunk.graphs[engine.precision.graph]),
        "prepare": (record.prepare_sha256, manifest.prepare),
        "plan": (record.plan_sha256, engine.engine),
        "plan of prepare": (record.prepare_plan_sha256, engine.prepare),
    }
    return [what for what, (held, name) in expected.items() if held != files[name].sha256]
