"""Text that comes from data reaches nobody but as text: on terminals, in pipes of any encoding, in JSON."""

from __future__ import annotations

import ast
import io
import json
import os
import pty
import shutil
import subprocess
import sys
import unicodedata
from pathlib import Path
from typing import Any

import pytest

from engines import Bundle
from smp_deploy.cli import console
from tests.conftest import ROOT, Cli, document

EVIL = "=1\x1b]8;;http://a\x1b\\b\x9b31m\u202ec\u2066:car:[bold]d[/]\x07\x7f\nsmp-deploy: ok"
WRITTEN = r"=1\x1b]8;;http://a\x1b\b\x9b31m\u202ec\u2066:car:[bold]d[/]\x07\x7f\nsmp-deploy: ok"
HIDDEN = {"Cc", "Cf", "Zl", "Zp", "Cs"}


def hidden(text: str) -> set[str]:
    """Characters of the text that are not to be seen, line feeds aside."""
    return {one for one in text if unicodedata.category(one) in HIDDEN and one != "\n"}


@pytest.fixture
def evil(bundle: Path) -> Path:
    """A bundle whose manifest was written by somebody else."""
    path = bundle / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["classes"][0]["name"] = manifest["network"]["source"] = EVIL
    manifest["tools"][EVIL] = "\x9b2J"
    path.write_text(json.dumps(manifest))
    return bundle


def joined(table: str) -> str:
    """The text of a table without its spaces and breaks."""
    return "".join(table.split())


def test_a_bundle_of_others_is_shown(cli: Cli, evil: Path) -> None:
    shown = cli("inspect", evil, "--classes")
    assert shown.returncode == 0, shown.stderr
    assert not hidden(shown.stdout + shown.stderr)
    assert joined(shown.stdout).count(joined(WRITTEN)) >= 2
    assert r"\x9b2J" in shown.stdout


def test_json_has_every_character_and_none_that_acts(cli: Cli, evil: Path) -> None:
    shown = cli("inspect", evil, "--json")
    assert not hidden(shown.stdout)
    assert r"\u009b31m\u202ec\u2066:car:" in shown.stdout
    manifest = document(shown)["manifest"]
    assert manifest["classes"][0]["name"] == manifest["network"]["source"] == EVIL
    assert manifest["tools"][EVIL] == "\x9b2J"


@pytest.mark.parametrize("words", [("inspect", "nowhere"), ("inspect", "--no"), ("plan", "b", "--backend", "x")])
def test_errors_show_what_was_typed(cli: Cli, words: tuple[str, ...], tmp_path: Path) -> None:
    *before, last = words
    said = cli(*before, f"{last}\x1b]0;a\x07\x9b31m\u202e", cwd=tmp_path)
    assert said.returncode == 2
    assert not hidden(said.stderr)
    assert f"{last}\\x1b]0;a\\x07\\x9b31m\\u202e" in said.stderr


def test_lines_of_an_error_cannot_pass_for_others(capsys: pytest.CaptureFixture[str]) -> None:
    console.complain("it failed\nsmp-deploy: all is well\n  indented")
    assert capsys.readouterr().err == "smp-deploy: it failed\n  smp-deploy: all is well\n  indented\n"


def test_tables_know_neither_markup_nor_emoji(capsys: pytest.CaptureFixture[str]) -> None:
    console.print_table((":car:", "[bold]x[/]"), [(":car:", "[red]y[/]\x1b[0m")], title=":car: [bold]z[/]\u202e")
    out = capsys.readouterr().out
    assert out.count(":car:") == 3
    for part in ("[bold]x[/]", r"[red]y[/]\x1b[0m", r":car: [bold]z[/]\u202e"):
        assert part in out
    assert not hidden(out)


