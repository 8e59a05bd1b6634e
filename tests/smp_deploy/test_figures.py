"""Figures: nothing of the working directory is in them, and none starts a program."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

DRAWN = {
    "curves": "from smp_deploy.training.metrics import Measurement, write_curves\n"
    "write_curves(pathlib.Path('drawn'), [Measurement(1, 1.0, 0.1, 0.5, 0.5, 0.5)], 'title')\n",
    "layers": "from engines.bundle.records import LayerFigures\n"
    "from engines.schedules.schedule import Precision\n"
    "from smp_deploy.reports.pictures import layers_figure\n"
    "figures = LayerFigures(name='a', magnitude=1.0, largest={Precision.FP16: 1.0}, error={Precision.FP16: 0.1})\n"
    "pathlib.Path('drawn').write_text(layers_figure([figures], Precision.FP16, 0.01))\n",
}
OF_MATPLOTLIB = (
    "from matplotlib.figure import Figure\nfigure = Figure()\nfigure.suptitle('x')\nfigure.savefig('drawn.png')\n"
)


@pytest.mark.parametrize("name", DRAWN)
def test_a_figure_starts_no_program(name: str, tmp_path: Path) -> None:
    program = tmp_path / "bin" / "latex"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\ntouch {tmp_path / 'started'}\nexit 1\n")
    program.chmod(0o755)
    (tmp_path / "matplotlibrc").write_text("text.usetex: True\n")
    environment = {
        **os.environ,
        "PATH": f"{program.parent}:{os.environ['PATH']}",
        # Where what TeX has made is kept.
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
    }

    def drawn(script: str) -> int:
        command = [sys.executable, "-c", "import pathlib\n" + script]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True).returncode

    # The trap works.
    assert drawn(OF_MATPLOTLIB) == 1
    assert (tmp_path / "started").exists()
    (tmp_path / "started").unlink()
    assert drawn(DRAWN[name]) == 0
    assert (tmp_path / "drawn").stat().st_size > 1000
    assert not (tmp_path / "started").exists()
