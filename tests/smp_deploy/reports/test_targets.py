"""Where pages and pictures may be written."""

from __future__ import annotations

from pathlib import Path

import pytest

from engines import Bundle
from engines.errors import OutputError
from smp_deploy.reports.targets import check_file_target, write_to_target


def test_a_file_of_another_kind_that_came_after_the_check_stays(exported: Bundle, tmp_path: Path) -> None:
    target = tmp_path / "notes.txt"
    check_file_target(exported, target, ".png")
    target.write_text("mine")
    with pytest.raises(OutputError, match=r"notes\.txt is there already, and is not replaced"):
        write_to_target(target, b"picture", ".png")
    assert target.read_text() == "mine"
    page = tmp_path / "page.PNG"
    page.write_text("older")
    write_to_target(page, b"picture", ".png")
    assert page.read_bytes() == b"picture"
