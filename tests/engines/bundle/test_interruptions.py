"""SIGTERM and SIGHUP: at once where nothing is half written, else what was begun is removed first."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from engines.bundle.interruptions import half_written

BEGINNING = "from smp_deploy.cli import app, entry\nfrom engines.bundle.interruptions import half_written\n"
RUN = "app.invoke = work\nentry.main()\n"
# Adding numbers up, Python does not look for signals, as it does not inside a runtime.
DEAF = BEGINNING + "def work():\n    print('there', flush=True)\n    sum(range(10**13))\n" + RUN
WRITING = (
    BEGINNING
    + """
import pathlib, time
def work():
    partial = pathlib.Path("a.partial")
    with half_written(), half_written():
        try:
            partial.touch()
            print("there", flush=True)
            time.sleep(60)
        finally:
            time.sleep(0.5)
            partial.unlink()
"""
    + RUN
)
AFTER = (
    BEGINNING + "def work():\n    with half_written():\n        pass\n" + DEAF[len(BEGINNING) + len("def work():\n") :]
)
SIGNALS = pytest.mark.parametrize("kind", [signal.SIGTERM, signal.SIGHUP])


def ended(script: str, kind: signal.Signals, folder: Path, times: int = 1) -> tuple[int, str]:
    """Exit code and stderr of a command that is sent a signal while it works."""
    with subprocess.Popen(
        [sys.executable, "-c", script], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "there\n"
        for _ in range(times):
            process.send_signal(kind)
            threading.Event().wait(0.2)
        try:
            _, said = process.communicate(timeout=30)
        finally:
            process.kill()
    return process.returncode, said


@SIGNALS
@pytest.mark.parametrize("script", [DEAF, AFTER], ids=["nothing was written", "something was"])
def test_native_code_is_ended(script: str, kind: signal.Signals, tmp_path: Path) -> None:
    assert ended(script, kind, tmp_path) == (-kind, "")


@SIGNALS
@pytest.mark.parametrize("times", [1, 2])
def test_what_is_half_written_is_removed(kind: signal.Signals, times: int, tmp_path: Path) -> None:
    code, said = ended(WRITING, kind, tmp_path, times)
    assert (code, said) == (2, "smp-deploy: interrupted; nothing was left half-written\n")
    assert list(tmp_path.iterdir()) == []


def test_what_a_program_handles_or_ignores_stays() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN), signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with half_written():
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
            assert signal.getsignal(signal.SIGTERM) is signal.default_int_handler
    finally:
        for number, handler in zip((signal.SIGHUP, signal.SIGTERM), before, strict=True):
            signal.signal(number, handler)


def test_a_signal_raises_inside_and_all_is_as_before_outside() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)]
    assert before == [signal.SIG_DFL] * 2
    with pytest.raises(KeyboardInterrupt), half_written():
        signal.raise_signal(signal.SIGTERM)
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)] == before
    with half_written(), half_written():
        pass
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)] == before


def test_in_another_thread_nothing_is_changed() -> None:
    found = []

    def work() -> None:
        with half_written():
            found.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [signal.SIG_DFL]
