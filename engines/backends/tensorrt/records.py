"""Build records: what an engine was built from, with and for; the engine that is there already, and one's equal."""

from __future__ import annotations

import platform
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import msgspec

from engines.backends.tensorrt.builder import BuiltEngine
from engines.backends.tensorrt.flavours import Flavour
from engines.backends.tensorrt.machine import Machine
from engines.backends.tensorrt.settings import BuildConfig
from engines.backends.tensorrt.targets import Target
from engines.bundle.bundle import Bundle
from engines.bundle.comparing import build_record_of
from engines.bundle.contents import record_of
from engines.bundle.manifest import EngineRecord
from engines.bundle.records import (
    BuildRecord,
    EngineLayers,
    Fingerprint,
    OutputDigest,
    Tactic,
    Tactics,
    builtins_from_record,
    field_differences,
)
from engines.errors import BundleError, CheckFailed, InputError


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


def held_engine(
    bundle: Bundle, identity: dict[str, Any], serves: Callable[[BuildRecord], bool] = lambda record: True
) -> tuple[EngineRecord, BuildRecord] | None:
    """The bundle's engine of the same build that ``serves``, with its record; ``None`` where there is none.

    The record must be of the very plans that are listed: an engine does not vouch for itself. A record of another
    version of smp-deploy is none of the same build.
    """
    for engine in bundle.engines:
        with suppress(BundleError):
            record = build_record_of(bundle, engine)
            held = builtins_from_record(record)
            same = all(held[key] == value for key, value in identity.items())
            plans = (record.plan_sha256, record.prepare_plan_sha256)
            listed = tuple(bundle.files[name].sha256 for name in (engine.engine, engine.prepare))
            if same and plans == listed and serves(record):
                return engine, record
    return None


def record_of_build(
    identity: dict[str, Any],
    config: BuildConfig,
    target: Target,
    built: tuple[BuiltEngine, BuiltEngine],
    outputs: list[OutputDigest] | str,
    smp_deploy: str,
    *,
    timed: bool,
) -> BuildRecord:
    """The build record: identity, versions, what was built and how long it took.

    ``built`` are the engines of the trunk and of ``prepare.onnx``, ``outputs`` what they give for the reference frames,
    ``smp_deploy`` is the version at work, and ``timed`` says whether this TensorRT measures its kernels, and so uses a
    timing cache.
    """
    trunk, prepare = built
    tactics = None
    if trunk.tactics is not None and prepare.tactics is not None:
        tactics = Tactics(trunk=list(trunk.tactics), prepare=list(prepare.tactics))
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
        "tactics": msgspec.to_builtins(tactics),
        "fingerprint": msgspec.to_builtins(
            Fingerprint(trunk=trunk.layers, prepare=prepare.layers, outputs=outputs),
        ),
    }
    return msgspec.convert(record, BuildRecord)


def tactics_to_reproduce(record: BuildRecord, identity: dict[str, Any], name: str) -> Tactics:
    """The tactics of a record that is of the same build as ``identity``; ``name`` is the record's in messages.

    Names of graphs do not count, their content does; nor does what cannot change an engine, such as the version of
    Python. TensorRT's version and the device do: the keys of tactics are of one version, and kernels of one kind of
    GPU. Raises :class:`InputError` that says what differs.
    """
    if record.tactics is None:
        raise InputError(f"{name} has no tactics to build with: make it with record_tactics=True")
    held = builtins_from_record(record)
    counting = [key for key in identity if key not in _NAMES]
    differences = [
        f"{found.what} is {_shown(found.there)} there and {_shown(found.here)} here"
        for found in field_differences({key: identity[key] for key in counting}, {key: held[key] for key in counting})
    ]
    if differences:
        raise InputError(
            f"{name} is the record of another build, and cannot be built again here: {_joined(differences)}"
        )
    return record.tactics


def same_tactics(record: BuildRecord, other: BuildRecord) -> bool:
    """Whether both name the same kernels for the same keys; how long they took may differ."""

    def chosen(tactics: list[Tactic]) -> list[tuple[str, str]]:
        return [(tactic.key, tactic.tactic) for tactic in tactics]

    if record.tactics is None or other.tactics is None:
        return False
    held, wanted = record.tactics, other.tactics
    return chosen(held.trunk) == chosen(wanted.trunk) and chosen(held.prepare) == chosen(wanted.prepare)


def check_reproduced(record: BuildRecord, built: BuildRecord, name: str) -> None:
    """Raise :class:`CheckFailed` where layers or outputs were read both there and here, and differ.

    Kernels may be the same and layers not: which layouts lie between them is not in a timing cache.
    """
    theirs, ours = record.fingerprint, built.fingerprint
    for graph, held, found in (("trunk", theirs.trunk, ours.trunk), ("prepare", theirs.prepare, ours.prepare)):
        if isinstance(held, EngineLayers) and isinstance(found, EngineLayers) and held.sha256 != found.sha256:
            others = [layer.name for layer in found.layers if layer not in held.layers]
            what = f"{len(others)} are others: {_joined(others)}" if others else "some are missing, or in another order"
            raise CheckFailed(f"the engine of {graph} has not the layers that {name} says; {what}")
    if isinstance(theirs.outputs, list) and isinstance(ours.outputs, list):
        known = {digest.frame_sha256: digest.output_sha256 for digest in theirs.outputs}
        changed = [
            digest.frame
            for digest in ours.outputs
            if known.get(digest.frame_sha256, digest.output_sha256) != digest.output_sha256
        ]
        if changed:
            raise CheckFailed(f"the engine does not give what {name} says, for {_joined(changed)}")


_NAMES = ("graph", "prepare")
_SHOWN = 5


def _shown(text: str | None) -> str:
    if text is None:
        return "none"
    return text if len(text) <= 40 else f"{text[:16]}..."


def _joined(texts: list[str]) -> str:
    more = f"; and {len(texts) - _SHOWN} more" if len(texts) > _SHOWN else ""
    return "; ".join(texts[:_SHOWN]) + more
