"""FP16 and INT8 against FP32: error of logits, label agreement and mIoU, with the calibration methods compared.

    python benchmarks/precision_parity.py --camvid DIR [--checkpoint FILE ...]

Writes ``docs/results/precision.json`` and a readable page beside it. The trained network that comes along and those of
``--checkpoint``, all written by ``smp-deploy train``, run on CamVid's validation frames and are calibrated on training
frames. The graphs are those of an export and run in ONNX Runtime on the CPU, int8 without optimizations. Of each frame
a few phases are computed, far apart: a phase samples the whole frame.
"""

from __future__ import annotations

import json
import platform
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import torch
import typer
from numpy.typing import NDArray
from torch import nn

from converters.analysis.network import traced_network
from converters.exporting import export
from converters.graphs.quantization import CalibrationMethod, Histogram
from converters.graphs.quantization.ranges import histograms_from_frames
from converters.graphs.rounding import write_rounding
from converters.graphs.stages import Normalization
from converters.rewriting.loops import looped_from_network
from converters.rewriting.lowerings import lowered
from converters.trunks import TrunkPrecisions
from engines import Bundle, Lowering, Precision
from engines.backends.onnxruntime.runner import OnnxRuntimeRunner
from engines.parity.comparison import label_agreement, logit_error
from engines.parity.tolerances import tolerance_of
from engines.schedules.phases import PhaseGrid, dispersed
from smp_deploy.datasets import open_dataset
from smp_deploy.evaluation import ConfusionMatrix
from smp_deploy.images import frame_from_file, image_files
from smp_deploy.training import network_from_weights

