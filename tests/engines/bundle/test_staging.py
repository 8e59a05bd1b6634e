"""Directories and files that are whole or absent, whatever happens while they are written."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from engines.bundle.bundle import Bundle
from engines.bundle.gate import read_file, write_file
from engines.bundle.staging import _exchange, staged_directory
from engines.errors import BundleError, OutputError


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


@pytest.mark.parametrize("kind", ["file", "folder", "link to nothing"])
def test_a_file_that_is_not_to_be_replaced_stays(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a"
    if kind == "file":
        path.write_bytes(b"mine")
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("absent")
    before = path.lstat()
    with pytest.raises(OutputError, match=r"a is there already, and is not replaced; move it away, or choose another"):
        write_file(path, b"new", replace=False)
    assert path.lstat() == before
    write_file(tmp_path / "b", b"new", replace=False)
    assert (tmp_path / "b").read_bytes() == b"new"
    assert names(tmp_path) == ["a", "b"]


def test_a_name_with_a_nul_is_one_error(tmp_path: Path) -> None:
    path = tmp_path / "a\0b"
    with pytest.raises(OutputError, match="a name holds no NUL"):
        write_file(path, b"")
    with pytest.raises(OutputError, match="a name holds no NUL"):
        write_file(path / "a", b"")
    with pytest.raises(OutputError, match="a name holds no NUL"), staged_directory(path):
        pass
    with pytest.raises(OSError, match="a name holds no NUL"):
        read_file(path, 1)
    with pytest.raises(BundleError, match=r"cannot read .*: a name holds no NUL"):
        Bundle.open(path)


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


STAGING = """
import sys
from pathlib import Path
from engines.bundle.staging import staged_directory
from engines.errors import OutputError
try:
    with staged_directory(Path(sys.argv[1]), replaces=sys.argv[2] or None) as stage:
        (stage / "manifest.json").write_text(sys.argv[3])
        print("written", flush=True)
        sys.stdin.readline()
except OutputError as error:
    sys.exit(str(error))
"""
"""A process that fills a directory, says so, and puts it in place when it is told to."""


def staging(target: Path, replaces: str = "", content: str = "new") -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", STAGING, str(target), replaces, content],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "written\n"
    return process


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit code, and what it said."""
    said = process.communicate("go\n")[1]
    return process.returncode, said.strip()


def test_of_several_processes_one_puts_its_directory_there(tmp_path: Path) -> None:
    target = tmp_path / "bundle"
    processes = [staging(target, content=str(number)) for number in range(3)]
    results = [ended(process) for process in processes]
    assert results == [
        (0, ""),
        *[(1, f"{target} exists already; choose another place, or replace it with replace=True")] * 2,
    ]
    assert (target / "manifest.json").read_text() == "0"
    assert names(tmp_path) == ["bundle"]


@pytest.mark.parametrize("content", [(), ("photo.jpg",), ("manifest.json",)], ids=["empty", "photos", "a bundle"])
def test_a_folder_that_comes_while_a_process_writes_stays(tmp_path: Path, content: tuple[str, ...]) -> None:
    target = tmp_path / "bundle"
    process = staging(target)
    target.mkdir()
    for name in content:
        (target / name).write_text("mine")
    inode = target.stat().st_ino
    assert ended(process) == (1, f"{target} exists already; choose another place, or replace it with replace=True")
    assert target.stat().st_ino == inode
    assert [(name, (target / name).read_text()) for name in names(target)] == [(name, "mine") for name in content]
    assert names(tmp_path) == ["bundle"]


@pytest.mark.parametrize("kind", ["folder", "file", "link to a bundle"])
def test_what_takes_the_name_between_check_and_exchange_is_given_back(tmp_path: Path, kind: str) -> None:
    target, stage, elsewhere = tmp_path / "bundle", tmp_path / "stage", tmp_path / "elsewhere"
    for path, content in ((stage, "new"), (elsewhere, "mine")):
        path.mkdir()
        (path / "manifest.json").write_text(content)
    if kind == "folder":
        target.mkdir()
        (target / "photo.jpg").write_text("mine")
    elif kind == "file":
        target.write_text("mine")
    else:
        target.symlink_to(elsewhere)
    inode = target.lstat().st_ino
    with pytest.raises(OutputError, match=r"bundle was replaced by something else meanwhile, which stays; "):
        _exchange(stage, target, "manifest.json")
    assert target.lstat().st_ino == inode
    assert (stage / "manifest.json").read_text() == "new"
    assert (elsewhere / "manifest.json").read_text() == "mine"


def test_where_the_file_system_only_knows_plain_renames(tmp_path: Path) -> None:
    """The system refuses the others to this process, as NFS does."""
    script = (
        "import ctypes, os, sys\n"
        "from pathlib import Path\n"
        "from engines.bundle.staging import staged_directory\n"
        "class Filter(ctypes.Structure):\n"
        "    _fields_ = [(name, kind) for name, kind in zip(('code', 'jt', 'jf', 'k'), (\n"
        "        ctypes.c_ushort, ctypes.c_ubyte, ctypes.c_ubyte, ctypes.c_uint))]\n"
        "class Program(ctypes.Structure):\n"
        "    _fields_ = [('len', ctypes.c_ushort), ('filter', ctypes.POINTER(Filter))]\n"
        "number = {'x86_64': 316, 'aarch64': 276}[os.uname().machine]\n"
        # renameat2 with any flag is EINVAL, all else is allowed.
        "steps = [(0x20, 0, 0, 0), (0x15, 0, 3, number), (0x20, 0, 0, 48), (0x15, 1, 0, 0), (6, 0, 0, 0x50016),\n"
        "         (6, 0, 0, 0x7FFF0000)]\n"
        "steps = (Filter * 6)(*(Filter(*step) for step in steps))\n"
        "libc = ctypes.CDLL(None)\n"
        "if libc.prctl(38, 1, 0, 0, 0) or libc.prctl(22, 2, ctypes.byref(Program(6, steps))):\n"
        "    sys.exit(77)\n"
        "def put(replaces):\n"
        "    try:\n"
        "        with staged_directory(Path(sys.argv[1]), replaces=replaces) as stage:\n"
        "            (stage / 'manifest.json').write_text('new')\n"
        "        print('put')\n"
        "    except Exception as error:\n"
        "        print(error)\n"
        "put(None)\n"
        "put(None)\n"
        "put('manifest.json')\n"
        "from engines.bundle.gate import write_file\n"
        "write_file(Path(sys.argv[1]) / 'a', b'one', replace=False)\n"
        "try:\n"
        "    write_file(Path(sys.argv[1]) / 'a', b'two', replace=False)\n"
        "except Exception as error:\n"
        "    print(error)\n"
    )
    target = tmp_path / "bundle"
    result = subprocess.run([sys.executable, "-c", script, str(target)], capture_output=True, text=True)
    if result.returncode == 77:
        pytest.skip("not run: this system lets no process restrict itself")
    assert result.stdout.splitlines() == [
        "put",
        f"{target} exists already; choose another place, or replace it with replace=True",
        f"cannot write {target}: this file system cannot replace a directory in one step; remove the old one first",
        f"{target / 'a'} is there already, and is not replaced; move it away, or choose another place",
    ], result.stderr
    assert names(tmp_path) == ["bundle"]
    assert (target / "manifest.json").read_text() == "new"
    assert (target / "a").read_text() == "one"
    assert names(target) == ["a", "manifest.json"]
