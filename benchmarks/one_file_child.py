"""One contender of ``one_file.py`` in a process of its own: ``python one_file_child.py JSON FOLDER``."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Labelled = Callable[[np.ndarray], np.ndarray]


def peak_bytes() -> int:
    """Of this process so far."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


def opened(contender: dict[str, Any]) -> Labelled:
    """What labels a frame."""
    runtime, form = contender["runtime"], contender["form"]
    if form == "session":
        from engines import Lowering, Schedule, Session

        schedule = Schedule(contender["levels"], 1, Lowering(contender["lowering"]))
        return Session.open(contender["bundle"], runtime, schedule=schedule).predict
    run = _onnxruntime(contender["file"]) if runtime == "onnxruntime" else _openvino(contender["file"])
    if form == "file":
        return run
    return lambda frame: run(frame[None])[0].argmax(0).astype(np.uint8)


def _onnxruntime(file: str) -> Labelled:
    import onnxruntime

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda frame: session.run(None, {name: frame})[0]  # type: ignore[no-any-return]


def _openvino(file: str) -> Labelled:
    import openvino

    core = openvino.Core()
    # The hint is for processors with bf16, which would be used.
    network = core.compile_model(core.read_model(file), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda frame: network([frame])[0]  # type: ignore[no-any-return]


def main() -> None:
    """Measure, print, leave the labels in the folder."""
    contender, folder = json.loads(sys.argv[1]), Path(sys.argv[2])
    frame = np.load(folder / "frame.npy")
    __import__(contender["runtime"])
    if contender["form"] == "session":
        __import__("engines.session")
    before, started = peak_bytes(), time.perf_counter()
    labelled = opened(contender)
    opening = time.perf_counter() - started
    labelled(frame)
    started, used = time.perf_counter(), time.process_time()
    labels = labelled(frame)
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - used
    np.save(folder / "labels.npy", labels)
    measured = {"seconds": seconds, "cpu_seconds": cpu_seconds, "opening_seconds": opening}
    print(json.dumps({**measured, "peak_bytes": peak_bytes() - before}))


if __name__ == "__main__":
    main()
