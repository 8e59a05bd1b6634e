"""One prediction at a time: who waits, who is refused, what closing and Ctrl-C do, on a real ONNX Runtime."""

from __future__ import annotations

import gc
import re
import signal
import threading
from collections.abc import Callable, Generator, Iterator

import numpy as np
import pytest

from engines import Bundle, Schedule, Session
from engines.errors import BackendError, InputError


def test_threads_take_turns_and_get_their_own_results(exported: Bundle) -> None:
    frames = [np.random.default_rng(seed).integers(0, 256, (64, 96, 3), dtype=np.uint8) for seed in range(4)]
    with Session.open(exported) as session:
        expected = [session.predict(frame) for frame in frames]
        results: dict[int, np.ndarray] = {}
        threads = [
            threading.Thread(target=lambda i=i: results.update({i: session.predict(frames[i])})) for i in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for index, labels in enumerate(expected):
        np.testing.assert_array_equal(results[index], labels)


def unfinished(session: Session, frame: np.ndarray, call: str) -> Generator[object, None, None]:
    """A generator of the session after its first step."""
    steps = session.refine(frame) if call == "refine" else session.predict_all([frame, frame])
    next(steps)
    return steps


def in_a_thread(call: Callable[[], object]) -> object:
    """What a call gives, or the error that it raises, in another thread."""
    results: list[object] = []

    def work() -> None:
        try:
            results.append(call())
        except Exception as error:  # noqa: BLE001 - whatever it is
            results.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(60)
    assert not thread.is_alive()
    return results[0]


@pytest.mark.parametrize("call", ["refine", "predict_all"])
def test_an_unfinished_generator_refuses_every_other_call_at_once(
    exported: Bundle, frame: np.ndarray, call: str
) -> None:
    with Session.open(exported) as session:
        expected = session.predict(frame)
        steps = unfinished(session, frame, call)
        for name, other in (
            ("predict", lambda: session.predict(frame)),
            ("refine", lambda: next(session.refine(frame))),
            ("predict_all", lambda: next(session.predict_all([frame]))),
        ):
            said = f"^{call} is unfinished on this session: .* or close.. it, before {name} is called$"
            with pytest.raises(InputError, match=said):
                other()
            error = in_a_thread(other)
            assert isinstance(error, InputError)
            assert re.match(said, str(error))
        # It goes on as if nothing had been, in any thread, and then the session is free.
        assert len(in_a_thread(lambda: list(steps))) == (15 if call == "refine" else 1)  # type: ignore[arg-type]
        np.testing.assert_array_equal(session.predict(frame), expected)


@pytest.mark.parametrize("call", ["refine", "predict_all"])
def test_a_generator_that_is_closed_or_abandoned_frees_the_session(
    exported: Bundle, frame: np.ndarray, call: str
) -> None:
    with Session.open(exported) as session:
        expected = session.predict(frame)
        unfinished(session, frame, call).close()
        np.testing.assert_array_equal(session.predict(frame), expected)
        unfinished(session, frame, call)
        np.testing.assert_array_equal(session.predict(frame), expected)
        # One that was never begun holds nothing, and one in a cycle is the garbage collector's.
        never_begun = session.refine(frame)
        cycle: list[object] = [unfinished(session, frame, call)]
        cycle.append(cycle)
        del cycle
        gc.collect()
        np.testing.assert_array_equal(session.predict(frame), expected)
        assert len(list(never_begun)) == 16


def test_a_call_from_within_another_is_refused(exported: Bundle, frame: np.ndarray) -> None:
    said: list[str] = []
    with Session.open(exported, schedule=Schedule(2, 8)) as session:
        expected = session.predict(frame)

        def nested(done: int, total: int) -> None:
            with pytest.raises(InputError) as caught:
                session.predict(frame)
            said.append(str(caught.value))

        def source() -> Iterator[np.ndarray]:
            yield frame
            yield session.predict(frame)

        np.testing.assert_array_equal(session.predict(frame, on_progress=nested), expected)
        (once,) = set(said)
        assert len(said) == 2
        assert once == (
            "predict is at work on this session in this thread, so predict cannot be called from within it; call it "
            "afterwards, or open a second session"
        )
        results = session.predict_all(source())
        np.testing.assert_array_equal(next(results), expected)
        with pytest.raises(InputError, match="predict_all is unfinished on this session"):
            next(results)
        np.testing.assert_array_equal(session.predict(frame), expected)


def test_closing_does_not_wait_for_the_callers_own_code(exported: Bundle, frame: np.ndarray) -> None:
    """In ``on_progress``, in a source of frames, or between the steps of a generator."""

    def by_progress(session: Session) -> None:
        session.predict(frame, on_progress=lambda done, total: in_a_thread(session.close))

    def by_source(session: Session) -> None:
        def source() -> Iterator[np.ndarray]:
            in_a_thread(session.close)
            yield frame

        next(session.predict_all(source()))

    def by_step(session: Session) -> None:
        steps = unfinished(session, frame, "refine")
        in_a_thread(session.close)
        next(steps)

    def by_itself(session: Session) -> None:
        session.predict(frame, on_progress=lambda done, total: session.close())

    for closed in (by_progress, by_source, by_step, by_itself):
        with Session.open(exported) as session, pytest.raises(BackendError, match=r"^the session is closed$"):
            closed(session)


def test_ctrl_c_while_waiting_for_a_turn(exported: Bundle, frame: np.ndarray) -> None:
    session = Session.open(exported)
    begun, go_on = threading.Event(), threading.Event()

    def on_progress(done: int, total: int) -> None:
        begun.set()
        assert go_on.wait(60)

    other = threading.Thread(target=lambda: session.predict(frame, on_progress=on_progress))
    other.start()
    assert begun.wait(60)
    interrupting = threading.Timer(0.5, signal.pthread_kill, (threading.get_ident(), signal.SIGINT))
    interrupting.start()
    with pytest.raises(KeyboardInterrupt):
        session.predict(frame)
    go_on.set()
    other.join(60)
    assert not other.is_alive()
    assert session.predict(frame).shape == (64, 96)
    session.close()


def test_the_next_frame_is_not_asked_for_before_its_turn(exported: Bundle, frame: np.ndarray) -> None:
    """There is one slot on the host, so one buffer serves for all frames and two never lie side by side."""
    asked, buffer = [], np.empty_like(frame)
    with Session.open(exported) as session:
        expected = [session.predict(np.roll(frame, index, axis=1)) for index in range(3)]

        def source() -> Iterator[np.ndarray]:
            for index in range(3):
                asked.append(index)
                buffer[...] = np.roll(frame, index, axis=1)
                yield buffer

        for index, labels in enumerate(session.predict_all(source())):
            assert asked == list(range(index + 1))
            np.testing.assert_array_equal(labels, expected[index])
        assert session.executor.slots == 1
        assert session.executor._planes is None


def test_the_executor_has_one_frame_and_one_sub_batch(exported: Bundle, frame: np.ndarray) -> None:
    with Session.open(exported, schedule=Schedule(2, 4)) as session:
        executor, groups = session.executor, session.grid.sub_batches(4)
        with pytest.raises(BackendError, match="no frame was loaded into slot 0"):
            executor.submit(0, groups[0], 0)
        executor.load(frame, 0)
        with pytest.raises(BackendError, match="nothing is computed of a frame in slot 0"):
            executor.result(0)
        executor.submit(0, groups[0], 0)
        executor.wait(0)
        assert executor.merged(0).shape == (64, 96)
        with pytest.raises(BackendError, match="nothing was submitted in slot 0"):
            executor.wait(0)
    for closed in (
        lambda: executor.load(frame, 0),
        lambda: executor.submit(0, groups[0], 0),
        lambda: executor.wait(0),
    ):
        with pytest.raises(BackendError, match="the session is closed"):
            closed()
