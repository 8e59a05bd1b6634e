"""What lies behind the gate: regular files of a bounded size, below a directory that is opened once."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.bundle.gate import Folder, parts_of, read_file, write_file
from engines.errors import BundleError, InputError, OutputError


def fifo(path: Path) -> None:
    os.mkfifo(path)


def endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


def directory(path: Path) -> None:
    path.mkdir()


def link(path: Path) -> None:
    (path.parent / "outside").write_bytes(b"secret")
    path.symlink_to(path.parent / "outside")


def large(path: Path) -> None:
    with path.open("wb") as stream:
        stream.truncate(2**40)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (fifo, "is a pipe, where a file is needed"),
        (endless, "is a device, where a file is needed"),
        (directory, "is a folder, where a file is needed"),
        (large, "is larger than 1 MiB, the most that is read of such a file"),
    ],
)
def test_a_file_that_the_user_names_is_a_regular_one(
    make: Callable[[Path], None], message: str, tmp_path: Path
) -> None:
    make(tmp_path / "given")
    with pytest.raises(InputError, match=f"given {message}"):
        read_file(tmp_path / "given", 2**20)


def test_a_link_that_the_user_names_is_followed(tmp_path: Path) -> None:
    link(tmp_path / "given")
    assert read_file(tmp_path / "given", 6) == b"secret"
    with pytest.raises(InputError, match="is larger than"):
        read_file(tmp_path / "given", 5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (fifo, "is a pipe"),
        (endless, "is a link; a bundle has none"),
        (link, "is a link; a bundle has none"),
        (directory, "is a folder"),
        (large, "is larger than 1 MiB"),
    ],
)
def test_what_lies_in_a_folder_is_a_regular_file(make: Callable[[Path], None], message: str, tmp_path: Path) -> None:
    make(tmp_path / "file")
    with pytest.raises(BundleError, match=message):
        Folder(tmp_path).read("file", 2**20)


def test_a_folder_below_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "file").write_bytes(b"secret")
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "reports").symlink_to(tmp_path / "outside")
    folder = Folder(tmp_path / "bundle")
    with pytest.raises(BundleError, match="reports is a link or no folder"):
        folder.read("reports/file", 100)
    with pytest.raises(OutputError, match=r"cannot write to .*reports: it is a link or no folder"):
        folder.write("reports/file", b"")
    with pytest.raises(BundleError, match="reports is a link or no folder"):
        folder.names("reports")
    assert (tmp_path / "outside" / "file").read_bytes() == b"secret"


@pytest.mark.parametrize("name", ["", ".", "/etc/passwd", "../file", "a/../../file", "..\\file", "a\0b"])
def test_names_that_leave_the_folder(name: str) -> None:
    with pytest.raises(BundleError, match="leaves the bundle"):
        parts_of(name)


@given(name=st.text(st.sampled_from("a./\\\0"), max_size=8))
def test_any_name_stays_below_or_is_refused(name: str) -> None:
    try:
        parts = parts_of(name)
    except BundleError:
        return
    assert parts
    assert not {"..", ".", "", "/"} & set(parts)


def test_a_link_is_replaced_and_what_it_points_to_is_not(tmp_path: Path) -> None:
    link(tmp_path / "report.html")
    Folder(tmp_path).write("report.html", b"page")
    assert (tmp_path / "outside").read_bytes() == b"secret"
    assert not (tmp_path / "report.html").is_symlink()
    link(tmp_path / "page.html")
    write_file(tmp_path / "page.html", b"page")
    assert (tmp_path / "outside").read_bytes() == b"secret"


def test_a_name_that_is_planted_beforehand_is_not_written_to(tmp_path: Path) -> None:
    """A temporary name made of the process's number can be foreseen, and a link planted there."""
    script = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from engines.bundle.gate import Folder, write_file\n"
        "folder, secret = Path(sys.argv[1]), Path(sys.argv[2])\n"
        "for name in ('report.html', 'page.html'):\n"
        "    (folder / f'.{name}.{os.getpid()}.partial').symlink_to(secret)\n"
        "Folder(folder).write('report.html', b'page')\n"
        "write_file(folder / 'page.html', b'page')\n"
    )
    secret, folder = tmp_path / "secret", tmp_path / "reports"
    secret.write_bytes(b"secret")
    folder.mkdir()
    subprocess.run([sys.executable, "-c", script, folder, secret], check=True)
    assert secret.read_bytes() == b"secret"
    assert (folder / "report.html").read_bytes() == (folder / "page.html").read_bytes() == b"page"


