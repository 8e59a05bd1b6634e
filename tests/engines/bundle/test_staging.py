"""Directories and files that are whole or absent, whatever happens while they are written."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from engines.bundle.gate import write_file
from engines.bundle.staging import staged_directory
from engines.errors import OutputError


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_a_directory_appears_when_it_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "bundle"
    with staged_directory(target) as stage:
        (stage / "a").write_text("a")
        assert not target.exists()
    assert (target / "a").read_text() == "a"
    assert names(target.parent) == ["bundle"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_nothing_remains_of_a_failure(error: type[BaseException], tmp_path: Path) -> None:
    def half_written() -> None:
        with staged_directory(tmp_path / "bundle") as stage:
            (stage / "a").write_text("a")
            raise error

    with pytest.raises(error):
        half_written()
    assert names(tmp_path) == []


def test_a_failed_replacement_keeps_what_was_there(tmp_path: Path) -> None:
    target = tmp_path / "bundle"
    target.mkdir()
    (target / "old").write_text("old")
    with pytest.raises(RuntimeError), staged_directory(target, replaces="old"):
        raise RuntimeError
    assert names(target) == ["old"]
    with staged_directory(target, replaces="old") as stage:
        (stage / "new").write_text("new")
    assert names(target) == ["new"]
    assert names(tmp_path) == ["bundle"]


def test_a_place_under_a_file_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write to"), staged_directory(tmp_path / "file" / "bundle"):
        pass


def test_an_existing_target_is_replaced_on_request_only(tmp_path: Path) -> None:
    with (
        pytest.raises(OutputError, match=r"exists already; .* replace it with replace=True$"),
        staged_directory(tmp_path),
    ):
        pass


@pytest.mark.parametrize("kind", ["folder of the user's", "file", "link to a file", "link to nothing"])
def test_what_is_not_ours_is_never_replaced(kind: str, tmp_path: Path) -> None:
    target = tmp_path / "holidays"
    (tmp_path / "file").write_text("mine")
    if kind == "folder of the user's":
        target.mkdir()
        (target / "photo.jpg").write_text("mine")
    elif kind == "file":
        target.write_text("mine")
    else:
        target.symlink_to(tmp_path / ("file" if kind == "link to a file" else "absent"))
    before = names(tmp_path)
    with (
        pytest.raises(OutputError, match=r"has no manifest\.json, so it is not replaced"),
        staged_directory(target, replaces="manifest.json"),
    ):
        pass
    assert names(tmp_path) == before
    assert (target / "photo.jpg" if target.is_dir() else tmp_path / "file").read_text() == "mine"


def test_a_file_is_replaced_in_one_step(tmp_path: Path) -> None:
    write_file(tmp_path / "a", b"one")
    write_file(tmp_path / "a", b"two")
    assert (tmp_path / "a").read_bytes() == b"two"
    assert names(tmp_path) == ["a"]


def test_a_file_under_a_file_or_of_too_long_a_name_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file" / "below.json", tmp_path / ("n" * 300)):
        with pytest.raises(OutputError, match="cannot write"):
            write_file(path, b"{}")


def test_a_file_larger_than_allowed_leaves_the_old_one(tmp_path: Path) -> None:
    """A real refusal by the operating system in the middle of a write, as on a full disk."""
    write_file(tmp_path / "a", b"old")
    script = (
        "import resource, signal, sys\n"
        "from pathlib import Path\n"
        "from engines.bundle.gate import write_file\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "write_file(Path(sys.argv[1]), bytes(5000))\n"
    )
    result = subprocess.run([sys.executable, "-c", script, str(tmp_path / "a")], capture_output=True, text=True)
    assert "OutputError: cannot write" in result.stderr
    assert (tmp_path / "a").read_bytes() == b"old"
    assert names(tmp_path) == ["a"]


def test_a_killed_process_leaves_no_target(tmp_path: Path) -> None:
    script = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from engines.bundle.staging import staged_directory\n"
        "with staged_directory(Path(sys.argv[1])) as stage:\n"
        "    (stage / 'half').write_text('half')\n"
        "    print('written', flush=True)\n"
        "    time.sleep(60)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "bundle")], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "written\n"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    time.sleep(0.05)
    assert not (tmp_path / "bundle").exists()
    process.stdout.close()


def test_a_killed_process_s_directory_is_removed_by_the_next(tmp_path: Path) -> None:
    test_a_killed_process_leaves_no_target(tmp_path)
    assert len(names(tmp_path)) == 1
    with staged_directory(tmp_path / "bundle") as stage:
        (stage / "whole").write_text("whole")
        # Another export to the same place is under way: its directory is locked.
        with staged_directory(tmp_path / "bundle") as other:
            assert len(names(tmp_path)) == 2
            (other / "whole").write_text("other")
        (tmp_path / "bundle").rename(tmp_path / "first")
    assert names(tmp_path) == ["bundle", "first"]


def test_what_came_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    """Neither without the wish to replace, nor where it is none of ours."""
    target = tmp_path / "bundle"
    for replaces, message in ((None, "exists already"), ("manifest.json", r"has no manifest\.json")):
        staged = staged_directory(target, replaces=replaces)
        (staged.__enter__() / "manifest.json").write_text("new")
        target.mkdir()
        (target / "photo.jpg").write_text("mine")
        with pytest.raises(OutputError, match=message):
            staged.__exit__(None, None, None)
        assert names(tmp_path) == ["bundle"]
        assert (target / "photo.jpg").read_text() == "mine"
        (target / "photo.jpg").unlink()
        target.rmdir()
