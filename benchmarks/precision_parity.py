"""FP16 and INT8 against FP32: error of logits, label agreement and mIoU, with the calibration methods compared.

    python benchmarks/precision_parity.py --camvid DIR

Writes ``docs/results/precision.json`` and a readable page beside it. The trained network that comes along runs on
CamVid's validation frames and is calibrated on training frames; full-width SMP-18, -34 and -101 have random weights
and run on CamVid frames of another size. All graphs are those of an export and run in ONNX Runtime on the CPU, int8
without optimizations. Of each frame a few phases are computed, far apart: a phase samples the whole frame.
"""

from __future__ import annotations

import json
import platform
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx_ir as ir
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import nn

from converters.checkpoints import checkpoint_from_file, load_checkpoint
from converters.export import ExportConfig, export_bundle
from converters.networks import network_from_arch
from converters.onnx_graphs.rounding import write_rounding
from converters.quantization import CalibrationMethod, Histogram
from converters.quantization.ranges import histograms_from_frames
from converters.rewriting.batchnorm import fold_batch_norms
from converters.rewriting.loops import looped_from_graph
from converters.rewriting.lowerings import lowered
from converters.rewriting.tracing import graph_from_network
from converters.stages import Normalization
from converters.trunks import PrecisionPlan, TrunkChoice
from engines import Bundle, Lowering, OutputKind, Precision
from engines.backends import OnnxRuntimeRunner
from engines.phases import PhaseGrid, dispersed
from smp_deploy.datasets import open_dataset
from smp_deploy.evaluation import ConfusionMatrix
from smp_deploy.images import frame_from_file, image_files, resized

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))
from tests.networks import with_statistics  # noqa: E402 - statistics far from the identity

RESULTS = REPOSITORY / "docs" / "results"
TRAINED = REPOSITORY / "smp_deploy" / "data" / "camvid-smp18.safetensors"
METHODS = {
    "min-max": (CalibrationMethod.MINMAX, 100.0),
    "percentile 99.99": (CalibrationMethod.PERCENTILE, 99.99),
    "percentile 99.9": (CalibrationMethod.PERCENTILE, 99.9),
    "entropy": (CalibrationMethod.ENTROPY, 100.0),
}
KEPT = {"": (), "conv1": ("conv1",), "head": ("head",), "conv1, head": ("conv1", "head")}


class Subject:
    """A network's default trunk in any precision, on some phases of some frames."""

    def __init__(self, network: nn.Module, name: str, size: tuple[int, int], directory: Path) -> None:
        choice = TrunkChoice(levels=(2,), lowerings=(Lowering.RESHAPE,))
        config = ExportConfig(size=size, source=name, outputs=OutputKind.LOGITS, precisions=(), trunks=choice)
        self.bundle: Bundle = export_bundle(network, config, directory / name)
        self.grid: PhaseGrid = self.bundle.manifest.grid(self.bundle.manifest.trunk())
        self._model = ir.load(self.bundle.trunk_graph(self.bundle.manifest.trunk(), Precision.FP32))
        ir.external_data.load_to_model(self._model)
        graph = graph_from_network(network)
        fold_batch_norms(graph)
        self._network = lowered(looped_from_graph(graph, 2), Lowering.RESHAPE).graph

    def histograms(self, frames: tuple[NDArray[np.uint8], ...]) -> Mapping[str, Histogram]:
        return histograms_from_frames(self._network, self.grid, Normalization(), frames)

    def logits(
        self,
        frames: list[NDArray[np.uint8]],
        phases: int,
        precision: Precision,
        *,
        keep: tuple[str, ...] = (),
        ranges: Mapping[str, float] | None = None,
    ) -> list[NDArray[np.float32]]:
        plan = PrecisionPlan((precision,), {precision: frozenset(keep)}, ranges or {})
        content = ir.to_proto(plan.converted(self._model, precision))
        # Without it ONNX Runtime would round nothing on a CPU.
        write_rounding(content)
        found = []
        with (
            OnnxRuntimeRunner(self.bundle.file(self.bundle.manifest.prepare)) as prepare,
            OnnxRuntimeRunner(content.SerializeToString(), precision=precision) as trunk,
        ):
            for index, frame in enumerate(frames):
                planes = np.asarray(prepare.infer({"frame": frame})["planes"], np.float32)
                for phase in self.phases(index, phases):
                    found.append(trunk.infer({"windows": self.grid.cut(planes, [phase])})["logits"][0])
        return found

    def phases(self, frame: int, count: int) -> list[tuple[int, int]]:
        """Other ones for every frame."""
        order = dispersed(self.grid.window)
        return [order[(frame * count + index) % len(order)] for index in range(count)]


def compared(actual: list[NDArray[np.float32]], expected: list[NDArray[np.float32]]) -> dict[str, float]:
    pairs = list(zip(actual, expected, strict=True))
    return {
        "logits_error": max(float(np.abs(a - e).max() / np.abs(e).max()) for a, e in pairs),
        "label_agreement": float(np.mean([(a.argmax(0) == e.argmax(0)).mean() for a, e in pairs])),
    }