def test_threads_write_one_file_at_the_same_time(tmp_path: Path) -> None:
    failed: list[BaseException] = []

    def write(number: int) -> None:
        try:
            for _ in range(50):
                write_file(tmp_path / "a", b"%d" % number)
        except BaseException as error:  # noqa: BLE001 - told below
            failed.append(error)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_bytes() in (b"0", b"1", b"2", b"3")


def test_a_file_is_as_readable_as_the_one_that_it_replaces(tmp_path: Path) -> None:
    write_file(tmp_path / "shared", b"one")
    (tmp_path / "shared").chmod(0o664)
    before = os.umask(0o077)
    try:
        write_file(tmp_path / "shared", b"two")
        write_file(tmp_path / "new", b"two")
    finally:
        os.umask(before)
    assert (tmp_path / "shared").stat().st_mode & 0o777 == 0o664
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o600


def test_what_is_added_is_as_readable_as_the_folder(tmp_path: Path) -> None:
    """A shared bundle that somebody tunes under a mask of 077 stays readable for the others."""
    for mode, file_mode in ((0o755, 0o644), (0o775, 0o664), (0o700, 0o600)):
        path = tmp_path / oct(mode)
        path.mkdir()
        path.chmod(mode)
        before = os.umask(0o077)
        try:
            Folder(path).write("reports/new", b"")
        finally:
            os.umask(before)
        assert (path / "reports").stat().st_mode & 0o777 == mode
        assert (path / "reports" / "new").stat().st_mode & 0o777 == file_mode


@pytest.mark.parametrize(
    ("folder", "planted", "mode"),
    [
        (0o755, 0o4777, 0o644),
        (0o755, 0o2755, 0o644),
        (0o700, 0o666, 0o600),
        (0o775, 0o666, 0o664),
        (0o755, 0o600, 0o600),
    ],
)
def test_what_lies_there_lends_no_rights(folder: int, planted: int, mode: int, tmp_path: Path) -> None:
    """A planted file that anybody may execute as its owner, or write to."""
    (tmp_path / "target.json").write_bytes(b"planted")
    (tmp_path / "target.json").chmod(planted)
    tmp_path.chmod(folder)
    Folder(tmp_path).write("target.json", b"ours")
    assert (tmp_path / "target.json").stat().st_mode & 0o7777 == mode
    (tmp_path / "page.html").write_bytes(b"planted")
    (tmp_path / "page.html").chmod(planted)
    write_file(tmp_path / "page.html", b"ours")
    assert (tmp_path / "page.html").stat().st_mode & 0o7777 == planted & 0o666


def test_a_folder_is_what_was_opened(tmp_path: Path) -> None:
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "file").write_bytes(b"old")
    folder = Folder(tmp_path / "bundle")
    assert folder.is_there
    (tmp_path / "bundle").rename(tmp_path / "aside")
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "file").write_bytes(b"new")
    assert folder.read("file", 100) == b"old"
    assert not folder.is_there
    with pytest.raises(BundleError, match="was exported anew meanwhile"), folder.locked():
        pytest.fail("locked")


def test_names_and_removal(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    assert folder.names("reports") == []
    folder.write("reports/a", b"")
    folder.write("b", b"")
    assert (folder.names(), folder.names("reports")) == (["b", "reports"], ["a"])
    folder.remove("reports/a")
    folder.remove("reports/a")
    assert folder.names("reports") == []
