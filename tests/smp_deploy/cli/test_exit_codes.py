"""Exit code 1 says that a check failed, and nothing else does: whatever happens to the streams, whatever breaks."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from smp_deploy.cli.errors import DEFECT, TRACEBACK, exit_code_of
from tests.conftest import ROOT, Cli

COMMAND = [sys.executable, "-c", "from smp_deploy.cli.entry import main; main()"]


def in_shell(line: str, *arguments: object, **variables: str) -> subprocess.CompletedProcess[bytes]:
    """Run ``line`` in bash, where ``"$@"`` is smp-deploy with these arguments."""
    return subprocess.run(
        ["bash", "-c", line, "bash", *COMMAND, *map(str, arguments)],
        capture_output=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), **variables},
    )


@pytest.mark.parametrize("line", ['"$@" >&-', '"$@" | head -c 1; exit ${PIPESTATUS[0]}', '"$@" >/dev/null'])
@pytest.mark.parametrize("as_json", [(), ("--json",)])
def test_whoever_reads_changes_nothing(exported, line: str, as_json: tuple[str, ...]) -> None:
    done = in_shell(line, "plan", exported.path, *as_json)
    assert (done.returncode, done.stderr) == (0, b"")


def test_help_for_a_reader_who_leaves() -> None:
    done = in_shell('"$@" | true; exit ${PIPESTATUS[0]}', "--help")
    assert (done.returncode, done.stderr) == (0, b"")


def test_results_that_cannot_be_written_are_an_error(exported) -> None:
    done = in_shell('"$@" >/dev/full', "plan", exported.path)
    assert done.returncode == 2
    assert done.stderr == (b"smp-deploy: stdout: No space left on device; free some space or choose another place\n")


@pytest.mark.parametrize("line", ['"$@" 2>&-', '"$@" 2>/dev/full', '"$@" >&- 2>&- <&-'])
def test_an_error_that_nobody_hears_keeps_its_code(line: str, tmp_path: Path) -> None:
    done = in_shell(line, "inspect", tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (2, b"", b"")


def test_a_closed_stream_is_no_file_that_is_opened_later(bundle: Path) -> None:
    before = (bundle / "manifest.json").read_bytes()
    assert in_shell('"$@" >&- 2>&-', "tune", bundle, "--rounds", 1, "--duration", 0.01, "--levels", 2).returncode == 0
    assert json.loads((bundle / "manifest.json").read_text())
    assert before.startswith(b"{")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_an_emoji_in_a_name_under_a_small_encoding(tmp_path: Path, encoding: str) -> None:
    done = in_shell('"$@"', "inspect", tmp_path / "🚗", PYTHONIOENCODING=encoding)
    assert done.returncode == 2
    assert done.stderr.decode("ascii").endswith("\\U0001f697 is not a bundle: it has no manifest.json\n")


def test_files_whose_names_are_no_utf_8(cli: Cli, bundle: Path, frame, tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"frames\xff")
    folder.mkdir()
    Image.fromarray(frame).save(folder / os.fsdecode(b"a\x80.png"))
    done = cli("validate", bundle, "--images", folder, "--json")
    assert done.returncode == 0, done.stderr
    record = json.loads((bundle / "reports" / "validation.json").read_text())
    assert json.loads(done.stdout) == record
    assert record["frames"][-1] == r"a\udc80.png"
    assert r"frames\udcff'" in record["commands"][0]
    renamed = tmp_path / os.fsdecode(b"b\xe9")
    shutil.copytree(bundle, renamed)
    shown = cli("report", renamed)
    assert shown.returncode == 0, shown.stderr
    assert shown.stderr == f"wrote {tmp_path}/b\\udce9/reports/report.html\n"
    page = (renamed / "reports" / "report.html").read_text(encoding="utf-8")
    assert r"<h1>Numeric parity of b\udce9</h1>" in page
    assert r"a\udc80.png" in page
    labelled = cli("run", bundle, folder, "-o", tmp_path / "out", "--side-by-side", "--json")
    assert labelled.returncode == 0, labelled.stderr
    assert json.loads(labelled.stdout)["images"][0]["written"][0] == os.fsdecode(b"a\x80-labels.png")


def failing(error: BaseException) -> int:
    def command() -> int:
        raise error

    return exit_code_of(command)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("no \x1b[31mcolour"), r"ValueError: no \x1b[31mcolour"),
        (RecursionError(), "RecursionError"),
        (SystemExit(1), "SystemExit: 1"),
        (SystemExit("bye"), "SystemExit: bye"),
    ],
)
def test_what_nobody_foresaw(
    error: BaseException, said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(TRACEBACK, raising=False)
    assert failing(error) == DEFECT == 70
    assert capsys.readouterr().err == (
        f"smp-deploy: a defect: {said}; please report it, with what SMP_DEPLOY_TRACEBACK=1 in the environment shows\n"
    )


def test_a_traceback_is_shown_where_it_is_asked_for(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(TRACEBACK, "1")
    assert failing(ValueError("broken")) == DEFECT
    first, second, *_, last = capsys.readouterr().err.splitlines()
    assert (first, second, last) == (
        "smp-deploy: a defect: ValueError: broken",
        "  Traceback (most recent call last):",
        "  ValueError: broken",
    )


def test_an_end_that_is_no_failure_is_none() -> None:
    assert failing(SystemExit(0)) == 0
    assert failing(SystemExit()) == 0
