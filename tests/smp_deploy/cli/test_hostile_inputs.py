"""Inputs of others: none names code, none starts a program, none takes the machine."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path
from typing import Any

import pytest

from engines import Bundle
from engines.errors import InputError
from smp_deploy.benchmarking.peak_memory import current_peak_bytes, peak_of
from tests.conftest import Cli
from tests.smp_deploy.cli.test_bad_input import refused
from tests.smp_deploy.test_decoding import EPS, png

MIB = 2**20


def with_source(bundle: Path, source: str) -> Path:
    """The bundle, its manifest naming another network."""
    manifest = json.loads((bundle / "manifest.json").read_bytes())
    manifest["network"]["source"] = source
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    return bundle


def evil(folder: Path) -> Path:
    """A module that leaves a mark when it is imported; the mark."""
    folder.mkdir(exist_ok=True)
    mark = folder / "imported"
    (folder / "evil.py").write_text(
        f"import pathlib\npathlib.Path({str(mark)!r}).touch()\n"
        "def f():\n    from converters.networks import network_from_arch\n"
        "    return network_from_arch('smp-resnet18', width=8)\n"
    )
    return mark


@pytest.mark.parametrize("source", ["bundle.evil:f", "bundle.evil:f; touch x", "a b:c'd"])
def test_a_bundle_names_no_code(cli: Cli, bundle: Path, checkpoint: Path, source: str) -> None:
    mark = evil(bundle)
    with_source(bundle, source)
    result = cli("validate", "bundle", "--checkpoint", checkpoint, cwd=bundle.parent)
    refused(
        result,
        "bundle names code as its network, and a bundle's word is shown, never run. If this is code of your own, say "
        f"so by adding, from the bundle's manifest: --model {shlex.quote(source)}",
    )
    assert not mark.exists()
    assert not (bundle / "reports" / "validation.json").exists()


def test_what_the_user_names_is_run(cli: Cli, bundle: Path, checkpoint: Path) -> None:
    mark = evil(bundle)
    with_source(bundle, "bundle.evil:f")
    named = cli(
        "validate", "bundle", "--checkpoint", checkpoint, "--model", "bundle.evil:f", "--json", cwd=bundle.parent
    )
    assert named.returncode == 0, named.stderr
    assert mark.exists()
    said = json.loads(named.stdout)
    assert any(check["name"].startswith("PyTorch, run anew") for check in said["checks"])
    assert "--model bundle.evil:f" in said["commands"][0]


def test_an_architecture_is_named_by_either(cli: Cli, bundle: Path, checkpoint: Path) -> None:
    with_source(bundle, "some.package.Network")
    words = ("validate", bundle, "--checkpoint", checkpoint)
    refused(
        cli(*words),
        "exported from Python, by its manifest a some.package.Network, and nothing says how to build one anew; add "
        "--model package.module:factory",
    )
    assert cli(*words, "--arch", "smp-resnet18").returncode == 0
    refused(cli(*words, "--arch", "smp-resnet19"), "unknown architecture 'smp-resnet19'")
    refused(cli(*words, "--arch", "smp-resnet18", "--model", "a:b"), "either with --arch or with --model")
    refused(cli("validate", bundle, "--arch", "smp-resnet18"), "--arch goes with --checkpoint")
    refused(cli("validate", bundle, "--model", "a:b", "--backend", "onnxruntime"), "--model is not for --backend")


def test_a_manifest_makes_no_network_that_the_checkpoint_does_not_fill(
    cli: Cli, bundle: Path, checkpoint: Path
) -> None:
    manifest = json.loads((bundle / "manifest.json").read_bytes())
    manifest["network"]["width"] = 4096
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    # It would have 45 billion parameters.
    refused(cli("validate", bundle, "--checkpoint", checkpoint), "smp18.safetensors does not fit the network", "4096")


def test_bench_runs_nothing_of_the_working_directory(cli: Cli, bundle: Path, tmp_path: Path) -> None:
    for name in ("numpy", "msgspec", "psutil", "smp_deploy", "json"):
        (tmp_path / f"{name}.py").write_text(f"import pathlib\npathlib.Path({str(tmp_path)!r}, 'ran').touch()\n1 / 0\n")
    words = ("bench", bundle, "--iterations", 1, "--duration", 0, "--warm-up", 0, "--json")
    result = cli(*words, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["memory"]["above_empty_process_bytes"] > 0
    assert not (tmp_path / "ran").exists()


@pytest.fixture
def trap(tmp_path: Path) -> dict[str, str]:
    """An environment in which ``gs``, when it is started, leaves ``tmp_path / "started"``."""
    program = tmp_path / "bin" / "gs"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\ntouch {tmp_path / 'started'}\n")
    program.chmod(0o755)
    return {**os.environ, "PATH": f"{program.parent}:{os.environ['PATH']}"}


def labelled(root: Path, bundle: Bundle, image: bytes, labels: bytes) -> Path:
    """A dataset of one frame with the bundle's classes."""
    (root / "val" / "images").mkdir(parents=True)
    (root / "val" / "labels").mkdir()
    names = [record.name for record in bundle.manifest.classes]
    (root / "classes.json").write_text(json.dumps({"classes": names}))
    (root / "val" / "images" / "road.png").write_bytes(image)
    (root / "val" / "labels" / "road.png").write_bytes(labels)
    return root


