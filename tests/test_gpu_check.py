"""``benchmarks/gpu_check.py`` on a machine without a GPU: everything is *not run*; its logic works on a CPU."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from engines import Bundle, Lowering, Precision, Schedule
from engines.devices.gpus import gpus
from engines.executors.timing import stage_times_ms
from tests.engines.executors.host_device import HostDevice
from tests.engines.executors.test_device_executor import frames, opener

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "benchmarks" / "gpu_check.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    specification = importlib.util.spec_from_file_location("gpu_check", SCRIPT)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules["gpu_check"] = module
    specification.loader.exec_module(module)
    return module


@pytest.mark.skipif(bool(gpus()), reason="not run: this machine has a GPU")
def test_without_a_gpu_everything_is_not_run(tmp_path: Path) -> None:
    """With numpy and msgspec alone: neither torch, onnx nor a runtime is imported."""
    blocker = (
        "import runpy, sys\n"
        "for name in ('torch', 'onnx', 'onnxruntime', 'tensorrt', 'tensorrt_rtx', 'typer', 'rich', 'PIL'):\n"
        "    sys.modules[name] = None\n"
        f"sys.argv = ['gpu_check.py', '--output', {str(tmp_path / 'results')!r}]\n"
        f"runpy.run_path({str(SCRIPT)!r}, run_name='__main__')\n"
    )
    result = subprocess.run([sys.executable, "-c", blocker], capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 3, result.stderr
    for name in ("tensorrt", "tensorrt-rtx", "onnxruntime-cuda", "PyTorch eager", "torch.compile"):
        assert f"- {name}: there is no NVIDIA GPU\n" in result.stdout
    assert not (tmp_path / "results").exists()


def test_its_logic_on_the_cpu(script: ModuleType, exported: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script, "SCHEDULES", (*(Schedule(2, 4, lowering) for lowering in Lowering), Schedule(3, 4)))
    monkeypatch.setattr(script, "PRECISIONS", (Precision.FP32,))
    rows = list(script.rows_of_backend(exported, "onnxruntime", repeats=1))
    assert [(row.what, row.precision, row.status) for row in rows] == [("onnxruntime", "fp32", "passed")] * 4
    for row in rows:
        assert row.figures["agreement"] >= 0.9999
        assert min(row.figures["latency_ms"], row.figures["frame_to_frame_ms"]) > 0
    (share,) = script.rearrangement(rows)
    assert share["schedule"] == "levels 2, sub-batch 4, reshape"
    best = min(row.figures["latency_ms"] for row in rows[:3])
    assert share["share"] == 1 - best / rows[0].figures["latency_ms"]
    absent = list(script.rows_of_backend(exported, "tensorrt", repeats=1))
    if importlib.util.find_spec("tensorrt") is None:
        assert {(row.status, row.reason.partition(";")[0]) for row in absent} == {
            ("not run", "tensorrt is not installed")
        }
    result = {"gpu": "x", "machine": "y", "rows": [vars(row) for row in (*rows, *absent)], "rearrangement": [share]}
    json.dumps(result)
    lines = script.page(result).splitlines()
    assert sum(line.startswith("| onnxruntime | fp32 | levels") for line in lines) == 4
    assert sum(line.startswith("- tensorrt fp32 levels") for line in lines) == 4


def test_stages_of_a_sub_batch_are_timed_in_order(exported: Bundle) -> None:
    device = HostDevice()
    with opener(device, exported)(Schedule(2, 3)) as executor:
        held = device.leaked
        times = stage_times_ms(executor, frames(1)[0], [(0, 0)])
        assert times == {"prepare": 1.0, "cut": 1.0, "trunk": 1.0, "download": 1.0}
        assert device.leaked == held
    assert device.leaked == 0
