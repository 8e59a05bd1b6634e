"""The training loop: steps, validation, and a state on disk from which it goes on after a kill at any moment."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from converters.checkpoints import checkpoint_from_file, initialise_network
from engines.bundle.gate import Folder, is_partial
from engines.errors import BackendError, CheckFailed, InputError, OutputError
from smp_deploy.datasets.base import Dataset
from smp_deploy.training.batches import DataOrder, training_batches
from smp_deploy.training.config import Autocast, Optimizer, TrainingConfig, json_from_config
from smp_deploy.training.limits import machine_limits
from smp_deploy.training.losses import class_weights, training_loss
from smp_deploy.training.metrics import Events, Measurement, write_csv, write_curves
from smp_deploy.training.sampling import training_form
from smp_deploy.training.sources import network_from_config
from smp_deploy.training.state import RunState, load_state, save_state
from smp_deploy.training.steps import label_counts, learning_rate_at, logits_and_labels, validate
from smp_deploy.training.weights import WeightsInfo, save_weights


@dataclass(frozen=True)
class Run:
    """Where a run writes, and on what it runs; none of it changes the result on a CPU."""

    output: Path
    """The weights, written when the run ends (safetensors)."""
    device: str = "cpu"
    workers: int = 0
    """Processes that prepare batches ahead; 0 prepares them in this process."""
    save_every: int | None = None
    """Steps between saved states; by default an epoch."""
    init_from: Path | None = None
    """A checkpoint to start from, another network's of the same backbone perhaps."""
    weights: str | None = None
    """The part of it that counts, where there are several."""
    strip_prefix: str | None = None
    """What to take off its keys; by default found by matching."""

    @property
    def directory(self) -> Path:
        """The output with ``.run`` for its suffix: ``state.pt``, ``metrics.csv``, ``curves.png`` and ``events/``."""
        return self.output.with_suffix(".run")

    @property
    def state(self) -> Path:
        """What a run is resumed from."""
        return self.directory / "state.pt"


@dataclass(frozen=True)
class Observer:
    """Who is told how a run goes."""

    step: Callable[[int, int], None] = lambda done, total: None
    """``(steps done, steps in all)`` since the run was started or resumed."""
    measured: Callable[[Measurement], None] = lambda measurement: None
    note: Callable[[str], None] = lambda message: None


