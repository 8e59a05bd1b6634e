"""The bill of a bundle: valid by the standard's schema, and exact."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cyclonedx.model.bom import Bom as ReadBom
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from hypothesis import given, settings
from hypothesis import strategies as st
from packageurl import PackageURL

from engines import Bundle, Lowering, Precision, Schedule
from engines.bundle.manifest import (
    SCHEMA_VERSION,
    CalibrationRecord,
    EngineRecord,
    FileRecord,
    Manifest,
    TargetManifest,
)
from engines.bundle.records import BuildDevice, BuildRecord, json_from_record
from engines.errors import InputError
from smp_deploy.materials.bundles import bom_of_bundle
from smp_deploy.materials.cyclonedx import builtins_from_bom
from smp_deploy.reports.benches import keep
from tests.conftest import Cli, document
from tests.converters.verification.faults import sealed
from tests.engines.test_proof import with_engine
from tests.records import build_record
from tests.signers import key_file, new_key
from tests.smp_deploy.reports.test_damage import bench, with_record

ROOT = Path(__file__).resolve().parents[3]
SCHEMA = JsonStrictValidator(SchemaVersion.V1_6)
MANIFEST = FileRecord(sha256="a" * 64, size=12)
ENGINE = EngineRecord(
    engine="engines/trunk.engine",
    prepare="engines/prepare.engine",
    record="engines/trunk.json",
    backend="tensorrt-rtx",
    precision=Precision.FP16,
    schedule=Schedule(2, 4, Lowering.RESHAPE),
)


def check_schema(bill: dict[str, Any]) -> None:
    """By the standard's own schema; another reader finds as many components, and no reference to nothing."""
    found = SCHEMA.validate_str(json.dumps(bill))
    assert found is None, found
    read = ReadBom.from_json(bill)  # type: ignore[attr-defined]
    assert len(read.components) == len(bill["components"])
    assert read.validate()
    refs = [bill["metadata"]["component"]["bom-ref"], *(part["bom-ref"] for part in bill["components"])]
    assert [held["ref"] for held in bill["dependencies"]] == refs
    assert len(set(refs)) == len(refs)
    assert {needed for held in bill["dependencies"] for needed in held.get("dependsOn", ())} <= set(refs)


TARGET = TargetManifest(
    schema_version=SCHEMA_VERSION,
    manifest_sha256="a" * 64,
    engines=[ENGINE],
    tunings=[],
    files={name: FileRecord(sha256="e" * 64, size=3) for name in ENGINE.files},
)


def bill_of(manifest: Manifest, builds: dict[str, BuildRecord] | None = None) -> dict[str, Any]:
    return builtins_from_bom(bom_of_bundle(manifest, TARGET, MANIFEST, builds or {}))


