"""IoU after 1, 2, 4, 8 and 16 of the 16 phases of an SMP checkpoint, in one pass over the frames.

    python benchmarks/anytime_accuracy.py MODEL.safetensors --dataset camvid --root DIR -o anytime.json

The last row is what `smp-deploy evaluate` gives; the others are its `--phases`, without computing a phase twice.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated

import torch
import typer

from smp_deploy.cli.console import print_table, progress
from smp_deploy.datasets import open_dataset
from smp_deploy.evaluation import BoundaryCounts, ConfusionMatrix, NetworkPredictor, labels_from_phases, per_cent
from smp_deploy.training import network_from_weights

COUNTS = (1, 2, 4, 8, 16)


def main(
    checkpoint: Path,
    output: Annotated[Path, typer.Option("--output", "-o")],
    dataset: str = "camvid",
    root: Path | None = None,
    split: str = "val",
    limit: int | None = None,
    threads: int = 2,
) -> None:
    torch.set_num_threads(threads)
    network, _ = network_from_weights(checkpoint)
    predictor = NetworkPredictor(network)
    frames = open_dataset(dataset, root, split)
    total = min(len(frames), limit or len(frames))
    matrices = {count: ConfusionMatrix(frames.info) for count in COUNTS}
    rims = {count: BoundaryCounts(frames.info) for count in COUNTS}
    seconds = 0.0
    with progress("frames") as advance:
        for index in range(total):
            example = frames.load(index)
            started = time.perf_counter()
            maps = predictor.phase_labels(example.image)
            seconds += time.perf_counter() - started
            height, width = example.labels.shape
            for count in COUNTS:
                labels = labels_from_phases(dict(list(maps.items())[:count]), predictor.window)[:height, :width]
                matrices[count].add(labels, example.labels)
                rims[count].add(labels, example.labels)
            advance(index + 1, total)
    results = [
        {
            "phases": count,
            "mean_iou": matrices[count].mean_iou,
            "thin_iou": matrices[count].thin_iou,
            "boundary_iou": rims[count].mean_iou,
            "pixel_accuracy": matrices[count].pixel_accuracy,
            "class_ious": dict(zip(frames.info.classes, matrices[count].class_ious.tolist(), strict=True)),
            "confusion": matrices[count].counts.tolist(),
        }
        for count in COUNTS
    ]
    document = {"frames": total, "seconds_per_frame": seconds / total, "results": results}
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    rows = [
        (f"{count}/16", *(per_cent(value) for value in (m.mean_iou, m.thin_iou, rims[count].mean_iou)))
        for count, m in matrices.items()
    ]
    print_table(("phases", "mean IoU, %", "thin objects, %", "boundary IoU, %"), rows)


if __name__ == "__main__":
    typer.run(main)
