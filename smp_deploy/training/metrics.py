"""Learning curves: a CSV, a picture, and events that TensorBoard reads."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from engines.bundle.gate import write_file
from engines.text import shown
from smp_deploy.figures import own_settings
from smp_deploy.tables import csv_of


@dataclass(frozen=True)
class Measurement:
    """One look at a run."""

    step: int
    epoch: float
    learning_rate: float
    loss: float
    """Mean training loss since the measurement before."""
    mean_iou: float
    """Of the validation frames, in [0, 1], at sampled elements if there are splits; NaN where nothing has a label."""
    thin_iou: float
    """NaN for a dataset that names no thin classes."""

    def as_row(self) -> dict[str, Any]:
        """Plain names and numbers; None for what is undefined."""
        return {name: None if math.isnan(value) else value for name, value in asdict(self).items()}

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> Measurement:
        """The inverse of :meth:`as_row`."""
        numbers: dict[str, Any] = {name: math.nan if value is None else value for name, value in row.items()}
        return cls(**numbers)


def write_csv(path: Path, history: Sequence[Measurement]) -> None:
    """One line for each measurement, under a header; an empty cell for what is undefined."""
    columns = list(Measurement.__dataclass_fields__)
    rows = [[measurement.as_row()[column] for column in columns] for measurement in history]
    write_file(path, csv_of([columns, *rows]))


@own_settings()
def write_curves(path: Path, history: Sequence[Measurement], title: str) -> bool:
    """Loss and IoU over epochs as a PNG; False, and no file, where matplotlib is not installed."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        return False
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    loss, iou = figure.subplots(1, 2)
    epochs = [measurement.epoch for measurement in history]
    loss.plot(epochs, [measurement.loss for measurement in history])
    loss.set(xlabel="epoch", ylabel="training loss")
    iou.plot(epochs, [100 * measurement.mean_iou for measurement in history], label="all classes")
    thin = [100 * measurement.thin_iou for measurement in history]
    if not all(map(math.isnan, thin)):
        iou.plot(epochs, thin, label="thin classes")
    iou.set(xlabel="epoch", ylabel="validation mean IoU, %")
    iou.legend()
    for axes in (loss, iou):
        axes.grid(alpha=0.3)
    figure.suptitle(shown(title), parse_math=False)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=100)
    write_file(path, picture.getvalue())
    return True


class Events:
    """TensorBoard events of a run, if tensorboardX is installed; nothing otherwise."""

    def __init__(self, directory: Path, first_step: int) -> None:
        try:
            from tensorboardX import SummaryWriter
        except ImportError:
            self._writer = None
            return
        # What a killed run wrote after its last saved state is done again: the first account is withdrawn.
        self._writer = SummaryWriter(str(directory), purge_step=first_step or None)

    def add(self, measurement: Measurement) -> None:
        """Write what is defined of one measurement; it is on disk when this returns."""
        if self._writer is None:
            return
        row = measurement.as_row()
        for name in ("learning_rate", "loss", "mean_iou", "thin_iou"):
            if row[name] is not None:
                self._writer.add_scalar(name, row[name], measurement.step)
        self._writer.flush()

    def close(self) -> None:
        """End the file."""
        if self._writer is not None:
            self._writer.close()
