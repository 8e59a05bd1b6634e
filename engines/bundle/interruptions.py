"""What SIGTERM and SIGHUP do: end the process at once, unless something is half written.

Python hears a signal between two of its own instructions, so a handler written in it is deaf for as long as a runtime
loads or optimises a graph. The system's own reaction, to end the process, is not. It is left in place wherever an end
leaves nothing behind; around a file or a directory that is being made, :func:`half_written` has the signal raise
``KeyboardInterrupt``, as Ctrl-C does, so that what was begun is removed.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NoReturn

_ENDING = (signal.SIGTERM, signal.SIGHUP)


@contextmanager
def half_written() -> Iterator[None]:
    """Inside, SIGTERM and SIGHUP raise ``KeyboardInterrupt``: there is something to remove.

    To be entered before the first trace on the disk and left after the last is gone. It may be nested. A signal that
    the program handles or ignores stays as it is, as under ``nohup``; so do all of them outside the main thread, where
    Python lets none be changed.
    """
    with ExitStack() as stack:
        if threading.current_thread() is threading.main_thread():
            for number in _ENDING:
                if signal.getsignal(number) is signal.SIG_DFL:
                    stack.callback(_set, number, signal.SIG_DFL)
                    signal.signal(number, _interrupt)
        yield


@contextmanager
def undisturbed() -> Iterator[None]:
    """Inside, Ctrl-C, SIGTERM and SIGHUP wait for the end of the block: for renames that belong together.

    A signal that is ignored stays so; outside the main thread none is heard anyway.
    """
    heard: list[int] = []
    before: dict[signal.Signals, Any] = {}
    if threading.current_thread() is threading.main_thread():
        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, *_ENDING)}
        before = {number: held for number, held in handlers.items() if held not in (None, signal.SIG_IGN)}
    try:
        for number in before:
            signal.signal(number, lambda number, frame: heard.append(number))
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    for late in heard:
        signal.raise_signal(late)


def _interrupt(number: int, frame: object) -> NoReturn:
    # Once is enough: a second one would break off the cleaning up.
    for other in _ENDING:
        if signal.getsignal(other) is _interrupt:
            signal.signal(other, signal.SIG_IGN)
    raise KeyboardInterrupt


def _set(number: signal.Signals, handler: signal.Handlers) -> None:
    try:
        signal.signal(number, handler)
    except KeyboardInterrupt:
        # A signal that came just before is heard here, before anything is set.
        signal.signal(number, handler)
        raise
