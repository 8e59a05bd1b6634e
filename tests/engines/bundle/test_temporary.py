"""Temporary directories: those that are left are removed, and nothing of the user's is taken for one."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from engines.bundle.snapshot import Snapshot
from engines.bundle.staging import staged_directory
from engines.bundle.temporary import MARKER, locked_directory


def left_behind(place: Path) -> Path:
    """A directory whose owner was killed."""
    path, lock = locked_directory("p-", ".s", place)
    (path / "half").write_text("half")
    os.close(lock)
    return path


def test_one_is_removed_when_its_owner_is_gone(tmp_path: Path) -> None:
    path, lock = locked_directory("p-", ".s", tmp_path)
    assert path.stat().st_mode & 0o777 == 0o700
    locked_directory("p-", ".s", tmp_path)
    assert path.exists()
    os.close(lock)
    locked_directory("p-", ".other", tmp_path)
    locked_directory("q-", ".s", tmp_path)
    assert path.exists()
    locked_directory("p-", ".s", tmp_path)
    assert not path.exists()


def without(path: Path) -> None:
    (path / MARKER).unlink()


def of_another_name(path: Path) -> None:
    """A copy that somebody keeps."""
    path.rename(path.with_name("p-kept.s"))


def other_words(path: Path) -> None:
    (path / MARKER).write_text("x" * (path / MARKER).stat().st_size)


def more_words(path: Path) -> None:
    with (path / MARKER).open("a") as stream:
        stream.write(".")


def a_link(path: Path) -> None:
    (path / MARKER).rename(path / "marker")
    (path / MARKER).symlink_to(path / "marker")


def a_pipe(path: Path) -> None:
    (path / MARKER).unlink()
    os.mkfifo(path / MARKER)


def a_folder(path: Path) -> None:
    (path / MARKER).unlink()
    (path / MARKER).mkdir()


@pytest.mark.parametrize("change", [without, of_another_name, other_words, more_words, a_link, a_pipe, a_folder])
def test_what_is_not_marked_is_somebodys(change: Callable[[Path], None], tmp_path: Path) -> None:
    change(left_behind(tmp_path))
    (kept,) = tmp_path.iterdir()
    locked_directory("p-", ".s", tmp_path)
    assert (kept / "half").read_text() == "half"


@pytest.mark.parametrize("made", [[], [f"{MARKER}.new"]])
def test_one_whose_owner_was_killed_before_it_was_marked_is_removed(made: list[str], tmp_path: Path) -> None:
    (tmp_path / "p-killed.s").mkdir()
    for name in made:
        (tmp_path / "p-killed.s" / name).touch()
    path, lock = locked_directory("p-", ".s", tmp_path)
    assert list(tmp_path.iterdir()) == [path]
    os.close(lock)


def test_a_link_to_a_directory_is_no_directory(tmp_path: Path) -> None:
    path = left_behind(tmp_path)
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    locked_directory("p-", ".s", tmp_path)
    assert (tmp_path / "elsewhere" / "half").exists()


@pytest.mark.parametrize("name", ["smp-deploy-demo", "smp-deploy-results", ".smp-deploy-copies-of-mine"])
def test_a_session_leaves_folders_of_the_user_alone(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / name).mkdir()
    (tmp_path / name / "thesis").write_text("mine")
    with Snapshot() as snapshot:
        assert snapshot.path.parent == tmp_path
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name / "thesis").read_text() == "mine"


def test_an_export_leaves_folders_of_the_user_alone(tmp_path: Path) -> None:
    (tmp_path / ".bundle.old.partial").mkdir()
    (tmp_path / ".bundle.old.partial" / "photo.jpg").write_text("mine")
    with staged_directory(tmp_path / "bundle") as stage:
        (stage / "a").write_text("a")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".bundle.old.partial", "bundle"]
    assert [path.name for path in (tmp_path / "bundle").iterdir()] == ["a"]
    assert (tmp_path / ".bundle.old.partial" / "photo.jpg").exists()
