"""``smp-deploy plan``, and ``--memory`` of the commands that run."""

from __future__ import annotations

import json
import shlex
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from matplotlib.axes import Axes
from PIL import Image

from engines import Bundle, Precision, Schedule
from engines.backends import backend_named
from engines.bundle.manifest import TuningMeasurement, TuningRecord
from engines.planning.planner import plan
from engines.planning.tunings import here
from smp_deploy.cli.app import command_named
from smp_deploy.cli.plan import _picture


def test_plan_shows_schedules_and_chooses(exported: Bundle, cli, tmp_path: Path) -> None:
    picture = tmp_path / "plan.png"
    result = cli("plan", exported.path, "--memory", "1GiB", "--plot", picture)
    assert result.returncode == 0, result.stderr
    assert "<- choice" in result.stdout
    assert "--levels 2 --lowering reshape --sub-batch 1" in result.stdout
    with Image.open(picture) as opened:
        assert opened.size == (840, 540)
    document = json.loads(cli("plan", exported.path, "--backend", "tensorrt", "--json").stdout)
    assert document["choice"] is None
    assert document["memory_model"] == "not measured"
    assert len(document["schedules"]) == 34


def test_what_plan_and_a_missing_engine_propose_can_be_typed(exported: Bundle, image: Path, cli) -> None:
    """The command is parsed by the one that it names."""
    planned = cli("plan", exported.path, "--backend", "tensorrt-rtx", "--memory", "4GiB", "--device", "cuda:0")
    missing = cli("run", exported.path, image, "-o", image.parent / "out", "--backend", "tensorrt-rtx")
    # A budget on a GPU is there to be used; without one an engine is for one phase at a time.
    proposed = {
        planned.stdout.splitlines()[-1]: (2, "dilated", 16),
        missing.stderr.partition("build it on this machine: ")[2].strip(): (2, "reshape", 1),
    }
    for line, schedule in proposed.items():
        program, command, *words = shlex.split(line)
        assert (program, command) == ("smp-deploy", "build-engine")
        values = command_named(command).make_context(command, words).params
        assert values["flavour"] == "tensorrt-rtx"
        assert values["fp32"] is True
        assert (values["levels"], values["lowering"], values["sub_batch"]) == schedule


def test_the_measurements_of_the_device_that_is_named_decide(bundle: Path, cli) -> None:
    backend, fastest = backend_named("onnxruntime"), Schedule(2, 4)
    device, runtime = here(backend, "cpu")
    measured = [TuningMeasurement(schedule=fastest, frame_ms=[1.0])]
    record = TuningRecord(
        device=device, backend="onnxruntime", precision=Precision.FP32, runtime=runtime, measurements=measured
    )
    Bundle.open(bundle).with_tuning(record)
    shown = cli("plan", bundle, "--memory", "1GiB", "--device", "cpu").stdout
    assert "--levels 2 --lowering reshape --sub-batch 4 --device cpu" in shown
    result = cli("plan", bundle, "--device", "cuda:1")
    assert result.returncode == 2
    assert "onnxruntime computes on cpu" in result.stderr


def test_the_picture_has_the_process_in_the_peaks_as_in_the_budget(
    exported: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[list[float]] = []
    right = Axes.scatter

    def scatter(self: Axes, x: list[float], *rest: Any, **options: Any) -> Any:
        drawn.append(x)
        return right(self, x, *rest, **options)

    monkeypatch.setattr(Axes, "scatter", scatter)
    planned = plan(exported, memory="1GiB")
    _picture(planned)
    *points, choice = drawn
    assert planned.choice is not None
    assert choice == [64 + planned.choice.peak_bytes / 2**20]
    assert sorted(chain(*points)) == sorted(64 + c.peak_bytes / 2**20 for c in planned.candidates)


def test_a_budget_that_nothing_fits_says_the_smallest(exported: Bundle, cli) -> None:
    result = cli("plan", exported.path, "--memory", "1MiB")
    assert result.returncode == 2
    assert "the smallest budget that would is" in result.stderr


def test_run_chooses_by_memory(exported: Bundle, frame, cli, tmp_path: Path) -> None:
    Image.fromarray(frame).save(tmp_path / "frame.png")
    arguments = ("run", exported.path, tmp_path / "frame.png", "-o", tmp_path / "out", "--memory")
    result = cli(*arguments, "1GiB")
    assert result.returncode == 0, result.stderr
    assert "schedule: levels 2, sub-batch 1, reshape (predicted peak " in result.stderr
    result = cli(*arguments, "8MiB")
    assert result.returncode == 2
    assert "64.0 MiB of it for the process itself" in result.stderr
    result = cli(*arguments, "1GiB", "--levels", "3")
    assert result.returncode == 2
    assert "--memory chooses the schedule; leave out --levels, --lowering and --sub-batch" in result.stderr


@pytest.mark.parametrize("name", ["bundle/weights.bin", "bundle/manifest.json", "link.png", "frame.jpg"])
def test_a_plot_replaces_no_file_of_another_kind(bundle: Path, cli, tmp_path: Path, name: str) -> None:
    (tmp_path / "frame.jpg").write_bytes(b"a frame")
    (tmp_path / "link.png").symlink_to(bundle / "trunk.onnx")
    before = (tmp_path / name).read_bytes()
    result = cli("plan", bundle, "--plot", tmp_path / name)
    assert result.returncode == 2
    (said,) = result.stderr.splitlines()
    assert f"{tmp_path / name} is " in said
    assert said.endswith("; choose another place")
    assert (tmp_path / name).read_bytes() == before
    Bundle.open(bundle)


def test_a_plot_replaces_an_older_plot(exported: Bundle, cli, tmp_path: Path) -> None:
    (tmp_path / "plan.PNG").write_bytes(b"older")
    assert cli("plan", exported.path, "--plot", tmp_path / "plan.PNG").returncode == 0
    with Image.open(tmp_path / "plan.PNG") as opened:
        assert opened.size == (840, 540)


@pytest.mark.parametrize("command", ["evaluate", "build-engine"])
def test_other_commands_take_memory(exported: Bundle, cli, command: str) -> None:
    extra = ("--dataset", "scenes") if command == "evaluate" else ()
    result = cli(command, exported.path, *extra, "--memory", "1KiB")
    assert result.returncode == 2
    assert "the smallest budget that would is" in result.stderr
