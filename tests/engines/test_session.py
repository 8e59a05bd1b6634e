"""Sessions: frames in, labels out, on a real ONNX Runtime."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

import engines
from engines import Bundle, Schedule, Session
from engines.backends.onnxruntime.runner import OnnxRuntimeRunner
from engines.backends.onnxruntime.sessions import Provider, open_session
from engines.errors import BackendError, BundleError, FrameError, InputError, LayoutError
from engines.schedules.schedule import Precision


def whole_labels(bundle: Bundle, frame: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(bundle.path / "model.onnx"), providers=["CPUExecutionProvider"])
    return session.run(None, {"frames": frame[None]})[0][0].argmax(0)


@pytest.mark.parametrize("sub_batch", [1, 3, 16, 100])
def test_labels_are_those_of_the_whole_graph(exported: Bundle, frame: np.ndarray, sub_batch: int) -> None:
    with Session.open(exported, schedule=Schedule(2, sub_batch)) as session:
        labels = session.predict(frame)
    assert (labels.dtype, labels.shape) == (np.uint8, (64, 96))
    assert labels.flags.c_contiguous
    assert labels.flags.writeable
    assert (labels == whole_labels(exported, frame)).mean() >= 0.9998


def test_progress_is_told_after_every_sub_batch(exported: Bundle, frame: np.ndarray) -> None:
    told: list[tuple[int, int]] = []
    with Session.open(exported, schedule=Schedule(2, 6)) as session:
        session.predict(frame, on_progress=lambda done, total: told.append((done, total)))
    assert told == [(6, 16), (12, 16), (16, 16)]


def test_a_frame_may_be_a_view(exported: Bundle, frame: np.ndarray) -> None:
    with Session.open(exported) as session:
        np.testing.assert_array_equal(session.predict(frame[:, ::-1]), session.predict(frame[:, ::-1].copy()))


@pytest.mark.parametrize(
    "bad",
    [
        np.zeros((64, 96, 3), np.float32),
        np.zeros((64, 96), np.uint8),
        np.zeros((64, 96, 4), np.uint8),
        np.zeros((3, 64, 96), np.uint8),
        np.zeros((96, 64, 3), np.uint8),
        [[1, 2, 3]],
        None,
    ],
    ids=["float", "grey", "RGBA", "channels first", "turned", "list", "nothing"],
)
def test_what_is_no_frame_of_the_bundle_is_refused(exported: Bundle, bad: object) -> None:
    with Session.open(exported) as session, pytest.raises(FrameError, match=r"\(H, W, 3\)|64x96"):
        session.predict(bad)  # type: ignore[arg-type]


def test_a_closed_session_says_so(exported: Bundle, frame: np.ndarray) -> None:
    session = Session.open(exported)
    session.close()
    session.close()
    with pytest.raises(BackendError, match="closed"):
        session.predict(frame)


def test_opening_verifies_the_files(bundle: Path) -> None:
    (bundle / "trunk.onnx").write_bytes(b"something else")
    with pytest.raises(BundleError, match=r"trunk\.onnx"):
        Session.open(bundle)


def test_bad_arguments(exported: Bundle) -> None:
    with pytest.raises(InputError, match="known are onnxruntime"):
        Session.open(exported, "tensorflow")
    with pytest.raises(LayoutError, match="a sub-batch from 1; received levels 2, sub-batch 0"):
        Session.open(exported, schedule=Schedule(2, 0))


def test_a_provider_that_is_not_active_is_an_error(exported: Bundle) -> None:
    """On a machine without a GPU, ONNX Runtime would run on the CPU and say nothing."""
    graph = exported.file(exported.trunk_graph(exported.manifest.trunk(), Precision.FP32))
    try:
        assert open_session(graph, Provider.CUDA).get_providers()[0] == "CUDAExecutionProvider"
    except BackendError as error:
        assert "CUDAExecutionProvider" in str(error)  # noqa: PT017 - which of the two depends on the machine


def test_a_runner_checks_its_inputs_once_for_all_backends(exported: Bundle) -> None:
    with OnnxRuntimeRunner(exported.file(exported.trunk_graph(exported.manifest.trunk(), Precision.FP32))) as runner:
        assert [(spec.name, spec.shape) for spec in runner.inputs] == [("windows", (None, 3, 67, 99))]
        with pytest.raises(LayoutError, match=r"takes the inputs \['windows'\]; received \['frame'\]"):
            runner.infer({"frame": np.zeros(3)})
        with pytest.raises(LayoutError, match=r"float32 of shape \(any, 3, 67, 99\); received float64"):
            runner.infer({"windows": np.zeros((1, 3, 67, 99))})
        with pytest.raises(LayoutError, match=r"received float32 of shape \(1, 3, 67, 98\)"):
            runner.infer({"windows": np.zeros((1, 3, 67, 98), np.float32)})
    with pytest.raises(BackendError, match="closed"):
        runner.infer({"windows": np.zeros((1, 3, 67, 99), np.float32)})


def test_a_graph_that_is_none_is_one_error(tmp_path: Path) -> None:
    path = tmp_path / "junk.onnx"
    path.write_bytes(b"junk" * 100)
    with pytest.raises(BackendError, match=r"cannot load .*junk.onnx"), OnnxRuntimeRunner(path):
        pass


BLOCKER = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}} (blocked by the test)", name=name)

sys.meta_path.insert(0, Blocker())
"""
BLOCKED = {"torch", "onnx", "onnx_ir", "onnxscript", "typer", "click", "rich", "PIL", "safetensors", "matplotlib"}


def test_the_vehicle_needs_neither_torch_nor_onnx(exported: Bundle, frame: np.ndarray, tmp_path: Path) -> None:
    """Every module of ``engines`` loads and a frame is labelled where these packages cannot be imported."""
    np.save(tmp_path / "frame.npy", frame)
    script = BLOCKER.format(blocked=BLOCKED) + textwrap.dedent(
        """
        import importlib, pkgutil
        import numpy as np
        import engines
        for module in pkgutil.walk_packages(engines.__path__, "engines."):
            importlib.import_module(module.name)
        with engines.Session.open(sys.argv[1]) as session:
            np.save(sys.argv[2] + "/labels.npy", session.predict(np.load(sys.argv[2] + "/frame.npy")))
        for name in ("torch", "rich"):
            try:
                importlib.import_module(name)
            except ModuleNotFoundError:
                continue
            raise SystemExit(f"the blocker let {name} through")
        """
    )
    subprocess.run([sys.executable, "-c", script, str(exported.path), str(tmp_path)], check=True, timeout=120)
    assert (np.load(tmp_path / "labels.npy") == whole_labels(exported, frame)).mean() >= 0.9998


def test_public_names_exist() -> None:
    assert sorted(engines.__all__) == engines.__all__
    assert all(hasattr(engines, name) for name in engines.__all__)
