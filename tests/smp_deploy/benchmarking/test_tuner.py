"""Candidates, what is dropped, and who wins."""

from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from engines import Bundle, Lowering, Precision, Schedule, Session, plan
from engines.backends import backend_named
from engines.backends.onnxruntime.cpu import OnnxRuntimeCpu
from engines.backends.openvino import OPENVINO
from engines.bundle.manifest import TuningMeasurement, TuningRecord
from engines.errors import InputError, OutputError
from smp_deploy.benchmarking import tuner
from smp_deploy.benchmarking.tuner import (
    EQUALLY_FAST,
    TuningConfig,
    _fits,
    candidates,
    hopeful,
    missing_trunks,
    tune,
    winner,
)

DEFAULT = Schedule(2, 1, Lowering.RESHAPE)


def test_candidates_repeat_no_work(exported: Bundle) -> None:
    found = candidates(exported, TuningConfig())
    assert found[0] == DEFAULT
    assert len(set(found)) == len(found)
    expected = {Schedule(0, 1)} | {Schedule(1, size) for size in (1, 2, 4)}
    expected |= {Schedule(2, size, lowering) for size in (1, 2, 4, 8, 16) for lowering in Lowering}
    assert set(found) == expected


def test_candidates_can_be_chosen(exported: Bundle) -> None:
    config = TuningConfig(levels=(3,), fits=lambda schedule: schedule.sub_batch <= 2)
    # The default is always among them: the others are compared with it.
    assert candidates(exported, config) == [DEFAULT, Schedule(3, 1), Schedule(3, 2)]
    with pytest.raises(InputError, match="no schedule is left"):
        candidates(exported, TuningConfig(levels=(3,), lowerings=(Lowering.DILATED,)))


def test_on_tensorrt_the_engines_are_compared(bundle: Path) -> None:
    opened = Bundle.open(bundle)
    for schedule in (Schedule(2, 4), Schedule(2, 2, Lowering.DILATED)):
        opened = opened.with_engine(
            "tensorrt-rtx", Precision.FP16, schedule, plan=b"plan", prepare=b"prepare", record={}
        )
    config = TuningConfig(backend=backend_named("tensorrt-rtx"), precision=Precision.FP16)
    assert candidates(opened, config) == [Schedule(2, 4), Schedule(2, 2, Lowering.DILATED)]
    with pytest.raises(InputError, match="or no engine, of these levels"):
        candidates(opened, TuningConfig(backend=backend_named("tensorrt-rtx")))


def test_trunks_that_the_bundle_lacks_are_named(exported: Bundle) -> None:
    missing = [(m.levels, m.lowering) for m in missing_trunks(exported.manifest, TuningConfig())]
    assert missing == [(level, form) for level in (0, 1) for form in (Lowering.STRIDED, Lowering.DILATED)]
    assert not missing_trunks(exported.manifest, TuningConfig(levels=(2,)))


def test_the_hopeless_are_dropped_by_their_best_time() -> None:
    slow, unlucky, fast = Schedule(2, 2), Schedule(2, 4), Schedule(2, 8)
    times = {DEFAULT: [300.0, 300.0], slow: [126.0, 130.0], unlucky: [400.0, 101.0], fast: [100.0, 100.0]}
    assert hopeful(times, list(times)) == [DEFAULT, unlucky, fast]


def test_of_equally_fast_ones_the_smallest_wins(exported: Bundle) -> None:
    manifest, small, large = exported.manifest, Schedule(2, 1, Lowering.DILATED), Schedule(2, 4, Lowering.DILATED)
    config = TuningConfig()
    equal = {DEFAULT: [200.0] * 3, small: [101.0, 101.5, 99.0], large: [100.0, 90.0, 110.0]}
    assert winner(manifest, config, equal) == small
    faster = {DEFAULT: [200.0] * 3, small: [103.0] * 3, large: [100.0] * 3}
    assert winner(manifest, config, faster) == large
    dropped = {DEFAULT: [200.0] * 3, small: [50.0, 60.0], large: [100.0] * 3}
    assert winner(manifest, config, dropped) == large


