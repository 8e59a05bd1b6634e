"""Bundles that were tampered with, damaged, of another time, or that reach outside themselves."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engines import Bundle, Precision, Schedule
from engines.bundle.manifest import (
    SCHEMA_VERSION,
    EngineRecord,
    json_from_manifest,
    manifest_from_json,
    manifest_schema,
)
from engines.errors import BundleError, OutputError


def edited(bundle: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    manifest = json.loads((bundle / "manifest.json").read_text())
    change(manifest)
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    return bundle


def refused(bundle: Path, message: str) -> None:
    with pytest.raises(BundleError, match=message):
        Bundle.open(bundle)


def test_hashes_are_those_of_the_files(exported: Bundle) -> None:
    for name, record in exported.manifest.files.items():
        content = (exported.path / name).read_bytes()
        assert (record.size, record.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    on_disk = {p.relative_to(exported.path).as_posix() for p in exported.path.rglob("*") if p.is_file()}
    assert on_disk == set(exported.manifest.files) | {"manifest.json"}


def test_a_manifest_survives_a_round_trip(exported: Bundle) -> None:
    document = (exported.path / "manifest.json").read_bytes()
    assert json_from_manifest(manifest_from_json(document)) == document


def test_the_schema_is_a_json_schema_that_the_manifest_follows(exported: Bundle) -> None:
    schema = manifest_schema()
    names = set(schema["$defs"]["Manifest"]["properties"])
    assert names == set(json.loads((exported.path / "manifest.json").read_text()))
    assert schema["$defs"]["FileRecord"]["properties"]["sha256"]["pattern"] == "^[0-9a-f]{64}$"


def test_one_changed_byte_is_seen(bundle: Path) -> None:
    weights = bundle / "weights.bin"
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)
    refused(bundle, r"weights.bin is not the file that was exported")


def test_a_truncated_file_is_seen(bundle: Path) -> None:
    path = bundle / "trunk.onnx"
    path.write_bytes(path.read_bytes()[:-7])
    refused(bundle, r"trunk.onnx has \d+ bytes, the manifest says \d+")


def test_a_missing_file_is_seen(bundle: Path) -> None:
    (bundle / "model.onnx").unlink()
    refused(bundle, r"cannot read .*model.onnx: No such file")


@pytest.mark.parametrize("path", ["absent", "file.txt"])
def test_what_is_no_bundle(path: str, tmp_path: Path) -> None:
    (tmp_path / "file.txt").write_text("no bundle")
    refused(tmp_path / path, "is not a bundle")


def test_a_newer_schema_asks_for_an_update(bundle: Path) -> None:
    edited(bundle, lambda m: m.update(schema_version=99, something_new=True))
    refused(bundle, f"schema version 99, this smp-deploy reads {SCHEMA_VERSION}; update")


def test_names_with_control_characters_and_endless_nesting(bundle: Path) -> None:
    record = {"sha256": "0" * 64, "size": 1}
    refused(edited(bundle, lambda m: m["files"].update({"a\0b": record})), "not a valid manifest")
    (bundle / "manifest.json").write_text(
        f'{{"schema_version": {SCHEMA_VERSION}, "x": ' + "[" * 100_000 + "]" * 100_000 + "}"
    )
    refused(bundle, "not a valid manifest")


def test_a_link_that_leaves_the_bundle_is_refused(bundle: Path) -> None:
    outside = shutil.copy(bundle / "weights.bin", bundle.parent / "outside.bin")
    (bundle / "weights.bin").unlink()
    (bundle / "weights.bin").symlink_to(outside)
    refused(bundle, "weights.bin is a link; a bundle has none")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.pop("network"), "missing required field `network`"),
        (lambda m: m.update(surprise=1), "unknown field `surprise`"),
        (lambda m: m["input"].update(size=[0, 96]), r"\$.input.size"),
        (lambda m: m["input"].update(size="64x96"), r"\$.input.size"),
        (lambda m: m["input"].update(size=[64, 90], padded_size=[64, 90]), "2x2|4x4 does not divide"),
        (lambda m: m["trunks"][0]["graphs"].update(fp32="absent.onnx"), "does not list it"),
        (lambda m: m["files"].pop("weights.bin"), "does not list it"),
        (lambda m: m["reference"][0].update(phase=[1, 0]), r"reference phase \(1, 0\) of a window of 1x1"),
        (lambda m: m["trunks"].append(m["trunks"][0]), "two trunks of the same levels"),
        (lambda m: m.update(trunks=[]), r"trunks"),
        (
            lambda m: m.update(schema_version=1),
            f"schema version 1, this smp-deploy reads {SCHEMA_VERSION}; export again",
        ),
        (lambda m: m["files"]["model.onnx"].update(sha256="abc"), r"\$.files\[...\].sha256"),
        (lambda m: m["classes"][0].update(color=[0, 0, 256]), "color"),
        (lambda m: m.update(outputs="pictures"), "outputs"),
        (lambda m: m.update(schema_version="one"), "schema_version"),
    ],
)
def test_a_manifest_that_breaks_the_schema_says_where(bundle: Path, change, message: str) -> None:
    refused(edited(bundle, change), message)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(junk=st.one_of(st.binary(max_size=200), st.text(max_size=50).map(str.encode)))
def test_any_junk_is_one_error(junk: bytes) -> None:
    with pytest.raises(BundleError, match="not a valid manifest"):
        manifest_from_json(junk)


@given(cut=st.integers(0, 400), flip=st.integers(0, 255), place=st.integers(0, 10_000))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
def test_a_damaged_manifest_is_read_or_refused_but_nothing_else(
    exported: Bundle, cut: int, flip: int, place: int
) -> None:
    document = bytearray((exported.path / "manifest.json").read_bytes())
    document[place % len(document)] = flip
    with contextlib.suppress(BundleError):
        manifest_from_json(bytes(document[: len(document) - cut]))


def test_a_missing_precision_names_the_argument(exported: Bundle) -> None:
    manifest = json.loads((exported.path / "manifest.json").read_text())
    del manifest["trunks"][0]["graphs"]["fp16"]
    bundle = replace(exported, manifest=manifest_from_json(json.dumps(manifest).encode()))
    with pytest.raises(BundleError, match=r"no fp16 trunk \(it has fp32\); export it with precisions=\(.fp16.,\)"):
        bundle.trunk_graph(bundle.manifest.trunk(), Precision.FP16)


def test_engines_are_kept_one_for_each_use(bundle: Path) -> None:
    opened = Bundle.open(bundle)
    first = opened.with_engine(
        "tensorrt-rtx", Precision.FP16, Schedule(2, 4), plan=b"first", prepare=b"prepare", record={"n": 1}
    )
    other = first.with_engine(
        "tensorrt-rtx", Precision.FP16, Schedule(2, 2), plan=b"other", prepare=b"prepare", record={"n": 2}
    )
    second = other.with_engine(
        "tensorrt-rtx", Precision.FP16, Schedule(2, 4), plan=b"second", prepare=b"prepare", record={"n": 3}
    )
    again = Bundle.open(bundle)
    assert (again.manifest, again.target) == (second.manifest, second.target)
    held = {e.schedule.sub_batch: (bundle / e.engine).read_bytes() for e in again.engines}
    assert held == {2: b"other", 4: b"second"}
    assert len(list((bundle / "engines").iterdir())) == 6
    # A reader of the bundle as it was before still finds it whole, but for the engine that was replaced.
    assert Bundle.open(bundle).manifest.trunks == opened.manifest.trunks


def test_engines_stored_at_the_same_time_are_both_kept(bundle: Path) -> None:
    one, two = Bundle.open(bundle), Bundle.open(bundle)
    one.with_engine("tensorrt-rtx", Precision.FP16, Schedule(2, 1), plan=b"one", prepare=b"prepare", record={})
    two.with_engine("tensorrt-rtx", Precision.FP16, Schedule(2, 2), plan=b"two", prepare=b"prepare", record={})
    assert [engine.schedule.sub_batch for engine in Bundle.open(bundle).engines] == [1, 2]


def test_an_engine_of_graphs_that_are_gone_is_refused(bundle: Path) -> None:
    opened = Bundle.open(bundle)
    trunk = bundle / "trunk.fp16.onnx"
    trunk.write_bytes(trunk.read_bytes() + b" ")
    content = trunk.read_bytes()
    record = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
    edited(bundle, lambda m: m["files"].update({"trunk.fp16.onnx": record}))
    with pytest.raises(BundleError, match="exported anew"):
        opened.with_engine("tensorrt-rtx", Precision.FP16, Schedule(2, 1), plan=b"plan", prepare=b"prepare", record={})
    assert not (bundle / "engines").exists()
    assert not Bundle.open(bundle).engines


def test_the_same_plan_built_again_damages_nothing_when_it_fails(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = Bundle.open(bundle).with_engine(
        "tensorrt-rtx", Precision.FP16, Schedule(2, 1), plan=b"plan", prepare=b"prepare", record={"s": 1}
    )

    def full(*_: object) -> bytes:
        raise OutputError("no space left")

    monkeypatch.setattr("engines.bundle.bundle.json_from_target", full)
    with pytest.raises(OutputError):
        first.with_engine(
            "tensorrt-rtx", Precision.FP16, Schedule(2, 1), plan=b"plan", prepare=b"prepare", record={"s": 2}
        )
    assert Bundle.open(bundle).target == first.target
    assert len(list((bundle / "engines").iterdir())) == 3


def test_an_engine_that_cannot_be_written_changes_nothing(bundle: Path) -> None:
    (bundle / "engines").write_text("in the way")
    before = (bundle / "manifest.json").read_bytes()
    with pytest.raises(OutputError, match="cannot write"):
        Bundle.open(bundle).with_engine(
            "tensorrt", Precision.FP32, Schedule(2, 1), plan=b"plan", prepare=b"prepare", record={}
        )
    assert (bundle / "manifest.json").read_bytes() == before


@pytest.mark.parametrize(
    ("precision", "schedule"), [(Precision.INT8, Schedule(2)), (Precision.FP16, Schedule(9))], ids=str
)
def test_an_engine_of_a_trunk_that_is_not_there_is_refused(
    bundle: Path, precision: Precision, schedule: Schedule
) -> None:
    from tests.converters.verification.faults import sealed

    plan, record = "engines/a.engine", "engines/a.json"
    (bundle / "engines").mkdir()
    for added in (plan, record):
        (bundle / added).write_bytes(b"x")
    engine = EngineRecord(
        engine=plan, prepare=plan, record=record, backend="tensorrt", precision=precision, schedule=schedule
    )
    with pytest.raises(BundleError, match=f"an engine in {precision.value} of {schedule}, but no such trunk"):
        sealed(bundle, engines=[engine])


def test_a_bundle_without_reference_is_refused(bundle: Path) -> None:
    from tests.converters.verification.faults import sealed

    with pytest.raises(BundleError, match=r"is not a valid manifest: .*reference"):
        sealed(bundle, reference=[])
