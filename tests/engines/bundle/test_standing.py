"""Whether a record speaks of the bundle that it lies in."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import numpy as np
import pytest

from engines import Bundle, Precision, Schedule
from engines.bundle.records import Status, Validation, json_from_record
from engines.bundle.standing import Standing, compared, of_digests
from engines.proof import prove
from smp_deploy.reports import report_of
from smp_deploy.reports.verdicts import Verdict
from tests.converters.verification.faults import sealed
from tests.engines.test_proof import with_engine


@pytest.fixture(scope="module")
def proven(exported: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small bundle with a record of a proof that passed, in the place of its own validation. To be copied."""
    path = tmp_path_factory.mktemp("standing") / "proven"
    shutil.copytree(exported.path, path, ignore=shutil.ignore_patterns("reports"))
    bundle = Bundle.open(path)
    bundle.write_report("validation.json", json_from_record(prove(bundle, "onnxruntime", keep=False)))
    return path


@pytest.fixture
def path(proven: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(proven, tmp_path / "bundle"))


def record_of(path: Path) -> Validation:
    return report_of(path).validation


def test_a_record_of_the_bytes_that_are_there(path: Path) -> None:
    found = report_of(path)
    assert found.validation.files == Bundle.open(path).digests
    assert compared(found.validation, Bundle.open(path)).standing is Standing.CURRENT
    assert (found.judgement.verdict, found.judgement.headline) == (Verdict.PASSED, "all 1 checks that ran passed")
    assert found.text.startswith("PASSED: all 1 checks that ran passed\n")


def test_a_pass_that_was_never_earned(path: Path) -> None:
    """Weights are altered and their hash renewed; the record of what was there before is no pass."""
    weights = np.fromfile(path / "weights.bin", np.float32)
    (-weights).tofile(path / "weights.bin")
    sealed(path)
    found = report_of(path)
    assert found.validation.verdict is Status.PASSED
    assert found.judgement.verdict is Verdict.STALE
    assert found.text.startswith(
        "STALE: the record is stale: the bundle changed since (manifest.json, weights.bin); validate it again\n"
    )


def test_a_proof_on_a_target_that_failed_is_no_pass(path: Path) -> None:
    opened = Bundle.open(path)
    proof = prove(opened, "onnxruntime", tolerances={"label_agreement": 1.1}, keep=False)
    assert proof.verdict is Status.FAILED
    opened.write_report("validation-onnxruntime-fp32.json", json_from_record(proof))
    found = report_of(path)
    assert found.judgement.verdict is Verdict.FAILED
    assert found.text.startswith(
        "FAILED: on onnxruntime, fp32: 1 of 1 checks failed, where it was proven on a target\n"
    )


def test_a_proof_that_failed_stays_until_the_same_is_proven(path: Path) -> None:
    """One that passes in another schedule or precision is not of the same."""
    opened = Bundle.open(path)
    assert (
        prove(opened, "onnxruntime", schedule=Schedule(2, 4), tolerances={"label_agreement": 1.1}).verdict
        is Status.FAILED
    )
    prove(opened, "onnxruntime", schedule=Schedule(2))
    prove(opened, "onnxruntime", Precision.FP16, schedule=Schedule(2, 4))
    assert report_of(path).judgement.headline == (
        "on onnxruntime, fp32, levels 2, sub-batch 4, reshape: 1 of 1 checks failed, where it was proven on a target"
    )
    prove(opened, "onnxruntime", schedule=Schedule(2, 4))
    assert report_of(path).judgement.verdict is Verdict.PASSED
    assert sorted(proven.file for proven in report_of(path).proofs) == [
        "validation-onnxruntime-fp16-l2-b4-reshape.json",
        "validation-onnxruntime-fp32-l2-b1-reshape.json",
        "validation-onnxruntime-fp32-l2-b4-reshape.json",
    ]


def test_the_reports_of_another_network(path: Path) -> None:
    record = record_of(path)
    network = msgspec.structs.replace(record.network, source="smp-resnet50")
    other = msgspec.structs.replace(record, network=network, files=record.files | {"weights.bin": "0" * 64})
    Bundle.open(path).write_report("validation.json", json_from_record(other))
    found = report_of(path)
    assert found.judgement.verdict is Verdict.FOREIGN
    assert "is of another network (weights.bin differ)" in found.judgement.headline


def test_a_record_that_is_bound_to_nothing_is_no_pass(path: Path) -> None:
    opened = Bundle.open(path)
    opened.write_report("validation.json", json_from_record(msgspec.structs.replace(record_of(path), files={})))
    assert report_of(path).judgement.verdict is Verdict.STALE
    assert of_digests({}, opened) is Standing.STALE


@pytest.mark.parametrize("seen", [["README.md"], ["manifest.json"], ["manifest.json", "weights.bin"]])
def test_a_record_that_did_not_see_all_of_the_bundle_is_no_pass(path: Path, seen: list[str]) -> None:
    opened = Bundle.open(path)
    files = {name: digest for name, digest in opened.digests.items() if name in seen}
    opened.write_report("validation.json", json_from_record(msgspec.structs.replace(record_of(path), files=files)))
    found = report_of(path)
    assert found.judgement.verdict is Verdict.STALE
    assert found.judgement.headline.startswith("the record is stale: it did not see all of the bundle (")
    # A measurement is of a part: the manifest has the digests of all of it.
    assert of_digests(files, opened) is (Standing.CURRENT if "manifest.json" in seen else Standing.STALE)


def test_an_engine_that_was_built_since_is_counted_once(path: Path) -> None:
    opened = with_engine(Bundle.open(path), "tensorrt", Precision.FP16, Schedule(2))
    half = {name: digest for name, digest in opened.digests.items() if not name.endswith(".engine")}
    found = compared(msgspec.structs.replace(record_of(path), files=half), opened)
    assert (found.standing, found.unseen) == (Standing.CURRENT, (opened.engines[0].engine,))
    assert found.words == "1 engine was built since, not proven here"


def test_engines_that_were_built_since_are_named(path: Path) -> None:
    """The harmless case: what was proven is what is there, and an engine came later."""
    with_engine(Bundle.open(path), "tensorrt", Precision.FP16, Schedule(2))
    found = report_of(path)
    assert found.judgement.verdict is Verdict.PASSED
    assert found.judgement.headline == ("all 1 checks that ran passed; 1 engine was built since, not proven here")
