"""Executing on a device: the same predictions as in host memory, whatever is asked in which order, and nothing left."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
import pytest

from engines import Bundle, Lowering, Precision, Schedule, Session
from engines.devices.base import Copies, pinned_array
from engines.errors import BackendError, OutOfMemory
from engines.executors.device import DeviceExecutor
from tests.engines.executors.host_device import HostDevice, HostEngine, Misuse, Pace

SCHEDULES = [
    Schedule(0),
    Schedule(1, 3),
    Schedule(2),
    Schedule(2, 3),
    Schedule(2, 16),
    Schedule(2, 4, Lowering.STRIDED),
    Schedule(2, 4, Lowering.DILATED),
    Schedule(3, 5),
    Schedule(4, 16),
    Schedule(5, 16),
]


def opener(device: HostDevice, bundle: Bundle, **options: bool) -> Callable[[Schedule], DeviceExecutor]:
    """Opens executors of the bundle on the device, as a session asks for them."""

    def open_executor(schedule: Schedule) -> DeviceExecutor:
        trunk = bundle.manifest.trunk(schedule.levels, schedule.lowering)
        prepare = HostEngine(device, bundle.file(bundle.manifest.prepare))
        try:
            engine = HostEngine(device, bundle.trunk_graph(trunk, Precision.FP32), **options)
        except BaseException:
            prepare.close()
            raise
        return DeviceExecutor(device, prepare, engine, bundle.manifest.grid(trunk), schedule.sub_batch)

    return open_executor


def session_on(device: HostDevice, bundle: Bundle, schedule: Schedule, *smaller: Schedule) -> Session:
    return Session(bundle, opener(device, bundle), schedule, smaller)


def frames(count: int) -> list[np.ndarray]:
    return [np.random.default_rng(seed).integers(0, 256, (64, 96, 3), dtype=np.uint8) for seed in range(count)]


@pytest.fixture(scope="module")
def expected(exported: Bundle) -> Callable[[Schedule, int], list[np.ndarray]]:
    known: dict[Schedule, list[np.ndarray]] = {}

    def labels(schedule: Schedule, count: int) -> list[np.ndarray]:
        if len(known.get(schedule, ())) < count:
            with Session.open(exported, schedule=schedule) as session:
                known[schedule] = [session.predict(frame) for frame in frames(count)]
        return known[schedule][:count]

    return labels


@pytest.mark.parametrize(
    ("schedule", "pace"),
    [*((schedule, Pace.LATE) for schedule in SCHEDULES), (Schedule(2, 3), Pace.EAGER), (Schedule(3, 5), Pace.EAGER)],
    ids=str,
)
def test_predictions_are_those_of_the_runners(
    exported: Bundle, expected: Callable, schedule: Schedule, pace: Pace
) -> None:
    device = HostDevice(pace)
    with session_on(device, exported, schedule) as session:
        for frame, labels in zip(frames(2), expected(schedule, 2), strict=True):
            np.testing.assert_array_equal(session.predict(frame), labels)
        assert session.executor.notes == ()
        assert device.launches == 2 * len(session.grid.sub_batches(schedule.sub_batch))
    assert device.leaked == 0


def test_refinements_end_at_the_prediction(exported: Bundle, expected: Callable) -> None:
    device = HostDevice()
    with session_on(device, exported, Schedule(2, 4)) as session:
        refinements = list(session.refine(frames(1)[0]))
    assert [refinement.phases_done for refinement in refinements] == [4, 8, 12, 16]
    np.testing.assert_array_equal(refinements[-1].prediction, expected(Schedule(2), 1)[0])


@pytest.mark.parametrize("pace", Pace, ids=lambda pace: pace.value)
@pytest.mark.parametrize("schedule", [Schedule(0), Schedule(2, 3), Schedule(3, 16)], ids=str)
def test_consecutive_frames_overlap_and_come_in_order(
    exported: Bundle, expected: Callable, schedule: Schedule, pace: Pace
) -> None:
    device, asked = HostDevice(pace), []

    def source() -> list[np.ndarray]:
        for frame in frames(5):
            asked.append(len(asked))
            # The caller's buffer is used for every frame, as cameras do.
            buffer[...] = frame
            yield buffer

    buffer = np.empty((64, 96, 3), np.uint8)
    with session_on(device, exported, schedule) as session:
        for index, labels in enumerate(session.predict_all(source())):
            np.testing.assert_array_equal(labels, expected(schedule, 5)[index])
            assert len(asked) == min(index + 2, 5)
        assert list(session.predict_all([])) == []
    assert device.leaked == 0


def test_any_number_of_walks_may_be_half_done(exported: Bundle, expected: Callable) -> None:
    """More walks than places, taken in turns: each frame and each prediction is put aside and comes back."""
    device, schedule = HostDevice(), Schedule(2, 3)
    with session_on(device, exported, schedule) as session:
        walks = [session.refine(frame) for frame in frames(5)]
        last = [None] * 5
        for _ in range(6):
            last = [next(walk) for walk in walks]
        for refinement, labels in zip(last, expected(schedule, 5), strict=True):
            np.testing.assert_array_equal(refinement.prediction, labels)
        executor = session.executor
        loaded = [executor.load(frame) for frame in frames(3)]
        phases = session.grid.sub_batches(3)
        pending = [[frame.submit(group) for group in phases] for frame in loaded]
        for frame_pending, labels in zip(reversed(pending), reversed(expected(schedule, 3)), strict=True):
            merged = np.empty((64, 96), np.uint8)
            for under_way, group in zip(frame_pending, phases, strict=True):
                session.grid.place(under_way.collect(), group, merged)
            np.testing.assert_array_equal(merged, labels)
        with pytest.raises(BackendError, match="given up or taken already"):
            pending[0][0].collect()
        given_up = loaded[0].submit(phases[0])
        loaded[0].close()
        loaded[0].close()
        with pytest.raises(BackendError, match="given up or taken already"):
            given_up.collect()
    assert device.leaked == 0


@pytest.mark.parametrize("pace", Pace, ids=lambda pace: pace.value)
def test_a_place_changes_hands_before_its_work_is_done(exported: Bundle, expected: Callable, pace: Pace) -> None:
    device, schedule = HostDevice(pace), Schedule(1, 2)
    with session_on(device, exported, schedule) as session:
        groups = session.grid.sub_batches(2)
        merged = [np.empty((64, 96), np.uint8) for _ in range(4)]
        loaded, under_way = [], []
        for index, frame in enumerate(frames(4)):
            loaded.append(session.executor.load(frame))
            under_way.append((loaded[-1].submit(groups[0]), groups[0], merged[index]))
        for index, frame in enumerate(loaded):
            under_way.append((frame.submit(groups[1]), groups[1], merged[index]))
        for pending, group, into in under_way:
            session.grid.place(pending.collect(), group, into)
        for labels, result in zip(expected(schedule, 4), merged, strict=True):
            np.testing.assert_array_equal(result, labels)
    assert device.leaked == 0


@pytest.mark.parametrize("pace", Pace, ids=lambda pace: pace.value)
def test_threads_get_their_own_results(exported: Bundle, expected: Callable, pace: Pace) -> None:
    device, schedule = HostDevice(pace), Schedule(2, 4)
    results: dict[int, list[np.ndarray]] = {}
    with session_on(device, exported, schedule) as session:

        def work(index: int) -> None:
            frame = frames(4)[index]
            results[index] = [session.predict(frame), *session.predict_all([frame]), session.predict(frame)]

        threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(results) == [0, 1, 2, 3]
    for index, labels in enumerate(expected(schedule, 4)):
        for result in results[index]:
            np.testing.assert_array_equal(result, labels)
    assert device.leaked == 0


def test_closing_in_the_middle(exported: Bundle) -> None:
    """Other threads hear of it in one clear error, and nothing is left."""
    device = HostDevice()
    session = session_on(device, exported, Schedule(2))
    begun, errors = threading.Barrier(4), []

    def work() -> None:
        walk = session.refine(frames(1)[0])
        next(walk)
        begun.wait()
        try:
            while True:
                list(walk)
                walk = session.refine(frames(1)[0])
        except BackendError as error:
            errors.append(str(error))

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    begun.wait()
    session.close()
    for thread in threads:
        thread.join()
    assert errors == ["the session is closed"] * 3
    session.close()
    assert device.leaked == 0


def test_an_abandoned_walk_leaves_its_place(exported: Bundle, expected: Callable) -> None:
    device, schedule = HostDevice(), Schedule(2, 3)
    with session_on(device, exported, schedule) as session:
        for _ in range(5):
            walk = session.refine(frames(1)[0])
            next(walk)
            walk.close()
        early = session.predict(frames(1)[0], deadline_ms=0.001)
        assert early.phases_done == 3
        np.testing.assert_array_equal(session.predict(frames(1)[0]), expected(schedule, 1)[0])
    assert device.leaked == 0


def test_a_session_closes_after_ctrl_c(exported: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupted(HostDevice):
        interrupted = False

        def wait(self, event: object) -> None:
            if self.interrupted:
                raise KeyboardInterrupt
            super().wait(event)

    device = Interrupted()
    session = session_on(device, exported, Schedule(2, 3))
    frame = session.executor.load(frames(1)[0])
    pending = frame.submit([(0, 0)])
    device.interrupted = True
    with pytest.raises(KeyboardInterrupt):
        pending.collect()
    device.interrupted = False
    closing = threading.Thread(target=session.close, daemon=True)
    closing.start()
    closing.join(timeout=60)
    assert not closing.is_alive()
    frame.close()
    assert device.leaked == 0


@pytest.mark.parametrize("schedule", [Schedule(2, 3), Schedule(3, 16)], ids=str)
def test_every_request_that_fails_is_one_error_and_leaves_nothing(exported: Bundle, schedule: Schedule) -> None:
    counting = HostDevice()
    session_on(counting, exported, schedule).close()
    assert counting.requests > 20
    for fail_at in range(1, counting.requests + 1):
        device = HostDevice(fail_at=fail_at)
        with pytest.raises(OutOfMemory, match="the host device has no room for"):
            session_on(device, exported, schedule)
        assert device.leaked == 0, fail_at


def test_running_requests_nothing(exported: Bundle) -> None:
    device = HostDevice()
    with session_on(device, exported, Schedule(2, 3)) as session:
        requests, held = device.requests, device.leaked
        session.predict(frames(1)[0])
        assert (device.requests, device.leaked) == (requests, held)
        grid = session.grid
        planes, window = 3 * 70 * 102 * 4, 3 * 67 * 99 * 4
        assert dict(session.executor.memory()) == {
            "windows": 3 * window,
            "predictions": 3 * 16 * 24,
            "pinned": 2 * (3 * 16 * 24 + 64 * 96 * 3),
            "frames": 2 * 64 * 96 * 3,
            "planes": 2 * planes,
            "engines": 3000,
        }
        assert grid.planes_size == (70, 102)
        assert device.device_bytes == sum(session.executor.memory().values()) - session.executor.memory()["pinned"]


def test_an_engine_that_cannot_be_captured_runs_without_and_says_so(exported: Bundle, expected: Callable) -> None:
    device = HostDevice()
    with Session(exported, opener(device, exported, capturable=False), Schedule(2, 3)) as session:
        assert session.executor.notes == tuple(
            f"sub-batches of {size} are not captured in a graph: this engine cannot be captured" for size in (3, 1)
        )
        np.testing.assert_array_equal(session.predict(frames(1)[0]), expected(Schedule(2, 3), 1)[0])
        assert device.launches == 0
    assert device.leaked == 0


def test_a_run_without_memory_is_an_error_that_passes(exported: Bundle, expected: Callable) -> None:
    device = HostDevice()
    with Session(exported, opener(device, exported, capturable=False), Schedule(2, 3)) as session:
        device.fail_runs = 2
        for _ in range(2):
            with pytest.raises(OutOfMemory, match="no room for a run"):
                session.predict(frames(1)[0])
        np.testing.assert_array_equal(session.predict(frames(1)[0]), expected(Schedule(2, 3), 1)[0])
    assert device.leaked == 0


def test_the_host_device_sees_what_a_gpu_would_not() -> None:
    """So that the tests above mean something."""
    device = HostDevice()
    one, two = device.create_stream(), device.create_stream()
    pinned, memory = device.allocate_pinned(4), device.allocate(4)
    view = pinned_array(pinned, np.dtype(np.uint8), (4,))
    view[...] = [1, 2, 3, 4]
    device.copy(memory, pinned, 4, Copies.TO_DEVICE, one)
    device.copy(pinned, memory, 4, Copies.TO_HOST, two)
    # Two streams without an event between: the download does not wait for the upload.
    device.synchronize(two)
    assert view.tolist() == [0xA5] * 4
    device.synchronize(one)
    event = device.create_event()
    device.copy(memory, pinned, 3, Copies.TO_HOST, one)
    with pytest.raises(Misuse, match="is device memory"):
        device.synchronize(one)
    device.copy(memory, pinned, 5, Copies.TO_DEVICE, one)
    with pytest.raises(Misuse, match="are not memory that was given"):
        device.synchronize(one)
    device.begin_capture(one)
    for forbidden in (lambda: device.synchronize(one), lambda: device.allocate(1), lambda: device.begin_capture(one)):
        with pytest.raises(Misuse):
            forbidden()
    device.destroy_graph(device.end_capture(one))
    device.record(event, one)
    with pytest.raises(Misuse, match="with work on it"):
        device.destroy_stream(one)
    device.wait(event)
    device.free(memory)
    with pytest.raises(Misuse, match="not memory that was given"):
        device.free(memory)
    assert device.leaked == 4
