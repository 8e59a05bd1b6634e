"""The locks: the versions that are tested, all that a vehicle needs, and what they name installs and runs."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import requires
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from packaging.markers import Environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from engines import Bundle, Session
from tests.conftest import ROOT

LOCKS = sorted((ROOT / "locks").glob("vehicle-*.txt"))
PYTHONS = ("3.10", "3.11", "3.12", "3.13")
MACHINES = ("x86_64", "aarch64")
HERE = f"{sys.version_info.major}.{sys.version_info.minor}"
# The oldest systems that the wheels are for: Ubuntu 20.04 has glibc 2.31, and OpenVINO's wheel for aarch64 needs 2.35.
GLIBC = {"ort": 31, "openvino": 35}
UNREACHABLE = re.compile("NameResolutionError|name resolution|NewConnectionError|ConnectTimeout|Network is unreachable")


class Locked(NamedTuple):
    """One distribution of a lock."""

    requirement: Requirement
    hashes: list[str]


def runtime_of(lock: Path) -> str:
    return lock.stem.removeprefix("vehicle-")


def environment(python: str, machine: str) -> Environment:
    return {  # type: ignore[typeddict-item]
        "python_version": python,
        "python_full_version": f"{python}.0",
        "platform_machine": machine,
        "sys_platform": "linux",
        "platform_system": "Linux",
        "os_name": "posix",
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
    }


def locked(lock: Path) -> Iterator[Locked]:
    for line in lock.read_text(encoding="utf-8").replace("\\\n", " ").splitlines():
        if line.strip() and not line.lstrip().startswith("#"):
            text, *hashes = line.split(" --hash=")
            yield Locked(Requirement(text.strip()), [held.strip() for held in hashes])


def applies(requirement: Requirement, python: str, machine: str, extra: str = "") -> bool:
    held = {**environment(python, machine), "extra": extra}
    return requirement.marker is None or requirement.marker.evaluate(held)  # type: ignore[arg-type]


def pip(python: Path | str, *arguments: object) -> None:
    """Run pip; skip where the package index cannot be reached, and fail on anything else."""
    # Isolated: what PYTHONPATH holds is not installed there.
    command = [str(python), "-I", "-m", "pip", "--disable-pip-version-check", "--quiet", *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode and UNREACHABLE.search(result.stderr):
        pytest.skip("not run: the package index cannot be reached")
    assert result.returncode == 0, result.stdout + result.stderr


def test_there_is_a_lock_for_each_runtime_that_has_wheels() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    (runtimes,) = re.findall(r"^LOCKED_RUNTIMES := (.*)$", makefile, re.MULTILINE)
    assert sorted(map(runtime_of, LOCKS)) == sorted(runtimes.split()) == sorted(GLIBC)


@pytest.mark.parametrize("lock", LOCKS, ids=runtime_of)
def test_a_lock_names_hashes_and_no_host(lock: Path) -> None:
    text = lock.read_text(encoding="utf-8")
    assert "://" not in text
    for requirement, hashes in locked(lock):
        assert re.fullmatch(r"==[^,]+", str(requirement.specifier)), requirement
        assert hashes
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", held) for held in hashes)


@pytest.mark.parametrize(("lock", "python", "machine"), list(product(LOCKS, PYTHONS, MACHINES)))
def test_a_lock_has_what_a_vehicle_needs_in_the_versions_that_are_tested(lock: Path, python: str, machine: str) -> None:
    """Else ``make locks`` is due."""
    held = {
        canonicalize_name(requirement.name): str(requirement.specifier).removeprefix("==")
        for requirement, _ in locked(lock)
        if applies(requirement, python, machine)
    }
    for requirement in map(Requirement, [*(requires("smp-deploy") or ()), "cryptography>=45"]):
        if applies(requirement, python, machine, runtime_of(lock)):
            assert requirement.specifier.contains(held[canonicalize_name(requirement.name)]), requirement
    constraints = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    tested = [Requirement(line) for line in constraints if not line.startswith("#")]
    assert (
        held.items()
        <= {
            canonicalize_name(pin.name): str(pin.specifier).removeprefix("==")
            for pin in tested
            if applies(pin, python, machine)
        }.items()
    )


@pytest.mark.parametrize("lock", LOCKS, ids=runtime_of)
def test_what_a_lock_names_installs_and_labels_a_frame(
    lock: Path, exported: Bundle, frame: np.ndarray, tmp_path: Path
) -> None:
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    pip(python, "install", "--require-hashes", "--no-deps", "--only-binary=:all:", "-r", lock)
    pip(python, "check")
    np.save(tmp_path / "frame.npy", frame)
    backend = {"ort": "onnxruntime", "openvino": "openvino"}[runtime_of(lock)]
    script = (
        "import sys\n"
        f"sys.path.insert(0, {str(ROOT)!r})\n"
        "import cryptography, engines, numpy as np\n"
        "bundle, folder, backend = sys.argv[1:]\n"
        "with engines.Session.open(bundle, backend=backend) as session:\n"
        "    np.save(folder + '/labels.npy', session.predict(np.load(folder + '/frame.npy')))\n"
        "sys.argv[1:] = ['inspect', bundle]\n"
        "from smp_deploy.cli.entry import main\n"
        "main()\n"
    )
    command = [str(python), "-I", "-c", script, str(exported.path), str(tmp_path), backend]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    with Session.open(exported) as session:
        expected = session.predict(frame)
    assert (np.load(tmp_path / "labels.npy") == expected).mean() >= 0.9998


@pytest.mark.parametrize("lock", LOCKS, ids=runtime_of)
def test_the_hashes_fit_what_an_aarch64_vehicle_downloads(lock: Path, tmp_path: Path) -> None:
    # pip reads markers for the machine that it runs on, so what applies is chosen here.
    chosen = [held for held in locked(lock) if applies(held.requirement, HERE, "aarch64")]
    lines = [
        " ".join((f"{requirement.name}{requirement.specifier}", *(f"--hash={known}" for known in hashes)))
        for requirement, hashes in chosen
    ]
    (tmp_path / "aarch64.txt").write_text("\n".join(lines) + "\n")
    minors = range(17, GLIBC[runtime_of(lock)] + 1)
    platforms = [f"--platform=manylinux{tag}_aarch64" for tag in ("2014", *(f"_2_{minor}" for minor in minors))]
    options = ("--require-hashes", "--no-deps", "--only-binary=:all:", f"--python-version={HERE}", *platforms)
    pip(sys.executable, "download", *options, "--dest", tmp_path / "wheels", "-r", tmp_path / "aarch64.txt")
    assert len(list((tmp_path / "wheels").glob("*.whl"))) == len(chosen)