def parts_of(bill: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {part["bom-ref"]: part for part in bill["components"]}


def facts_of(part: dict[str, Any]) -> dict[str, str]:
    return {held["name"].removeprefix("smp-deploy:"): held["value"] for held in part["properties"]}


@pytest.fixture(scope="module")
def full(exported: Bundle) -> Manifest:
    """With all that a bundle can have: a checkpoint, a calibration, an engine."""
    held = exported.manifest
    return msgspec.structs.replace(
        held,
        network=msgspec.structs.replace(held.network, checkpoint_sha256="c" * 64),
        calibration=CalibrationRecord(method="percentile", frames=8, ranges={"conv1": 2.5}, percentile=99.99),
        tools={"smp-deploy": "0.1.0", "torch": "2.8.0+cpu"},
    )


def test_the_command_prints_the_bill_of_what_is_on_the_disk(cli: Cli, exported: Bundle) -> None:
    bill = document(cli("inspect", exported.path, "--sbom"))
    check_schema(bill)
    on_disk = {
        path.relative_to(exported.path).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in exported.path.rglob("*")
        if path.is_file() and "reports" not in path.parts
    }
    listed = {part["name"]: part["hashes"] for part in bill["components"] if part["bom-ref"] == f"file:{part['name']}"}
    assert listed == {name: [{"alg": "SHA-256", "content": digest}] for name, digest in on_disk.items()}
    assert bill["metadata"]["component"]["name"] == "smp-resnet18"
    assert document(cli("inspect", exported.path, "--sbom")) == bill
    assert "timestamp" not in bill["metadata"]


def test_a_bundle_with_everything(full: Manifest) -> None:
    device = BuildDevice(architecture="aarch64", soc="t234", gpu="Orin", compute_capability="8.7")
    bill = bill_of(full, {ENGINE.record: build_record(device=device)})
    check_schema(bill)
    parts = parts_of(bill)
    assert parts["data:checkpoint"] == {
        "type": "data",
        "name": "checkpoint",
        "bom-ref": "data:checkpoint",
        "description": "the file that the network's parameters were read from",
        "scope": "excluded",
        "hashes": [{"alg": "SHA-256", "content": "c" * 64}],
        "data": [{"type": "other", "name": "checkpoint"}],
    }
    assert facts_of(parts["data:calibration"]) == {"frames": "8", "method": "percentile", "percentile": "99.99"}
    assert parts["tool:torch"]["purl"] == "pkg:pypi/torch@2.8.0%2Bcpu"
    assert PackageURL.from_string(parts["tool:torch"]["purl"]).version == "2.8.0+cpu"
    assert parts["runtime:tensorrt-rtx@1.7.1"]["version"] == "1.7.1"
    assert facts_of(parts["file:engines/trunk.engine"]) == {
        "architecture": "aarch64",
        "backend": "tensorrt-rtx",
        "built_by": "smp-deploy 0.1.0, Python 3.11.7",
        "built_with": "tensorrt-rtx 1.7.1",
        "bytes": "3",
        "compute_capability": "8.7",
        "gpu": "Orin",
        "levels": "2",
        "lowering": "reshape",
        "precision": "fp16",
        "soc": "t234",
        "sub_batch": "4",
        "target": "this-machine",
    }
    needs = {held["ref"]: held.get("dependsOn", []) for held in bill["dependencies"]}
    assert needs["file:engines/trunk.engine"] == [
        "file:trunk.fp16.onnx",
        "file:weights.bin",
        "runtime:tensorrt-rtx@1.7.1",
    ]
    assert needs["file:weights.bin"] == ["data:checkpoint"]
    assert needs["file:model.onnx"] == ["file:weights.bin"]
    assert needs["bundle"] == sorted(f"file:{name}" for name in ("manifest.json", *full.files, *ENGINE.files))
    card = bill["metadata"]["component"]["modelCard"]["modelParameters"]
    assert card["inputs"] == [{"format": "RGB frame, uint8 (64, 96, 3)"}]
    assert card["outputs"] == [{"format": "labels, uint8 (64, 96), of 19 classes"}]
    assert {"ref": "data:calibration"} in card["datasets"]


def test_the_command_reads_build_records(cli: Cli, bundle: Path) -> None:
    manifest = Bundle.open(bundle).manifest
    contents = {ENGINE.engine: b"plan", ENGINE.prepare: b"prepare", ENGINE.record: json_from_record(build_record())}
    (bundle / "engines").mkdir()
    for name, content in contents.items():
        (bundle / name).write_bytes(content)
    sealed(bundle, engines=[ENGINE])
    bill = document(cli("inspect", bundle, "--sbom"))
    check_schema(bill)
    assert facts_of(parts_of(bill)[f"file:{ENGINE.engine}"])["built_with"] == "tensorrt-rtx 1.7.1"
    result = cli("inspect", bundle, "--attestations")
    # Of a build record of other files nothing is said: they are not in the bundle.
    assert result.stderr == (
        f"without a statement of {ENGINE.engine}: its build record is of other weights and graph and prepare and plan "
        f"and plan of prepare\nwithout a statement of a validation: {bundle} has none\n"
    )
    (export,) = json.loads(result.stdout)
    assert {held["name"] for held in export["subject"]} == {"manifest.json", *manifest.files}


def test_the_engine_of_its_build_record_has_a_statement(cli: Cli, bundle: Path) -> None:
    engine = with_engine(Bundle.open(bundle), "tensorrt-rtx", Precision.FP16, Schedule(2)).engines[0]
    result = cli("inspect", bundle, "--attestations")
    assert result.stderr == f"without a statement of a validation: {bundle} has none\n"
    _, build = json.loads(result.stdout)
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in
               ((engine.engine, b"plan"), (engine.prepare, b"prepare"))}  # fmt: skip
    assert {held["name"]: held["digest"]["sha256"] for held in build["subject"]} == digests


RESULT = "https://in-toto.io/attestation/test-result/v0.1"
FIGURES = "pkg:pypi/smp-deploy#attestations/benchmark/v1"


def test_nothing_is_said_of_files_that_are_not_in_the_bundle(cli: Cli, bundle: Path, tmp_path: Path) -> None:
    """Records lie in the bundle unsigned. One of other bytes is no result of these, whoever signs it."""
    opened = with_record(bundle)
    proof = (bundle / "reports" / "validation.json").read_bytes()
    (bundle / "reports" / "validation-onnxruntime-fp32-l2-b1-reshape.json").write_bytes(proof)
    keep(opened, msgspec.structs.replace(bench(), files=opened.digests))
    key = key_file(tmp_path / "release.pem", new_key())
    words = ("inspect", bundle, "--attestations", "--key", key)
    result = cli(*words)
    assert result.stderr == (
        "3 of the 4 statements say what records in the bundle say: whoever could write to it could write them, and "
        "from now on the key vouches for them\n"
    )
    made = [json.loads(base64.b64decode(held["dsseEnvelope"]["payload"])) for held in json.loads(result.stdout)]
    assert [held["predicateType"] for held in made[1:]] == [RESULT, RESULT, FIGURES]
    for held in made:
        digests = {subject["name"]: subject["digest"]["sha256"] for subject in held["subject"]}
        assert digests.items() <= opened.digests.items()

    files = {"manifest.json": "ab" * 32, "weights.bin": "cd" * 32}
    wrong = json.dumps({**json.loads(proof), "files": files})
    for name in ("validation.json", "validation-onnxruntime-fp32-l2-b1-reshape.json"):
        (bundle / "reports" / name).write_text(wrong)
    keep(opened, msgspec.structs.replace(bench(), files=files))
    result = cli(*words)
    words = "the record is stale: the bundle changed since (manifest.json, weights.bin); validate it again"
    assert result.stderr == (
        f"without a statement of the validation: {words}\n"
        f"without a statement of the proof on onnxruntime, fp32, levels 2, sub-batch 1, reshape: {words}\n"
        "without a statement of the benchmark on a CPU: the bundle changed since\n"
    )
    assert len(json.loads(result.stdout)) == 1
    said = cli("inspect", bundle, env={**os.environ, "COLUMNS": "250"}).stdout
    (row,) = [line for line in said.splitlines() if line.split()[:2] == ["a", "CPU;"]]
    assert row.split()[-1] == "stale"
    keep(opened, msgspec.structs.replace(bench(), files=opened.digests))
    said = cli("inspect", bundle, env={**os.environ, "COLUMNS": "250"}).stdout
    (row,) = [line for line in said.splitlines() if line.split()[:2] == ["a", "CPU;"]]
    assert row.split()[-1] == "current"


