"""FCN32s, FCN8s and SMP on one slim backbone, the same budget, several seeds: the paper's Tables 1 and 3, small.

    python benchmarks/compare_networks.py --dataset camvid --root DIR -o build/comparison

Every run is a `smp-deploy train` run: killed, it goes on where it was; finished, it is not repeated. Writes
`comparison.json`, `curves.png` and the learning curves of every run, and prints the table. The networks are judged on
the validation frames at full size: FCN at every pixel, SMP at `--phases` draws of 16 of every 1024 pixels, an unbiased
sample; `--full` judges SMP at every pixel too, at 16 times the time.
"""

from __future__ import annotations

import csv
import json
import statistics
import time
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import typer

from smp_deploy.cli.console import note, print_table
from smp_deploy.datasets import Dataset, Example, open_dataset
from smp_deploy.evaluation import ConfusionMatrix, NetworkPredictor, evaluate
from smp_deploy.training import (
    Augmentation,
    Autocast,
    LearningRateSchedule,
    Loss,
    Observer,
    Optimizer,
    Run,
    Trainer,
    TrainingConfig,
    Validation,
    network_from_weights,
)
from smp_deploy.training.steps import validate

FAMILIES = ("fcn32s", "fcn8s", "smp")


def config_for(family: str, options: dict[str, Any], seed: int) -> TrainingConfig:
    """One recipe for all three; only the network differs."""
    return TrainingConfig(
        arch=f"{family}-{options['backbone']}",
        width=options["width"],
        epochs=options["epochs"],
        batch=options["batch"],
        optimizer=Optimizer.ADAMW,
        learning_rate=3e-3,
        weight_decay=0.02,
        schedule=LearningRateSchedule.COSINE,
        clip_norm=5.0,
        precision=Autocast(options["precision"]),
        dense_levels=options["dense_levels"] if family == "smp" else 0,
        seed=seed,
        augmentation=Augmentation(crop=(options["crop"], options["crop"]), scale=(0.75, 1.5), jitter=0.2),
        loss=Loss(class_weighting=0.4),
        validation=Validation(every_epochs=options["validate_every"] or max(1, options["epochs"] // 2), phases=1),
    )


class InMemory:
    """A dataset whose frames are read, or drawn, once: several runs share them."""

    def __init__(self, dataset: Dataset) -> None:
        self.info = dataset.info
        self._dataset = dataset
        self._examples: dict[int, Example] = {}

    def __len__(self) -> int:
        return len(self._dataset)

    def load(self, index: int) -> Example:
        if index not in self._examples:
            self._examples[index] = self._dataset.load(index)
        return self._examples[index]


def judge(path: Path, dataset: Dataset, phases: int, *, full: bool) -> ConfusionMatrix:
    network, _ = network_from_weights(path)
    if full:
        return evaluate(NetworkPredictor(network), dataset, extremes=0).confusion
    return validate(network, dataset, phases=phases, device=torch.device("cpu"))


def measure(family: str, seed: int, train: Dataset, validation: Dataset, options: dict[str, Any]) -> dict[str, Any]:
    output: Path = options["output"] / f"{family}-{seed}.safetensors"
    record = output.with_suffix(".json")
    if record.exists():
        return dict(json.loads(record.read_text()))
    started = time.perf_counter()
    run = Run(output, workers=options["workers"])
    Trainer(config_for(family, options, seed), train, validation, run).fit(Observer(), resume=True)
    seconds = time.perf_counter() - started
    matrix = judge(output, validation, options["phases"], full=options["full"])
    result = {
        "family": family,
        "seed": seed,
        "mean_iou": matrix.mean_iou,
        "thin_iou": matrix.thin_iou,
        "class_ious": dict(zip(validation.info.classes, matrix.class_ious.tolist(), strict=True)),
        "training_seconds": seconds,
        "curve": _curve(run.directory / "metrics.csv"),
    }
    record.write_text(json.dumps(result, indent=2) + "\n")
    note(f"{family} seed {seed}: {100 * matrix.mean_iou:.1f} / {100 * matrix.thin_iou:.1f} in {seconds:.0f} s")
    return result


def _curve(path: Path) -> list[dict[str, float]]:
    with path.open(encoding="utf-8") as file:
        return [{name: float(value or "nan") for name, value in row.items()} for row in csv.DictReader(file)]


def draw_curves(results: list[dict[str, Any]], directory: Path) -> None:
    """Validation during training: a thin line for each seed, a thick one for their mean."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, key, title in zip(
        figure.subplots(1, 2), ("mean_iou", "thin_iou"), ("all classes", "thin objects"), strict=True
    ):
        for number, family in enumerate(FAMILIES):
            curves = [result["curve"] for result in results if result["family"] == family]
            epochs = [point["epoch"] for point in curves[0]]
            scores = [[100 * point[key] for point in curve] for curve in curves]
            for score in scores:
                axes.plot(epochs, score, color=f"C{number}", alpha=0.35, linewidth=0.8)
            mean = [statistics.mean(column) for column in zip(*scores, strict=True)]
            axes.plot(epochs, mean, color=f"C{number}", marker="o", label=family)
        axes.set(xlabel="epoch", ylabel="validation mean IoU, %", title=title)
        axes.grid(alpha=0.3)
    figure.axes[0].legend()
    figure.savefig(directory / "curves.png", dpi=100)


def rows_from(results: list[dict[str, Any]]) -> list[tuple[str, str, str]]:
    rows = []
    for family in FAMILIES:
        own = [result for result in results if result["family"] == family]
        rows.append((family, _spread(own, "mean_iou"), _spread(own, "thin_iou")))
    return rows


def _spread(results: list[dict[str, Any]], key: str) -> str:
    values = [100 * result[key] for result in results]
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.1f} ± {deviation:.1f}"


def main(
    context: typer.Context,
    output: Annotated[Path, typer.Option("--output", "-o")],
    dataset: str = "camvid",
    root: Path | None = None,
    backbone: str = "resnet18",
    width: int = 16,
    epochs: int = 30,
    batch: int = 8,
    crop: int = 320,
    dense_levels: Annotated[int, typer.Option(help="SMP: last splits that are not shrunk.")] = 0,
    seeds: int = 3,
    precision: Literal["fp32", "bf16"] = "fp32",
    validate_every: Annotated[
        int | None, typer.Option(help="Epochs between points of the learning curves; default: half of all.")
    ] = None,
    phases: int = 4,
    full: Annotated[bool, typer.Option("--full")] = False,
    workers: int = 1,
    threads: int = 2,
) -> None:
    options = {**context.params, "output": output, "root": root}
    torch.set_num_threads(options["threads"])
    parts = (open_dataset(options["dataset"], options["root"], split) for split in ("train", "val"))
    train, validation = (InMemory(part) for part in parts)
    results = [
        measure(family, seed, train, validation, options) for seed in range(options["seeds"]) for family in FAMILIES
    ]
    settings = {key: value for key, value in options.items() if key not in ("root", "output")}
    document = {"settings": settings, "results": results}
    (options["output"] / "comparison.json").write_text(json.dumps(document, indent=2) + "\n")
    draw_curves(results, options["output"])
    title = f"{options['dataset']}, width {options['width']}, {options['epochs']} epochs, {options['seeds']} seeds"
    print_table(("network", "mean IoU, %", "thin objects, %"), rows_from(results), title=title)


if __name__ == "__main__":
    typer.run(main)
