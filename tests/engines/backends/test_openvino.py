"""OpenVINO: every schedule against ONNX Runtime, what it refuses, and graphs that are none."""

from __future__ import annotations

import shutil
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from converters.exporting import export
from engines import Bundle, Precision, Session, plan
from engines.backends.openvino import OPENVINO, OpenVinoRunner
from engines.errors import BackendError
from smp_deploy.training import network_from_weights
from tests.conftest import ROOT, SIZE, WIDTH

openvino = pytest.importorskip("openvino", reason="not run: openvino is not installed")

DATA = Path(str(files("smp_deploy") / "data"))
ROAD = (360, 480)


def has_bf16() -> bool:
    """Whether this processor computes in bf16, by OpenVINO's own word."""
    return "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def logits_of(bundle: Bundle, backend: str, image: np.ndarray, **options: object) -> np.ndarray:
    """By one backend."""
    with Session.open(bundle, backend, **options) as session:  # type: ignore[arg-type]
        return session.predict(image)


@pytest.fixture(scope="module")
def of_logits(small_network: torch.nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The small network's bundle of logits."""
    path = tmp_path_factory.mktemp("openvino") / "logits"
    return export(small_network, path, size=SIZE, outputs="logits", source="smp-resnet18", width=WIDTH)


@pytest.fixture(scope="module")
def road(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The shipped network's bundle of logits."""
    network, info = network_from_weights(DATA / "camvid-smp18.safetensors")
    path = tmp_path_factory.mktemp("openvino") / "road"
    return export(network, path, size=ROAD, outputs="logits", levels=2, lowerings="reshape", source=info.arch)


def test_every_schedule_agrees_with_onnx_runtime(of_logits: Bundle, frame: np.ndarray) -> None:
    schedules = OPENVINO.schedules(of_logits, Precision.FP32)
    assert {schedule.levels for schedule in schedules} == {0, 1, 2, 3, 4, 5}
    assert len({schedule.lowering for schedule in schedules}) == 3
    wrong = {}
    for schedule in schedules:
        have = logits_of(of_logits, "openvino", frame, schedule=schedule)
        want = logits_of(of_logits, "onnxruntime", frame, schedule=schedule)
        assert have.shape == want.shape == (19, *SIZE)
        error = float(np.abs(have - want).max() / np.abs(want).max())
        if not error <= 1e-4:
            wrong[str(schedule)] = error
    assert not wrong
    # The logits are no constant, which any two runtimes would agree on.
    assert want.std() > 0.05 * np.abs(want).max()


def test_fp16_is_refused(exported: Bundle) -> None:
    reason = r"^openvino does not compute in fp16 \(it has fp32, bf16\)$"
    with pytest.raises(BackendError, match=reason):
        Session.open(exported, "openvino", precision="fp16")
    with pytest.raises(BackendError, match=reason):
        plan(exported, "openvino", "fp16")


@pytest.mark.skipif(has_bf16(), reason="not run: this processor computes in bf16")
def test_bf16_is_refused_where_the_processor_lacks_it(exported: Bundle) -> None:
    with pytest.raises(BackendError, match=r"^this processor has no bf16 arithmetic for OpenVINO, .* finds .*FP32"):
        Session.open(exported, "openvino", precision="bf16")
    with pytest.raises(BackendError, match=r"^this processor has no bf16 arithmetic"):
        plan(exported, "openvino", "bf16")


@pytest.mark.skipif(not has_bf16(), reason="not run: this processor has no bf16")
def test_bf16_rounds_and_gives_nearly_the_same_labels(of_logits: Bundle, frame: np.ndarray) -> None:
    have, want = (logits_of(of_logits, "openvino", frame, precision=precision) for precision in ("bf16", "fp32"))
    assert (have.argmax(0) == want.argmax(0)).mean() >= 0.99
    # It is another arithmetic.
    assert np.abs(have - want).max() > 1e-4 * np.abs(want).max()


@pytest.mark.parametrize("kept", [0, 10, 0.5, 0.99])
def test_a_truncated_graph_is_one_error(exported: Bundle, tmp_path: Path, kept: float) -> None:
    folder = Path(shutil.copytree(exported.path, tmp_path / "spoilt"))
    graph = folder / exported.manifest.trunk(2).graphs[Precision.FP32]
    with OpenVinoRunner(graph) as whole:
        assert whole.outputs
    content = graph.read_bytes()
    graph.write_bytes(content[: int(kept if kept >= 1 else kept * len(content))])
    with pytest.raises(BackendError) as caught:
        OpenVinoRunner(graph).__enter__()
    message = str(caught.value)
    assert message.startswith(f"OpenVINO cannot load {graph}: ")
    assert len(message.splitlines()) == 1
    assert len(message) > len(f"OpenVINO cannot load {graph}: ") + 5


def test_weights_that_are_missing_are_one_error(exported: Bundle, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(exported.path, tmp_path / "spoilt"))
    (folder / exported.manifest.weights).unlink()
    graph = folder / exported.manifest.trunk(2).graphs[Precision.FP32]
    with pytest.raises(BackendError, match=r"^OpenVINO cannot load [^\n]*$"):
        OpenVinoRunner(graph).__enter__()


def assert_labels_agree(bundle: Bundle, path: Path) -> None:
    """Labels of a real frame are equal but for a few, and those are near ties."""
    image = np.asarray(Image.open(path).convert("RGB"))
    have, want = (logits_of(bundle, backend, image) for backend in ("openvino", "onnxruntime"))
    labels = want.argmax(0)
    assert len(np.unique(labels)) >= 5
    differing = have.argmax(0) != labels
    assert differing.mean() <= 1e-4
    first, second = np.sort(want, axis=0)[[-1, -2]]
    largest = np.abs(want).max()
    assert np.abs(have - want).max() <= 1e-4 * largest
    assert ((first - second)[differing] <= 2e-4 * largest).all()


def test_labels_of_the_shipped_frame_agree(road: Bundle) -> None:
    assert_labels_agree(road, DATA / "camvid-frame.png")


def test_labels_of_real_frames_agree(road: Bundle, data: Path) -> None:
    frames = sorted((data / "camvid" / "val").glob("*.png"))[::50]
    assert frames
    for path in frames:
        assert_labels_agree(road, path)


def test_ctrl_c_after_a_session_was_closed_in_another_thread(exported: Bundle) -> None:
    """OpenVINO's CPU plugin leaves the thread that loads it with a signal stack that is unmapped with the plugin."""
    program = (
        "import signal, sys, threading\n"
        "from engines import Session\n"
        "session = Session.open(sys.argv[1], 'openvino')\n"
        "closing = threading.Thread(target=session.close)\n"
        "del session\n"
        "closing.start()\n"
        "closing.join()\n"
        "try:\n"
        "    signal.raise_signal(signal.SIGINT)\n"
        "except KeyboardInterrupt:\n"
        "    print('interrupted')\n"
    )
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", program, str(exported.path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "interrupted\n"), done.stderr
