"""Statements: the published fields, digests of the bytes themselves, and no verdict better than the record's."""

from __future__ import annotations

import hashlib
import json
from base64 import b64decode
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines import Bundle, Lowering, OutputKind, Precision, Schedule
from engines.bundle.manifest import CalibrationRecord, EngineRecord
from engines.bundle.records import (
    VALIDATION_VERSION,
    BenchLength,
    BenchMachine,
    BenchRecord,
    Check,
    Kind,
    Latency,
    PeakMemory,
    Platform,
    Quantity,
    Status,
    Throughput,
    Tolerance,
    ToolVersions,
    ValidatedNetwork,
    Validation,
    counts_of,
    json_from_record,
    verdict_of,
)
from engines.bundle.records.statements import (
    BENCHMARK,
    ENGINE_BUILD,
    EXPORT,
    PAYLOAD_TYPE,
    BuildMetadata,
    Statement,
    package_url,
    payload_of,
    statement_of_bench,
    statement_of_build,
    statement_of_export,
    statement_of_validation,
)
from tests.records import build_record

ENGINE = EngineRecord(
    engine="engines/trunk.engine",
    prepare="engines/prepare.engine",
    record="engines/trunk.json",
    backend="tensorrt-rtx",
    precision=Precision.FP16,
    schedule=Schedule(2, 1, Lowering.RESHAPE),
)
DIGESTS = {"weights.bin": "b" * 64, "manifest.json": "a" * 64}


def told(statement: Statement) -> dict[str, Any]:
    """What a reader of the payload is told."""
    return dict(json.loads(payload_of(statement)))


def resource(name: str, digest: str) -> dict[str, Any]:
    return {"name": name, "digest": {"sha256": digest}}


def check(status: Status, name: str = "PyTorch -> trunk.onnx") -> Check:
    values = {Status.PASSED: 0.5, Status.FAILED: 2.0, Status.NOT_RUN: None}
    return Check(
        kind=Kind.HOP,
        name=name,
        subject="reference frame 0",
        status=status,
        quantity=Quantity.LOGIT_ERROR,
        value=values[status],  # type: ignore[arg-type]
        tolerance=1.0,  # type: ignore[arg-type]
    )


def validation(*checks: Check) -> Validation:
    return Validation(
        record_version=VALIDATION_VERSION,
        bundle="a.bundle",
        verdict=verdict_of(checks),
        counts=counts_of(checks),
        not_proven=[],
        created="2026-01-02T03:04:05+00:00",
        seconds=1.0,
        network=ValidatedNetwork(source="smp-resnet18", parameters=5),
        frame=(64, 96),
        outputs=OutputKind.LABELS,
        frames=["reference frame 0"],
        chain=["model.onnx"],
        tolerances={Precision.FP16: Tolerance(logits=0.01, label_agreement=0.999, ties=0.01)},
        overrides={},
        checks=list(checks),
        window=(4, 4),
        layers=[],
        agreements={},
        overlays=[],
        machine=Platform(system="Linux", python="3.11.7"),
        tools=ToolVersions(at_export={}, here={"torch": "2.8.0"}),
        files={},
        commands=[],
    )


def test_a_build_names_what_was_built_of_what() -> None:
    when = BuildMetadata(started_on="2026-01-02T03:04:05Z")
    record = build_record(flags={"workspace": 5})
    assert told(statement_of_build(record, ENGINE, "weights.bin", when=when, builder="https://ours.example/ci")) == {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [resource("engines/prepare.engine", "4" * 64), resource("engines/trunk.engine", "3" * 64)],
        "predicateType": "https://slsa.dev/provenance/v1",
        "predicate": {
            "buildDefinition": {
                "buildType": ENGINE_BUILD,
                "externalParameters": {
                    "backend": "tensorrt-rtx",
                    "target": "this-machine",
                    "precision": "fp16",
                    "schedule": {"levels": 2, "sub_batch": 1, "lowering": "reshape"},
                    "flags": {"workspace": 5},
                },
                "internalParameters": {"device": {"architecture": "x86_64"}, "timingCache": False},
                "resolvedDependencies": [
                    resource("prepare.onnx", "2" * 64),
                    resource("trunk.fp16.onnx", "1" * 64),
                    resource("weights.bin", "0" * 64),
                ],
            },
            "runDetails": {
                "builder": {
                    "id": "https://ours.example/ci",
                    "version": {"smp-deploy": "0.1.0", "python": "3.11.7", "tensorrt-rtx": "1.7.1"},
                },
                "metadata": {"startedOn": "2026-01-02T03:04:05Z"},
            },
        },
    }


def test_an_export_names_every_file_by_its_bytes(exported: Bundle) -> None:
    listed = exported.manifest.files
    manifest = msgspec.structs.replace(
        exported.manifest,
        network=msgspec.structs.replace(exported.manifest.network, checkpoint_sha256="c" * 64),
        calibration=CalibrationRecord(method="entropy", frames=7, ranges={"conv1": 2.5}),
        tools={"torch": "2.8.0+cpu", "a compiler": "1"},
    )
    document = told(statement_of_export(manifest, "a" * 64))
    on_disk = {name: hashlib.sha256((exported.path / name).read_bytes()).hexdigest() for name in listed}
    expected = {"manifest.json": "a" * 64, **on_disk}
    assert document["subject"] == [resource(name, expected[name]) for name in sorted(expected)]
    assert document["predicateType"] == "https://slsa.dev/provenance/v1"
    definition = document["predicate"]["buildDefinition"]
    assert definition["buildType"] == EXPORT
    assert definition["resolvedDependencies"] == [
        resource("checkpoint", "c" * 64),
        {"name": "torch", "uri": "pkg:pypi/torch@2.8.0%2Bcpu"},
    ]
    asked = definition["externalParameters"]
    assert asked["size"] == [64, 96]
    assert asked["precisions"] == ["fp16", "fp32"]
    assert asked["trunks"][0] == {"levels": 2, "lowering": "reshape"}
    assert asked["calibration"] == {"method": "entropy", "percentile": None, "frames": 7}
    assert document["predicate"]["runDetails"]["builder"]["version"]["torch"] == "2.8.0+cpu"


