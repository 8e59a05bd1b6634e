"""Executing on a device: the same predictions as in host memory, whatever is asked in which order, and nothing left."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
import pytest

from engines import Bundle, Lowering, Schedule, Session
from engines.devices.base import Copies, Event, Stream, pinned_array
from engines.errors import BackendError, OutOfMemory, WorkFailed
from engines.executors.buffers import buffers_of
from engines.executors.device import DeviceExecutor
from engines.executors.timing import stage_times_ms
from tests.engines.executors.host_device import HostDevice, Misuse, Pace
from tests.engines.executors.host_engine import frames, opener, session_on

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


def merged_by_hand(session: Session, work: list[tuple[int, int, int]], count: int) -> list[np.ndarray]:
    """Label maps of frames that are loaded, from sub-batches that are waited for one after the other.

    ``work`` has the number of the frame, which is its slot, that of the sub-batch, and the slot for it; two are under
    way at a time.
    """
    executor, groups = session.executor, session.grid.sub_batches(session.schedule.sub_batch)
    under_way: list[int] = []
    for frame, group, slot in work:
        if len(under_way) == 2:
            executor.wait(under_way.pop(0))
        executor.submit(frame, groups[group], slot)
        under_way.append(slot)
    for slot in under_way:
        executor.wait(slot)
    return [executor.result(frame) for frame in range(count)]


@pytest.mark.parametrize("pace", Pace, ids=lambda pace: pace.value)
def test_two_frames_and_two_sub_batches_have_a_slot(exported: Bundle, expected: Callable, pace: Pace) -> None:
    device, schedule = HostDevice(pace), Schedule(3, 16)
    with session_on(device, exported, schedule) as session:
        for slot, frame in enumerate(frames(2)):
            session.executor.load(frame, slot)
        # Both frames take turns, so each sub-batch has other windows and offsets than the one before it.
        work = [(number % 2, number // 2, number % 2) for number in range(8)]
        for labels, merged in zip(expected(schedule, 2), merged_by_hand(session, work, 2), strict=True):
            np.testing.assert_array_equal(merged, labels)
    assert device.leaked == 0


@pytest.mark.parametrize("pace", Pace, ids=lambda pace: pace.value)
def test_a_slot_that_is_filled_anew_gives_its_old_content_up(exported: Bundle, expected: Callable, pace: Pace) -> None:
    """As after Ctrl-C: work of an old frame is still under way when the next one comes."""
    device, schedule = HostDevice(pace), Schedule(2, 8)
    old, new = frames(2)
    with session_on(device, exported, schedule) as session:
        executor, (first, second) = session.executor, session.grid.sub_batches(8)
        with pytest.raises(BackendError, match="no frame was loaded into slot 1"):
            executor.submit(1, first, 0)
        executor.load(old, 0)
        executor.submit(0, first, 0)
        executor.submit(0, second, 1)
        executor.load(new, 0)
        for slot in range(2):
            with pytest.raises(
                BackendError, match=f"nothing was submitted in slot {slot}, or it was waited for or given up"
            ):
                executor.wait(slot)
        with pytest.raises(BackendError, match="nothing is computed of a frame in slot 0"):
            executor.result(0)
        executor.submit(0, second, 0)
        (merged,) = merged_by_hand(session, [(0, 0, 0), (0, 1, 1)], 1)
        np.testing.assert_array_equal(merged, expected(schedule, 2)[1])
        executor.unload(0)
        with pytest.raises(BackendError, match="no frame was loaded into slot 0"):
            executor.submit(0, first, 0)
    assert device.leaked == 0


def test_merged_predictions_cannot_be_written_through_and_results_are_the_callers_own(exported: Bundle) -> None:
    """The former are the executor's memory."""
    with session_on(HostDevice(), exported, Schedule(0)) as session:
        executor = session.executor
        executor.load(frames(1)[0], 0)
        executor.submit(0, [(0, 0)], 0)
        executor.wait(0)
        with pytest.raises(ValueError, match="read-only"):
            executor.merged(0)[...] = 1
        result = executor.result(0)
        kept = result.copy()
        executor.load(frames(2)[1], 0)
        executor.submit(0, [(0, 0)], 0)
        executor.wait(0)
        assert not np.array_equal(executor.merged(0), kept)
        np.testing.assert_array_equal(result, kept)
        result[...] = 1


