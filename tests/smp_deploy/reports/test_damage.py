"""Records that no hash protects, damaged; targets that are not to be replaced; more classes than a byte counts."""

from __future__ import annotations

import base64
import io
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from PIL import Image

from engines import Bundle, Precision, Schedule
from engines.bundle.manifest import ClassRecord
from engines.bundle.records import (
    VALIDATION_VERSION,
    BenchLength,
    BenchMachine,
    BenchRecord,
    Latency,
    OverlayName,
    PeakMemory,
    Throughput,
    builtins_from_record,
)
from engines.errors import BundleError, OutputError
from engines.parity.checks import Question
from engines.parity.validation import ValidationFigures, validation_from_checks
from smp_deploy.reports.benches import RECORD_VERSION, keep, kept, rows_of
from smp_deploy.reports.documents import stored, stored_proofs
from smp_deploy.reports.targets import check_file_target
from tests.conftest import SIZE, Cli
from tests.records import page

CHECK = Question.of_hop("PyTorch", "model.onnx", "noise", 1e-5, graph="model.onnx").measured(1e-7)


def with_record(path: Path, **changes: Any) -> Bundle:
    """The bundle with the record of a validation of one check and one overlay."""
    bundle = Bundle.open(path)
    figures = ValidationFigures(overlays=[OverlayName(name="road.png", precision=Precision.FP16)])
    made = validation_from_checks(
        bundle, [CHECK], seconds=1, overrides={}, frames=["noise"], commands=[], tools={}, figures=figures
    )
    write(path, {**builtins_from_record(made), **changes})
    save_arrays(path, np.zeros(SIZE, np.uint8))
    return bundle


def write(path: Path, record: Any) -> None:
    (path / "reports").mkdir(exist_ok=True)
    (path / "reports" / "validation.json").write_text(json.dumps(record))


def save_arrays(path: Path, labels: np.ndarray) -> None:
    frame, ties = np.zeros((*SIZE, 3), np.uint8), np.zeros(SIZE, np.bool_)
    arrays: dict[str, Any] = {"image-0": frame, "expected-0": labels, "actual-0": labels, "ties-0": ties}
    np.savez_compressed(path / "reports" / "validation.npz", **arrays)


@pytest.mark.parametrize(
    ("record", "part"),
    [
        ({"record_version": VALIDATION_VERSION}, "missing required field `bundle`"),
        ({"verdict": "perhaps"}, "`$.verdict`"),
        ({"checks": [{"name": "half"}]}, "`$.checks[0]`"),
        ({"agreements": {"int4": {}}}, "`$.agreements`"),
        ({"agreements": {"fp16": {}}}, "`$.agreements[...]`"),
        ({"checks": [{**builtins_from_record(CHECK), "value": "large"}]}, "`$.checks[0].value`"),
        ({"checks": [{**builtins_from_record(CHECK), "value": 1.0}]}, "says passed of 1.0, tolerance 1e-05"),
        ({"checks": [{**builtins_from_record(CHECK), "value": "nan"}]}, "says passed of nan"),
        ({"verdict": "failed"}, "the verdict 'failed' or the counts are not those of the checks"),
        ({"counts": {"passed": 2, "failed": 0, "not run": 0}}, "the counts are not those of the checks"),
        ({"surprise": 1}, "unknown field `surprise`"),
        ({"checks": float("nan")}, "cannot be read: JSON is malformed"),
    ],
)
def test_a_record_of_another_shape(bundle: Path, record: dict[str, Any], part: str) -> None:
    if "record_version" in record:
        write(bundle, record)
    else:
        with_record(bundle, **record)
    with pytest.raises(BundleError) as caught:
        stored(Bundle.open(bundle))
    for said in (str(bundle / "reports" / "validation.json"), part, "run smp-deploy validate anew"):
        assert said in str(caught.value)


def test_labels_of_a_precision_without_tolerances(bundle: Path) -> None:
    counts = dict.fromkeys(("pixels", "differing", "ties", "near", "near_differing"), 0)
    agreement: dict[str, Any] = {**counts, "by_phase": None, "error_by_phase": None, "classes": [], "changes": []}
    opened = with_record(bundle, agreements={"fp16": agreement})
    assert builtins_from_record(stored(opened))["agreements"] == {"fp16": agreement}
    with_record(bundle, agreements={"int8": agreement})
    with pytest.raises(BundleError, match="there are no tolerances of int8"):
        stored(opened)


