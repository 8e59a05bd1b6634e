"""What the operations refuse and accept, called from Python."""

from __future__ import annotations

from pathlib import Path

import pytest

from engines import Bundle, Schedule, Session, choose_schedule, plan
from engines.errors import BackendError, BundleError, InputError, LayoutError, MissingEngine
from smp_deploy import bench, evaluate, tune


def test_a_path_is_opened_wherever_a_bundle_is_taken(exported: Bundle) -> None:
    assert plan(exported.path).candidates == plan(exported).candidates
    assert choose_schedule(str(exported.path)).schedule == choose_schedule(exported).schedule
    for operation in (plan, choose_schedule):
        with pytest.raises(BundleError, match="absent"):
            operation(exported.path.parent / "absent")


def test_a_schedule_beside_a_budget_must_fit_it(exported: Bundle) -> None:
    with Session.open(exported, schedule=Schedule(2, 4), memory="1GiB") as session:
        assert session.schedule == Schedule(2, 4)
    for call in (bench, Session.open):
        # 64 MiB are for the process.
        with pytest.raises(InputError, match=r"^levels 2, .* needs 8\d\.\d MiB as predicted, more than memory='64MiB'"):
            call(exported, schedule=Schedule(2), memory="64MiB")
    with pytest.raises(InputError, match=r"^memory= chooses the schedule; leave out levels="):
        choose_schedule(exported, levels=2, memory="1GiB")


@pytest.mark.parametrize("sub_batch", [0, -1])
def test_a_sub_batch_of_none_is_refused(exported: Bundle, sub_batch: int) -> None:
    with pytest.raises(LayoutError, match="a sub-batch from 1; received"):
        choose_schedule(exported, sub_batch=sub_batch)


def test_lengths_that_are_none_are_refused_before_anything_runs(exported: Bundle) -> None:
    with pytest.raises(InputError, match=r"received rounds=0, seconds=2\.0$"):
        tune(exported, rounds=0)
    with pytest.raises(InputError, match="a percentile lies between 0 and 100; received 101"):
        bench(exported, percentiles=(101,), iterations=10**9, duration_s=0, keep=False)


def test_a_text_is_a_path(exported: Bundle, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="absent"):
        evaluate(exported, "camvid", root=str(tmp_path / "absent"))


def test_a_smaller_schedule_hides_no_reason(exported: Bundle) -> None:
    for options, kind, reason in (
        ({"precision": "int8"}, BundleError, "export it with"),
        ({"backend": "openvino", "precision": "int8"}, BackendError, "does not compute in int8"),
        ({"backend": "tensorrt-rtx"}, MissingEngine, r"build_engine\('.*', backend='tensorrt-rtx', precision='fp32', "),
    ):
        for allow_smaller in (False, True):
            with pytest.raises(kind, match=reason):
                Session.open(exported, schedule=Schedule(2), allow_smaller=allow_smaller, **options)