@pytest.mark.parametrize("pace", Pace, ids=lambda pace: pace.value)
def test_threads_get_their_own_results(exported: Bundle, expected: Callable, pace: Pace) -> None:
    """Every call is made with the device as the thread's current one, too: the host device insists."""
    device, schedule = HostDevice(pace), Schedule(2, 4)
    results: dict[int, list[np.ndarray]] = {}
    with session_on(device, exported, schedule) as session:

        def work(index: int) -> None:
            frame = frames(4)[index]
            results[index] = [session.predict(frame) for _ in range(3)]

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


def session_phases(bundle: Bundle, schedule: Schedule) -> list[list[tuple[int, int]]]:
    return bundle.manifest.grid(bundle.manifest.trunk_of(schedule)).sub_batches(schedule.sub_batch)


@pytest.mark.parametrize("schedule", [Schedule(2, 3), Schedule(3, 16)], ids=str)
def test_every_request_that_fails_is_one_error_and_leaves_nothing(exported: Bundle, schedule: Schedule) -> None:
    counting = HostDevice()
    session_on(counting, exported, schedule).close()
    assert counting.requests > 20
    graphs = len({len(group) for group in session_phases(exported, schedule)})
    for fail_at in range(1, counting.requests + 1):
        device = HostDevice(fail_at=fail_at)
        if fail_at > counting.requests - graphs:
            # It goes on without that graph.
            with session_on(device, exported, schedule) as session:
                (note,) = session.executor.notes
                assert (
                    "are not captured in a graph: capturing failed: the host device has no room for HostGraph" in note
                )
        else:
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
            "predictions": 3 * 3 * 16 * 24,
            "pinned": 2 * (64 * 96 + 64 * 96 * 3),
            "frames": 2 * 64 * 96 * 3,
            "merged": 2 * 64 * 96,
            "planes": planes,
            "engines": 3000,
        }
        assert grid.planes_size == (70, 102)
        assert device.device_bytes == sum(session.executor.memory().values()) - session.executor.memory()["pinned"]


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
def test_the_buffers_are_those_that_are_planned(exported: Bundle, schedule: Schedule) -> None:
    device = HostDevice()
    with session_on(device, exported, schedule) as session:
        held = {what: size for what, size in session.executor.memory().items() if what not in ("pinned", "engines")}
        assert buffers_of(session.grid, schedule.sub_batch, 1).on_device == sum(held.values())


def test_a_limit_that_does_not_suffice_is_an_error_and_leaves_nothing(exported: Bundle) -> None:
    device = HostDevice()
    with session_on(device, exported, Schedule(2, 3)) as session:
        needed = sum(size for what, size in session.executor.memory().items() if what != "pinned")
    with Session(exported, opener(device, exported, limit=needed), Schedule(2, 3)):
        pass
    with pytest.raises(OutOfMemory, match=f"take {needed} bytes of the device, where the budget leaves {needed - 1}"):
        Session(exported, opener(device, exported, limit=needed - 1), Schedule(2, 3))
    assert device.leaked == 0


@pytest.mark.parametrize("grows", [1, 3, 6])
def test_an_arena_that_grows_is_let_grow_before_its_work_is_captured(
    exported: Bundle, expected: Callable, grows: int
) -> None:
    """The host device takes it for misuse to allocate while work is captured, as CUDA does."""
    device = HostDevice()
    with Session(exported, opener(device, exported, grows=grows), Schedule(2, 3)) as session:
        assert session.executor.notes == ()
        np.testing.assert_array_equal(session.predict(frames(1)[0]), expected(Schedule(2, 3), 1)[0])
    assert device.leaked == 0


def test_what_a_library_reports_late_is_not_taken_for_an_error_of_the_next_work(
    exported: Bundle, expected: Callable
) -> None:
    device = HostDevice()
    with Session(exported, opener(device, exported, capturable=False, late=True), Schedule(2, 3)) as session:
        assert len(session.executor.notes) == 2
        np.testing.assert_array_equal(session.predict(frames(1)[0]), expected(Schedule(2, 3), 1)[0])
    assert device.leaked == 0


class Forgetful(HostDevice):
    """Leaves out the waits of one stream for another in one place of a sub-batch's way."""

    def __init__(self, forgotten: int) -> None:
        super().__init__(Pace.LATE)
        self.forgotten = forgotten
        self.waiting: list[object] = []

    def stream_wait(self, stream: Stream, event: Event) -> None:
        if stream not in self.waiting:
            self.waiting.append(stream)
        if self.waiting.index(stream) != self.forgotten:
            super().stream_wait(stream, event)


