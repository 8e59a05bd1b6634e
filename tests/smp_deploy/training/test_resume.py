"""Runs that are killed and go on: bit for bit the weights of one that was left alone."""

from __future__ import annotations

import csv
import importlib.util
import multiprocessing
import os
import random
import runpy
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from engines.errors import CheckpointError, OutputError
from smp_deploy.datasets import Scenes
from smp_deploy.training import Observer, Run, Trainer, TrainingConfig
from smp_deploy.training.state import load_state

TINY = Path(__file__).with_name("tiny_run.py")
KILLS = 10


def _tiny():
    spec = importlib.util.spec_from_file_location("tiny_run", TINY)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The weights and the learning curve of a run that nobody killed."""
    output = tmp_path_factory.mktemp("undisturbed") / "a.safetensors"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    _tiny().trainer(output).fit(Observer(), resume=False)
    torch.set_num_threads(threads)
    return output


def _assert_same(output: Path, undisturbed: Path) -> None:
    have, want = load_file(output), load_file(undisturbed)
    assert have.keys() == want.keys()
    for key, value in want.items():
        assert torch.equal(have[key], value), key
    curve, expected = (path.with_suffix(".run") / "metrics.csv" for path in (output, undisturbed))
    assert curve.read_text() == expected.read_text()


def test_killed_ten_times_at_random_moments(tmp_path, undisturbed):
    """SIGKILL, so that nothing is cleaned up; half of the kills fall where steps are taken and saved."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["smp_deploy.training", "smp_deploy.datasets", "matplotlib.figure", "tensorboardX", "torch._dynamo"]
    )
    output = tmp_path / "a.safetensors"
    moments = random.Random(11)
    state = output.with_suffix(".run") / "state.pt"
    kills = 0
    while True:
        written = state.stat().st_mtime_ns if state.exists() else None
        process = context.Process(target=runpy.run_path, args=(str(TINY), {"output": str(output)}))
        process.start()
        if kills < KILLS:
            # From its first new state on, so that every life makes progress however slow the machine is.
            deadline = time.monotonic() + 60
            while process.is_alive() and time.monotonic() < deadline:
                if state.exists() and state.stat().st_mtime_ns != written:
                    break
                time.sleep(0.001)
            time.sleep(moments.uniform(0, 0.04))
            alive = process.is_alive()
            process.kill()
            process.join()
            kills += alive
            if alive:
                assert not output.exists()
                continue
        process.join()
        break
    assert kills == KILLS
    assert process.exitcode == 0
    _assert_same(output, undisturbed)


def test_workers_change_nothing(tmp_path, undisturbed):
    output = tmp_path / "a.safetensors"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    _tiny().trainer(output, workers=2, save_every=1000).fit(Observer(), resume=False)
    torch.set_num_threads(threads)
    _assert_same(output, undisturbed)