@pytest.mark.parametrize(
    ("statuses", "result"),
    [
        ([Status.PASSED], "PASSED"),
        ([Status.PASSED, Status.NOT_RUN], "WARNED"),
        ([Status.PASSED, Status.NOT_RUN, Status.FAILED], "FAILED"),
        ([Status.NOT_RUN], "FAILED"),
        ([], "FAILED"),
    ],
)
def test_a_validation_is_passed_only_where_all_ran_and_passed(statuses: list[Status], result: str) -> None:
    document = told(statement_of_validation(validation(*map(check, statuses)), DIGESTS))
    assert document["predicateType"] == "https://in-toto.io/attestation/test-result/v0.1"
    predicate = document["predicate"]
    assert predicate["result"] == result
    lists = {
        Status.PASSED: "passedTests",
        Status.NOT_RUN: "warnedTests",
        Status.FAILED: "failedTests",
    }
    for status, name in lists.items():
        assert len(predicate[name]) == statuses.count(status)


def test_a_validation_says_of_what_and_what_it_was_held_to() -> None:
    document = told(statement_of_validation(validation(check(Status.PASSED), check(Status.PASSED)), DIGESTS))
    subject = [resource("manifest.json", "a" * 64), resource("weights.bin", "b" * 64)]
    assert document["subject"] == subject
    tolerances, settings, *files = document["predicate"]["configuration"]
    assert files == subject
    content = b64decode(tolerances["content"])
    assert tolerances["digest"] == {"sha256": hashlib.sha256(content).hexdigest()}
    assert tolerances["mediaType"] == "application/json"
    assert json.loads(content)["tolerances"]["fp16"]["label_agreement"] == 0.999
    assert json.loads(b64decode(settings["content"]))["tools"] == {"torch": "2.8.0"}
    name = "hop: PyTorch -> trunk.onnx, reference frame 0: relative error of logits"
    assert document["predicate"]["passedTests"] == [name, f"{name} [1]"]


def test_a_benchmark_is_its_record_of_these_files() -> None:
    record = BenchRecord(
        network="smp-resnet18",
        size=(64, 96),
        backend="onnxruntime",
        precision=Precision.FP32,
        schedule=Schedule(2, 1, Lowering.RESHAPE),
        reason="asked for",
        length=BenchLength(warm_up_ms=1.0, duration_s=2.0, iterations=3),
        iterations=4,
        latency_ms=Latency(min=1.0, max=2.0, mean=1.5, median=1.25, percentiles={"99": 2.0}),
        throughput=Throughput(frames_per_s=800.0, megapixels_per_s=4.9),
        rearrangement=None,
        memory=PeakMemory(not_measured="no child"),
        files={},
        machine=BenchMachine(
            device="a processor",
            runtime="onnxruntime 1.20",
            smp_deploy="0.1.0",
            python="3.11.7",
            system="Linux",
            machine="x86_64, 2 cores",
            instructions="avx2",
            memory="24.0 GiB",
        ),
    )
    document = told(statement_of_bench(record, DIGESTS))
    assert document["predicateType"] == BENCHMARK == "pkg:pypi/smp-deploy#attestations/benchmark/v1"
    assert document["subject"] == [resource("manifest.json", "a" * 64), resource("weights.bin", "b" * 64)]
    assert document["predicate"] == json.loads(json_from_record(record))
    assert document["predicate"]["latency_ms"]["median"] == 1.25


def test_equal_statements_are_equal_bytes() -> None:
    one = statement_of_validation(validation(check(Status.PASSED)), DIGESTS)
    other = statement_of_validation(validation(check(Status.PASSED)), dict(reversed(DIGESTS.items())))
    assert payload_of(one) == payload_of(other)
    assert payload_of(one).startswith(b'{"_type":"https://in-toto.io/Statement/v1","predicate":{')
    assert PAYLOAD_TYPE == "application/vnd.in-toto+json"


@given(st.dictionaries(st.text(), st.text("0123456789abcdef", min_size=64, max_size=64)), st.text())
def test_odd_names_come_back_as_they_were(digests: dict[str, str], name: str) -> None:
    document = told(statement_of_validation(validation(check(Status.PASSED, name)), digests))
    # An empty field is left out; a reader is to take it as empty.
    assert {held.get("name", ""): held["digest"]["sha256"] for held in document["subject"]} == digests
    assert name in document["predicate"]["passedTests"][0]


@pytest.mark.parametrize(
    ("name", "version", "url"),
    [
        ("torch", "2.8.0+cpu", "pkg:pypi/torch@2.8.0%2Bcpu"),
        ("Tensor_RT..rtx", "1!2", "pkg:pypi/tensor-rt-rtx@1%212"),
        ("numpy", "", "pkg:pypi/numpy"),
        ("../x", "1", ""),
        ("", "1", ""),
    ],
)
def test_package_urls(name: str, version: str, url: str) -> None:
    assert package_url(name, version) == url