@pytest.mark.parametrize("damage", ["cut", "empty", "flipped", "another array", "fewer arrays"])
def test_arrays_that_are_damaged(bundle: Path, damage: str) -> None:
    opened, arrays = with_record(bundle), bundle / "reports" / "validation.npz"
    whole = arrays.read_bytes()
    if damage == "another array":
        with arrays.open("wb") as stream:
            np.save(stream, np.zeros(3))
    elif damage == "fewer arrays":
        np.savez(arrays, other=np.zeros(3))
    else:
        place = len(whole) // 10
        flipped = whole[:place] + bytes(255 - value for value in whole[place : place + 40]) + whole[place + 40 :]
        arrays.write_bytes({"cut": whole[: len(whole) // 2], "empty": b"", "flipped": flipped}[damage])
    with pytest.raises(BundleError, match=r"validation\.npz.*; run smp-deploy validate anew"):
        page(opened, stored(opened))


def test_arrays_that_are_not_kept_leave_the_overlays_out(bundle: Path) -> None:
    opened = with_record(bundle)
    assert 'alt="road.png, labels in fp32"' in page(opened, stored(opened))
    (bundle / "reports" / "validation.npz").unlink()
    assert "road.png" not in page(opened, stored(opened))


def test_damage_is_one_message_of_the_command(cli: Cli, bundle: Path) -> None:
    with_record(bundle)
    arrays = bundle / "reports" / "validation.npz"
    arrays.write_bytes(arrays.read_bytes()[:100])
    done = cli("report", bundle)
    assert done.returncode == 2
    assert done.stderr.startswith(f"smp-deploy: {arrays} cannot be read: ")
    assert len(done.stderr.splitlines()) == 1


def bench(**schedule: Any) -> BenchRecord:
    return BenchRecord(
        network="own",
        size=SIZE,
        backend="onnxruntime",
        precision=Precision.FP32,
        schedule=Schedule(**{"levels": 2, **schedule}),
        reason="asked for",
        length=BenchLength(warm_up_ms=0, duration_s=0, iterations=1),
        iterations=1,
        latency_ms=Latency(min=1.0, max=3.0, mean=2.0, median=2.0, percentiles={"90": 3.0}),
        throughput=Throughput(frames_per_s=500.0, megapixels_per_s=1.0),
        rearrangement=None,
        memory=PeakMemory(not_measured="there is no psutil"),
        files={},
        machine=BenchMachine(
            device="a CPU",
            runtime="onnxruntime 1.0",
            smp_deploy="0.1.0",
            python="3.11",
            system="Linux",
            machine="x86_64, 2 cores",
            instructions="avx2",
            memory="8 GiB",
        ),
    )


def test_measurements_that_cannot_be_read_count_as_none(bundle: Path) -> None:
    opened, good = Bundle.open(bundle), bench(sub_batch=2)
    plain = builtins_from_record(good)
    schedule = plain["schedule"]
    wrong = [
        {**plain, "schedule": {**schedule, "lowering": "folded"}},
        {**plain, "schedule": {**schedule, "sub_batch": 0}},
        {**plain, "latency_ms": {}},
        "no run",
        None,
    ]
    (bundle / "reports").mkdir()
    (bundle / "reports" / "bench.json").write_text(
        json.dumps({"record_version": RECORD_VERSION, "runs": [*wrong, plain]})
    )
    assert kept(opened) == [good]
    assert [row["schedule"] for row in rows_of(opened)] == ["levels 2, sub-batch 2, reshape"]
    keep(opened, bench())
    assert kept(opened) == [good, bench()]
    # Of the same use: in place of the older one.
    keep(opened, msgspec.structs.replace(good, iterations=7))
    assert [record.iterations for record in kept(opened)] == [1, 7]


@pytest.mark.parametrize("name", ["manifest.json", "weights.bin", "reference/frame-0.npy"])
def test_a_page_replaces_no_file_of_the_bundle(cli: Cli, bundle: Path, name: str) -> None:
    with_record(bundle)
    before = (bundle / name).read_bytes()
    done = cli("report", bundle, "-o", bundle / name)
    assert done.returncode == 2
    assert done.stderr == (f"smp-deploy: {bundle / name} is a file of the bundle {bundle}; choose another place\n")
    assert (bundle / name).read_bytes() == before
    Bundle.open(bundle)


def test_targets(exported: Bundle, tmp_path: Path) -> None:
    for name in ("page.html", "PAGE.HTML", "notes.txt"):
        (tmp_path / name).touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "link.html").symlink_to(exported.path / "manifest.json")
    for name in ("page.html", "PAGE.HTML", "absent", "absent.txt"):
        check_file_target(exported, tmp_path / name, ".html")
    for name, part in (
        ("notes.txt", "is there and is no .html file"),
        ("folder", "is there and is no .html file"),
        ("link.html", "is a file of the bundle"),
    ):
        with pytest.raises(OutputError, match=part):
            check_file_target(exported, tmp_path / name, ".html")


def test_overlays_of_more_classes_than_a_byte_counts(bundle: Path) -> None:
    opened = with_record(bundle)
    classes = [ClassRecord(name=f"class {index}", color=(index % 256, index // 256, 7)) for index in range(300)]
    many = replace(opened, manifest=msgspec.structs.replace(opened.manifest, classes=classes))
    labels = (np.arange(SIZE[0] * SIZE[1]).reshape(SIZE) % 300).astype(np.int16)
    save_arrays(bundle, labels)
    found = re.search(r'src="data:image/png;base64,([^"]+)" alt="road.png, labels in fp32"', page(many, stored(many)))
    assert found is not None
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(found[1]))))
    np.testing.assert_array_equal(shown, np.stack([labels % 256, labels // 256, np.full(SIZE, 7)], axis=-1))


def bomb(items: str, size: int) -> str:
    """JSON of so many bytes, of values that take 30 times as much when they are read."""
    return f'{{"record_version": {RECORD_VERSION}, "runs": [{items * (size // len(items))}0]}}'


def test_measurements_of_any_size_are_not_read(bundle: Path) -> None:
    opened = Bundle.open(bundle)
    for content in (bomb("0,", 1 << 20), bomb("0,", 10_000)):
        opened.write_report("bench.json", content.encode())
        assert kept(opened) == []
    opened.write_report("bench.json", bytes((1 << 20) + 1))
    with pytest.raises(BundleError, match=r"bench\.json is larger than 1 MiB, the most that is read of such a file"):
        opened.report("bench.json")


def test_a_record_of_any_size_is_not_read(bundle: Path) -> None:
    opened = with_record(bundle)
    opened.write_report("validation.json", bytes((4 << 20) + 1))
    with pytest.raises(BundleError, match=r"validation\.json is larger than 4 MiB.*; run smp-deploy validate anew"):
        stored(opened)
    opened.write_report("validation.json", b'{"record_version": ' + b"[[]," * 200_000 + b"[]" + b"]" * 200_000 + b"}")
    with pytest.raises(BundleError, match=r"validation\.json.*; run smp-deploy validate anew"):
        stored(opened)
    opened.write_report("validation.json", b'{"record_version": 99}')
    with pytest.raises(BundleError, match=f"has record version 99, this smp-deploy reads {VALIDATION_VERSION}"):
        stored(opened)


def test_of_two_verdicts_none_counts(bundle: Path) -> None:
    path = with_record(bundle).path / "reports" / "validation.json"
    path.write_text(path.read_text().replace('"verdict":', '"verdict": "failed", "verdict":', 1))
    with pytest.raises(BundleError, match="the key 'verdict' stands twice; run smp-deploy validate anew"):
        stored(Bundle.open(bundle))


def test_more_proofs_than_are_read_are_not_passed_over(bundle: Path) -> None:
    """One of them may have failed."""
    opened = with_record(bundle)
    for precision in ("fp32", "tf32", "fp16", "bf16", "int8"):
        opened.write_report(f"validation-onnxruntime-{precision}.json", bytes(4 << 20))
    with pytest.raises(
        BundleError, match=r"reports holds proofs of more than 16 MiB, the most that is read; remove some"
    ):
        stored_proofs(opened)
    (bundle / "reports" / "validation-onnxruntime-int8.json").write_bytes(bytes((4 << 20) + 1))
    assert stored_proofs(opened) == {}


def test_other_records_on_the_page(bundle: Path) -> None:
    """Those that cannot be read are named; of many, the first ones are shown."""
    opened = with_record(bundle)
    for name, content in {
        "a-fine": b'{"figure": 1}',
        "b-twice": b'{"figure": 1, "figure": 2}',
        "c-large": bytes((1 << 20) + 1),
        "d-deep": b"[" * 100_000,
        **{f"e-{number:03}": b"{}" for number in range(70)},
        "z-last": b'{"figure": 1}',
    }.items():
        opened.write_report(f"{name}.json", content)
    shown = page(opened, stored(opened))
    assert "a-fine" in shown
    assert [name for name in ("b-twice", "c-large", "d-deep") if f"{name}.json" in shown] == [
        "b-twice",
        "c-large",
        "d-deep",
    ]
    assert "z-last" not in shown
