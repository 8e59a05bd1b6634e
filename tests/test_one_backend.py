"""A new backend is one object: given as it is, in no list, it opens, plans, proves, measures and is tuned."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

import engines
import smp_deploy
from engines import Backend, Bundle, Lowering, Precision, Schedule, Session
from engines.backends.base import Kind, Support
from engines.backends.memory import MIB, MemoryModel
from engines.bundle.manifest import Manifest
from engines.devices.base import TensorSpec
from engines.devices.names import DeviceName
from engines.errors import BackendError, InputError
from engines.executors.base import Executor
from engines.executors.host import RunnerExecutor
from engines.executors.runner import Array, Runner
from smp_deploy.datasets.base import DatasetInfo, Example

REASON = "a shadow has no whole numbers"
MODEL = MemoryModel(
    process_bytes=10 * MIB, runtime_bytes=3 * MIB, weights=2.0, packing=1.5, measured=frozenset({Precision.FP32})
)


class ShadowRunner(Runner):
    """A graph in a session of its own."""

    def __init__(self, graph: Path) -> None:
        super().__init__()
        self._graph = graph
        self._session: Any = None

    def _activate(self) -> None:
        opened = onnxruntime.InferenceSession(str(self._graph), providers=["CPUExecutionProvider"])
        self._session = opened
        self.inputs, self.outputs = (tuple(map(_spec, ends)) for ends in (opened.get_inputs(), opened.get_outputs()))

    def _close(self) -> None:
        self._session = None

    def _infer(self, feed: Mapping[str, Array]) -> dict[str, Array]:
        names = [spec.name for spec in self.outputs]
        return dict(zip(names, self._session.run(names, dict(feed)), strict=True))


def _spec(end: Any) -> TensorSpec:
    kind = end.type.removeprefix("tensor(").removesuffix(")")
    return TensorSpec(
        end.name,
        np.dtype({"float": "float32"}.get(kind, kind)),
        tuple(size if isinstance(size, int) else None for size in end.shape),
    )


class LateRunner(ShadowRunner):
    """One whose results are shifted by a column."""

    def _infer(self, feed: Mapping[str, Array]) -> dict[str, Array]:
        return {name: np.roll(array, 1, axis=-1) for name, array in super()._infer(feed).items()}


class Shadow(Backend):
    """All that the project is told of a runtime."""

    name = "shadow"
    title = "run in the shadow"
    kind = Kind.CPU
    precisions = frozenset({Precision.FP32})
    memory = MODEL
    extra = "ort"
    packages = ("onnxruntime",)

    def __init__(self, runner: type[ShadowRunner] = ShadowRunner) -> None:
        self.opened: list[Schedule] = []
        self._runner = runner

    def refusal(self, precision: Precision) -> str | None:
        return REASON if precision is Precision.INT8 else super().refusal(precision)

    def device_title(self, device: DeviceName) -> str:
        return f"the shadow of {device}"

    def runtime(self) -> str:
        return "shadow 1.0"

    def support(self) -> Support:
        return Support(True, self.runtime())

    def _open(
        self, bundle: Bundle, precision: Precision, schedule: Schedule, device: DeviceName, memory_bytes: int | None
    ) -> Executor:
        self.opened.append(schedule)
        trunk = bundle.manifest.trunk_of(schedule)
        return RunnerExecutor(
            self._runner(bundle.file(bundle.manifest.prepare)),
            self._runner(bundle.file(bundle.trunk_graph(trunk, precision))),
            bundle.manifest.grid(trunk),
        )


@pytest.fixture
def shadow() -> Shadow:
    """One of its own for each test."""
    return Shadow()


def peak_by_hand(manifest: Manifest, schedule: Schedule) -> int:
    """The whole process, by what ``MODEL`` says: 10 + 3 MiB, the weights twice, and 1.5 times what is alive at once."""
    trunk = manifest.trunk(schedule.levels, schedule.lowering)
    grid = manifest.grid(trunk)
    height, width = manifest.input.size
    assert manifest.input.padded_size == (height, width)
    window = 12 * math.prod(grid.crop_size)
    alive = round(1.5 * (trunk.live_bytes[Precision.FP32] - window))
    whole_frame = 3 * height * width + 12 * math.prod(grid.planes_size) + height * width
    return 13 * MIB + 8 * manifest.network.parameters + whole_frame + schedule.sub_batch * (window + alive)


def test_it_is_in_no_list(shadow: Shadow) -> None:
    assert shadow not in engines.BACKENDS
    with pytest.raises(InputError, match="unknown backend 'shadow'"):
        engines.backends.backend_named("shadow")


def test_its_labels_are_those_of_onnx_runtime(exported: Bundle, frame: np.ndarray, shadow: Shadow) -> None:
    schedules = [Schedule(2, 1), Schedule(2, 4, Lowering.DILATED), Schedule(0, 1), Schedule(4, 3)]
    for schedule in schedules:
        with Session.open(exported, shadow, schedule=schedule) as have, Session.open(exported, schedule=schedule) as by:
            labels, wanted = have.predict(frame), by.predict(frame)
        np.testing.assert_array_equal(labels, wanted)
        assert len(np.unique(wanted)) > 1
    # Its own executor did the work.
    assert shadow.opened == schedules


def test_a_budget_is_held_to_its_own_model(exported: Bundle, shadow: Shadow) -> None:
    manifest = exported.manifest
    planned = engines.plan(exported, shadow)
    assert (planned.backend, planned.process_bytes) == (shadow, 10 * MIB)
    assert len(planned.candidates) > 30
    for candidate in planned.candidates:
        assert 10 * MIB + candidate.peak_bytes == peak_by_hand(manifest, candidate.schedule)

    def least_work_within(budget: int) -> Schedule:
        fitting = [c.schedule for c in planned.candidates if peak_by_hand(manifest, c.schedule) <= budget]
        work = {schedule: manifest.frame_operations(manifest.trunk_of(schedule)) for schedule in fitting}
        equal = [schedule for schedule in fitting if work[schedule] == min(work.values())]
        reference = [schedule for schedule in equal if schedule.lowering is Lowering.RESHAPE]
        return min(reference or equal, key=lambda schedule: peak_by_hand(manifest, schedule))

    default = engines.choose_schedule(exported, shadow).schedule
    ample, exact = 64 * MIB, peak_by_hand(manifest, default)
    assert least_work_within(ample) == least_work_within(exact) == default
    smaller = least_work_within(exact - 1)
    assert smaller.levels > default.levels
    for budget in (ample, exact, exact - 1):
        wanted = least_work_within(budget)
        choice = engines.plan(exported, shadow, memory=budget).choice
        assert choice is not None
        assert choice.schedule == wanted
        assert engines.choose_schedule(exported, shadow, memory=budget).schedule == wanted
        with Session.open(exported, shadow, memory=budget) as session:
            assert session.schedule == wanted

    least = min(peak_by_hand(manifest, candidate.schedule) for candidate in planned.candidates)
    engines.choose_schedule(exported, shadow, memory=least)
    with pytest.raises(InputError, match=rf"no schedule fits .* \({least} bytes\), 10.0 MiB of it for the process"):
        engines.choose_schedule(exported, shadow, memory=least - 1)
    # ONNX Runtime's own process alone takes more than what is ample here.
    with pytest.raises(InputError, match="no schedule fits"):
        engines.choose_schedule(exported, "onnxruntime", memory=exact)


def test_it_is_proven(bundle: Path, shadow: Shadow) -> None:
    validation = engines.prove(bundle, shadow)
    assert validation.verdict.value == "passed"
    assert validation.checks
    for check in validation.checks:
        assert "shadow, fp32" in check.name
    assert (bundle / "reports" / "validation-shadow-fp32-l2-b1-reshape.json").is_file()
    assert shadow.opened == [engines.choose_schedule(Bundle.open(bundle), shadow).schedule]


def test_a_wrong_result_is_not_proven(bundle: Path) -> None:
    assert engines.prove(bundle, Shadow(LateRunner)).verdict.value == "failed"


class Labelled:
    """A frame whose truth is what ONNX Runtime says of it."""

    def __init__(self, bundle: Bundle, frame: np.ndarray) -> None:
        classes = bundle.manifest.classes
        self.info = DatasetInfo("one", tuple(c.name for c in classes), tuple(c.color for c in classes), 255)
        with Session.open(bundle) as session:
            self._example = Example("frame", frame, session.predict(frame))

    def __len__(self) -> int:
        return 1

    def load(self, index: int) -> Example:
        return self._example


def test_it_is_evaluated(exported: Bundle, frame: np.ndarray, shadow: Shadow) -> None:
    dataset, schedule = Labelled(exported, frame), Schedule(3, 2)
    found = smp_deploy.evaluate(exported, dataset, backend=shadow, schedule=schedule)
    assert (found.frames, found.confusion.mean_iou, found.schedule) == (1, 1.0, schedule)
    assert shadow.opened == [schedule]
    late = smp_deploy.evaluate(exported, dataset, backend=Shadow(LateRunner))
    assert late.confusion.mean_iou < 0.9
    # A budget is held to its own model.
    budget = min(peak_by_hand(exported.manifest, c.schedule) for c in engines.plan(exported, shadow).candidates)
    smallest = smp_deploy.evaluate(exported, dataset, backend=shadow, memory=budget).schedule
    assert smallest is not None
    assert peak_by_hand(exported.manifest, smallest) == budget


def test_it_is_measured(bundle: Path, shadow: Shadow) -> None:
    record = smp_deploy.bench(bundle, shadow, duration_s=0, warm_up_ms=0, iterations=3)
    assert (record.backend, record.iterations) == ("shadow", 3)
    assert (record.machine.device, record.machine.runtime) == ("the shadow of cpu", "shadow 1.0")
    assert record.schedule == engines.choose_schedule(Bundle.open(bundle), shadow).schedule
    assert 0 < record.latency_ms.min <= record.latency_ms.max
    assert record.rearrangement is not None


def test_its_tuning_is_found_again(bundle: Path, shadow: Shadow) -> None:
    tuned = smp_deploy.tune(bundle, shadow, levels=[1], rounds=1, seconds=0.01)
    measured = [entry.schedule for entry in tuned.record.measurements]
    assert {schedule.levels for schedule in measured} == {1, 2}
    assert (tuned.record.backend, tuned.record.device) == ("shadow", "the shadow of cpu")
    again = Bundle.open(bundle)
    assert again.tunings == [tuned.record]
    choice = engines.choose_schedule(again, shadow)
    assert (choice.schedule, choice.tuned) == (measured[0], True)
    assert choice.reason == "tuned on this device: the shadow of cpu, shadow 1.0"
    with Session.open(again, shadow) as session:
        assert session.schedule == measured[0]
    # Nobody else's.
    assert not engines.choose_schedule(again, "onnxruntime").tuned


@pytest.mark.parametrize(
    "use",
    [
        pytest.param(lambda bundle, on, precision: Session.open(bundle, on, precision=precision), id="Session.open"),
        pytest.param(lambda bundle, on, precision: engines.plan(bundle, on, precision), id="plan"),
        pytest.param(
            lambda bundle, on, precision: engines.choose_schedule(bundle, on, precision), id="choose_schedule"
        ),
        pytest.param(
            lambda bundle, on, precision: smp_deploy.evaluate(
                bundle, Labelled(bundle, np.zeros((64, 96, 3), np.uint8)), backend=on, precision=precision
            ),
            id="evaluate",
        ),
        pytest.param(lambda bundle, on, precision: engines.prove(bundle, on, precision, keep=False), id="prove"),
        pytest.param(lambda bundle, on, precision: smp_deploy.bench(bundle, on, precision, keep=False), id="bench"),
        pytest.param(lambda bundle, on, precision: smp_deploy.tune(bundle, on, precision), id="tune"),
    ],
)
def test_what_it_refuses_has_its_own_reason(exported: Bundle, shadow: Shadow, use: Callable[..., object]) -> None:
    with pytest.raises(BackendError, match=f"^{REASON}$"):
        use(exported, shadow, "int8")
    with pytest.raises(BackendError, match=r"^shadow does not compute in fp16 \(it has fp32\)$"):
        use(exported, shadow, "fp16")
    assert not shadow.opened
