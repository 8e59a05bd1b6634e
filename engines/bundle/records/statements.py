"""What records say, as in-toto statements: which files, by their digests, and what holds of them.

A statement is not signed. :func:`payload_of` gives the bytes, and :data:`PAYLOAD_TYPE` the type, for an envelope (DSSE)
that is. Nothing is read here: a statement says what the record says, of the bytes that the record saw.

Formats: in-toto Statement v1; SLSA provenance v1 for exports and engines; in-toto test result v0.1 for validations. A
benchmark has a predicate of its own: no published one holds figures with their units. SCAI, the nearest, holds names of
attributes, and a test result needs a verdict, which a measurement has none of.
"""

from __future__ import annotations

import hashlib
import re
from base64 import b64encode
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import msgspec

from engines.bundle.manifest import MANIFEST_NAME, EngineRecord, Manifest
from engines.bundle.records.bench import BenchRecord
from engines.bundle.records.build import BuildRecord
from engines.bundle.records.checks import Check, Status
from engines.bundle.records.codec import builtins_from_record
from engines.bundle.records.validation import Validation

PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT = "https://in-toto.io/Statement/v1"
PROVENANCE = "https://slsa.dev/provenance/v1"
TEST_RESULT = "https://in-toto.io/attestation/test-result/v0.1"

# A package URL is a URI that depends on no host: it outlives any address of the project.
_OURS = "pkg:pypi/smp-deploy#attestations"
BENCHMARK = f"{_OURS}/benchmark/v1"
EXPORT = f"{_OURS}/export/v1"
ENGINE_BUILD = f"{_OURS}/engine-build/v1"
BUILDER = f"{_OURS}/builder/v1"
"""smp-deploy, run by whoever signs; a build platform has a URI of its own."""


