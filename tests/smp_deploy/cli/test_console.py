"""What a person sees of long work where there is no terminal."""

from __future__ import annotations

import re
from types import SimpleNamespace

import pytest

from smp_deploy.cli import console


def test_progress_lines_begin_at_nothing_done_and_estimate_what_is_left(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "_LINE_EVERY_S", 0.0)
    clock = iter((0.0, 1.0, 10.0, 40.0))
    monkeypatch.setattr(console, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    with console.progress("work") as advance:
        for done in (0, 1, 4):
            advance(done, 4)
    assert capsys.readouterr().err.splitlines() == [
        "work: 0/4, 1 s elapsed",
        "work: 1/4, 10 s elapsed, about 30 s left",
        "work: 4/4, 40 s elapsed, about 0 s left",
    ]


def test_progress_lines_are_far_between(capsys: pytest.CaptureFixture[str]) -> None:
    with console.progress("work") as advance:
        for done in range(1001):
            advance(done, 1000)
    said = capsys.readouterr().err.splitlines()
    assert [re.findall(r"\d+/\d+", line) for line in said] == [["0/1000"], ["1000/1000"]]
