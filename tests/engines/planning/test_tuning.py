"""Tunings in a bundle: kept, replaced, chosen where they fit, and never half-written."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import pytest

from engines import Bundle, Lowering, Precision, Schedule, Session, choose_schedule
from engines.backends import backend_named
from engines.bundle.manifest import TuningMeasurement, TuningRecord
from engines.devices.processor import processor_name
from engines.errors import BundleError, MissingDependency
from engines.planning.tunings import here

CPU = backend_named("onnxruntime")
DEVICE, RUNTIME = here(CPU, None)
BEST = Schedule(2, 4, Lowering.DILATED)


def tuning(best: Schedule = BEST, **changes: Any) -> TuningRecord:
    """Of this machine, unless changed."""
    known: dict[str, Any] = {
        "device": DEVICE,
        "backend": "onnxruntime",
        "precision": Precision.FP32,
        "runtime": RUNTIME,
    }
    schedules = (best, Schedule(2, 1))
    measurements = [
        TuningMeasurement(schedule=schedule, frame_ms=[10.0 + index]) for index, schedule in enumerate(schedules)
    ]
    return TuningRecord(**{**known, **changes}, measurements=measurements)


def test_sessions_use_the_tuning_of_this_machine(bundle: Path) -> None:
    tuned = Bundle.open(bundle).with_tuning(tuning())
    assert Bundle.open(bundle).manifest == tuned.manifest
    choice = choose_schedule(tuned)
    assert (choice.schedule, choice.tuned) == (BEST, True)
    assert choice.reason == f"tuned on this device: {DEVICE}, {RUNTIME}"
    with Session.open(bundle) as session:
        assert session.schedule == BEST
    with Session.open(bundle, schedule=Schedule(2, 2)) as session:
        assert session.schedule == Schedule(2, 2)
    # Another precision was not measured.
    with Session.open(bundle, precision=Precision.FP16) as session:
        assert session.schedule == Schedule(2, 1)


@pytest.mark.parametrize("other", [{"device": "a GPU far away"}, {"runtime": "onnxruntime 0.1"}])
def test_a_tuning_of_another_machine_is_not_used(bundle: Path, other: dict[str, str]) -> None:
    tuned = Bundle.open(bundle).with_tuning(tuning(**other))
    choice = choose_schedule(tuned)
    assert (choice.schedule, choice.tuned) == (Schedule(2, 1), False)
    assert "the bundle's default; it is tuned for" in choice.reason
    assert next(iter(other.values())) in choice.reason
    assert DEVICE in choice.reason


def test_without_a_tuning_the_default_is_taken(exported: Bundle) -> None:
    choice = choose_schedule(exported)
    assert choice.schedule == Schedule(2, 1)
    assert choice.reason == "the bundle's default; it is not tuned for onnxruntime, fp32"


def test_one_tuning_for_each_use(bundle: Path) -> None:
    opened = Bundle.open(bundle)
    opened.with_tuning(tuning(device="other"))
    opened.with_tuning(tuning())
    # Written by one who has read the manifest before: nothing of the others is lost.
    opened.with_tuning(tuning(Schedule(2, 8, Lowering.STRIDED)))
    held = {one.device: one.measurements[0].schedule.sub_batch for one in Bundle.open(bundle).tunings}
    assert held == {"other": 4, DEVICE: 8}


def test_tunings_that_are_stored_at_the_same_moment_are_all_kept(bundle: Path) -> None:
    opened, devices = Bundle.open(bundle), [f"device {number}" for number in range(16)]
    with ThreadPoolExecutor(len(devices)) as threads:
        list(threads.map(lambda device: opened.with_tuning(tuning(device=device)), devices))
    assert {held.device for held in Bundle.open(bundle).tunings} == set(devices)


def test_a_tuning_of_graphs_that_are_gone_is_refused(bundle: Path) -> None:
    opened = Bundle.open(bundle)
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["files"]["trunk-l2-dilated.onnx"]["size"] += 1
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    before = (bundle / "manifest.json").read_bytes()
    with pytest.raises(BundleError, match="was exported anew meanwhile; do it again"):
        opened.with_tuning(tuning())
    assert (bundle / "manifest.json").read_bytes() == before


def test_a_tuning_is_of_the_graphs_that_ran(bundle: Path) -> None:
    """OpenVINO computes bf16 from the fp32 graph: the bundle needs no other."""
    from tests.converters.verification.faults import sealed

    trunks = [
        msgspec.structs.replace(trunk, graphs={Precision.FP32: trunk.graphs[Precision.FP32]})
        for trunk in Bundle.open(bundle).manifest.trunks
    ]
    record = tuning(precision=Precision.BF16)
    sealed(bundle, trunks=trunks).with_tuning(record)
    assert Bundle.open(bundle).tunings == [record]


def test_a_tuning_of_a_trunk_that_is_not_there_is_refused(bundle: Path) -> None:
    Bundle.open(bundle).with_tuning(tuning())
    target = json.loads((bundle / "target.json").read_text())
    target["tunings"][0]["measurements"][0]["schedule"]["levels"] = 4
    (bundle / "target.json").write_text(json.dumps(target))
    with pytest.raises(BundleError, match="a tuning of levels 4, sub-batch 4, dilated, but no such trunk"):
        Bundle.open(bundle)


def test_a_runtime_that_is_not_installed_names_its_extra() -> None:
    try:
        assert backend_named("tensorrt").runtime().startswith("tensorrt ")
    except MissingDependency as error:
        assert "smp-deploy[tensorrt]" in str(error)  # noqa: PT017 - which of the two depends on the machine


def test_the_processor_has_a_name() -> None:
    assert processor_name()
    assert DEVICE.startswith(processor_name())


WRITER = """
import sys, msgspec
from engines import Bundle, Precision
from engines.bundle.manifest import TuningRecord
bundle, tuning = Bundle.open(sys.argv[1]), msgspec.json.decode(sys.argv[2], type=TuningRecord)
print("writing", flush=True)
while True:
    bundle.with_tuning(tuning)
"""


def test_a_kill_while_it_is_written_leaves_the_bundle_whole(bundle: Path) -> None:

    document = msgspec.json.encode(tuning()).decode()
    draw = random.Random(0)
    for _ in range(6):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(bundle), document], stdout=subprocess.PIPE, text=True
        ) as writer:
            assert writer.stdout is not None
            assert writer.stdout.readline() == "writing\n"
            time.sleep(draw.uniform(0, 0.1))
            writer.kill()
        assert len(Bundle.open(bundle).tunings) <= 1