def test_a_tuning_is_recorded_with_every_measurement_the_winner_first(bundle: Path) -> None:
    seen: list[tuple[int, int]] = []
    result = tune(
        bundle,
        levels=(2,),
        lowerings=(Lowering.DILATED,),
        rounds=2,
        seconds=0.01,
        on_progress=lambda done, total: seen.append((done, total)),
    )
    # The default, and five sub-batches of the lowering, twice each.
    assert seen[-1] == (12, 12)
    tuning = result.record
    times = {m.schedule: m.frame_ms for m in tuning.measurements}
    assert set(times) == {DEFAULT, *(Schedule(2, size, Lowering.DILATED) for size in (1, 2, 4, 8, 16))}
    assert all(len(values) == 2 and min(values) > 0 for values in times.values())
    medians = {schedule: sum(values) / 2 for schedule, values in times.items()}
    first, *others = times
    assert medians[first] <= EQUALLY_FAST * min(medians.values())
    # Of the equally fast ones it is the one of the fewest phases at a time.
    near = [s for s in others if medians[s] <= EQUALLY_FAST * min(medians.values())]
    assert all(first.sub_batch <= schedule.sub_batch for schedule in near if schedule.lowering is first.lowering)
    assert not result.missing
    # It is in the bundle that is returned and in the one on the disk, and a session follows it.
    assert result.bundle.tunings == [tuning] == Bundle.open(bundle).tunings
    with Session.open(bundle) as session:
        assert session.schedule == first


def test_a_budget_leaves_out_what_does_not_fit(bundle: Path) -> None:
    # Of the whole process, whose part before a bundle is opened is 64 MiB for ONNX Runtime on a CPU.
    peaks = {c.schedule: 64 * 2**20 + c.peak_bytes for c in plan(Bundle.open(bundle)).candidates}
    budget = peaks[Schedule(2, 2, Lowering.DILATED)]
    result = tune(bundle, levels=(2,), lowerings=(Lowering.DILATED,), rounds=1, seconds=0.01, memory=budget)
    found = {m.schedule for m in result.record.measurements}
    assert found == {DEFAULT} | {
        schedule
        for schedule in (Schedule(2, size, Lowering.DILATED) for size in (1, 2, 4, 8, 16))
        if peaks[schedule] <= budget
    }
    with pytest.raises(InputError, match="no schedule is left"):
        tune(bundle, memory=1024)


def test_what_a_backend_cannot_hold_is_never_tried(bundle: Path) -> None:
    opened, backend = Bundle.open(bundle), backend_named("tensorrt-rtx")
    for schedule in (DEFAULT, Schedule(3, 1)):
        opened = opened.with_engine("tensorrt-rtx", Precision.FP32, schedule, plan=b"plan", prepare=b"", record={})
    default, *others = opened.manifest.trunks
    default = msgspec.structs.replace(default, largest_tensor=2**31 + 1)
    spoilt = replace(opened, manifest=msgspec.structs.replace(opened.manifest, trunks=[default, *others]))
    config = TuningConfig(backend=backend, levels=(2, 3), fits=_fits(spoilt, backend, Precision.FP32, None))
    # Not even the default, which others are compared with elsewhere.
    assert candidates(spoilt, config) == [Schedule(3, 1)]


def test_a_bundle_that_cannot_be_written_is_refused_before_the_first_measurement(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Bundle) -> None:
        raise OutputError("read-only")

    monkeypatch.setattr(Bundle, "check_writable", refuse)
    seen: list[tuple[int, int]] = []
    with pytest.raises(OutputError, match="read-only"):
        tune(bundle, on_progress=lambda done, total: seen.append((done, total)))
    assert not seen


def test_a_tuning_belongs_to_the_graphs_that_the_backend_runs(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A backend that computes bf16 from the fp32 graph can be tuned with a bundle that has no bf16."""

    class Hinted(OnnxRuntimeCpu):
        memory = OPENVINO.memory

        def refusal(self, precision: Precision) -> str | None:
            return None

        def graph_precision(self, precision: Precision) -> Precision:
            return Precision.FP32

    record = TuningRecord(
        device="this",
        backend="onnxruntime",
        precision=Precision.BF16,
        runtime="none",
        measurements=[TuningMeasurement(schedule=Schedule(2), frame_ms=[1.0])],
    )
    monkeypatch.setattr(tuner, "measured", lambda *_: record)
    assert Precision.BF16 not in Bundle.open(bundle).manifest.trunk().graphs
    assert tune(bundle, Hinted(), Precision.BF16, memory="1GiB").record == record
    assert Bundle.open(bundle).tunings == [record]
