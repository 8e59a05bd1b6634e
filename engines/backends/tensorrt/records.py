"""Build records: what an engine was built from, with and for; and the engine that is there already."""

from __future__ import annotations

import platform
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import msgspec

from engines.backends.tensorrt.builder import BuiltEngine
from engines.backends.tensorrt.flavours import Flavour
from engines.backends.tensorrt.machine import Machine
from engines.backends.tensorrt.settings import BuildConfig
from engines.backends.tensorrt.targets import Target
from engines.bundle.bundle import Bundle, record_of
from engines.bundle.manifest import EngineRecord
from engines.bundle.records import BuildRecord, builtins_from_record, record_from_json
from engines.errors import BundleError


@dataclass(frozen=True)
class BuildInputs:
    """Names of the bundle's files that an engine is built from."""

    graph: str
    prepare: str
    weights: str

    def record(self, bundle: Bundle) -> dict[str, str]:
        """Names of the graphs, and the hashes of all."""
        files = bundle.manifest.files
        return {
            "graph": self.graph,
            "graph_sha256": files[self.graph].sha256,
            "prepare": self.prepare,
            "prepare_sha256": files[self.prepare].sha256,
            "weights_sha256": files[self.weights].sha256,
        }


def identity_of_build(
    bundle: Bundle,
    inputs: BuildInputs,
    config: BuildConfig,
    built_with: tuple[Flavour, str],
    machine: Machine,
    gpu: int = 0,
) -> dict[str, Any]:
    """What makes a build the same build: its files, TensorRT, device (the index of its GPU) and flags."""
    if config.precision is None:
        raise ValueError("an engine of a trunk has a precision")
    flavour, version = built_with
    return {
        "backend": flavour.name,
        "version": version,
        "precision": config.precision.value,
        "sub_batch": config.sub_batch,
        **inputs.record(bundle),
        "device": machine.record(gpu),
        "flags": config.options.flags(),
    }


def held_engine(bundle: Bundle, identity: dict[str, Any]) -> tuple[EngineRecord, BuildRecord] | None:
    """The bundle's engine of the same build, with its record; ``None`` where there is none.

    The bundle is to be an opened one: the hashes of its engines are then verified. A record of another version of
    smp-deploy is none of the same build.
    """
    for engine in bundle.engines:
        with suppress(BundleError):
            record = record_from_json(bundle.content(engine.record), BuildRecord, engine.record)
            held = builtins_from_record(record)
            if all(held[key] == value for key, value in identity.items()):
                return engine, record
    return None


def record_of_build(
    identity: dict[str, Any],
    config: BuildConfig,
    target: Target,
    built: tuple[BuiltEngine, BuiltEngine],
    smp_deploy: str,
    *,
    timed: bool,
) -> BuildRecord:
    """The build record: identity, versions, what was built and how long it took.

    ``built`` are the engines of the trunk and of ``prepare.onnx``, ``smp_deploy`` is the version at work, and
    ``timed`` says whether this TensorRT measures its kernels, and so uses a timing cache.
    """
    trunk, prepare = built
    record = {
        **identity,
        "smp_deploy": smp_deploy,
        "python": platform.python_version(),
        "target": target.value,
        "strongly_typed": True,
        "convolutions": trunk.precisions,
        "effective_precision": trunk.effective,
        "input_shape": trunk.input_shape,
        "timing_cache": timed and config.options.timing_cache is not None,
        "plan_bytes": len(trunk.plan),
        "plan_sha256": record_of(trunk.plan).sha256,
        "prepare_plan_bytes": len(prepare.plan),
        "prepare_plan_sha256": record_of(prepare.plan).sha256,
        "build_s": round(trunk.build_s + prepare.build_s, 3),
    }
    return msgspec.convert(record, BuildRecord)
