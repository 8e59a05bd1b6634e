"""``build-engine`` as a user types it: options, the engine that is there already, refusals, interrupts."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from engines import Bundle
from tests.conftest import Cli

needs_rtx = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None, reason="not run: tensorrt_rtx is not installed"
)
RTX = ("--flavour", "tensorrt-rtx")


def contents(bundle: Path) -> dict[str, str]:
    """Every file of the bundle with its hash."""
    files = (path for path in bundle.rglob("*") if path.is_file())
    return {str(path.relative_to(bundle)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@needs_rtx
def test_the_record_says_what_was_built_and_the_same_is_not_built_again(cli: Cli, bundle: Path) -> None:
    others = ("--fp16", "--sub-batch", 2, "--builder-optimization-level", 2,
              "--pool-limit", "workspace:1.5GiB", "--pool-limit", "tactic-shared-mem:48KiB", *RTX)  # fmt: skip
    options = (*others, "--max-aux-streams", 0)
    first = cli("build-engine", bundle, *options, "--json")
    assert first.returncode == 0, first.stderr
    # A slow build says its percents several times.
    assert list(dict.fromkeys(line.split(":")[0] for line in first.stderr.splitlines())) == [
        "building trunk.fp16.onnx, percent",
        "building prepare.onnx, percent",
    ]
    said = json.loads(first.stdout)
    assert said["flags"] == {
        "builder_optimization_level": 2,
        "pool_limits": {"tactic-shared-mem": 49152, "workspace": 1610612736},
        "max_aux_streams": 0,
        "hardware_compatibility_level": "none",
        "version_compatible": False,
        "profiling_verbosity": "detailed",
    }
    (engine,) = Bundle.open(bundle).engines
    record = json.loads((bundle / engine.record).read_text())
    assert said == {"engine": str(bundle / engine.engine), "cached": False, **record}
    held = contents(bundle)
    assert (record["plan_sha256"], record["prepare_plan_sha256"]) == (held[engine.engine], held[engine.prepare])
    for name in ("graph", "prepare"):
        assert record[f"{name}_sha256"] == held[record[name]]
    assert record["weights_sha256"] == held["weights.bin"]
    assert (record["target"], record["strongly_typed"], record["timing_cache"]) == ("this-machine", True, False)
    assert record["python"] == ".".join(map(str, sys.version_info[:3]))

    again = cli("build-engine", bundle, *options, "--json")
    assert again.stderr == "the bundle holds this engine already; --force builds it again\n"
    assert json.loads(again.stdout) == {**said, "cached": True}
    assert contents(bundle) == held

    forced = cli("build-engine", bundle, *options, "--force", "--json")
    assert json.loads(forced.stdout)["cached"] is False
    assert json.loads(cli("build-engine", bundle, *others, "--max-aux-streams", 1, "--json").stdout)["cached"] is False
    (engine,) = Bundle.open(bundle).engines
    # What was replaced is gone.
    assert {path.name for path in (bundle / "engines").iterdir()} == {Path(name).name for name in engine.files}


@needs_rtx
def test_a_damaged_engine_is_no_answer(cli: Cli, bundle: Path) -> None:
    assert cli("build-engine", bundle, *RTX).returncode == 0
    (engine,) = Bundle.open(bundle).engines
    for name in (engine.engine, engine.prepare):
        good = (bundle / name).read_bytes()
        (bundle / name).write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
        result = cli("build-engine", bundle, *RTX)
        assert result.returncode == 2
        assert f"{name} is not the file" in result.stderr
        (bundle / name).write_bytes(good)


@needs_rtx
def test_rtx_without_a_gpu_and_its_timing_cache(cli: Cli, bundle: Path, tmp_path: Path) -> None:
    cache = tmp_path / "t.cache"
    result = cli("build-engine", bundle, "--target", "rtx", "--timing-cache", cache, "--verbose", "--json")
    assert result.returncode == 0, result.stderr
    assert f"TensorRT-RTX has no timing cache: {cache} is neither read nor written\n" in result.stderr
    assert "DeprecationWarning" not in result.stderr
    assert "\n[VERBOSE] " in result.stderr
    assert not cache.exists()
    assert json.loads(result.stdout)["target"] == "rtx"


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (("--pool-limit", "workspace:512"), 2, "carries its unit, 512MiB for example; a bare number is MiB to trtexec"),
        (("--pool-limit", "workspace:512MB"), 2, "a number with KiB, MiB or GiB"),
        (("--pool-limit", "workspace:0MiB"), 2, "a number with KiB, MiB or GiB"),
        (("--pool-limit", "512MiB"), 2, "NAME:SIZE, workspace:512MiB for example"),
        (("--pool-limit", "dlaSRAM:1MiB"), 2, "knows the pools workspace, tactic-shared-mem; received 'dlaSRAM'"),
        (("--pool-limit", "workspace:1MiB", "--pool-limit", "workspace:2MiB"), 2, "gives workspace twice"),
        (("--builder-optimization-level", "6"), 2, "6 is not in the range"),
        (("--sub-batch", "17"), 2, "at most 16 phases go together"),
        (("--target", "orin"), 2, "'orin' is not one of"),
        (
            ("--target", "rtx", "--flavour", "tensorrt"),
            2,
            "--target rtx is TensorRT-RTX alone, not tensorrt; leave --flavour out",
        ),
        (("--target", "jetson-thor"), 3, "trtexec --onnx="),
        (("--target", "drive-orin", *RTX), 3, "there is no cross-building"),
    ],
)
def test_refusals_change_nothing(cli: Cli, bundle: Path, options: tuple[str, ...], code: int, message: str) -> None:
    before = contents(bundle)
    result = cli("build-engine", bundle, *options)
    assert result.returncode == code, result.stderr
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert not result.stdout
    assert contents(bundle) == before


@needs_rtx
@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (("--hardware-compatibility-level", "ampere-plus"), 2, "they meet; leave --hardware-compatibility-level out"),
        (("--version-compatible",), 2, "needs; leave --version-compatible out"),
        (("--pool-limit", "workspace:1KiB"), 3, "(raise --pool-limit of workspace)"),
    ],
)
def test_refusals_of_rtx(cli: Cli, bundle: Path, options: tuple[str, ...], code: int, message: str) -> None:
    test_refusals_change_nothing(cli, bundle, (*options, *RTX), code, message)


@needs_rtx
def test_a_bundle_that_cannot_be_written_is_refused_before_the_build(cli: Cli, bundle: Path) -> None:
    (bundle / "engines").write_text("in the way")
    before = contents(bundle)
    result = cli("build-engine", bundle, *RTX)
    assert result.returncode == 2
    assert result.stderr == f"smp-deploy: cannot write to {bundle / 'engines'}: it is a link or no folder\n"
    assert contents(bundle) == before


@contextmanager
def build_under_way(bundle: Path) -> Iterator[subprocess.Popen[str]]:
    """A process within TensorRT's build: it waits there, as nobody reads the rest of its log."""
    command = [str(Path(sys.executable).with_name("smp-deploy")), "build-engine", str(bundle), *RTX, "--verbose"]
    with subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        # A suite that a shell runs in the background inherits deaf ears for SIGINT.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            # Said by the optimizer, after parsing.
            if "Original:" in line:
                break
        else:
            pytest.fail("the build did not begin")
        yield process


@needs_rtx
def test_an_interrupted_build_leaves_the_bundle_as_it_was(cli: Cli, bundle: Path) -> None:
    assert cli("build-engine", bundle, *RTX, "--sub-batch", 2).returncode == 0
    before = contents(bundle)
    with build_under_way(bundle) as process:
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        rest = process.stderr.readlines()
    assert process.returncode == 2
    assert rest[-1] == "smp-deploy: interrupted; nothing was left half-written\n"
    assert any("BuildCanceled" in line for line in rest)
    assert "Traceback" not in "".join(rest)
    assert contents(bundle) == before


@needs_rtx
@pytest.mark.parametrize("kind", [signal.SIGTERM, signal.SIGKILL])
def test_a_terminated_build_ends_at_once_and_leaves_the_bundle_as_it_was(bundle: Path, kind: signal.Signals) -> None:
    """Nothing is half written while TensorRT builds, which hears of no handler of Python's."""
    before = contents(bundle)
    with build_under_way(bundle) as process:
        process.send_signal(kind)
    assert process.returncode == -kind
    assert contents(bundle) == before
    assert Bundle.open(bundle).engines == []
