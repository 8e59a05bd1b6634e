"""Memory runs out: one clear error, or the next smaller schedule where that was allowed."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from engines import Bundle, Schedule, Session
from engines.errors import BackendError, FrameError, OutOfMemory
from engines.executors.device import DeviceExecutor
from tests.engines.executors.host_device import HostDevice
from tests.engines.executors.host_engine import opener, session_on

PLANES, FRAME, WINDOW = 3 * 70 * 102 * 4, 64 * 96 * 3, 3 * 67 * 99 * 4


def room_for(sub_batch: int) -> int:
    """Device memory of levels 2 on the host device, whose engines take 1000 bytes a phase."""
    return PLANES + 2 * (FRAME + 64 * 96) + sub_batch * (WINDOW + 3 * 16 * 24 + 1000)


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def expected(exported: Bundle, image: np.ndarray) -> np.ndarray:
    with Session.open(exported, schedule=Schedule(2)) as session:
        return session.predict(image)


def test_opening_takes_the_first_that_fits(exported: Bundle, image: np.ndarray, expected: np.ndarray) -> None:
    chain = (Schedule(2, 8), Schedule(2, 4), Schedule(2, 1))
    device = HostDevice(capacity=room_for(4))
    with session_on(device, exported, Schedule(2, 16), *chain) as session:
        assert session.schedule == Schedule(2, 4)
        assert [(reduction.refused, reduction.tried) for reduction in session.reductions] == [
            (Schedule(2, 16), Schedule(2, 8)),
            (Schedule(2, 8), Schedule(2, 4)),
        ]
        assert str(session.reductions[0]) == (
            "levels 2, sub-batch 16, reshape did not fit: the host device has no room for "
            f"{16 * WINDOW} bytes; trying levels 2, sub-batch 8, reshape"
        )
        np.testing.assert_array_equal(session.predict(image), expected)
    assert device.leaked == 0


def test_without_leave_it_is_an_error(exported: Bundle) -> None:
    device = HostDevice(capacity=room_for(4))
    with pytest.raises(OutOfMemory, match="no room for"):
        session_on(device, exported, Schedule(2, 16))
    assert device.leaked == 0


def test_where_nothing_fits_the_last_error_comes_out(exported: Bundle) -> None:
    device = HostDevice(capacity=room_for(1) - 1)
    with pytest.raises(OutOfMemory, match=r"no room for \d+ bytes"):
        session_on(device, exported, Schedule(2, 16), Schedule(2, 4), Schedule(2, 1))
    assert device.leaked == 0


def running_out(
    device: HostDevice, exported: Bundle, *smaller: Schedule, after: int = 0
) -> tuple[Session, Callable[[int, int], None]]:
    """A session whose engines have memory for ``after`` sub-batches more, once it is told the first time."""
    session = Session(exported, opener(device, exported, capturable=False), Schedule(2, 4), smaller)
    told: list[tuple[int, int]] = []

    def on_progress(done: int, total: int) -> None:
        told.append((done, total))
        if len(told) == 1 + after:
            device.fail_runs = 1

    return session, on_progress


def test_running_out_in_the_middle_begins_anew(exported: Bundle, image: np.ndarray, expected: np.ndarray) -> None:
    device = HostDevice()
    session, on_progress = running_out(device, exported, Schedule(3, 1))
    with session:
        labels = session.predict(image, on_progress=on_progress)
        assert (labels == expected).mean() >= 0.9998
        assert session.schedule == Schedule(3, 1)
        assert len(session.grid.phases) == 64
        (reduction,) = session.reductions
        assert reduction.reason == "the host device has no room for a run"
    assert device.leaked == 0
    # A closed session still says what it was.
    assert session.schedule == Schedule(3, 1)


def test_a_refinement_begins_anew_too(exported: Bundle, image: np.ndarray, expected: np.ndarray) -> None:
    device = HostDevice()
    session, _ = running_out(device, exported, Schedule(2, 1))
    with session:
        refinements = []
        for refinement in session.refine(image):
            refinements.append(refinement)
            if len(refinements) == 2:
                device.fail_runs = 1
        assert [refinement.phases_done for refinement in refinements] == [4, 8, *range(1, 17)]
        np.testing.assert_array_equal(refinements[-1].prediction, expected)
    assert device.leaked == 0


def test_running_out_without_leave_leaves_the_session_usable(
    exported: Bundle, image: np.ndarray, expected: np.ndarray
) -> None:
    device = HostDevice()
    session, on_progress = running_out(device, exported)
    with session:
        with pytest.raises(OutOfMemory, match="no room for a run"):
            session.predict(image, on_progress=on_progress)
        np.testing.assert_array_equal(session.predict(image), expected)
    assert device.leaked == 0


def test_running_out_of_everything_closes_the_session(exported: Bundle, image: np.ndarray) -> None:
    device = HostDevice()
    session, on_progress = running_out(device, exported, Schedule(2, 1))
    device.capacity = 0
    with pytest.raises(OutOfMemory, match="no room for"):
        session.predict(image, on_progress=on_progress)
    assert device.leaked == 0
    with pytest.raises(BackendError, match="the session is closed"):
        session.predict(image)
    session.close()


@pytest.mark.parametrize("given", [0, 1, 3])
def test_frames_in_one_buffer_keep_their_content_when_a_walk_begins_anew(
    exported: Bundle, image: np.ndarray, given: int
) -> None:
    """A camera's buffer holds the next frame already when memory runs out in the middle of this one."""
    images = [np.roll(image, 7 * index, axis=1) for index in range(5)]
    with Session.open(exported, schedule=Schedule(2)) as session:
        expected = [session.predict(image) for image in images]
    device, buffer = HostDevice(), np.empty_like(image)
    asked: list[int] = []

    def source() -> Iterator[np.ndarray]:
        for index, image in enumerate(images):
            asked.append(index)
            # The next frame is asked for when two sub-batches of this one are under way: a later one runs out.
            device.fail_runs = 1 if index == given + 1 else 0
            buffer[...] = image
            yield buffer

    with Session(exported, opener(device, exported, capturable=False), Schedule(2, 4), [Schedule(2, 1)]) as session:
        results = []
        for labels in session.predict_all(source()):
            results.append(labels)
        np.testing.assert_array_equal(results, expected)
        assert session.schedule == Schedule(2, 1)
        assert len(session.reductions) == 1
    assert asked == list(range(5))
    assert device.leaked == 0


