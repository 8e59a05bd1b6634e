"""The normalisation inside the graphs, against numpy in double precision."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from numpy.typing import NDArray

from converters.verification.probes import ProbedGraph, planes_of, probed
from converters.verification.subject import Subject
from engines.manifest import InputRecord, Precision
from engines.parity import Check, Kind, relative_error


def input_checks(subject: Subject) -> Iterator[Check]:
    """``prepare.onnx`` and the beginning of ``model.onnx`` on the first frame; a failure says what was done to it."""
    bundle, manifest = subject.bundle, subject.bundle.manifest
    image, record = subject.frames[0].image, manifest.input
    tolerance = subject.tolerance(Precision.FP32).logits
    planes = planes_of(bundle, image)
    yield _check(manifest.prepare, image, record, planes, tolerance, record.border)
    graph = ProbedGraph(bundle.file(manifest.model))
    with _beginning(graph).runner([graph.first_input]) as runner:
        read = probed(runner.infer({"frames": image[None]}), graph.first_input)[0]
    yield _check(manifest.model, image, record, read, tolerance, (0, 0, 0, 0))


def _check(
    name: str,
    image: NDArray[np.uint8],
    record: InputRecord,
    actual: NDArray[np.float32],
    tolerance: float,
    border: tuple[int, int, int, int],
) -> Check:
    def planes(frame: NDArray[np.floating]) -> NDArray[np.float32]:
        height, width = record.padded_size
        top, left, bottom, right = border
        result = np.zeros((3, height + top + bottom, width + left + right), np.float32)
        result[:, top : top + frame.shape[0], left : left + frame.shape[1]] = frame.transpose(2, 0, 1)
        # The exporter may make the padding of a frame a part of the convolution: then it reads the frame itself.
        return result if actual.shape == result.shape else result[:, : frame.shape[0], : frame.shape[1]]

    def error(frame: NDArray[np.floating]) -> float:
        wanted = planes(frame)
        return relative_error(actual, wanted) if actual.shape == wanted.shape else float("inf")

    def normal(frame: NDArray[np.floating]) -> NDArray[np.floating]:
        return np.asarray((frame / 255 - np.array(record.mean)) / np.array(record.std))

    frame = image.astype(np.float64)
    check = Check.at_most(
        f"frame -> normalised by {name}", "first frame", error(normal(frame)), tolerance, "relative error", Kind.INPUT
    )
    if not check.failed:
        return check
    suspects = {
        "channels are read as BGR": normal(frame[..., ::-1]),
        "the normalisation is applied twice": (normal(frame) - np.array(record.mean)) / np.array(record.std),
        "the normalisation is applied twice, division by 255 included": normal(normal(frame)),
        "the normalisation is missing": frame,
        "only the division by 255 is done": frame / 255,
    }
    found = next((words for words, suspect in suspects.items() if error(suspect) <= tolerance), "another normalisation")
    return check.located(f"{name}: {found}")


def _beginning(graph: ProbedGraph) -> ProbedGraph:
    """The graph up to what the first layer reads."""
    cut = ProbedGraph(graph.path)
    nodes = list(graph.model.graph.node)
    last = max((place for place, node in enumerate(nodes) if graph.first_input in node.output), default=-1)
    del cut.model.graph.node[last + 1 :]
    del cut.model.graph.output[:]
    needed = {name for node in nodes[: last + 1] for name in node.input}
    kept: list[onnx.TensorProto] = [held for held in graph.model.graph.initializer if held.name in needed]
    del cut.model.graph.initializer[:]
    cut.model.graph.initializer.extend(kept)
    return cut
