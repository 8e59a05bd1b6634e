"""The code of a user's network: it may print, change the working directory and have any name, and harms nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import Cli, document

NETWORK = """
import os, subprocess
import torch
import helpers

print("imported")

class Network(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.convolution = torch.nn.Conv2d(3, 11, 1)

    def forward(self, x):
        os.chdir("/")
        return self.convolution(x)

def made():
    print("made")
    os.write(1, b"written past Python\\n")
    subprocess.run(["echo", "said by another program"])
    os.chdir("/")
    torch.manual_seed(0)
    return Network()
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A working directory with a network, and with modules of names that others have, too."""
    (tmp_path / "own.py").write_text(NETWORK)
    (tmp_path / "helpers.py").write_text("")
    for name in ("profile", "onnxscript", "cProfile", "numbers", "matplotlib"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('this was run')\n")
    return tmp_path


def test_what_it_prints_and_where_it_goes_changes_nothing(cli: Cli, place: Path) -> None:
    result = cli(
        "export", "--model", "own:made", "--size", "16x16", "--precision", "fp32", "-o", "out", "--json", cwd=place
    )
    found = document(result)
    assert found["bundle"] == "out"
    assert set(found["files"]) == {
        str(path.relative_to(place / "out"))
        for path in (place / "out").rglob("*")
        if path.is_file() and path.name != "manifest.json"
    }
    for line in ("imported", "made", "written past Python", "said by another program"):
        assert line in result.stderr.splitlines()
    assert "this was run" not in result.stderr
    # Eleven channels are not for that reason CamVid's.
    assert "no class is named: they are numbered" in result.stderr.splitlines()
    classes = document(cli("inspect", place / "out", "--json"))["manifest"]["classes"]
    assert [held["name"] for held in classes] == [f"class {index}" for index in range(11)]


@pytest.mark.parametrize("name", ["profile", "numbers", "matplotlib", "onnxscript"])
def test_a_module_that_another_one_hides_is_refused(cli: Cli, place: Path, name: str) -> None:
    (place / f"{name}.py").write_text(NETWORK)
    result = cli("export", "--model", f"{name}:made", "--size", "16x16", "-o", "out", cwd=place)
    assert result.returncode == 2
    assert result.stderr.startswith(f"smp-deploy: {place}/{name}.py is hidden by the module {name!r} of /")
    assert result.stderr.endswith("; give your file another name\n")