def test_the_serial_number_is_that_of_the_content(full: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    one, same = bill_of(full), bill_of(full)
    assert one == same
    other = msgspec.structs.replace(full, opset=full.opset + 1)
    assert bill_of(other)["serialNumber"] != one["serialNumber"]
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    dated = bill_of(full)
    check_schema(dated)
    assert dated["metadata"]["timestamp"] == "2023-11-14T22:13:20+00:00"


@pytest.mark.parametrize("text", ["", "now", "-1", "1.5", "1" * 30, "\u0661"])
def test_a_date_that_is_none_is_one_message(full: Manifest, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", text)
    with pytest.raises(InputError) as raised:
        bill_of(full)
    assert str(raised.value) == f"SOURCE_DATE_EPOCH is a whole number of seconds since 1970; received {text!r}"


NAMES = st.text(min_size=1, max_size=2000)


@settings(max_examples=30, deadline=None)
@given(source=NAMES, tools=st.dictionaries(st.text(), st.text(max_size=2000)), file=NAMES, version=st.text())
def test_odd_names_make_a_valid_bill(
    full: Manifest, source: str, tools: dict[str, str], file: str, version: str
) -> None:
    manifest = msgspec.structs.replace(
        full,
        network=msgspec.structs.replace(full.network, source=source),
        files={**full.files, file: FileRecord(sha256="f" * 64, size=0)},
        tools=tools,
    )
    bill = bill_of(manifest, {ENGINE.record: build_record(version=version)})
    check_schema(bill)
    assert parts_of(bill)[f"file:{file}"]["hashes"] == [{"alg": "SHA-256", "content": "f" * 64}]


@pytest.mark.parametrize(
    "options", [("--sbom", "--attestations"), ("--sbom", "--json"), ("--attestations", "--classes")]
)
def test_one_document_at_a_time(cli: Cli, exported: Bundle, options: tuple[str, str]) -> None:
    result = cli("inspect", exported.path, *options)
    assert result.returncode == 2
    assert "--sbom and --attestations each print a document of their own; give one, and nothing else" in result.stderr


def test_a_vehicle_can_print_it(exported: Bundle) -> None:
    """With the packages of the base install alone."""
    script = (
        "import sys\n"
        "allowed = {'numpy', 'msgspec', 'PIL', 'psutil', 'rich', 'typer'}\n"
        "refused = {'torch', 'onnx', 'onnx_ir', 'onnxruntime', 'cyclonedx', 'packageurl', 'packaging', 'jinja2'}\n"
        "sys.modules.update(dict.fromkeys(refused))\n"
        "from smp_deploy.cli.entry import main\n"
        "main()\n"
    )
    command = [sys.executable, "-c", script, "inspect", str(exported.path), "--sbom"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    check_schema(json.loads(result.stdout))


def test_signed_statements_are_verified_with_the_public_key(cli: Cli, bundle: Path, tmp_path: Path) -> None:
    key = new_key()
    private = key_file(tmp_path / "release.pem", key)
    plain = json.loads(cli("inspect", bundle, "--attestations").stdout)
    envelopes = json.loads(cli("inspect", bundle, "--attestations", "--key", private).stdout)
    assert len(envelopes) == len(plain) == 1
    for statement, held in zip(plain, envelopes, strict=True):
        envelope = held["dsseEnvelope"]
        payload = base64.b64decode(envelope["payload"])
        assert json.loads(payload) == statement
        assert envelope["payloadType"] == "application/vnd.in-toto+json"
        message = b"DSSEv1 28 application/vnd.in-toto+json %d %s" % (len(payload), payload)
        key.public_key().verify(base64.b64decode(envelope["signatures"][0]["sig"]), message, ec.ECDSA(hashes.SHA256()))
    refused = cli("inspect", bundle, "--key", private)
    assert (refused.returncode, refused.stderr) == (
        2,
        "smp-deploy: --key signs what --attestations prints; give both\n",
    )
