"""Nodes that ONNX Runtime puts into a graph to copy between CPU and GPU: one in a trunk stalls every sub-batch."""

from __future__ import annotations

import json
import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from engines import Bundle, Precision
from engines.backends.onnxruntime.cuda import provider_options
from engines.backends.onnxruntime.sessions import Provider, import_onnxruntime
from engines.bundle.manifest import TrunkRecord
from engines.errors import BackendError, SmpDeployError
from gpu.results import Job, Row
from gpu.sessions import Subject

COPIES = "copies"

PROVIDERS = {"onnxruntime": Provider.CPU, "onnxruntime-cuda": Provider.CUDA}
"""Of the backends that run graphs in ONNX Runtime."""


def copies_jobs(subject: Subject) -> list[Job]:
    """One for each trunk, where the backend is one of ONNX Runtime's."""
    provider = PROVIDERS.get(subject.backend.name)
    graph = subject.backend.graph_precision(subject.precision)
    trunks = [trunk for trunk in subject.bundle.manifest.trunks if graph in trunk.graphs]
    return [] if provider is None else [_job(subject, trunk, provider) for trunk in trunks]


def _job(subject: Subject, trunk: TrunkRecord, provider: Provider) -> Job:
    def measure(row: Row) -> Row:
        try:
            nodes = profiled_nodes(subject.bundle, trunk, subject.precision, provider)
        except SmpDeployError as error:
            return row.ended("not run", str(error))
        found = copies(nodes)
        reason = f"copied: {'; '.join(found)}" if found else ""
        return row.ended("failed" if found else "passed", reason, nodes=len(nodes), copies=len(found))

    return Job(subject.row(COPIES, f"levels {trunk.levels}, {trunk.lowering.value}"), measure)


def profiled_nodes(
    bundle: Bundle, trunk: TrunkRecord, precision: Precision, provider: Provider
) -> list[dict[str, Any]]:
    """The nodes of a trunk that ran, for one phase, as ONNX Runtime's profiler tells of them.

    Raises :class:`BackendError` where another provider would take the place of the one that is asked for.
    """
    ort = import_onnxruntime()
    named = {} if provider is Provider.CPU else provider_options(0, 0, precision, None)
    # Of no executor, so on a stream of its own.
    named.pop("user_compute_stream", None)
    grid = bundle.manifest.grid(trunk)
    feed: dict[str, Any] = {"windows": np.zeros((1, 3, *grid.crop_size), np.float32)}
    if grid.inner_windows:
        feed["offsets"] = np.zeros((len(grid.inner_windows), 2), np.int64)
    with tempfile.TemporaryDirectory() as folder:
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = ort.InferenceSession(
            str(bundle.file(bundle.trunk_graph(trunk, precision))),
            options,
            providers=[(provider.value, named)],
            enable_fallback=0,
        )
        if session.get_providers()[0] != provider.value:
            raise BackendError(f"ONNX Runtime cannot use {provider.value} here")
        session.run(None, feed)
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    return nodes_of(events)


def nodes_of(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The events of nodes, each node once."""
    return list({event["name"]: event for event in events if event.get("cat") == "Node" and _ran(event)}.values())


def _ran(event: dict[str, Any]) -> bool:
    return str(event["name"]).endswith("_kernel_time")


def copies(nodes: list[dict[str, Any]]) -> list[str]:
    """Those that copy between CPU and GPU: what they are called, which way, and how many bytes."""
    return [
        f"{str(node['name']).removesuffix('_kernel_time')} ({node['args']['op_name']}, {_bytes(node)} bytes)"
        for node in nodes
        if str(node["args"].get("op_name", "")).startswith("Memcpy")
    ]


def _bytes(node: dict[str, Any]) -> int:
    """Of the outputs: ``[{"float": [1, 3, 64]}]``, elements of at most eight bytes."""
    sizes = {"float": 4, "float16": 2, "int64": 8, "int32": 4, "uint8": 1, "bool": 1, "double": 8}
    return sum(
        sizes.get(kind, 8) * math.prod(shape)
        for value in node["args"].get("output_type_shape", ())
        for kind, shape in value.items()
    )