def test_a_picture_starts_no_program(
    cli: Cli, exported: Bundle, image: Path, trap: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "frame.png").write_bytes(EPS)
    result = cli("run", exported.path, "frame.png", "-o", "out", cwd=tmp_path, env=trap)
    refused(result, "frame.png is no image that can be read; BMP, JPEG, PNG, PPM, TIFF, WEBP can")
    root = labelled(tmp_path / "data", exported, image.read_bytes(), EPS)
    result = cli("evaluate", exported.path, "--dataset", "folder", "--root", root, "-o", tmp_path / "e", env=trap)
    refused(result, "labels/road.png: not a readable image: it is no image that can be read")
    assert not (tmp_path / "started").exists()


def commands_on_a_bomb(bundle: str, checkpoint: str, folder: str) -> dict[str, Any]:
    """What each command that takes pictures says of one, and the memory above the start. In a process of its own."""
    import smp_deploy.evaluation.operation  # noqa: F401
    from smp_deploy.cli.app import invoke

    bomb = f"{folder}/bomb.png"
    of_folder = ("--dataset", "folder", "--root")
    export = ("export", checkpoint, "--arch", "smp-resnet18", "--size", "64x96", "-o", f"{folder}/new")
    commands: list[tuple[str, ...]] = [
        ("run", bundle, bomb, "-o", f"{folder}/out"),
        ("run", bundle, bomb, "-o", f"{folder}/out", "--resize"),
        ("bench", bundle, "--images", bomb),
        ("tune", bundle, "--images", bomb),
        ("validate", bundle, "--images", bomb),
        ("validate", bundle, "--images", f"{folder}/good", "--labels", f"{folder}/labels"),
        ("validate", bundle, *of_folder, f"{folder}/frame"),
        ("evaluate", bundle, *of_folder, f"{folder}/frame", "-o", f"{folder}/e"),
        ("evaluate", bundle, *of_folder, f"{folder}/truth", "-o", f"{folder}/e"),
        ("debug-precision", bundle, "--precision", "fp16", "--images", bomb),
        (*export, "--reference-images", bomb),
        (*export, "--precision", "int8", "--calibration-images", bomb),
    ]
    before, said = current_peak_bytes(), []
    for words in commands:
        try:
            invoke(list(words))
            said.append(f"{words}: done")
        except InputError as error:
            said.append(str(error))
    return {"said": said, "above": current_peak_bytes() - before}


def test_a_bomb_is_refused_by_every_command(exported: Bundle, checkpoint: Path, image: Path, tmp_path: Path) -> None:
    bomb, good = png(13300, 13300), image.read_bytes()
    assert len(bomb) < 600_000
    (tmp_path / "bomb.png").write_bytes(bomb)
    for folder, content in (("good", good), ("labels", bomb)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "road.png").write_bytes(content)
    labelled(tmp_path / "frame", exported, bomb, png(64, 96))
    labelled(tmp_path / "truth", exported, good, bomb)
    peak = peak_of(
        "tests.smp_deploy.cli.test_hostile_inputs:commands_on_a_bomb",
        str(exported.path),
        str(checkpoint),
        str(tmp_path),
        timeout_s=120,
    )
    for said in peak.returned["said"]:
        assert "13300x13300 (height x width)" in said
        assert "bomb.png" in said or "road.png" in said
    assert len(peak.returned["said"]) == 12
    assert peak.returned["above"] < 500 * MIB