def trained(directory: Path, camvid: Path, calibration: int, count: int, phases: int) -> Iterator[dict[str, Any]]:
    loaded = checkpoint_from_file(TRAINED)
    network = network_from_arch("smp-resnet18", classes=loaded.classes, width=loaded.width)
    load_checkpoint(network, loaded)
    dataset = open_dataset("camvid", camvid, "val")
    step = len(dataset) // count
    examples = [dataset.load(index * step) for index in range(count)]
    frames = [example.image for example in examples]
    subject = Subject(network, "camvid-smp18", frames[0].shape[:2], directory)
    files = image_files((str(camvid / "train"),))
    histograms = subject.histograms(tuple(frame_from_file(path) for path in files[:: len(files) // calibration]))
    expected = subject.logits(frames, phases, Precision.FP32)

    def judged(name: str, actual: list[NDArray[np.float32]]) -> dict[str, Any]:
        matrix = ConfusionMatrix(dataset.info)
        results = iter(actual)
        for index, example in enumerate(examples):
            for phase in subject.phases(index, phases):
                labels = next(results).argmax(0).astype(np.uint8)
                truth = subject.grid.at_phase(example.labels, phase)
                # The padding has no annotation.
                matrix.add(labels[: truth.shape[0], : truth.shape[1]], truth)
        return {"what": name, **compared(actual, expected), "mean_iou": matrix.mean_iou}

    yield judged("fp32", expected)
    yield judged("fp16", subject.logits(frames, phases, Precision.FP16))
    for method, (kind, percentile) in METHODS.items():
        ranges = {module: held.range(kind, percentile) for module, held in histograms.items()}
        for label, keep in KEPT.items():
            if label and method != "percentile 99.99":
                continue
            name = f"int8, {method}" + (f", {label} in fp32" if label else "")
            yield judged(name, subject.logits(frames, phases, Precision.INT8, keep=keep, ranges=ranges))


def full_width(directory: Path, camvid: Path, size: tuple[int, int]) -> Iterator[dict[str, Any]]:
    files = image_files((str(camvid / "val"),))[::25]
    frames = [resized(frame_from_file(path), size) for path in files[:4]]
    for name in ("smp-resnet18", "smp-resnet34", "smp-resnet101"):
        network = with_statistics(lambda name=name: network_from_arch(name), seed=0)
        subject = Subject(network, name, size, directory)
        expected = subject.logits(frames[:2], 1, Precision.FP32)
        yield {"network": name, "what": "fp16", **compared(subject.logits(frames[:2], 1, Precision.FP16), expected)}
        histograms = subject.histograms(tuple(frames[2:]))
        for method in ("min-max", "percentile 99.99", "entropy"):
            kind, percentile = METHODS[method]
            ranges = {module: held.range(kind, percentile) for module, held in histograms.items()}
            actual = subject.logits(frames[:2], 1, Precision.INT8, ranges=ranges)
            yield {"network": name, "what": f"int8, {method}", **compared(actual, expected)}


def page(document: dict[str, Any]) -> str:
    base = document["trained"][0]["mean_iou"]
    lines = [
        "# Lower precision, measured",
        "",
        f"Made by `python benchmarks/precision_parity.py` on {document['machine']}. Every figure compares a graph with "
        "the fp32 graph of the same bundle in ONNX Runtime; int8 runs without optimizations.",
        "",
        f"The SMP-18 for CamVid (width 24), {document['phases']} of 16 phases of {document['frames']} validation "
        f"frames of 360x480, calibrated on {document['calibration_frames']} training frames. The error is the largest "
        "of a logit relative to the largest logit; labels are counted on all pixels, ties included; mIoU is against "
        "the annotation, at the computed pixels.",
        "",
        "| trunk | error of logits | equal labels | mIoU | change |",
        "| --- | --- | --- | --- | --- |",
        *(
            f"| {row['what']} | {row['logits_error']:.1e} | {row['label_agreement']:.2%} | {row['mean_iou']:.2%} | "
            f"{100 * (row['mean_iou'] - base):+.2f} pt |"
            for row in document["trained"]
        ),
        "",
        "Networks of full width with random weights and batch-norm statistics far from the identity, CamVid frames at "
        f"{document['full_width_size']}, one phase of 2 frames, calibrated on 2 others:",
        "",
        "| network | trunk | error of logits | equal labels |",
        "| --- | --- | --- | --- |",
        *(
            f"| {row['network']} | {row['what']} | {row['logits_error']:.1e} | {row['label_agreement']:.2%} |"
            for row in document["full_width"]
        ),
    ]
    return "\n".join(lines) + "\n"


@click.command()
@click.option("--camvid", type=click.Path(path_type=Path), required=True)
@click.option("--calibration-frames", default=8, show_default=True)
@click.option("--frames", default=6, show_default=True)
@click.option("--phases", default=2, show_default=True)
@click.option("--full-width-size", type=(int, int), default=(128, 256), show_default=True)
def main(camvid: Path, calibration_frames: int, frames: int, phases: int, full_width_size: tuple[int, int]) -> None:
    document: dict[str, Any] = {
        "machine": f"{platform.machine()}, no GPU, Python {platform.python_version()}, torch {torch.__version__}, "
        f"ONNX Runtime {onnxruntime.__version__}",
        "calibration_frames": calibration_frames,
        "frames": frames,
        "phases": phases,
        "full_width_size": "x".join(map(str, full_width_size)),
        "trained": [],
        "full_width": [],
    }
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        parts = {
            "trained": trained(Path(folder), camvid, calibration_frames, frames, phases),
            "full_width": full_width(Path(folder), camvid, full_width_size),
        }
        for part, rows in parts.items():
            for row in rows:
                print(f"{time.monotonic() - started:.0f} s", part, row, flush=True)
                document[part].append(row)
                if document["trained"]:
                    RESULTS.mkdir(parents=True, exist_ok=True)
                    (RESULTS / "precision.json").write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
                    (RESULTS / "precision.md").write_text(page(document), encoding="utf-8")


if __name__ == "__main__":
    main()
