"""``tune``, then what follows its choice; ``bench``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from engines import Bundle, Session
from engines.backends.onnxruntime.cpu import ONNXRUNTIME_CPU
from engines.devices.processor import processor_title
from engines.errors import CheckFailed
from smp_deploy.benchmarking.peak_memory import PeakMemory
from smp_deploy.cli.bench import bench_command
from tests.conftest import Cli, document

CHOICE = ("--levels", 2, "--lowering", "dilated", "--rounds", 2, "--duration", 0.02)


def test_run_bench_and_inspect_follow_the_tuning(cli: Cli, bundle: Path, image: Path, tmp_path: Path) -> None:
    untuned = cli("run", bundle, image, "-o", tmp_path / "before")
    assert untuned.returncode == 0
    assert "levels 2, sub-batch 1, reshape (the bundle's default; it is not tuned" in untuned.stderr

    said = document(cli("tune", bundle, *CHOICE, "--images", image, "--json"))
    (held,) = Bundle.open(bundle).tunings
    assert (held.device, held.runtime) == (processor_title(), ONNXRUNTIME_CPU.runtime())
    assert [m["frame_ms"] for m in said["tuning"]["measurements"]] == [m.frame_ms for m in held.measurements]
    assert not said["missing"]
    with Session.open(bundle) as session:
        best = str(session.schedule)
    measured = held.measurements[0]
    assert best == str(measured.schedule)

    tuned = document(cli("run", bundle, image, "-o", tmp_path / "after", "--json"))
    assert tuned["schedule"] == best
    assert tuned["schedule_reason"].startswith("tuned on this device")
    asked = cli("run", bundle, image, "-o", tmp_path / "asked", "--sub-batch", 1)
    assert "levels 2, sub-batch 1, reshape (asked for)" in asked.stderr
    before, after = (np.asarray(Image.open(tmp_path / name / "road-labels.png")) for name in ("before", "after"))
    assert (before == after).mean() >= 0.9998

    benched = document(cli("bench", bundle, "--iterations", 3, "--duration", 0, "--percentile", "50,100", "--json"))
    assert benched["reason"].startswith("tuned on this device")
    assert best in cli("inspect", bundle).stdout


def test_tune_prints_what_it_compares_and_what_it_lacks(cli: Cli, bundle: Path) -> None:
    options = ("--levels", 1, "--rounds", 1, "--duration", 0.02)
    result = cli("tune", bundle, *options)
    assert result.returncode == 0, result.stderr
    assert "against the default" in result.stdout
    assert "no such trunks: 1 strided, 1 dilated; export adds them with --levels 0 --levels 1" in result.stderr


def test_tune_refuses_what_leaves_nothing(cli: Cli, exported: Bundle) -> None:
    result = cli("tune", exported.path, "--levels", 3, "--lowering", "strided")
    assert result.returncode == 2
    assert "no schedule is left to compare" in result.stderr


def test_bench_measures_latency_throughput_and_memory(cli: Cli, bundle: Path) -> None:
    options = ("--iterations", 4, "--duration", 0, "--warm-up", 0, "--percentile", "50,100", "--lowering", "dilated")
    said = document(cli("bench", bundle, *options, "--json"))
    latency = said["latency_ms"]
    assert said["iterations"] == 4
    assert 0 < latency["min"] <= latency["median"] == latency["percentiles"]["50"] <= latency["max"]
    assert latency["percentiles"]["100"] == latency["max"]
    frames_per_s = said["throughput"]["frames_per_s"]
    assert frames_per_s == pytest.approx(1000 / latency["mean"])
    assert said["throughput"]["megapixels_per_s"] == pytest.approx(frames_per_s * 64 * 96 / 1e6)
    assert said["schedule"] == {"levels": 2, "lowering": "dilated", "sub_batch": 1}
    assert said["reason"] == "asked for"
    assert 0 < said["memory"]["above_empty_process_bytes"] < said["memory"]["process_bytes"] < 2**30
    assert 0 < said["rearrangement"]["share"] == said["rearrangement"]["ms"] / latency["median"]
    assert said["machine"]["runtime"] == ONNXRUNTIME_CPU.runtime()


def test_a_budget_that_was_passed_is_a_check_that_failed(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The prediction says that it fits; what is measured decides."""
    peak = PeakMemory(50, 2**31, {"device": None})
    monkeypatch.setattr("smp_deploy.benchmarking.bench.session_peak", lambda *_, **options: peak)
    with pytest.raises(CheckFailed, match=r"took 2048\.0 MiB where --memory allows 2047\.0 MiB"):
        bench_command(bundle, memory=2047 * 2**20, iterations=1, duration_s=0, warm_up_ms=0)
    said = bench_command(bundle, memory=2048 * 2**20, iterations=1, duration_s=0, warm_up_ms=0)
    assert said["memory"]["budget_bytes"] == 2**31


def test_bench_refuses_percentiles_that_are_none(cli: Cli, exported: Bundle) -> None:
    for wrong in ("90,200", "many"):
        result = cli("bench", exported.path, "--percentile", wrong)
        assert result.returncode == 2
        assert f"percentiles lie between 0 and 100, with commas, 90,99 say; received '{wrong}'" in result.stderr


def test_bench_takes_frames_of_the_bundles_size_alone(cli: Cli, exported: Bundle, tmp_path: Path) -> None:
    Image.new("RGB", (10, 20)).save(tmp_path / "small.png")
    result = cli("bench", exported.path, "--images", tmp_path / "small.png")
    assert result.returncode == 2
    assert "is 20x10 (height x width), the bundle takes 64x96" in result.stderr
