"""Two engines side by side: records that differ in one thing each, and engines of bundles."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import msgspec
import pytest

from engines import Bundle, Precision, Schedule
from engines.bundle.comparing import compared_engines
from engines.bundle.records import (
    BuildRecord,
    Difference,
    EngineLayer,
    EngineLayers,
    Fingerprint,
    OutputDigest,
    Tactic,
    Tactics,
    compared_builds,
    json_from_record,
)
from engines.errors import BundleError, InputError
from tests.conftest import Cli
from tests.records import build_record


def layer(name: str, kernel: str = "k1", tensor: str = "Half 1x8") -> EngineLayer:
    return EngineLayer(name=name, kind="CaskConvolution", tactic=kernel, inputs=(tensor,), outputs=(tensor,))


def tactic(key: str, number: int, ms: float = 1.0) -> Tactic:
    return Tactic(key=key, tactic=f"0x{number:016x}", ms=ms)


def output(frame: str, digest: str) -> OutputDigest:
    return OutputDigest(frame=f"{frame}.npy", frame_sha256=frame * 64, output_sha256=digest * 64)


def whole(
    layers: tuple[EngineLayer, ...] = (layer("conv1"), layer("conv2")),
    tactics: tuple[Tactic, ...] = (tactic("0x1", 1), tactic("0x2", 2)),
    outputs: tuple[OutputDigest, ...] = (output("a", "1"),),
    **changes: Any,
) -> BuildRecord:
    return build_record(
        tactics=Tactics(trunk=list(tactics), prepare=[]),
        fingerprint=Fingerprint(trunk=EngineLayers.of(layers), prepare=EngineLayers.of([]), outputs=list(outputs)),
        **changes,
    )


def test_what_is_the_same() -> None:
    same = compared_builds(whole(), whole(tactics=(tactic("0x1", 1, ms=7.0), tactic("0x2", 2)), build_s=99.0))
    assert (same.differences, same.not_compared) == ((), ())


@pytest.mark.parametrize(
    ("other", "differences"),
    [
        (whole(version="1.8.0"), [("version", "1.7.1", "1.8.0")]),
        (whole(precision=Precision.FP32), [("precision", "fp16", "fp32")]),
        (whole(plan_sha256="9" * 64), [("plan_sha256", "3" * 64, "9" * 64)]),
        (
            whole(flags={"max_aux_streams": 0, "pool_limits": {"workspace": 512}}),
            [("flags.max_aux_streams", None, "0"), ("flags.pool_limits.workspace", None, "512")],
        ),
        (
            whole(device=msgspec.structs.replace(build_record().device, gpu="Orin")),
            [("device.gpu", None, "Orin")],
        ),
        (
            whole(layers=(layer("conv1"), layer("conv2", "k9"))),
            [
                (
                    "trunk, layer conv2",
                    "CaskConvolution k1: Half 1x8 -> Half 1x8",
                    "CaskConvolution k9: Half 1x8 -> Half 1x8",
                )
            ],
        ),
        (
            whole(layers=(layer("conv1"), layer("conv2"), layer("copy"))),
            [("trunk, layer copy", None, "CaskConvolution k1: Half 1x8 -> Half 1x8")],
        ),
        (
            whole(layers=(layer("conv2"), layer("conv1"))),
            [("trunk, order of layers from 0 on", "conv1", "conv2")],
        ),
        (
            whole(tactics=(tactic("0x1", 1), tactic("0x3", 3))),
            [
                ("trunk, tactic 0x2", "0x0000000000000002", None),
                ("trunk, tactic 0x3", None, "0x0000000000000003"),
            ],
        ),
        (
            whole(tactics=(tactic("0x1", 255), tactic("0x2", 2))),
            [("trunk, tactic 0x1", "0x0000000000000001", "0x00000000000000ff")],
        ),
        (
            whole(outputs=(output("a", "2"), output("b", "3"))),
            [("output for a.npy", "1" * 64, "2" * 64), ("output for b.npy", None, "3" * 64)],
        ),
    ],
)
def test_what_differs(other: BuildRecord, differences: list[tuple[str, str | None, str | None]]) -> None:
    found = compared_builds(whole(), other)
    assert list(found.differences) == [Difference(*one) for one in differences]
    assert found.not_compared == ()
    turned = compared_builds(other, whole()).differences
    assert {(one.what, one.there, one.here) for one in turned if "order" not in one.what} == {
        one for one in differences if "order" not in one[0]
    }


def test_what_cannot_be_compared_is_said() -> None:
    found = compared_builds(whole(), build_record())
    assert found.differences == ()
    assert found.not_compared == (
        "layers of trunk: not read: there is no GPU (there)",
        "layers of prepare: not read: there is no GPU (there)",
        "tactics: not recorded there",
        "outputs: not run: there is no GPU (there)",
    )
    assert compared_builds(build_record(), build_record()).not_compared == (
        "layers of trunk: not read: there is no GPU (here and there)",
        "layers of prepare: not read: there is no GPU (here and there)",
        "tactics: not recorded here and there",
        "outputs: not run: there is no GPU (here and there)",
    )


def stored(bundle: Bundle, sub_batch: int, record: BuildRecord) -> Bundle:
    held = msgspec.structs.replace(record, sub_batch=sub_batch)
    schedule = Schedule(2, sub_batch)
    return bundle.with_engine("tensorrt-rtx", Precision.FP16, schedule, plan=b"plan", prepare=b"prepare", record=held)


@pytest.fixture
def two(bundle: Path, tmp_path: Path) -> tuple[Bundle, Bundle]:
    """A bundle with engines for sub-batches of 1 and 2, and another with those for 2 and 4."""
    other = Bundle.open(shutil.copytree(bundle, tmp_path / "other"))
    mine = stored(stored(Bundle.open(bundle), 1, whole()), 2, whole())
    return mine, stored(stored(other, 2, whole(version="1.8.0")), 4, whole())


def test_engines_of_the_same_use_are_compared(two: tuple[Bundle, Bundle], tmp_path: Path) -> None:
    mine, other = two
    (found,) = compared_engines(mine, other.path)
    assert found.engine == mine.engines[1].engine
    assert found.other == f"{other.path}/{other.engines[0].engine}"
    assert found.builds.differences == (Difference("version", "1.7.1", "1.8.0"),)
    first = mine.engines[0]
    with pytest.raises(InputError) as caught:
        compared_engines(mine, other.path, first.engine)
    assert str(caught.value) == (
        f"{other.path} has no engine for the same use: it has tensorrt-rtx fp16, levels 2, sub-batch 2, reshape; "
        f"tensorrt-rtx fp16, levels 2, sub-batch 4, reshape; {mine.path} has tensorrt-rtx fp16, levels 2, sub-batch 1, "
        "reshape. A build record of one can be compared with any: name its file"
    )


def test_an_engine_is_compared_with_a_record(two: tuple[Bundle, Bundle], tmp_path: Path) -> None:
    mine, _ = two
    first, second = mine.engines
    path = tmp_path / "record.json"
    path.write_bytes(json_from_record(whole(sub_batch=2, version="1.8.0")))
    # Of the same use.
    (found,) = compared_engines(mine, path)
    assert (found.engine, found.other) == (second.engine, str(path))
    assert found.builds.differences == (Difference("version", "1.7.1", "1.8.0"),)
    # The one that is named, by either name, and two engines of one bundle.
    (found,) = compared_engines(mine, path, Path(first.engine).name)
    assert [one.what for one in found.builds.differences] == ["version", "sub_batch"]
    (found,) = compared_engines(mine, mine.path / second.record, first.engine)
    assert found.builds.differences == (Difference("sub_batch", "1", "2"),)
    with pytest.raises(InputError, match=rf"has no engine 'x' \(it has: {first.engine}, {second.engine}\)"):
        compared_engines(mine, path, "x")
    path.write_bytes(json_from_record(whole(sub_batch=8)))
    with pytest.raises(InputError, match=r"record\.json may be compared with several engines: name one with engine="):
        compared_engines(mine, path)
    path.write_text("[]")
    with pytest.raises(BundleError, match=r"record\.json is no record of its kind"):
        compared_engines(mine, path)
    with pytest.raises(InputError, match=r"cannot read the build record .*: No such file or directory"):
        compared_engines(mine, tmp_path / "absent")


def test_inspect_shows_it(cli: Cli, two: tuple[Bundle, Bundle], exported: Bundle, tmp_path: Path) -> None:
    mine, other = two
    shown = cli("inspect", mine.path, "--compare", other.path)
    assert shown.returncode == 0, shown.stderr
    assert "version" in shown.stdout
    assert "1.8.0" in shown.stdout
    assert "not compared" not in shown.stdout
    said = json.loads(cli("inspect", mine.path, "--compare", other.path, "--json").stdout)
    assert said == {
        "comparisons": [
            {
                "engine": mine.engines[1].engine,
                "other": f"{other.path}/{other.engines[0].engine}",
                "differences": [{"what": "version", "here": "1.7.1", "there": "1.8.0"}],
                "not_compared": [],
            }
        ]
    }
    same = cli("inspect", mine.path, "--compare", mine.path / mine.engines[0].record)
    assert "nothing that was compared" in same.stdout
    result = cli("inspect", mine.path, "--engine", "x")
    assert (result.returncode, result.stderr) == (
        2,
        "smp-deploy: --engine names what --compare compares; give both\n",
    )
    result = cli("inspect", exported.path, "--compare", mine.path)
    assert (result.returncode, result.stderr) == (
        2,
        f"smp-deploy: {exported.path} has no engine (it has: none)\n",
    )
    many = tuple(tactic(f"0x{index:032x}", index) for index in range(250))
    path = tmp_path / "many.json"
    path.write_bytes(json_from_record(whole(tactics=many)))
    shown = cli("inspect", mine.path, "--compare", path)
    assert "and 152 more: --json has all" in shown.stdout
