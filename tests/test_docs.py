"""The documentation is true: its commands run, its Python runs, its links and pictures exist."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from converters.networks import network_from_arch
from converters.reference import noise_frame
from engines.bundle.manifest import SCHEMA_VERSION, manifest_schema
from tests.conftest import Cli
from tests.signers import Owner, certificate_file, key_file, new_key, public_file

ROOT = Path(__file__).resolve().parents[1]
PAGES = [*sorted(ROOT.glob("docs/*.md")), ROOT / "README.md"]
LINKED = [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]
NOT_RUN = ("make", "pip install", "python -m pip install")
"""Commands that set a machine up: the tests run on one that is."""

_BLOCK = re.compile(r"^```(?P<kind>\w*)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def steps(page: Path) -> Iterator[list[str]]:
    """What a reader types, in order: ``$`` lines of console blocks for a shell, python blocks for Python."""
    for block in _BLOCK.finditer(page.read_text(encoding="utf-8")):
        if block["kind"] == "python":
            yield [sys.executable, "-c", block["body"]]
        elif block["kind"] == "console":
            lines = block["body"].replace("\\\n", " ").splitlines()
            commands = (line.removeprefix("$ ") for line in lines if line.startswith("$ "))
            yield from (["sh", "-c", command] for command in commands if not command.startswith(NOT_RUN))


def own_arguments(command: list[str]) -> list[str] | None:
    """Those of a line that is ``smp-deploy`` and nothing for a shell to do; ``None`` for all else."""
    line = command[-1]
    if command[0] != "sh" or not line.startswith("smp-deploy ") or set(line) & set("|&;<>()$`*?[#~"):
        return None
    return shlex.split(line)[1:]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SMP-18 of width 16 with 19 classes, random."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = network_from_arch("smp-resnet18", classes=19, width=16)
    path = tmp_path_factory.mktemp("checkpoint") / "smp18.safetensors"
    save_file(network.state_dict(), path)
    return path


@pytest.fixture
def workplace(checkpoint: Path, tmp_path: Path) -> Path:
    """The files that the pages start from."""
    (tmp_path / "smp18.safetensors").symlink_to(checkpoint)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    (tmp_path / "frames").mkdir()
    for seed, name in enumerate(("frame.png", "frames/first.png", "frames/second.png")):
        Image.fromarray(noise_frame((128, 256), seed)).save(tmp_path / name)
    put_signers(tmp_path)
    return tmp_path


def put_signers(folder: Path) -> None:
    """The keys, certificates and the policy of the page on signatures."""
    key = new_key()
    key_file(folder / "release.pem", key)
    public_file(folder / "release.pub", key)
    vehicle = new_key()
    key_file(folder / "vehicle.pem", vehicle)
    public_file(folder / "vehicle.pub", vehicle)
    today = datetime.now(timezone.utc)
    times = {"start": today - timedelta(days=1), "end": today + timedelta(days=1)}
    root = Owner.root(**times)
    team = Owner.leaf(root, **times)
    key_file(folder / "team.pem", team.key)
    certificate_file(folder / "team.crt", team)
    certificate_file(folder / "root.crt", root)
    page = (ROOT / "docs" / "signing.md").read_text(encoding="utf-8")
    (policy,) = (block["body"] for block in _BLOCK.finditer(page) if block["kind"] == "json")
    (folder / "policy.json").write_text(policy, encoding="utf-8")


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_what_a_page_shows_runs(page: Path, workplace: Path, cli: Cli) -> None:
    environment = {
        **os.environ,
        "PATH": os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"])),
        "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "examples"))),
    }
    for command in steps(page):
        if (arguments := own_arguments(command)) is not None:
            result = cli(*arguments, cwd=workplace, env=environment)
        else:
            result = subprocess.run(
                command, cwd=workplace, env=environment, capture_output=True, text=True, timeout=300, check=False
            )
        assert result.returncode == 0, f"{command[-1]}\n{result.stdout}{result.stderr}"


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives to the headings of a page."""
    headings = _HEADING.findall(_BLOCK.sub("", page.read_text(encoding="utf-8")))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", LINKED, ids=name_of)
def test_relative_links_and_pictures_exist(page: Path) -> None:
    for link in _LINK.findall(_BLOCK.sub("", page.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", link):
            continue
        target, _, anchor = link.partition("#")
        linked = page.parent / target if target else page
        assert linked.exists(), f"{link}: no such file"
        assert not anchor or anchor in anchors(linked), f"{link}: no such heading"


def test_the_page_of_the_bundle_names_every_field_of_the_manifest() -> None:
    page = (ROOT / "docs" / "bundle-format.md").read_text(encoding="utf-8")
    assert f"| `schema_version` | int | {SCHEMA_VERSION}. " in page
    assert f'"schema_version": {SCHEMA_VERSION},' in page
    fields = re.findall(r"^\| (`.*?`) \|", page, re.MULTILINE)
    named = {name.partition(".")[0].removesuffix("[]") for row in fields for name in re.findall(r"`([^`]+)`", row)}
    assert set(manifest_schema()["$defs"]["Manifest"]["properties"]) <= named


def test_pictures_are_small() -> None:
    pictures = sorted((ROOT / "docs" / "pictures").glob("*.png"))
    assert pictures
    for picture in pictures:
        assert picture.stat().st_size < 200_000, picture.name
