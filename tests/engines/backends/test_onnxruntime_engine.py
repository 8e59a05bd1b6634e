"""ONNX Runtime under the device executor, as far as a machine without a GPU has it: binding, shapes, options."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import onnx
import pytest

from engines import Bundle, Precision, Schedule, Session
from engines.backends.onnxruntime.cuda import ONNXRUNTIME_CUDA, _small_workspaces, provider_options
from engines.backends.onnxruntime.engine import OnnxRuntimeEngine
from engines.backends.onnxruntime.runner import OnnxRuntimeRunner
from engines.backends.onnxruntime.sessions import Provider
from engines.devices.gpus import gpus
from engines.errors import BackendError, InputError, MachineError
from engines.schedules.schedule import Lowering


def engine_of(exported: Bundle, levels: int = 2) -> OnnxRuntimeEngine:
    trunk = exported.manifest.trunk(levels)
    return OnnxRuntimeEngine(exported.file(exported.trunk_graph(trunk, Precision.FP32)), Provider.CPU, {})


@pytest.mark.parametrize(("levels", "phases"), [(2, 1), (2, 3), (3, 2)])
def test_labels_appear_at_the_address(exported: Bundle, levels: int, phases: int) -> None:
    engine = engine_of(exported, levels)
    grid = exported.manifest.grid(exported.manifest.trunk(levels))
    windows = np.random.default_rng(0).standard_normal((phases, 3, *grid.crop_size)).astype(np.float32)
    inputs = {"windows": windows}
    if grid.inner_windows:
        inputs["offsets"] = np.ones((len(grid.inner_windows), 2), np.int64)
    execution = engine.execution({name: array.shape for name, array in inputs.items()})
    assert execution.outputs == {"labels": (phases, *grid.phase_size)}
    assert execution.memory_size == 0
    labels = np.full(execution.outputs["labels"], 255, np.uint8)
    addresses = {name: array.ctypes.data for name, array in inputs.items()}
    execution.bind({**addresses, "labels": labels.ctypes.data}, 0, 0)
    execution.enqueue(None)
    (expected,) = engine.session.run(["labels"], inputs)
    np.testing.assert_array_equal(labels, expected)
    # Once bound: what is at the address counts, not what was.
    windows[...] = windows[..., ::-1].copy()
    execution.enqueue(None)
    np.testing.assert_array_equal(labels, engine.session.run(["labels"], inputs)[0])
    execution.close()
    engine.close()
    engine.close()


def test_shapes_that_the_graph_does_not_take(exported: Bundle) -> None:
    engine = engine_of(exported)
    for shapes in ({}, {"windows": (1, 3, 67, 98)}, {"windows": (3, 67, 99)}):
        with pytest.raises(BackendError, match=r"takes 'windows' of \(None, 3, 67, 99\); received"):
            engine.execution(shapes)


def test_what_the_provider_is_told() -> None:
    """Its own words for IEEE single precision, one stream, exact regions and no more than a budget."""
    options = provider_options(1, 4096, Precision.FP32, 2**29)
    assert (options["device_id"], options["user_compute_stream"]) == ("1", "4096")
    assert options["gpu_mem_limit"] == "536870912"
    assert options["arena_extend_strategy"] == "kSameAsRequested"
    for precision in Precision:
        told = provider_options(0, 4096, precision, None)
        assert told["use_tf32"] == ("1" if precision is Precision.TF32 else "0")
        assert "gpu_mem_limit" not in told


def test_the_environment_is_left_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    with _small_workspaces():
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"
    assert "CUBLAS_WORKSPACE_CONFIG" not in os.environ
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    with _small_workspaces():
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"


@pytest.mark.skipif(bool(gpus()), reason="not run: this machine has a GPU")
def test_without_a_gpu_it_is_one_error(exported: Bundle) -> None:
    with pytest.raises(MachineError, match=r"there is no NVIDIA|CUDAExecutionProvider|cuda-bindings"):
        Session.open(exported, "onnxruntime-cuda", precision="fp16")


def test_a_budget_below_everything_is_refused_with_what_would_do(exported: Bundle) -> None:
    with pytest.raises(InputError, match=r"no schedule fits 1.0 MiB; the smallest budget that would is 2\d\.\d MiB"):
        Session.open(exported, "onnxruntime-cuda", precision="fp16", memory="1MiB")


def test_a_named_schedule_must_fit_the_budget(exported: Bundle) -> None:
    schedule = Schedule(2, 16, Lowering.RESHAPE)
    needed = ONNXRUNTIME_CUDA.memory.peak_bytes(exported.manifest, schedule, Precision.TF32)
    with pytest.raises(InputError, match=r"levels 2, sub-batch 16, reshape needs .* as predicted, more than memory="):
        Session.open(exported, "onnxruntime-cuda", precision="tf32", schedule=schedule, memory=needed - 1)


def test_a_type_that_no_graph_of_a_bundle_has_is_one_error(tmp_path: Path) -> None:
    bfloat16 = onnx.TensorProto.BFLOAT16
    value = onnx.helper.make_tensor_value_info("planes", bfloat16, [3])
    given = onnx.helper.make_tensor_value_info("frame", onnx.TensorProto.FLOAT, [3])
    cast = onnx.helper.make_node("Cast", ["frame"], ["planes"], to=bfloat16)
    graph = onnx.helper.make_graph([cast], "g", [given], [value])
    path = tmp_path / "prepare.onnx"
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9), path)
    said = f"^{re.escape(str(path))} cannot be used: planes is a tensor\\(bfloat16\\) there$"
    with pytest.raises(BackendError, match=said):
        OnnxRuntimeRunner(path).__enter__()
