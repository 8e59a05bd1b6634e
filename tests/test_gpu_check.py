"""``benchmarks/gpu_check.py`` on a machine without a GPU: everything is *not run*; its logic works on a CPU."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from engines import Bundle, Lowering, Precision, Schedule, Session
from engines.backends import backend_named
from engines.bundle.records import Status
from engines.devices.gpus import gpus
from engines.errors import BackendError
from engines.executors.timing import stage_times_ms
from engines.proof import provenance_checks
from tests.engines.executors.host_device import HostDevice, Mark
from tests.engines.executors.test_device_executor import frames, opener

ROOT = Path(__file__).resolve().parents[1]
PHASES = [(0, 0), (2, 2), (0, 2)]
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
    rows = list(script.rows_of_backend(exported, backend_named("onnxruntime"), repeats=1))
    assert [(row.what, row.precision, row.status) for row in rows] == [("onnxruntime", "fp32", "passed")] * 4
    for row in rows:
        assert row.figures["agreement"] >= 0.9999
        assert min(row.figures["latency_ms"], row.figures["frame_to_frame_ms"]) > 0
    (share,) = script.rearrangement(rows)
    assert share["schedule"] == "levels 2, sub-batch 4, reshape"
    absent = list(script.rows_of_backend(exported, backend_named("tensorrt"), repeats=1))
    if importlib.util.find_spec("tensorrt") is None:
        assert {(row.status, row.reason.partition(";")[0]) for row in absent} == {
            ("not run", "tensorrt is not installed")
        }
    result = {"gpu": "x", "machine": "y", "rows": [vars(row) for row in (*rows, *absent)], "rearrangement": [share]}
    json.dumps(result)
    lines = script.page(result).splitlines()
    assert sum(line.startswith("| onnxruntime | fp32 | levels") for line in lines) == 4
    assert sum(line.startswith("- tensorrt fp32 levels") for line in lines) == 4


def test_what_the_rearrangement_takes_by_hand(script: ModuleType) -> None:
    """8 ms with reshapes, 5 ms in the best form: 3 of 8 are rearrangement. A backend without all forms has no share."""

    def row(what: str, lowering: str, latency_ms: float) -> Any:
        schedule = f"levels 2, sub-batch 4, {lowering}"
        return script.Row(what, "fp16", schedule, "passed", figures={"latency_ms": latency_ms})

    rows = [row("a", "reshape", 8.0), row("a", "strided", 6.0), row("a", "dilated", 5.0), row("b", "reshape", 9.0)]
    assert script.rearrangement(rows) == [
        {"share": 0.375, "backend": "a", "precision": "fp16", "schedule": "levels 2, sub-batch 4, reshape"}
    ]


@pytest.mark.parametrize("phase", ["opening", "running", "closing"])
def test_what_began_and_broke_is_a_failure(
    script: ModuleType, exported: Bundle, monkeypatch: pytest.MonkeyPatch, phase: str
) -> None:
    """As an illegal memory access is, wherever the runtime says so; only what does not open is *not run*."""

    def broken(*_: object, **__: object) -> None:
        raise BackendError("an illegal memory access was encountered")

    monkeypatch.setattr(script, "SCHEDULES", (Schedule(2),))
    monkeypatch.setattr(script, "PRECISIONS", (Precision.FP32,))
    monkeypatch.setattr(Session, {"opening": "open", "running": "predict", "closing": "close"}[phase], broken)
    (row,) = script.rows_of_backend(exported, backend_named("onnxruntime"), repeats=1)
    assert row.status == ("not run" if phase == "opening" else "failed")
    assert "an illegal memory access" in row.reason
    result = {"gpu": "x", "machine": "y", "rows": [vars(row)], "rearrangement": []}
    assert f"{row.status.capitalize()}:\n\n- onnxruntime fp32 levels 2" in script.page(result)


class ClockedDevice(HostDevice):
    """Every piece of work takes a millisecond, but for the uploading of frames: a mark is passed when it is reached."""

    def __init__(self) -> None:
        super().__init__()
        self.now_ms = 0.0
        self.passed_ms: dict[Any, float] = {}

    def queue(self, work: Any, stream: Any) -> None:
        def timed() -> None:
            work()
            if isinstance(work, Mark):
                self.passed_ms[work] = self.now_ms
            else:
                self.now_ms += 1

        super().queue(timed, stream)

    def elapsed_ms(self, start: Any, end: Any) -> float:
        super().elapsed_ms(start, end)
        return self.passed_ms[end.mark] - self.passed_ms[start.mark]


def test_stages_of_a_sub_batch_are_timed_in_order(exported: Bundle) -> None:
    """The time of a stage is that of its own work: three phases are cut by three times the copies of one."""
    device = ClockedDevice()
    with opener(device, exported)(Schedule(2, 3)) as executor:
        held = device.leaked
        one, three = (stage_times_ms(executor, frames(1)[0], phases) for phases in (PHASES[:1], PHASES))
        assert list(one) == list(three) == ["prepare", "cut", "trunk", "download"]
        assert three["cut"] == 3 * one["cut"] > 0
        assert min(*one.values(), *three.values()) > 0
        assert (one["prepare"], one["trunk"]) == (three["prepare"], three["trunk"])
        assert device.leaked == held
    assert device.leaked == 0


def test_its_engines_have_the_records_of_the_command(script: ModuleType, bundle: Path) -> None:
    """Hashes of graphs, weights and plans: without them nobody could say what an engine was built from."""
    pytest.importorskip("tensorrt_rtx", reason="not run: tensorrt_rtx is not installed")
    backend = backend_named("tensorrt-rtx")
    built = script._with_engine(Bundle.open(bundle), backend, Precision.FP16, Schedule(2, 4))
    opened = Bundle.open(built.path)
    (check,) = provenance_checks(opened, opened.manifest.engines)
    assert check.status is Status.PASSED