class Trainer:
    """Trains one network as a configuration says.

    The same configuration and data give the same weights on a CPU, bit for bit, however often the run is killed
    and resumed, and whatever the number of workers; the number of torch threads must be the same.
    """

    def __init__(self, config: TrainingConfig, train: Dataset, validation: Dataset, run: Run) -> None:
        if train.info != validation.info:
            raise InputError("training and validation frames have different classes")
        self.config, self.run = config, run
        self._train, self._validation = train, validation
        self._info = train.info
        self._config_json = json_from_config(config)
        data = {"dataset": self._info.name, "frames": len(train)}
        self._identity = json.dumps({**json.loads(self._config_json), **data}, sort_keys=True)
        self._device = _device(run.device, config.precision)
        order = DataOrder(len(train), config.batch, config.seed)
        self._steps_per_epoch = order.batches_per_epoch / config.accumulate
        self.steps = config.epochs * order.batches_per_epoch // config.accumulate
        if self.steps < 1:
            raise InputError(f"accumulate={config.accumulate} leaves no step in {config.epochs} epochs; use less")
        self._save_every = run.save_every or max(1, round(self._steps_per_epoch))
        self._measure_every = max(1, round(config.validation.every_epochs * self._steps_per_epoch))
        torch.manual_seed(config.seed)
        with machine_limits():
            self.network = network_from_config(config, self._info)
        self._form = training_form(self.network, config.dense_levels, config.augmentation.crop)
        self._step = 0
        self._history: list[Measurement] = []
        self._recent: list[float] = []
        self._best: dict[str, Tensor] | None = None
        self._average: dict[str, Tensor] | None = None

    @machine_limits()
    def fit(self, observer: Observer, *, resume: bool) -> Measurement:
        """Train to the end, write the weights, and give the measurement of the weights that are written.

        Raises :class:`OutputError` when there is a run already and ``resume`` is not asked for, when another process
        is at work on it, or when the output exists and was not written by the run that is resumed,
        :class:`CheckFailed` when the loss or the weights are no longer numbers, and :class:`MemoryError` when a step
        needs more than there is.
        """
        with self._directory().locked(longest_wait_s=0):
            return self._fit(observer, resume=resume)

    def _fit(self, observer: Observer, *, resume: bool) -> Measurement:
        state = self._start(observer, resume=resume)
        weights = self._class_weights(observer)
        self.network.to(self._device)
        if self._average is not None:
            self._average = {key: value.to(self._device) for key, value in self._average.items()}
        optimizer, scaler = self._optimizer(), torch.amp.GradScaler(enabled=self.config.precision is Autocast.FP16)
        if state is not None:
            optimizer.load_state_dict(state.optimizer)
            scaler.load_state_dict(state.scaler)
            torch.set_rng_state(state.random)
        events = Events(self.run.directory / "events", self._step)
        batches = self._batches()
        first = self._step
        while not self._finished():
            self._take_step(batches, optimizer, scaler, weights)
            observer.step(self._step - first, self.steps - first)
            if self._step % self._measure_every == 0 or self._step == self.steps:
                measurement = self._measure()
                events.add(measurement)
                observer.measured(measurement)
            if self._step % self._save_every == 0 or self._finished():
                self._save(optimizer, scaler)
        events.close()
        info = WeightsInfo(self._info, self.config.arch, self.config.width, self.config.model, self._config_json)
        save_weights(self.run.output, self._best or self._kept(), info)
        return self._history[-1] if self._best is None else max(self._history, key=lambda found: found.mean_iou)

    def _directory(self) -> Folder:
        """The directory of the run, which is made."""
        if self.run.output.is_dir():
            raise OutputError(f"{self.run.output} is a directory; the weights are written to a file of that name")
        if self.run.output.exists() and not self.run.state.exists():
            raise self._of_another()
        try:
            self.run.directory.mkdir(parents=True, exist_ok=True)
            return Folder(self.run.directory)
        except OSError as error:
            raise OutputError(f"cannot write to {self.run.directory}: {error.strerror}") from error

    def _of_another(self) -> OutputError:
        return OutputError(f"{self.run.output} exists already, and is not of this run; choose another output")

    def _start(self, observer: Observer, *, resume: bool) -> RunState | None:
        state = self._resumed(resume=resume) if self.run.state.exists() else None
        # Weights are written after the last state: a run that is not finished has written none.
        if self.run.output.exists() and not self._finished():
            raise self._of_another()
        for torn in filter(lambda path: is_partial(path.name), self.run.directory.iterdir()):
            torn.unlink()
        if state is not None:
            observer.note(f"resumed at step {state.step} of {self.steps}")
        elif self.run.init_from is not None:
            source = self.run.init_from
            chosen = {"weights": self.run.weights, "strip_prefix": self.run.strip_prefix}
            checkpoint = checkpoint_from_file(source, **chosen)
            fresh = initialise_network(self.network, checkpoint, on_note=observer.note)
            observer.note(f"started from {source}" + (f"; fresh: {', '.join(fresh)}" if fresh else ""))
        return state

    def _resumed(self, *, resume: bool) -> RunState:
        """The state on disk, taken over."""
        if not resume:
            raise OutputError(
                f"{self.run.directory} holds a run already; continue it with resume=True, or choose another output"
            )
        state = load_state(self.run.state, self._identity)
        self.network.load_state_dict(state.network)
        self._step, self._history, self._recent = state.step, state.history, state.recent_losses
        self._average, self._best = state.average, state.best
        return state

    def _class_weights(self, observer: Observer) -> Tensor | None:
        power = self.config.loss.class_weighting
        if power == 0:
            return None
        observer.note(f"counting the labels of {len(self._train)} frames")
        return class_weights(label_counts(self._train), power).to(self._device)

    def _optimizer(self) -> torch.optim.Optimizer:
        matrices = [parameter for parameter in self.network.parameters() if parameter.ndim > 1]
        vectors = [parameter for parameter in self.network.parameters() if parameter.ndim <= 1]
        decay = self.config.weight_decay
        if self.config.optimizer is Optimizer.ADAM:
            return torch.optim.Adam([*matrices, *vectors], lr=self.config.learning_rate, weight_decay=decay)
        # Decay on its own pulls scales and shifts of batch norms to zero for no benefit: they are spared.
        groups = [{"params": matrices, "weight_decay": decay}, {"params": vectors, "weight_decay": 0.0}]
        return torch.optim.AdamW(groups, lr=self.config.learning_rate)

    def _batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        accumulate = self.config.accumulate
        start, stop = self._step * accumulate, self.steps * accumulate
        return training_batches(self._train, self.config, start=start, stop=stop, workers=self.run.workers)

    def _take_step(
        self,
        batches: Iterator[tuple[Tensor, Tensor]],
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler,
        weights: Tensor | None,
    ) -> None:
        config = self.config
        self.network.train()
        for group in optimizer.param_groups:
            group["lr"] = learning_rate_at(config, self._step, self.steps)
        optimizer.zero_grad(set_to_none=True)
        total = 0.0
        for part in range(config.accumulate):
            x, labels = (tensor.to(self._device, non_blocking=True) for tensor in next(batches))
            generator = torch.Generator().manual_seed((config.seed << 32) + self._step * config.accumulate + part)
            with torch.autocast(self._device.type, _DTYPES[config.precision], enabled=_is_reduced(config.precision)):
                logits, truth = logits_and_labels(self._form, x, labels, generator)
            loss = training_loss(logits, truth, config.loss, weights, self._info.ignore_id) / config.accumulate
            scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach())
        if not math.isfinite(total):
            raise CheckFailed(
                f"the training loss is {total} at step {self._step}; lower learning_rate= or set clip_norm="
            )
        if config.clip_norm is not None:
            scaler.unscale_(optimizer)
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), config.clip_norm)
        scaler.step(optimizer)
        scaler.update()
        self._step += 1
        self._recent.append(total)
        self._follow()

    @torch.no_grad()
    def _follow(self) -> None:
        """Move the average towards the weights; batch statistics are averaged like weights."""
        if self.config.averaging == 0:
            return
        state = self.network.state_dict()
        if self._average is None:
            self._average = {key: value.clone() for key, value in state.items()}
        # Young averages forget quickly, so that the first random weights leave no trace.
        decay = min(self.config.averaging, (1 + self._step) / (10 + self._step))
        for key, value in state.items():
            average = self._average[key]
            if average.is_floating_point():
                average.lerp_(value, 1 - decay)
            else:
                average.copy_(value)

    def _kept(self) -> dict[str, Tensor]:
        """The weights that count: the average, where there is one."""
        return _on_cpu(self._average if self._average is not None else self.network.state_dict())

    def _measure(self) -> Measurement:
        network = copy.deepcopy(self.network)
        network.load_state_dict(self._kept())
        phases = self.config.validation.phases
        matrix = validate(network, self._validation, phases=phases, device=self._device)
        measurement = Measurement(
            step=self._step,
            epoch=round(self._step / self._steps_per_epoch, 3),
            learning_rate=learning_rate_at(self.config, self._step - 1, self.steps),
            loss=sum(self._recent) / len(self._recent),
            mean_iou=matrix.mean_iou,
            thin_iou=matrix.thin_iou,
        )
        if self.config.validation.patience is not None and all(
            measurement.mean_iou > other.mean_iou for other in self._history
        ):
            self._best = {key: value.clone() for key, value in self._kept().items()}
        self._history.append(measurement)
        self._recent = []
        write_csv(self.run.directory / "metrics.csv", self._history)
        write_curves(self.run.directory / "curves.png", self._history, f"{self.config.network_name}, {self._info.name}")
        return measurement

    def _finished(self) -> bool:
        return self._step >= self.steps or self._exhausted()

    def _exhausted(self) -> bool:
        """Whether the last measurements, as many as the patience, brought nothing better."""
        patience = self.config.validation.patience
        if patience is None or len(self._history) <= patience:
            return False
        scores = [measurement.mean_iou for measurement in self._history]
        return max(scores[-patience:]) <= max(scores[:-patience])

    def _save(self, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler) -> None:
        # A state that holds no numbers would be resumed for ever.
        if not all(bool(value.isfinite().all()) for value in self.network.state_dict().values()):
            raise CheckFailed(
                f"the weights are no longer numbers after step {self._step}; lower learning_rate= or set clip_norm="
            )
        state = RunState(
            step=self._step,
            network=_on_cpu(self.network.state_dict()),
            optimizer=optimizer.state_dict(),
            scaler=scaler.state_dict(),
            average=None if self._average is None else _on_cpu(self._average),
            best=self._best,
            history=self._history,
            recent_losses=self._recent,
        )
        save_state(self.run.state, state, self._identity)


_DTYPES = {Autocast.FP32: torch.float32, Autocast.BF16: torch.bfloat16, Autocast.FP16: torch.float16}


def _is_reduced(precision: Autocast) -> bool:
    return precision is not Autocast.FP32


def _device(name: str, precision: Autocast) -> torch.device:
    if name == "cuda" and not torch.cuda.is_available():
        raise BackendError('training on cuda was asked for, and PyTorch sees no CUDA device; use device="cpu"')
    if name != "cuda" and precision is Autocast.FP16:
        raise InputError('fp16 training needs device="cuda"; on a CPU use bf16 or fp32')
    return torch.device(name)


def _on_cpu(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: value.detach().cpu() for key, value in state.items()}