def test_a_refinement_keeps_its_frame_too(exported: Bundle, image: np.ndarray, expected: np.ndarray) -> None:
    """The caller may use the array for something else between two steps."""
    device, buffer = HostDevice(), image.copy()
    session, _ = running_out(device, exported, Schedule(2, 1))
    with session:
        steps = session.refine(buffer)
        next(steps)
        buffer[...] = 0
        device.fail_runs = 1
        *_, last = steps
        np.testing.assert_array_equal(last.prediction, expected)
        assert len(session.reductions) == 1


def test_what_is_wrong_with_the_next_frame_costs_no_result(
    exported: Bundle, image: np.ndarray, expected: np.ndarray
) -> None:
    device = HostDevice()
    with session_on(device, exported, Schedule(2, 4)) as session:
        results = session.predict_all([image, image[1:], image])
        np.testing.assert_array_equal(next(results), expected)
        with pytest.raises(FrameError, match="received 63x96"):
            next(results)
        np.testing.assert_array_equal(session.predict(image), expected)
    assert device.leaked == 0


def test_threads_go_on_with_the_smaller_one(exported: Bundle, image: np.ndarray, expected: np.ndarray) -> None:
    device = HostDevice()
    with Session(exported, opener(device, exported, capturable=False), Schedule(2, 4), [Schedule(2, 1)]) as session:
        barrier, results = threading.Barrier(3), []

        def work() -> None:
            barrier.wait()
            results.append(session.predict(image))

        device.fail_runs = 1
        threads = [threading.Thread(target=work) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(session.reductions) == 1
    assert len(results) == 3
    for labels in results:
        np.testing.assert_array_equal(labels, expected)
    assert device.leaked == 0


def test_closing_while_a_smaller_one_is_opened(exported: Bundle, image: np.ndarray) -> None:
    """It is closed as soon as it is open."""
    device = HostDevice()
    opened = opener(device, exported, capturable=False)
    closing = threading.Thread(target=lambda: session.close())

    def open_executor(schedule: Schedule) -> DeviceExecutor:
        if schedule == Schedule(2, 1):
            closing.start()
            while not session._turns._closed:
                time.sleep(0.001)
        return opened(schedule)

    session = Session(exported, open_executor, Schedule(2, 4), [Schedule(2, 1)])
    device.fail_runs = 1
    with pytest.raises(BackendError, match="the session is closed"):
        session.predict(image)
    closing.join(60)
    assert not closing.is_alive()
    assert device.leaked == 0


def test_onnx_runtime_out_of_memory_is_known_as_such(exported: Bundle, tmp_path: Path) -> None:
    """In a process whose address space is all but used up; afterwards the session works."""
    script = (
        "import resource, sys\n"
        "import numpy as np\n"
        "from engines import Schedule, Session\n"
        "from engines.errors import OutOfMemory\n"
        "frame = np.zeros((64, 96, 3), np.uint8)\n"
        "with Session.open(sys.argv[1], schedule=Schedule(0)) as session:\n"
        "    pages = int(open('/proc/self/statm').read().split()[0])\n"
        "    before = resource.getrlimit(resource.RLIMIT_AS)\n"
        "    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 2**20, before[1]))\n"
        "    try:\n"
        "        session.predict(frame)\n"
        "    except OutOfMemory as error:\n"
        "        print(error)\n"
        "    resource.setrlimit(resource.RLIMIT_AS, before)\n"
        "    print(session.predict(frame).shape)\n"
    )
    result = subprocess.run([sys.executable, "-c", script, str(exported.path)], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    said, shape = result.stdout.splitlines()
    assert said.startswith("ONNX Runtime failed in ")
    assert said.endswith("(the memory does not suffice)")
    assert shape == "(64, 96)"
