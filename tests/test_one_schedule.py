"""One budget, or the same named parts, give one schedule in every command and every function."""

from __future__ import annotations

import importlib.util
import json
import math
from pathlib import Path
from typing import Any

import pytest

from engines import Bundle, Lowering, Schedule, Session, build_engine, choose_schedule, plan
from smp_deploy import bench, evaluate
from smp_deploy.datasets.cityscapes import LABEL_IDS
from tests.conftest import SIZE, Cli, document
from tests.smp_deploy.datasets import trees

DEFAULT = Schedule(2, 1)
SHORT = ("--iterations", 1, "--duration", 0, "--warm-up", 0)


def whole_kib(size: int) -> int:
    """The next whole KiB: what a command takes and the library takes alike."""
    return math.ceil(size / 1024) * 1024


def peak_of(bundle: Bundle, schedule: Schedule, backend: str = "onnxruntime") -> int:
    """The smallest budget that a schedule fits, by the plan."""
    planned = plan(bundle, backend)
    (found,) = (candidate for candidate in planned.candidates if candidate.schedule == schedule)
    return planned.process_bytes + found.peak_bytes


BUDGETS = [
    pytest.param(Schedule(2, 1, Lowering.DILATED), id="another form"),
    pytest.param(Schedule(3, 1), id="another level"),
]


def budget_for(bundle: Bundle, schedule: Schedule) -> int:
    """A budget that this schedule fits, and the default does not."""
    budget = whole_kib(peak_of(bundle, schedule))
    assert budget < peak_of(bundle, DEFAULT)
    return budget


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A labelled frame of the bundle's classes."""
    name = "lindau_000000_000019"
    trees.write_image(tmp_path / "leftImg8bit/val/lindau" / f"{name}_leftImg8bit.png", 0, SIZE)
    trees.write_labels(tmp_path / "gtFine/val/lindau" / f"{name}_gtFine_labelIds.png", [*LABEL_IDS, 0], SIZE)
    return tmp_path


@pytest.mark.parametrize("wanted", BUDGETS)
def test_one_budget_gives_one_schedule(cli: Cli, bundle: Path, image: Path, tmp_path: Path, wanted: Schedule) -> None:
    opened = Bundle.open(bundle)
    budget = budget_for(opened, wanted)
    choice = plan(opened, memory=budget).choice
    assert choice is not None
    assert choice.schedule == wanted
    assert choose_schedule(opened).schedule == DEFAULT
    assert choose_schedule(opened, memory=budget).schedule == wanted
    with Session.open(opened, memory=budget) as session:
        assert session.schedule == wanted
    assert bench(opened, memory=budget, duration_s=0, warm_up_ms=0, iterations=1, keep=False).schedule == wanted

    memory = ("--memory", f"{budget // 1024}KiB")
    ran = document(cli("run", bundle, image, "-o", tmp_path / "out", *memory, "--json"))
    assert ran["schedule"] == str(wanted)
    benched = document(cli("bench", bundle, *SHORT, *memory, "--json"))
    assert benched["schedule"] == as_json(wanted)
    assert benched["reason"] == ran["schedule_reason"]
    validated = document(cli("validate", bundle, "--backend", "onnxruntime", *memory, "--json"))
    assert validated["checks"]
    for check in validated["checks"]:
        assert check["subject"].endswith(f", {wanted}"), check["subject"]


@pytest.mark.parametrize("wanted", BUDGETS)
def test_what_is_judged_is_the_schedule_of_the_budget(cli: Cli, exported: Bundle, root: Path, wanted: Schedule) -> None:
    """A part of the phases is judged: how many there are, and which pixels they give, is the schedule's."""
    budget = budget_for(exported, wanted)
    judged: dict[str, Any] = {"root": root, "phases": 1, "extremes": 0}
    by_budget = evaluate(exported, "cityscapes", memory=budget, **judged).confusion
    by_schedule = evaluate(exported, "cityscapes", schedule=wanted, **judged).confusion
    assert (by_budget.counts == by_schedule.counts).all()
    if wanted.levels != DEFAULT.levels:
        by_default = evaluate(exported, "cityscapes", **judged).confusion
        assert (by_budget.counts != by_default.counts).any()
    options = ("--dataset", "cityscapes", "--root", root, "--phases", 1, "--pictures", 0)
    said = document(cli("evaluate", exported.path, *options, "--memory", f"{budget // 1024}KiB", "--json"))
    assert said["mean_iou"] == by_budget.mean_iou


@pytest.mark.skipif(importlib.util.find_spec("tensorrt_rtx") is None, reason="not run: tensorrt_rtx is not installed")
def test_an_engine_is_built_for_the_schedule_of_the_budget(cli: Cli, bundle: Path) -> None:
    opened = Bundle.open(bundle)
    wanted = Schedule(3, 1)
    budget = whole_kib(peak_of(opened, wanted, "tensorrt-rtx"))
    assert budget < peak_of(opened, DEFAULT, "tensorrt-rtx")
    assert choose_schedule(opened, "tensorrt-rtx", memory=budget).schedule == wanted
    assert choose_schedule(opened, "tensorrt-rtx").schedule == DEFAULT
    options = ("--flavour", "tensorrt-rtx", "--memory", f"{budget // 1024}KiB")
    document(cli("build-engine", bundle, *options, "--json"))
    (engine,) = Bundle.open(bundle).engines
    assert engine.schedule == wanted
    # The library finds the engine of the command: the schedule is the same.
    again = build_engine(Bundle.open(bundle), "tensorrt-rtx", memory=budget)
    assert (again.cached, again.engine.schedule) == (True, wanted)


@pytest.mark.parametrize(
    ("parts", "wanted"),
    [
        ({"levels": 3}, Schedule(3, 1)),
        ({"lowering": "strided"}, Schedule(2, 1, Lowering.STRIDED)),
        ({"sub_batch": 3}, Schedule(2, 3)),
        # More than can go together are all.
        ({"sub_batch": 1000}, Schedule(2, 16)),
        ({"levels": 2, "lowering": "dilated", "sub_batch": 4}, Schedule(2, 4, Lowering.DILATED)),
    ],
    ids=lambda value: None if isinstance(value, Schedule) else json.dumps(value),
)
def test_named_parts_give_one_schedule(
    cli: Cli, bundle: Path, image: Path, tmp_path: Path, parts: dict[str, Any], wanted: Schedule
) -> None:
    chosen = choose_schedule(Bundle.open(bundle), **parts)
    assert (chosen.schedule, chosen.reason) == (wanted, "asked for")
    asked = Schedule(wanted.levels, parts.get("sub_batch", 1), wanted.lowering)
    with Session.open(bundle, schedule=asked) as session:
        assert session.schedule == wanted
    options = [text for name, value in parts.items() for text in (f"--{name.replace('_', '-')}", value)]
    ran = document(cli("run", bundle, image, "-o", tmp_path / "out", *options, "--json"))
    assert (ran["schedule"], ran["schedule_reason"]) == (str(wanted), "asked for")
    benched = document(cli("bench", bundle, *SHORT, *options, "--json"))
    assert (benched["schedule"], benched["reason"]) == (as_json(wanted), "asked for")
    validated = document(cli("validate", bundle, "--backend", "onnxruntime", *options, "--json"))
    assert [check["subject"].endswith(f", {wanted}") for check in validated["checks"]] == [True]


def as_json(schedule: Schedule) -> dict[str, object]:
    """As a record writes it."""
    return {"levels": schedule.levels, "lowering": schedule.lowering.value, "sub_batch": schedule.sub_batch}
