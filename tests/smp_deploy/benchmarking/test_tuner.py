"""Candidates, what is dropped, and who wins."""

from pathlib import Path

import numpy as np
import pytest

from engines import Bundle, Lowering, Precision, Schedule
from engines.errors import InputError
from smp_deploy.benchmarking.tuner import (
    EQUALLY_FAST,
    TuningConfig,
    candidates,
    hopeful,
    missing_trunks,
    tune,
    winner,
)

DEFAULT = Schedule(2, 1, Lowering.RESHAPE)


def test_candidates_repeat_no_work(exported: Bundle) -> None:
    found = candidates(exported.manifest, TuningConfig())
    assert found[0] == DEFAULT
    assert len(set(found)) == len(found)
    expected = {Schedule(0, 1)} | {Schedule(1, size) for size in (1, 2, 4)}
    expected |= {Schedule(2, size, lowering) for size in (1, 2, 4, 8, 16) for lowering in Lowering}
    assert set(found) == expected


def test_candidates_can_be_chosen(exported: Bundle) -> None:
    config = TuningConfig(levels=(3,), fits=lambda schedule: schedule.sub_batch <= 2)
    # The default is always among them: the others are compared with it.
    assert candidates(exported.manifest, config) == [DEFAULT, Schedule(3, 1), Schedule(3, 2)]
    with pytest.raises(InputError, match="no schedule is left"):
        candidates(exported.manifest, TuningConfig(levels=(3,), lowerings=(Lowering.DILATED,)))


def test_on_tensorrt_the_engines_are_compared(bundle: Path) -> None:
    opened = Bundle.open(bundle)
    for schedule in (Schedule(2, 4), Schedule(2, 2, Lowering.DILATED)):
        opened = opened.with_engine(
            "tensorrt-rtx", Precision.FP16, schedule, plan=b"plan", prepare=b"prepare", record={}
        )
    config = TuningConfig(backend="tensorrt-rtx", precision=Precision.FP16)
    assert candidates(opened.manifest, config) == [Schedule(2, 4), Schedule(2, 2, Lowering.DILATED)]
    with pytest.raises(InputError, match="or no engine, of these levels"):
        candidates(opened.manifest, TuningConfig(backend="tensorrt-rtx"))


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


def test_a_tuning_holds_every_measurement_the_winner_first(exported: Bundle, frame: np.ndarray) -> None:
    config = TuningConfig(levels=(2,), lowerings=(Lowering.DILATED,), rounds=2, seconds=0.01)
    seen: list[tuple[int, int]] = []
    tuning = tune(exported, frame, config, lambda done, total: seen.append((done, total)))
    assert seen[-1] == (12, 12)
    measured = {m.schedule: m.frame_ms for m in tuning.measurements}
    assert set(measured) == set(candidates(exported.manifest, config))
    assert all(len(times) == 2 and min(times) > 0 for times in measured.values())
    # The record's order is that of the medians, computed here by numpy, but for those that are about as fast.
    medians = {schedule: float(np.median(times)) for schedule, times in measured.items()}
    first, *others = medians
    assert medians[first] <= EQUALLY_FAST * min(medians.values())
    assert [medians[schedule] for schedule in others] == sorted(medians[schedule] for schedule in others)
