"""Others at work on the same bundle, and processes that end in the middle of a replacement."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from engines import Bundle, Precision, Schedule, Session
from engines.bundle.manifest import MANIFEST_NAME, TuningMeasurement, TuningRecord
from engines.bundle.staging import staged_directory
from engines.errors import BundleError


@contextmanager
def swapping(target: Path, good: bytes, bad: bytes, in_place: bool) -> Iterator[None]:
    """Let a thread alternate a file's content, by renaming another one over it or by writing into it."""
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            for content in (bad, good):
                if in_place:
                    with target.open("r+b") as stream:
                        stream.write(content)
                else:
                    other = target.with_name("other")
                    other.write_bytes(content)
                    other.rename(target)

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@pytest.mark.parametrize("in_place", [False, True])
def test_what_runs_is_what_was_verified(bundle: Path, frame: np.ndarray, in_place: bool) -> None:
    """Weights are replaced between opening the bundle and opening the session, and while either is under way."""
    opened, target = Bundle.open(bundle), bundle / "weights.bin"
    with Session.open(opened) as session:
        right = session.predict(frame)
    good = target.read_bytes()
    bad = np.negative(np.frombuffer(good, np.float32)).tobytes()
    ran, seen = 0, 0
    with swapping(target, good, bad, in_place):
        for attempt in range(400):
            try:
                with Session.open(opened if attempt % 2 else bundle) as session:
                    labels = session.predict(frame)
            except BundleError as error:
                seen += "weights.bin" in str(error)
                continue
            ran += 1
            np.testing.assert_array_equal(labels, right)
            if ran >= 10 and seen >= 10:
                break
    assert seen, "the swapper was never seen"


def test_what_is_changed_after_opening_changes_nothing(bundle: Path, frame: np.ndarray) -> None:
    with Session.open(bundle) as session:
        right = session.predict(frame)
        for path in bundle.rglob("*"):
            if path.is_file():
                path.write_bytes(bytes(path.stat().st_size))
        np.testing.assert_array_equal(session.predict(frame), right)


def test_a_bundle_that_is_replaced_is_always_one(bundle: Path, tmp_path: Path) -> None:
    """Readers find the old or the new one, never neither."""
    target, stop, opens, failed = tmp_path / "target", threading.Event(), 0, []
    shutil.copytree(bundle, target)

    def replace() -> None:
        for _ in range(50):
            with staged_directory(target, replaces=MANIFEST_NAME) as stage:
                shutil.copytree(bundle, stage, dirs_exist_ok=True)
        stop.set()

    thread = threading.Thread(target=replace)
    thread.start()
    while not stop.is_set() or opens < 1000:
        opens += 1
        try:
            assert MANIFEST_NAME in os.listdir(target)  # noqa: PTH208 - as a reader that knows nothing of bundles does
            if opens % 20 == 0:
                Bundle.open(target)
        except (BundleError, OSError) as error:
            failed.append(error)
    thread.join()
    assert not failed
    assert [path.name for path in tmp_path.iterdir() if "target" in path.name] == ["target"]


def tuning(device: str) -> TuningRecord:
    measured = TuningMeasurement(schedule=Schedule(2), frame_ms=[1.0])
    return TuningRecord(
        device=device, backend="onnxruntime", precision=Precision.FP32, runtime="r 1", measurements=[measured]
    )


def test_nothing_is_lost_that_processes_store_at_the_same_time(bundle: Path) -> None:
    script = (
        "import sys\n"
        "from engines import Bundle\n"
        "from tests.engines.bundle.test_races import tuning\n"
        "opened = Bundle.open(sys.argv[1])\n"
        "for number in range(10):\n"
        "    opened.with_tuning(tuning(f'{sys.argv[2]}-{number}'))\n"
    )
    started = [subprocess.Popen([sys.executable, "-c", script, bundle, str(n)], cwd=ROOT) for n in range(8)]
    assert [process.wait() for process in started] == [0] * 8
    assert len({held.device for held in Bundle.open(bundle).tunings}) == 80


ROOT = Path(__file__).resolve().parents[3]

_CRASHING = """
import os, sys, shutil
from pathlib import Path
from engines.bundle import staging
left = int(sys.argv[3])
def counted(name, module):
    call = getattr(module, name)
    def counting(*arguments, **options):
        global left
        left -= 1
        if left < 0:
            os._exit(9)
        return call(*arguments, **options)
    setattr(module, name, counting)
for name in ("open", "close", "fsync", "rename", "replace", "mkdir", "rmdir", "unlink", "chmod", "stat"):
    counted(name, os)
counted("_exchange", staging)
with staging.staged_directory(Path(sys.argv[1]), replaces="manifest.json") as stage:
    shutil.copytree(sys.argv[2], stage, dirs_exist_ok=True)
"""


def test_a_crash_at_any_call_leaves_the_old_or_the_new(tmp_path: Path) -> None:
    """A process ends before each of its calls to the system, one after the other."""
    target, new = tmp_path / "target", tmp_path / "new"
    new.mkdir()
    (new / "manifest.json").write_text("new")
    seen = set()
    for calls in range(200):
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir()
        (target / "manifest.json").write_text("old")
        ended = subprocess.run([sys.executable, "-c", _CRASHING, target, new, str(calls)], cwd=ROOT).returncode
        seen.add((target / "manifest.json").read_text())
        # What is left of it is removed by the next.
        if ended == 0:
            break
        assert ended == 9
    assert ended == 0
    assert seen == {"old", "new"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "target"]
