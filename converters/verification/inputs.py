"""The normalisation inside the graphs, against numpy in double precision."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
from numpy.typing import NDArray

from converters.verification.probes import ProbedGraph, planes_of, probed
from converters.verification.runs import attempted
from converters.verification.subject import Frame, Subject
from engines.bundle.manifest import InputRecord
from engines.bundle.records import Check, Kind, Quantity
from engines.errors import BackendError
from engines.parity.checks import Question
from engines.parity.comparison import relative_error
from engines.schedules.phases import Border, Size
from engines.schedules.schedule import Precision


def input_checks(subject: Subject) -> Iterator[Check]:
    """``prepare.onnx`` and the normalisation in ``model.onnx`` on the first frame; a failure says what was done to it.

    What the network itself does to its input, before its first layer, is no part of it.
    """
    bundle, manifest = subject.bundle, subject.bundle.manifest
    image = subject.frames[0].image
    padded = _planes(manifest.input.padded_size, manifest.input.border)
    yield _check(subject, manifest.prepare, padded, attempted(partial(planes_of, bundle, image)))
    graph = ProbedGraph(bundle.file(manifest.model))
    if graph.normalised is None:
        yield _question(subject, manifest.model).not_run("no node of the graph says that it normalises")
        return
    read = attempted(partial(_read, graph, graph.normalised, image))
    yield _check(subject, manifest.model, _planes(manifest.input.size), read)


def fault_before_first_layer(subject: Subject, frame: Frame) -> str | None:
    """What was done wrong to a frame until the first layer of ``model.onnx`` reads it, where it is a known fault.

    Asked where that layer differs from PyTorch's: a network may do these things on purpose.
    """
    manifest = subject.bundle.manifest
    graph = ProbedGraph(subject.bundle.file(manifest.model))
    if graph.first_input is None:
        return None
    actual = _read(graph, graph.first_input, frame.image)
    # Where the padding is a part of the first convolution, it reads the frame itself.
    size = manifest.input.padded_size if actual.shape[-2:] == manifest.input.padded_size else manifest.input.size
    return _suspect(manifest.input, frame.image, _planes(size), actual, subject.tolerance(Precision.FP32).logits)


Frames = NDArray[np.floating]
Planes = Callable[[Frames], Frames]


def _planes(size: Size, border: Border = (0, 0, 0, 0)) -> Planes:
    """Frames ``(H, W, 3)`` as planes of this size, with zeros behind them and around."""

    def planes(frame: Frames) -> Frames:
        height, width = size
        top, left, bottom, right = border
        result = np.zeros((3, height + top + bottom, width + left + right))
        result[:, top : top + frame.shape[0], left : left + frame.shape[1]] = frame.transpose(2, 0, 1)
        return result

    return planes


def _check(subject: Subject, name: str, planes: Planes, actual: NDArray[np.float32] | BackendError) -> Check:
    record, image, question = subject.bundle.manifest.input, subject.frames[0].image, _question(subject, name)
    if isinstance(actual, BackendError):
        return question.ended(actual)
    tolerance = subject.tolerance(Precision.FP32).logits
    check = question.measured(_error(actual, planes(_normal(record, image))))
    if not check.failed:
        return check
    return check.located(f"{name}: {_suspect(record, image, planes, actual, tolerance) or 'another normalisation'}")


def _question(subject: Subject, graph: str) -> Question:
    return Question(
        kind=Kind.INPUT,
        name=f"frame -> normalised by {graph}",
        subject="first frame",
        quantity=Quantity.INPUT_ERROR,
        tolerance=subject.tolerance(Precision.FP32).logits,
        graph=graph,
        precision=Precision.FP32,
    )


def _suspect(
    record: InputRecord, image: NDArray[np.uint8], planes: Planes, actual: NDArray[np.float32], tolerance: float
) -> str | None:
    normal = _normal(record, image)
    suspects = {
        "channels are read as BGR": _normal(record, image[..., ::-1]),
        "the normalisation is applied twice": (normal - np.array(record.mean)) / np.array(record.std),
        "the normalisation is applied twice, division by 255 included": _normal(record, normal),
        "the normalisation is missing": image.astype(np.float64),
        "only the division by 255 is done": image / 255,
    }
    return next((words for words, frame in suspects.items() if _error(actual, planes(frame)) <= tolerance), None)


def _normal(record: InputRecord, frame: NDArray[np.generic]) -> Frames:
    return np.asarray((frame.astype(np.float64) / 255 - np.array(record.mean)) / np.array(record.std))


def _error(actual: NDArray[np.float32], wanted: Frames) -> float:
    return relative_error(actual, wanted) if actual.shape == wanted.shape else float("inf")


def _read(graph: ProbedGraph, tensor: str, image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """A tensor of the whole graph, for one frame."""
    with graph.until(tensor).runner([tensor]) as runner:
        return np.asarray(probed(runner.infer({"frames": image[None]}), tensor)[0])
