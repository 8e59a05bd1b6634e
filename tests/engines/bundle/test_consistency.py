"""Manifests whose parts do not hold together: names, sizes, windows; nothing is written, read or hashed for them."""

from __future__ import annotations

import copy
import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from engines import Bundle, Precision, Schedule
from engines.bundle.manifest import FileRecord, TargetManifest, manifest_from_json, target_from_json, target_schema
from engines.errors import BundleError
from tests.engines.test_proof import with_engine

RECORD = {"sha256": "0" * 64, "size": 1}
Change = Callable[[dict[str, Any]], object]


@pytest.fixture(scope="module")
def document(exported: Bundle) -> dict[str, Any]:
    return json.loads((exported.path / "manifest.json").read_text())  # type: ignore[no-any-return]


def refused(document: dict[str, Any], change: Change, message: str) -> None:
    changed = copy.deepcopy(document)
    change(changed)
    with pytest.raises(BundleError, match=message):
        manifest_from_json(json.dumps(changed).encode())


NO_NAME = re.escape("is not a valid manifest: Expected `str` matching regex")
SPELLINGS = [
    "./manifest.json",
    "./model.onnx",
    "reference//frame-1.npy",
    "reference/./frame-1.npy",
    "reference/",
    "/etc/passwd",
    "../outside",
    "reference/../model.onnx",
    "reference\\frame",
    ".git/config",
    "model.onnx\n",
    "a\0b",
    "a\x1b[31m",
    "a\u202eb",
    "e\u0301.bin",
    "",
]


@pytest.mark.parametrize("name", SPELLINGS)
def test_a_file_has_one_spelling(document: dict[str, Any], name: str) -> None:
    refused(document, lambda m: m["files"].update({name: RECORD}), NO_NAME)
    refused(document, lambda m: m.update(model=name), NO_NAME)


@pytest.mark.parametrize(
    "name",
    [
        "manifest.json",
        "Manifest.JSON",
        "target.json",
        "model.sig",
        "target.sig",
        "reports/bench.json",
        "engines/x.json",
    ],
)
def test_what_is_not_the_exports_is_not_listed_by_it(document: dict[str, Any], name: str) -> None:
    """A manifest that listed itself gave the digest of another one to be signed in its place."""
    refused(document, lambda m: m["files"].update({name: RECORD}), "a name that no exported file has")


def test_the_digest_of_what_was_read_wins(bundle: Path) -> None:
    """Even of a list that no reader lets pass."""
    opened = with_engine(Bundle.open(bundle), "tensorrt", Precision.FP16, Schedule(2))
    false = FileRecord(sha256="f" * 64, size=1)
    listed = {"manifest.json": false, "target.json": false, "weights.bin": false}
    manifest = msgspec.structs.replace(opened.manifest, files=opened.manifest.files | {"manifest.json": false})
    target = msgspec.structs.replace(opened.target, files=opened.target.files | listed)
    fooled = replace(opened, manifest=manifest, target=target)
    read = opened.target.manifest_sha256
    assert fooled.digests["manifest.json"] == fooled.export_digests["manifest.json"] == read
    assert fooled.digests["weights.bin"] == opened.manifest.files["weights.bin"].sha256
    assert fooled.target_digests["manifest.json"] == read
    assert fooled.target_digests["target.json"] == opened.target_sha256


@pytest.mark.parametrize(
    "change",
    [
        # ONNX Runtime takes a file called .ort for its own format, OpenVINO .xml.
        lambda m: m["trunks"][0]["graphs"].update(fp32="trunk.ort"),
        lambda m: m.update(prepare="prepare.xml"),
        lambda m: m.update(model="model.onnx.ort"),
        lambda m: m.update(weights="weights.onnx"),
        lambda m: m["reference"][0].update(frame="frame.png"),
        lambda m: m["reference"][0].update(logits="logits.npz"),
    ],
)
def test_a_name_ends_as_its_kind_does(document: dict[str, Any], change: Change) -> None:
    refused(document, change, NO_NAME)


def resized(name: str, size: int) -> Change:
    return lambda m: m["files"][name].update(size=size)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            resized("reference/frame-0.npy", 3 << 30),
            r"frame-0\.npy' with 3221225472 bytes, where an array of its shape",
        ),
        (resized("reference/frame-0.npy", 3 * 64 * 96), r"has 18432 and a header"),
        (resized("reference/logits-0.npy", 4 * 19 * 64 * 96 + 1025), r"has 466944 and a header"),
        (resized("trunk.onnx", (16 << 20) + 1), r"lists trunk\.onnx of 16777217 bytes; the most .* is 16777216"),
        (resized("README.md", (16 << 20) + 1), r"lists README\.md of 16777217 bytes; the most .* is 16777216"),
        (resized("weights.bin", (4 << 30) + 1), r"lists weights\.bin of 4294967297 bytes; the most .* is 4294967296"),
        (
            lambda m: m["files"].update({f"x{n}": {**RECORD, "size": 16 << 20} for n in range(600)}),
            r"lists all files of \d+ bytes; the most that is read of this kind is 8589934592",
        ),
    ],
)
def test_what_is_hashed_and_read_has_a_bound(document: dict[str, Any], change: Change, message: str) -> None:
    refused(document, change, message)