REPOSITORY = Path(__file__).resolve().parent.parent
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
        self.bundle: Bundle = export(
            network, directory / name, size=size, outputs="logits", precisions=(), levels=(2,), lowerings=("reshape",)
        )
        self.grid: PhaseGrid = self.bundle.manifest.grid(self.bundle.manifest.trunk())
        self._model = ir.load(self.bundle.file(self.bundle.trunk_graph(self.bundle.manifest.trunk(), Precision.FP32)))
        ir.external_data.load_to_model(self._model)
        self._network = lowered(looped_from_network(traced_network(network), 2), Lowering.RESHAPE).graph

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
        plan = TrunkPrecisions((precision,), {precision: frozenset(keep)}, ranges or {})
        model = plan.converted(self._model, precision).clone()
        # Without it ONNX Runtime would round nothing on a CPU.
        write_rounding(model)
        found = []
        with (
            OnnxRuntimeRunner(self.bundle.file(self.bundle.manifest.prepare)) as prepare,
            OnnxRuntimeRunner(ir.to_proto(model).SerializeToString(), precision=precision) as trunk,
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


@dataclass(frozen=True)
class Options:
    """How much is measured."""

    frames: int
    phases: int
    calibration_frames: int


def compared(
    actual: list[NDArray[np.float32]], expected: list[NDArray[np.float32]], precision: Precision
) -> dict[str, float]:
    """As the parity table compares them: over all pixels, and without the ties. All phases are of one size."""
    pairs, limit = list(zip(actual, expected, strict=True)), tolerance_of(precision).of_ties
    found = [label_agreement(a.argmax(0), e, limit) for a, e in pairs]
    return {
        "logits_error": max(logit_error(a, e) for a, e in pairs),
        "label_agreement": fmean(agreement.agreement for agreement in found),
        "agreement_without_ties": fmean(agreement.agreement_without_ties for agreement in found),
    }


def measured(checkpoint: Path, directory: Path, camvid: Path, options: Options) -> Iterator[dict[str, Any]]:
    """The rows of one network."""
    network, info = network_from_weights(checkpoint)
    dataset = open_dataset("camvid", camvid, "val")
    examples = [dataset.load(index * (len(dataset) // options.frames)) for index in range(options.frames)]
    frames, phases = [example.image for example in examples], options.phases
    subject = Subject(network, info.arch, frames[0].shape[:2], directory)
    files = image_files((str(camvid / "train"),))
    files = files[:: len(files) // options.calibration_frames][: options.calibration_frames]
    histograms = subject.histograms(tuple(frame_from_file(path) for path in files))
    expected = subject.logits(frames, phases, Precision.FP32)

    def judged(name: str, precision: Precision, actual: list[NDArray[np.float32]]) -> dict[str, Any]:
        matrix = ConfusionMatrix(dataset.info)
        results = iter(actual)
        for index, example in enumerate(examples):
            for phase in subject.phases(index, phases):
                labels = next(results).argmax(0).astype(np.uint8)
                truth = subject.grid.at_phase(example.labels, phase)
                # The padding has no annotation.
                matrix.add(labels[: truth.shape[0], : truth.shape[1]], truth)
        return {
            "network": f"{info.arch}, width {info.width}",
            "what": name,
            **compared(actual, expected, precision),
            "mean_iou": matrix.mean_iou,
        }

    yield judged("fp32", Precision.FP32, expected)
    yield judged("fp16", Precision.FP16, subject.logits(frames, phases, Precision.FP16))
    for method, (kind, percentile) in METHODS.items():
        ranges = {module: held.range(kind, percentile) for module, held in histograms.items()}
        for label, keep in KEPT.items():
            if label and (method != "percentile 99.99" or checkpoint != TRAINED):
                continue
            name = f"int8, {method}" + (f", {label} in fp32" if label else "")
            actual = subject.logits(frames, phases, Precision.INT8, keep=keep, ranges=ranges)
            yield judged(name, Precision.INT8, actual)


def page(document: dict[str, Any]) -> str:
    rows, options = document["rows"], document["options"]
    base = {row["network"]: row["mean_iou"] for row in reversed(rows)}
    lines = [
        "# Lower precision, measured",
        "",
        f"Made by `python benchmarks/precision_parity.py` on {document['machine']}. Every figure compares a graph with "
        "the fp32 graph of the same bundle in ONNX Runtime; int8 runs without optimizations.",
        "",
        f"SMP networks trained on CamVid, {options['phases']} of 16 phases of {options['frames']} validation frames of "
        f"360x480, calibrated on {options['calibration_frames']} training frames. The error is the largest of a logit "
        "relative to the largest logit; labels are counted on all pixels, ties included, and without the ties within "
        "the tolerance; mIoU is against the annotation, at the computed pixels.",
        "",
        "| network | trunk | error of logits | equal labels | without ties | mIoU | change |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        *(
            f"| {row['network']} | {row['what']} | {row['logits_error']:.1e} | {row['label_agreement']:.2%} | "
            f"{row['agreement_without_ties']:.2%} | {row['mean_iou']:.2%} | "
            f"{100 * (row['mean_iou'] - base[row['network']]):+.2f} pt |"
            for row in rows
        ),
    ]
    return "\n".join(lines) + "\n"


def main(
    camvid: Annotated[Path, typer.Option()],
    checkpoint: Annotated[list[Path] | None, typer.Option()] = None,
    calibration_frames: int = 8,
    frames: int = 6,
    phases: int = 2,
) -> None:
    options = Options(calibration_frames=calibration_frames, frames=frames, phases=phases)
    document: dict[str, Any] = {
        "machine": f"{platform.machine()}, no GPU, Python {platform.python_version()}, torch {torch.__version__}, "
        f"ONNX Runtime {onnxruntime.__version__}",
        "options": asdict(options),
        "rows": [],
    }
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        for trained in (TRAINED, *(checkpoint or ())):
            for row in measured(trained, Path(folder), camvid, options):
                print(f"{time.monotonic() - started:.0f} s", row, flush=True)
                document["rows"].append(row)
                RESULTS.mkdir(parents=True, exist_ok=True)
                (RESULTS / "precision.json").write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
                (RESULTS / "precision.md").write_text(page(document), encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