def test_a_progress_bar_on_a_terminal_shows_its_description_as_text() -> None:
    script = (
        "from smp_deploy.cli.console import progress\n"
        "with progress(':car: [bold]x[/]\\x1b]0;y\\x07\\u202e') as advance:\n"
        "    advance(1, 2)\n"
    )
    leader, follower = pty.openpty()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm", "COLUMNS": "120"}
    subprocess.run([sys.executable, "-c", script], env=environment, stderr=follower, check=True)
    os.close(follower)
    said = os.read(leader, 100_000).decode()
    os.close(leader)
    assert r":car: [bold]x[/]\x1b]0;y\x07\u202e" in said
    assert "\x1b]" not in said


class Stream(io.TextIOWrapper):
    """A stream of an encoding that holds few characters, and refuses others."""

    def __init__(self, encoding: str) -> None:
        super().__init__(io.BytesIO(), encoding=encoding)

    @property
    def written(self) -> str:
        self.flush()
        assert isinstance(self.buffer, io.BytesIO)
        return self.buffer.getvalue().decode(self.encoding)


@pytest.mark.parametrize(
    ("encoding", "line"),
    [("ascii", r"caf\xe9 \u20ac \U0001f697 \udc80"), ("latin-1", r"café \u20ac \U0001f697 \udc80")],
)
def test_what_an_encoding_lacks_is_written_as_an_escape(
    monkeypatch: pytest.MonkeyPatch, encoding: str, line: str
) -> None:
    text = "café € 🚗 \udc80"
    out, err = Stream(encoding), Stream(encoding)
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    console.print_line(text)
    console.note(text)
    assert out.written == err.written == f"{line}\n"
    console.print_table((text,), [(text,)], title=text)
    assert out.written.count(line) == 4
    monkeypatch.setattr(sys, "stdout", out := Stream(encoding))
    console.print_json({text: "\x7f\U000e0041"})
    assert json.loads(out.written) == {text: "\x7f\U000e0041"}
    assert r"\u007f\udb40\udc41" in out.written


def test_other_text_stays_in_json(capsys: pytest.CaptureFixture[str]) -> None:
    console.print_json(["Straße 道路 🚗\u2028"])
    assert capsys.readouterr().out == '[\n  "Straße 道路 🚗\\u2028"\n]\n'


def test_nothing_is_printed_but_by_the_console() -> None:
    printing = ("print", "typer.echo", "typer.secho", "sys.stdout.write", "sys.stderr.write")
    elsewhere = []
    for package in ("engines", "converters", "smp_deploy"):
        for path in sorted((ROOT / package).rglob("*.py")):
            elsewhere += [
                (path.relative_to(ROOT).as_posix(), written)
                for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
                if isinstance(node, ast.Call) and (written := ast.unparse(node.func)) in printing
            ]
    # A helper process answers the one that started it.
    helper = ("smp_deploy/benchmarking/peak_memory.py", "print")
    assert [found for found in elsewhere if found[0] != "smp_deploy/cli/console.py"] == [helper]


def test_a_bundle_whose_graphs_give_more_classes(cli: Cli, bundle: Path, image: Path, tmp_path: Path) -> None:
    path = bundle / "manifest.json"
    manifest: dict[str, Any] = json.loads(path.read_text())
    manifest["classes"] = manifest["classes"][:1]
    path.write_text(json.dumps(manifest))
    for words in (("run", bundle, image, "-o", tmp_path / "out"), ("validate", bundle)):
        said = cli(*words)
        assert said.returncode == 2
        assert said.stderr.splitlines()[-1].startswith("smp-deploy: manifest.json lists 'reference/")
        assert "where an array of its shape has" in said.stderr
    assert not list((tmp_path / "out").glob("*"))


def test_a_bundle_whose_name_is_no_text_is_measured_and_proven(cli: Cli, exported: Bundle, tmp_path: Path) -> None:
    """A fresh process opens it, and records name it."""
    name = os.fsdecode(b"b\xff\xe9")
    shutil.copytree(exported.path, tmp_path / name)
    assert cli("bench", name, "--duration", "0", "--iterations", "1", cwd=tmp_path).returncode == 0
    result = cli("validate", name, "--backend", "onnxruntime", "--json", cwd=tmp_path)
    assert document(result)["commands"] == [r"smp-deploy validate 'b\udcff\udce9' --backend onnxruntime"]