def trunks_of_all_levels(m: dict[str, Any]) -> None:
    """A hundred trunks of 16,384 phases each."""
    m["input"].update(size=[16384, 16384], padded_size=[16384, 16384])
    m["trunks"] = [dict(m["trunks"][0], levels=levels, cut_window=[128, 128]) for levels in range(100)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (trunks_of_all_levels, "a trunk of 0 levels whose windows are not those of the first splits"),
        (lambda m: m["trunks"][0].update(levels=6), "a trunk of 6 levels of 5 splits"),
        (lambda m: m["trunks"][0].update(cut_window=[8, 8]), "whose windows are not those of the first splits"),
        (
            lambda m: m["trunks"][0].update(inner_windows=[[2, 2]] * 3),
            "whose windows are not those of the first splits",
        ),
        (lambda m: m.update(windows=[[1, 2]] * 15), "has 15 splits, where a network has 14 at most"),
        (lambda m: m["windows"].append([1, 1]), "a split of a window of 1x1, which splits nothing"),
        (lambda m: m["reference"][0].update(window=[8, 4]), r"a reference phase .* of a window of 8x4"),
        (lambda m: m.update(reference=m["reference"] * 257), "has 257 reference frames, above 256"),
    ],
)
def test_windows_are_those_of_the_splits(document: dict[str, Any], change: Change, message: str) -> None:
    refused(document, change, message)


def test_a_line_break_is_no_end_of_a_hash(document: dict[str, Any]) -> None:
    refused(document, lambda m: m["files"]["model.onnx"].update(sha256="0" * 64 + "\n"), "sha256|length")


@pytest.fixture(scope="module")
def added(exported: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    path = shutil.copytree(exported.path, tmp_path_factory.mktemp("added") / "bundle")
    return with_engine(Bundle.open(path), "tensorrt", Precision.FP16, Schedule(2))


def target_refused(added: Bundle, change: Change, message: str) -> None:
    target = json.loads(msgspec.json.encode(added.target))
    change(target)
    with pytest.raises(BundleError, match=message):
        target_from_json(json.dumps(target).encode(), added.manifest, added.target.manifest_sha256)


@pytest.mark.parametrize(
    "name",
    [
        "./manifest.json",
        "manifest.json",
        "weights.bin",
        "model.sig",
        "reports/validation.json",
        "engines/../weights.bin",
        "engines/a/b.engine",
        "engines/.x",
        "engines/",
        "./engines/x.engine",
    ],
)
def test_what_was_added_lies_below_engines(added: Bundle, name: str) -> None:
    """Storing an engine removes what is listed no more: it must be the target's own."""
    target_refused(added, lambda t: t["files"].update({name: RECORD}), NO_NAME)
    target_refused(added, lambda t: t["engines"][0].update(record=name), NO_NAME)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t["files"].update({"engines/x.engine": RECORD}), "lists 'engines/x.engine', which is no engine's"),
        (lambda t: t["engines"].append(t["engines"][0]), "has two engines for the same use"),
        (
            lambda t: t["files"][t["engines"][0]["engine"]].update(size=2 << 30),
            r"\.engine of 2147483648 bytes; the most",
        ),
        (lambda t: t["files"][t["engines"][0]["record"]].update(size=33 << 20), r"\.json of 34603008 bytes; the most"),
    ],
)
def test_what_was_added_is_engines_of_a_bounded_size(added: Bundle, change: Change, message: str) -> None:
    target_refused(added, change, message)


def test_storing_an_engine_removes_nothing_else(bundle: Path) -> None:
    opened = with_engine(Bundle.open(bundle), "tensorrt", Precision.FP16, Schedule(2))
    opened.write_report("validation.json", b"{}")
    target = json.loads((bundle / "target.json").read_text())
    target["files"]["reports/validation.json"] = RECORD
    (bundle / "target.json").write_text(json.dumps(target))
    with pytest.raises(BundleError, match=r"target\.json is not a valid manifest"):
        with_engine(opened, "tensorrt", Precision.FP32, Schedule(2))
    assert sorted(os.listdir(bundle / "reports")) == ["validation.json"]  # noqa: PTH208


def test_the_schema_says_what_names_are(added: Bundle) -> None:
    """In words that mean the same to a reader of JSON Schema: there is no ``\\Z`` in its expressions."""
    names = target_schema()["$defs"][TargetManifest.__name__]["properties"]["files"]["propertyNames"]
    assert names["maxLength"] == 255
    assert names["pattern"] == r"^engines/[A-Za-z0-9_-][A-Za-z0-9._-]*(?!\n)$"
