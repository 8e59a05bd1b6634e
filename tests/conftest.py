"""Fixtures that several test folders share: one small bundle, real frames, ways to run the command line."""

# ruff: noqa: E402 - the number of threads is read when torch is imported

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
if WORKERS > 1:
    # Workers share the cores, and so do the commands that they start.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // WORKERS)))

import numpy as np
import pytest
import torch
from filelock import FileLock
from PIL import Image
from safetensors.torch import save_file

from converters.exporting import export
from converters.networks import network_from_arch
from engines import Bundle
from tests.networks import BroadNetwork, with_statistics

ROOT = Path(__file__).resolve().parents[1]
SIZE = (64, 96)
WIDTH = 8
LONGEST = ("test_docs.py", "test_package.py")


def pytest_configure() -> None:
    """A shell starts what it puts into the background with SIGINT ignored, and ``nohup`` ignores SIGHUP.

    No test of an interruption would hold.
    """
    for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest tests go first, so that no worker is left alone with one at the end."""
    items.sort(key=lambda item: item.path.name not in LONGEST)


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """What the first worker that needs it makes, whole or not at all, and all of them read."""
    own = factory.getbasetemp()
    target = (own.parent if WORKERS > 1 else own) / name
    with FileLock(target.with_suffix(".lock")):
        if not target.exists():
            stage = target.with_suffix(".half")
            shutil.rmtree(stage, ignore_errors=True)
            make(stage)
            stage.rename(target)
    return target


@pytest.fixture(scope="session")
def small_network() -> torch.nn.Module:
    """SMP-18 of width 8 with 19 classes."""
    return with_statistics(lambda: network_from_arch("smp-resnet18", width=WIDTH), seed=1)


@pytest.fixture(scope="session")
def checkpoint(small_network: torch.nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small network's parameters in a file."""
    path = tmp_path_factory.mktemp("checkpoint") / "smp18.safetensors"
    save_file(small_network.state_dict(), path)
    return path


@pytest.fixture(scope="session")
def exported(small_network: torch.nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The small network's bundle at 64x96. Not to be changed: see ``bundle``."""

    def make(target: Path) -> None:
        export(small_network, target, size=SIZE, source="smp-resnet18", width=WIDTH)

    return Bundle.open(made_once(tmp_path_factory, "exported", make))


@pytest.fixture(scope="session")
def broad(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle whose trunks take more memory than all else of a session: at 512x768, of levels 0 and 2."""

    def make(target: Path) -> None:
        network = with_statistics(BroadNetwork, seed=2)
        export(network, target, size=(512, 768), precisions="fp32", levels=(0, 2), lowerings="reshape")

    return Bundle.open(made_once(tmp_path_factory, "broad", make))


@pytest.fixture(autouse=True)
def shared_bundles_stay(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fails the test that writes into a bundle that others read, or a test that ran beside it."""
    shared = [request.getfixturevalue(name) for name in ("exported", "broad") if name in request.fixturenames]
    before = [files_of(bundle.path) for bundle in shared]
    yield
    assert [files_of(bundle.path) for bundle in shared] == before, "a shared bundle was changed: use `bundle`"


def files_of(folder: Path) -> dict[str, tuple[int, int]]:
    """The size in bytes and the time of change in nanoseconds of all files."""
    # Whether its reports can be written is tried by commands that read it.
    found = {path: path.stat() for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")}
    return {str(path.relative_to(folder)): (stat.st_size, stat.st_mtime_ns) for path, stat in found.items()}


@pytest.fixture
def bundle(exported: Bundle, tmp_path: Path) -> Path:
    """A copy of the small bundle, to be spoilt."""
    return Path(shutil.copytree(exported.path, tmp_path / "bundle", ignore=shutil.ignore_patterns("reports")))


@pytest.fixture
def frame() -> np.ndarray:
    """A frame for the small bundle."""
    return np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)


@pytest.fixture
def image(frame: np.ndarray, tmp_path: Path) -> Path:
    """The frame in a file."""
    path = tmp_path / "road.png"
    Image.fromarray(frame).save(path)
    return path


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of real frames."""
    if "SMP_DATA" not in os.environ:
        pytest.skip("not run: SMP_DATA does not say where the real frames are")
    return Path(os.environ["SMP_DATA"])


Cli = Callable[..., subprocess.CompletedProcess[str]]


def overriding(defaults: Sequence[object], *changes: object) -> list[object]:
    """Options with their values, ``("--width", 2, ...)``, without those that are named again, and then those."""
    pairs = zip(defaults[::2], defaults[1::2], strict=True)
    return [word for option, value in pairs if option not in changes for word in (option, value)] + list(changes)


def document(result: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """What a command with ``--json`` printed."""
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)  # type: ignore[no-any-return]


@pytest.fixture(scope="session")
def command_server() -> Iterator[subprocess.Popen[str]]:
    """Where the commands of ``cli`` are forked."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "tests.command_server"]
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        yield server
        assert server.stdin is not None
        server.stdin.close()


@pytest.fixture(scope="session")
def cli(command_server: subprocess.Popen[str], tmp_path_factory: pytest.TempPathFactory) -> Cli:
    """Runs ``smp-deploy`` in a process of its own, as a user does, but for the seconds that its imports take."""
    stdin, answers = command_server.stdin, command_server.stdout
    assert stdin is not None
    assert answers is not None
    folder = tmp_path_factory.mktemp("commands")
    number = itertools.count()

    def run(
        *arguments: object, cwd: Path | None = None, env: Mapping[str, str] | None = None, timeout_s: float = 300
    ) -> subprocess.CompletedProcess[str]:
        command = [str(Path(sys.executable).with_name("smp-deploy")), *map(str, arguments)]
        name = next(number)
        stdout, stderr = folder / f"{name}.out", folder / f"{name}.err"
        stdout.touch()
        stderr.touch()
        request = {
            "arguments": command,
            "cwd": str(cwd or Path.cwd()),
            "env": dict(os.environ if env is None else env),
            "stdout": str(stdout),
            "stderr": str(stderr),
        }
        print(json.dumps(request), file=stdin, flush=True)
        process = int(answers.readline())
        # A command that hangs is ended, and what it printed shows where.
        end = threading.Timer(timeout_s, os.kill, (process, signal.SIGKILL))
        end.start()
        status = int(answers.readline())
        end.cancel()
        said = (path.read_text(encoding="utf-8") for path in (stdout, stderr))
        return subprocess.CompletedProcess(command, status, *said)

    return run
