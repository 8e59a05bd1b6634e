"""Files that belong together: all of them get their names, or none does."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from engines.bundle.gate import write_files
from engines.bundle.interruptions import half_written, undisturbed
from engines.errors import OutputError


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_both_are_written_and_both_replaced(tmp_path: Path) -> None:
    one, two = tmp_path / "a.onnx", tmp_path / "a.json"
    write_files({one: b"1", two: b"2"}, replace=False)
    write_files({one: b"3", two: b"4"})
    assert (one.read_bytes(), two.read_bytes()) == (b"3", b"4")
    assert names(tmp_path) == ["a.json", "a.onnx"]


def test_where_the_second_is_there_already_the_first_is_not_left(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b"mine")
    with pytest.raises(OutputError, match=r"a\.json is there already, and is not replaced"):
        write_files({tmp_path / "a.onnx": b"1", tmp_path / "a.json": b"2"}, replace=False)
    assert names(tmp_path) == ["a.json"]
    assert (tmp_path / "a.json").read_bytes() == b"mine"


def test_where_the_second_cannot_be_written_the_first_stays_as_it_was(tmp_path: Path) -> None:
    """A refusal by the operating system before either has its name, as on a full disk."""
    (tmp_path / "a.onnx").write_bytes(b"old")
    script = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "from engines.bundle.gate import write_files\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "path = Path(sys.argv[1])\n"
        "write_files({path: b'new', path.with_suffix('.json'): bytes(5000)})\n"
    )
    result = subprocess.run([sys.executable, "-c", script, str(tmp_path / "a.onnx")], capture_output=True, text=True)
    assert "OutputError: cannot write" in result.stderr
    assert names(tmp_path) == ["a.onnx"]
    assert (tmp_path / "a.onnx").read_bytes() == b"old"


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_waits_for_the_end_of_the_block(kind: signal.Signals) -> None:
    before = signal.getsignal(kind)
    done = []

    def work() -> None:
        with half_written(), undisturbed():
            signal.raise_signal(kind)
            done.append("the whole block")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert done == ["the whole block"]
    assert signal.getsignal(kind) is before


def test_what_is_ignored_stays_ignored_and_other_threads_change_nothing() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with undisturbed():
            signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)
    found = []

    def work() -> None:
        with undisturbed():
            found.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [signal.getsignal(signal.SIGINT)]