def test_learning_curves_are_written(undisturbed):
    directory = undisturbed.with_suffix(".run")
    with (directory / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == [9, 18, 27, 36]
    assert all(0 <= float(row["mean_iou"]) <= 1 for row in rows)
    assert float(rows[-1]["loss"]) != float(rows[0]["loss"])
    assert (directory / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_events_can_be_read_by_tensorboards_format(undisturbed):
    pytest.importorskip("tensorboardX")
    from tensorboardX.event_file_writer import directory_check  # noqa: F401 - proves that the package is whole
    from tensorboardX.proto.event_pb2 import Event

    (events,) = (undisturbed.with_suffix(".run") / "events").iterdir()
    content, values = events.read_bytes(), {}
    while content:
        # TFRecord: length (8 bytes), its checksum (4), the event, its checksum (4).
        length = int.from_bytes(content[:8], "little")
        event = Event.FromString(content[12 : 12 + length])
        for value in event.summary.value:
            values.setdefault(value.tag, []).append((event.step, value.simple_value))
        content = content[16 + length :]
    assert [step for step, _ in values["mean_iou"]] == [9, 18, 27, 36]


def test_a_run_is_not_overwritten_and_not_continued_with_other_settings(undisturbed):
    tiny = _tiny()
    with pytest.raises(OutputError, match=r"holds a run already; continue it with resume=True"):
        tiny.trainer(undisturbed).fit(Observer(), resume=False)
    with pytest.raises(CheckpointError, match=r"other settings \(.*batch: 2, now 3"):
        tiny.trainer(undisturbed, TrainingConfig(width=2, batch=3)).fit(Observer(), resume=True)
    other = Trainer(tiny.CONFIG, Scenes("train", size=(32, 64), count=10), tiny.VALIDATION, Run(undisturbed))
    with pytest.raises(CheckpointError, match="frames: 12, now 10"):
        other.fit(Observer(), resume=True)


def test_a_finished_run_is_resumed_to_the_same_weights(tmp_path, undisturbed):
    copy = tmp_path / "a.safetensors"
    shutil.copy(undisturbed, copy)
    shutil.copytree(undisturbed.with_suffix(".run"), tmp_path / "a.run")
    _tiny().trainer(copy).fit(Observer(), resume=True)
    _assert_same(copy, undisturbed)


@pytest.mark.parametrize("resume", [False, True])
def test_weights_of_another_origin_are_not_overwritten(tmp_path, undisturbed, resume):
    output = tmp_path / "mine.safetensors"
    shutil.copy(undisturbed, output)
    before = output.read_bytes()
    for init_from in (None, output):
        with pytest.raises(OutputError, match=r"mine.safetensors exists already, and is not of this run; choose"):
            _tiny().trainer(output, init_from=init_from).fit(Observer(), resume=resume)
    assert output.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["mine.safetensors"]


def test_weights_put_beside_an_interrupted_run_are_not_overwritten(tmp_path):
    output = tmp_path / "a.safetensors"

    def _interrupt(done: int, total: int) -> None:
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _tiny().trainer(output).fit(Observer(_interrupt), resume=False)
    output.write_bytes(b"mine")
    with pytest.raises(OutputError, match="exists already, and is not of this run"):
        _tiny().trainer(output).fit(Observer(), resume=True)
    assert output.read_bytes() == b"mine"


def test_a_damaged_state_is_named(tmp_path):
    output = tmp_path / "a.safetensors"
    (tmp_path / "a.run").mkdir()
    (tmp_path / "a.run" / "state.pt").write_bytes(b"PK\x03\x04 torn")
    with pytest.raises(CheckpointError, match=r"state.pt: not a training state that can be read"):
        _tiny().trainer(output).fit(Observer(), resume=True)


def test_a_state_is_a_regular_file_that_is_not_packed(tmp_path):
    os.mkfifo(tmp_path / "pipe.pt")
    with pytest.raises(CheckpointError, match=r"pipe\.pt.* is a pipe, where a file is needed"):
        load_state(tmp_path / "pipe.pt", "{}")
    with zipfile.ZipFile(tmp_path / "packed.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(10 << 20))
    with pytest.raises(CheckpointError, match=r"packed\.pt unpacks to 10485760 bytes, more than the file has"):
        load_state(tmp_path / "packed.pt", "{}")


def test_weights_that_come_during_a_run_are_not_overwritten(tmp_path):
    output = tmp_path / "a.safetensors"

    def _come(done: int, total: int) -> None:
        output.write_bytes(b"mine")

    with pytest.raises(OutputError, match=r"a\.safetensors is there already, and is not replaced; move it away"):
        _tiny().trainer(output).fit(Observer(_come), resume=False)
    # The run is at its end: the file is of it only if it holds its weights.
    with pytest.raises(OutputError, match="is there already, and is not replaced"):
        _tiny().trainer(output).fit(Observer(), resume=True)
    assert output.read_bytes() == b"mine"
    output.unlink()
    _tiny().trainer(output).fit(Observer(), resume=True)
    assert output.stat().st_size > 1000


def test_two_processes_do_not_share_a_run(tmp_path):
    output = tmp_path / "a.safetensors"
    said = []

    def _another(done: int, total: int) -> None:
        if done != 3:
            return
        script = (
            "import runpy, sys\n"
            "from pathlib import Path\n"
            "from engines.errors import OutputError\n"
            "from smp_deploy.training import Observer\n"
            "tiny = runpy.run_path(sys.argv[1], run_name='tiny_run')\n"
            "try:\n"
            "    tiny['trainer'](Path(sys.argv[2])).fit(Observer(), resume=True)\n"
            "except OutputError as error:\n"
            "    print(error)\n"
        )
        command = [sys.executable, "-c", script, str(TINY), str(output)]
        said.append(subprocess.run(command, capture_output=True, text=True).stdout)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _tiny().trainer(output).fit(Observer(_another), resume=False)
    assert said == [f"another process is at work in {tmp_path / 'a.run'}; wait for its end\n"]


def test_what_a_killed_run_was_writing_is_removed_and_nothing_else(tmp_path):
    trainer = _tiny().trainer(tmp_path / "a.safetensors")
    folder = trainer.run.directory
    folder.mkdir()
    torn, own = folder / f".{trainer.run.state.name}.0123456789abcdef.partial", folder / ".notes.partial"
    for path in (torn, own):
        path.write_text("half")
    trainer.fit(Observer(), resume=False)
    assert not torn.exists()
    assert own.read_text() == "half"