class _Part(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """Every part of a statement; what is empty is left out."""


class Resource(_Part, frozen=True, kw_only=True):
    """A file or package: in-toto's ResourceDescriptor. One of digest, URI and content is given."""

    name: str = ""
    uri: str = ""
    digest: dict[str, str] = {}
    content: str = ""
    """Base64."""
    media_type: str = ""


class TestResult(_Part, frozen=True, kw_only=True):
    """The predicate of a validation."""

    __test__ = False  # pytest would collect it

    result: str
    """``"PASSED"``, ``"WARNED"`` or ``"FAILED"``."""
    configuration: list[Resource]
    passed_tests: list[str]
    warned_tests: list[str]
    failed_tests: list[str]


class BuildDefinition(_Part, frozen=True, kw_only=True):
    """All inputs of a build."""

    build_type: str
    external_parameters: dict[str, Any]
    """What was asked for."""
    internal_parameters: dict[str, Any] = {}
    """What followed from the machine."""
    resolved_dependencies: list[Resource] = []


class Builder(_Part, frozen=True, kw_only=True):
    """Who built."""

    id: str
    version: dict[str, str]


class BuildMetadata(_Part, frozen=True, kw_only=True):
    """When; ISO 8601, UTC."""

    started_on: str = ""
    finished_on: str = ""


class RunDetails(_Part, frozen=True, kw_only=True):
    """One run of a build."""

    builder: Builder
    metadata: BuildMetadata | None = None


class Provenance(_Part, frozen=True, kw_only=True):
    """The predicate of an export and of an engine's build."""

    build_definition: BuildDefinition
    run_details: RunDetails


class Statement(_Part, frozen=True, kw_only=True):
    """What holds of which files."""

    type: str = msgspec.field(name="_type")
    subject: list[Resource]
    predicate_type: str
    predicate: Provenance | TestResult | BenchRecord


def payload_of(statement: Statement) -> bytes:
    """The JSON document that is signed: keys sorted, no spaces, so equal statements have equal bytes."""
    return msgspec.json.encode(builtins_from_record(statement), order="sorted")


def statement_of_export(
    manifest: Manifest, manifest_sha256: str, *, when: BuildMetadata | None = None, builder: str = BUILDER
) -> Statement:
    """Where a bundle comes from.

    Its subjects are the manifest and every file that it lists. Engines, which are built later, each have a statement of
    their own. ``when`` is the time of the export, which a manifest does not say.
    """
    digests = {name: known.sha256 for name, known in manifest.files.items()}
    source, frame, calibration = manifest.network, manifest.input, manifest.calibration
    asked = {
        "product": manifest.product,
        "version": manifest.version,
        "source": source.source,
        "width": source.width,
        "size": frame.size,
        "mean": frame.mean,
        "std": frame.std,
        "outputs": manifest.outputs,
        "classes": [known.name for known in manifest.classes],
        "precisions": sorted({precision.value for trunk in manifest.trunks for precision in trunk.graphs}),
        "trunks": [{"levels": trunk.levels, "lowering": trunk.lowering} for trunk in manifest.trunks],
        "keepFp32": manifest.keep_fp32,
        "calibration": calibration
        and {"method": calibration.method, "percentile": calibration.percentile, "frames": calibration.frames},
        "opset": manifest.opset,
    }
    checkpoint = source.checkpoint_sha256
    return _provenance(
        {MANIFEST_NAME: manifest_sha256, **digests},
        BuildDefinition(
            build_type=EXPORT,
            external_parameters=_known(asked),
            resolved_dependencies=[
                *([] if checkpoint is None else [Resource(name="checkpoint", digest={"sha256": checkpoint})]),
                *(
                    Resource(name=name, uri=package_url(name, held))
                    for name, held in sorted(manifest.tools.items())
                    if package_url(name)
                ),
            ],
        ),
        Builder(id=builder, version=manifest.tools),
        when,
    )


def statement_of_build(
    record: BuildRecord,
    engine: EngineRecord,
    weights: str,
    *,
    when: BuildMetadata | None = None,
    builder: str = BUILDER,
) -> Statement:
    """Where an engine comes from: both plans, of the graphs and weights that they were built from.

    ``weights`` is the name of that file (:attr:`Manifest.weights`). ``when`` is the time of the build, which a record
    does not say.
    """
    inputs = {
        record.graph: record.graph_sha256,
        record.prepare: record.prepare_sha256,
        weights: record.weights_sha256,
    }
    return _provenance(
        {engine.engine: record.plan_sha256, engine.prepare: record.prepare_plan_sha256},
        BuildDefinition(
            build_type=ENGINE_BUILD,
            external_parameters={
                "backend": record.backend,
                "target": record.target,
                "precision": record.precision,
                "schedule": engine.schedule,
                "flags": record.flags,
            },
            internal_parameters=_known(
                {"device": _known(msgspec.to_builtins(record.device)), "timingCache": record.timing_cache}
            ),
            resolved_dependencies=_resources(inputs),
        ),
        Builder(
            id=builder,
            version={"smp-deploy": record.smp_deploy, "python": record.python, record.backend: record.version},
        ),
        when,
    )


def statement_of_validation(validation: Validation, digests: Mapping[str, str]) -> Statement:
    """What was proven of the files with these SHA-256, by their names: those that the validation saw.

    ``PASSED`` says that every check ran and passed, ``WARNED`` that all that ran passed and some did not run, which are
    named as warned. ``FAILED`` says that one failed, or that nothing was proven at all.
    """
    names: dict[Status, list[str]] = {status: [] for status in Status}
    for check, name in zip(validation.checks, _names(validation.checks), strict=True):
        names[check.status].append(name)
    passed = "WARNED" if names[Status.NOT_RUN] else "PASSED"
    result = passed if validation.verdict is Status.PASSED else "FAILED"
    held_to = {"tolerances": validation.tolerances, "overrides": validation.overrides}
    settings = {
        "frames": validation.frames,
        "outputs": validation.outputs,
        "machine": validation.machine,
        "tools": validation.tools.here,
        "created": validation.created,
    }
    return Statement(
        type=STATEMENT,
        subject=_resources(digests),
        predicate_type=TEST_RESULT,
        predicate=TestResult(
            result=result,
            configuration=[_document("tolerances", held_to), _document("settings", settings), *_resources(digests)],
            passed_tests=names[Status.PASSED],
            warned_tests=names[Status.NOT_RUN],
            failed_tests=names[Status.FAILED],
        ),
    )


def statement_of_bench(record: BenchRecord, digests: Mapping[str, str]) -> Statement:
    """What was measured of the files with these SHA-256, by their names. The predicate is the record."""
    return Statement(type=STATEMENT, subject=_resources(digests), predicate_type=BENCHMARK, predicate=record)


def package_url(name: str, version: str = "") -> str:
    """The package URL of a distribution on PyPI, ``pkg:pypi/torch@2.8.0%2Bcpu``; ``""`` for what is no name of one."""
    if re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?", name) is None:
        return ""
    canonical = re.sub(r"[-_.]+", "-", name).lower()
    return f"pkg:pypi/{canonical}" + (f"@{quote(version, safe='')}" if version else "")


def _provenance(
    digests: Mapping[str, str], definition: BuildDefinition, builder: Builder, when: BuildMetadata | None
) -> Statement:
    details = RunDetails(builder=builder, metadata=when)
    return Statement(
        type=STATEMENT,
        subject=_resources(digests),
        predicate_type=PROVENANCE,
        predicate=Provenance(build_definition=definition, run_details=details),
    )


def _resources(digests: Mapping[str, str]) -> list[Resource]:
    return [Resource(name=name, digest={"sha256": digest}) for name, digest in sorted(digests.items())]


def _document(name: str, held: dict[str, Any]) -> Resource:
    """A small JSON document, held in the statement itself."""
    content = msgspec.json.encode(msgspec.to_builtins(held), order="sorted")
    return Resource(
        name=name,
        digest={"sha256": hashlib.sha256(content).hexdigest()},
        content=b64encode(content).decode(),
        media_type="application/json",
    )


def _names(checks: list[Check]) -> list[str]:
    """A name for each check, no two alike."""
    names: list[str] = []
    for check in checks:
        subject = f", {check.subject}" if check.subject else ""
        name = f"{check.kind.value}: {check.name}{subject}: {check.quantity.value}"
        names.append(name if name not in names else f"{name} [{len(names)}]")
    return names


def _known(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}
