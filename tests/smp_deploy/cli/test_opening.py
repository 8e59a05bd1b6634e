"""How the commands open a bundle: as a policy says it must be signed, and with the weights read once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from engines import Bundle
from engines.trust import sign_bundle
from smp_deploy.cli.app import COMMANDS, command_named
from tests.conftest import ROOT, SIZE, Cli
from tests.signers import key_file, new_key, public_file
from tests.smp_deploy.datasets.trees import write_image, write_labels

KEY = new_key()

WORDS: dict[str, tuple[str, ...]] = {
    "run": ("IMAGE", "-o", "OUT"),
    "bench": ("--duration", "0", "--warm-up", "0", "--iterations", "1"),
    "evaluate": ("--dataset", "folder", "--root", "FRAMES", "--limit", "1", "--pictures", "0"),
    "tune": ("--rounds", "1", "--duration", "0.001"),
    "validate": ("--backend", "onnxruntime"),
    "debug-precision": (),
    "build-engine": (),
    "pack": ("-o", "OUT"),
}
"""Of every command that gives a bundle to a runtime."""


def words_of(command: str, bundle: Path, image: Path, place: Path) -> list[str]:
    """With places for the words that stand for some; the frames are one of noise, in the bundle's classes."""
    places = {"IMAGE": str(image), "OUT": str(place / "out"), "FRAMES": str(place / "frames")}
    if "FRAMES" in WORDS[command]:
        write_image(place / "frames" / "val" / "images" / "a.png", size=SIZE)
        write_labels(place / "frames" / "val" / "labels" / "a.png", [0, 1, 2], SIZE)
        classes = [record.name for record in Bundle.open(bundle).manifest.classes]
        (place / "frames" / "classes.json").write_text(json.dumps({"classes": classes}))
    return [places.get(word, word) for word in WORDS[command]]


def test_every_command_that_runs_a_bundle_takes_a_policy() -> None:
    takes = {name for name in COMMANDS if any("--trust" in param.opts for param in command_named(name).params)}
    # What `verify` and `sign` do with one is in the tests of signatures.
    assert takes == {*WORDS, "sign", "verify"}


@pytest.mark.parametrize("command", WORDS)
def test_a_bundle_of_somebody_else_is_given_to_no_runtime(
    cli: Cli, bundle: Path, image: Path, tmp_path: Path, command: str
) -> None:
    sign_bundle(bundle, key_file(tmp_path / "release.pem", KEY))
    public_file(tmp_path / "other.pub", new_key())
    rule = {"type": "key", "name": "supplier", "roles": ["bundle"], "products": ["smp-resnet18"], "key": "other.pub"}
    policy = tmp_path / "policy.json"
    policy.write_text(json.dumps({"policy_version": 1, "signers": [rule]}))
    result = cli(command, bundle, *words_of(command, bundle, image, tmp_path), "--trust", policy)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == f"smp-deploy: {bundle}/model.sig was made by another key than supplier\n"
    assert not (tmp_path / "out").exists()


COUNTING = """
import sys

opened = []
sys.addaudithook(lambda event, found: opened.append(found[0]) if event == "open" else None)
from smp_deploy.cli.entry import main
try:
    main()
finally:
    print(opened.count("weights.bin"), file=sys.__stderr__)
"""
"""Files of a bundle are opened by their names, relative to its directory; a copy of one is not."""


@pytest.mark.parametrize("command", ["run", "bench", "evaluate"])
def test_the_weights_are_read_once(bundle: Path, image: Path, tmp_path: Path, command: str) -> None:
    result = subprocess.run(
        [sys.executable, "-c", COUNTING, command, str(bundle), *words_of(command, bundle, image, tmp_path)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert result.returncode == 0, result.stderr
    assert result.stderr.splitlines()[-1] == "1"


@pytest.mark.parametrize("command", ["run", "bench", "evaluate"])
def test_a_damaged_file_that_is_not_read_is_found(
    cli: Cli, bundle: Path, image: Path, tmp_path: Path, command: str
) -> None:
    words, graph = words_of(command, bundle, image, tmp_path), bundle / "trunk-l5-reshape.onnx"
    graph.write_bytes(graph.read_bytes()[:-1] + b"?")
    result = cli(command, bundle, *words)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.splitlines()[-1] == (
        f"smp-deploy: {graph} is not the file that was exported (SHA-256 differs); export the bundle again"
    )
    assert not list(tmp_path.glob("out/*"))