@pytest.mark.parametrize(
    ("forgotten", "what"), [(0, "for an upload, or for what is merged"), (1, "for a sub-batch"), (2, "to download")]
)
def test_a_wait_that_is_left_out_is_seen(exported: Bundle, expected: Callable, forgotten: int, what: str) -> None:
    """Injected: so the waits are needed, and the tests above would see it if one were missing."""
    device, schedule = Forgetful(forgotten), Schedule(2, 4)
    with session_on(device, exported, schedule) as session:
        executor, groups = session.executor, session.grid.sub_batches(4)
        executor.load(frames(1)[0], 0)
        for group in groups:
            # In one slot, and nobody waits: the device alone keeps the order.
            executor.submit(0, group, 0)
        labels = executor.result(0)
    assert not np.array_equal(labels, expected(schedule, 1)[0]), what


def test_the_device_alone_keeps_the_order(exported: Bundle, expected: Callable) -> None:
    device, schedule = HostDevice(Pace.LATE), Schedule(2, 4)
    with session_on(device, exported, schedule) as session:
        executor = session.executor
        executor.load(frames(1)[0], 0)
        for group in session.grid.sub_batches(4):
            executor.submit(0, group, 0)
        np.testing.assert_array_equal(executor.result(0), expected(schedule, 1)[0])


def test_the_next_frame_begins_before_this_one_is_handed_over(exported: Bundle) -> None:
    """So that a device has work while the host copies labels."""
    device = HostDevice()
    with session_on(device, exported, Schedule(2, 8)) as session:
        images = frames(3)
        results = session.predict_all(iter(images))
        next(results)
        # Both sub-batches of the first frame, and the first one of the second.
        assert device.launches == 3
        results.close()
        # What was under way of a frame that nobody walks is forgotten.
        labels = session.predict(images[2])
        np.testing.assert_array_equal(labels, list(session.predict_all(images))[2])


def test_an_engine_that_cannot_be_captured_runs_without_and_says_so(exported: Bundle, expected: Callable) -> None:
    device = HostDevice()
    with Session(exported, opener(device, exported, capturable=False), Schedule(2, 3)) as session:
        assert session.executor.notes == tuple(
            f"sub-batches of {size} are not captured in a graph: capturing failed: this engine cannot be captured"
            for size in (3, 1)
        )
        np.testing.assert_array_equal(session.predict(frames(1)[0]), expected(Schedule(2, 3), 1)[0])
        assert device.launches == 0
    assert device.leaked == 0


def test_an_engine_that_manages_its_own_memory_is_lent_none(exported: Bundle, expected: Callable) -> None:
    device = HostDevice()
    with Session(exported, opener(device, exported, memory_size=0), Schedule(2, 3)) as session:
        # What is left is what the engine of prepare wants.
        assert session.executor.memory()["engines"] == 1000
        np.testing.assert_array_equal(session.predict(frames(1)[0]), expected(Schedule(2, 3), 1)[0])
    assert device.leaked == 0


def test_work_that_fails_fails_when_the_session_is_opened(exported: Bundle) -> None:
    """And not with the first frame."""
    device = HostDevice()
    with pytest.raises(WorkFailed, match="an illegal memory access was encountered"):
        Session(exported, opener(device, exported, broken=True), Schedule(2, 3))
    assert device.leaked == 0


def test_a_device_that_refuses_everything_after_the_work_broke_hides_nothing(exported: Bundle) -> None:
    class Sticky(HostDevice):
        def free(self, address: int) -> None:
            raise BackendError("CUDA refuses cudaFree")

    with pytest.raises(WorkFailed, match="an illegal memory access was encountered"):
        Session(exported, opener(Sticky(), exported, broken=True), Schedule(2, 3))


def test_stage_times_are_those_between_marks(exported: Bundle) -> None:
    device = HostDevice()
    with session_on(device, exported, Schedule(2, 3)) as session:
        held = device.leaked
        assert isinstance(session.executor, DeviceExecutor)
        times = stage_times_ms(session.executor, frames(1)[0], session.grid.sub_batches(3)[0])
        assert times == dict.fromkeys(["prepare", "cut", "trunk", "merge"], 1.0)
        assert device.leaked == held
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
    with pytest.raises(Misuse, match="not the thread's current one"):
        device.create_stream()
    with device.current():
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
        for forbidden in (
            lambda: device.synchronize(one),
            lambda: device.allocate(1),
            lambda: device.begin_capture(one),
        ):
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
