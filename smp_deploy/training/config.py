"""What a training run is: the paper's protocol (section 4.2) by default, every part of it changeable.

The defaults are those of the paper. What it does not state is chosen as plainly as possible: a constant
learning rate, no class weights, no colour changes, no averaging.
"""

from __future__ import annotations

import dataclasses
import enum
import json
from dataclasses import dataclass, field
from typing import Any

from converters.densifying import Densification
from engines.errors import InputError

_MOST_EPOCHS = 10**6
_LARGEST = 1e30
"""Steps of larger figures do not fit float32."""


class Optimizer(enum.Enum):
    """How weight decay acts: as a part of the gradient, or on its own."""

    ADAM = "adam"
    ADAMW = "adamw"


class LearningRateSchedule(enum.Enum):
    """How the learning rate changes over a run."""

    CONSTANT = "constant"
    COSINE = "cosine"
    """A linear rise over the first part of the run, then half a cosine down to nothing."""


class Autocast(enum.Enum):
    """The arithmetic of forward and backward; parameters and optimizer are float32 in any case."""

    FP32 = "fp32"
    BF16 = "bf16"
    FP16 = "fp16"
    """With loss scaling; on a GPU only."""


@dataclass(frozen=True)
class Augmentation:
    """How a training crop is taken from a frame."""

    crop: tuple[int, int] = (512, 512)
    """``(height, width)``, multiples of what the network needs, 32 for SMP-X. Smaller frames are padded: zeros after
    normalisation, ignored labels."""
    flip: float = 0.5
    """Probability of a horizontal flip."""
    scale: tuple[float, float] = (1.0, 1.0)
    """The frame is resized by a factor drawn log-uniformly from this range, within [0.01, 100]."""
    aspect: float = 0.0
    """The width is further changed by ``exp`` of a number drawn from ``[-aspect, aspect]``."""
    jitter: float = 0.0
    """Brightness and contrast factors are drawn from ``[1 - jitter, 1 + jitter]``, saturation a third wider."""

    def __post_init__(self) -> None:
        _require(min(self.crop) >= 1, "crop", "at least 1x1", self.crop)
        _require(0 <= self.flip <= 1, "flip", "a probability", self.flip)
        _require(
            0.01 <= self.scale[0] <= self.scale[1] <= 100, "scale", "factors of 0.01 to 100, low first", self.scale
        )
        _require(0 <= self.aspect < 1, "aspect", "in [0, 1)", self.aspect)
        _require(0 <= self.jitter < 0.75, "jitter", "in [0, 0.75)", self.jitter)


@dataclass(frozen=True)
class Loss:
    """Cross-entropy, and what may be added to it."""

    class_weighting: float = 0.0
    """Classes weigh ``(median frequency / frequency) ** class_weighting``; 0 weighs all alike."""
    lovasz: float = 0.0
    """Weight of the Lovász-softmax loss, a convex surrogate of the mean IoU."""

    def __post_init__(self) -> None:
        _require(0 <= self.class_weighting <= 1, "class_weighting", "in [0, 1]", self.class_weighting)
        _require(0 <= self.lovasz <= _LARGEST, "lovasz", f"in [0, {_LARGEST:g}]", self.lovasz)


@dataclass(frozen=True)
class Validation:
    """How a run looks at the validation frames while it goes on."""

    every_epochs: int = 5
    phases: int = 4
    """How many draws of the sampled elements each frame is judged by; an unbiased sample of its pixels."""
    patience: int | None = None
    """Stop after this many validations without a better mean IoU, and keep the best weights; None: never."""

    def __post_init__(self) -> None:
        _require_epochs("every_epochs", self.every_epochs)
        _require(self.phases >= 1, "phases", "at least 1", self.phases)
        _require(self.patience is None or self.patience >= 1, "patience", "at least 1", self.patience)


@dataclass(frozen=True)
class TrainingConfig:
    """One training run. Two runs of equal configuration and data end in the same weights on a CPU."""

    arch: str | None = None
    """A known architecture; ``"smp-resnet18"`` where neither it nor a model is given."""
    width: int | None = None
    """Channels of the architecture's stem; 64 where none are given. A model decides them itself."""
    model: str | None = None
    """A network of one's own, ``"package.module:factory"``, in place of an architecture."""
    densification: Densification | None = None
    """How a strided network is made dense before it is trained; None: it is trained as it is."""
    epochs: int = 100
    batch: int = 10
    accumulate: int = 1
    """Batches whose gradients are added up for one step of the optimizer."""
    optimizer: Optimizer = Optimizer.ADAM
    learning_rate: float = 1e-5
    weight_decay: float = 5e-4
    schedule: LearningRateSchedule = LearningRateSchedule.CONSTANT
    warmup: float = 0.08
    """The part of a cosine schedule during which the learning rate rises."""
    clip_norm: float | None = None
    """Largest norm of the gradient; None: as it comes."""
    averaging: float = 0.0
    """Decay of an exponential moving average of the weights, which is then what is validated and kept; 0: none."""
    dense_levels: int = 0
    """How many of the last levels stay split, each giving as many times the supervised pixels as its window has
    elements: four for SMP-X."""
    precision: Autocast = Autocast.FP32
    seed: int = 0
    """In [0, 2**32): what is drawn in a step is seeded with this and the step's number, in 64 bits together."""
    augmentation: Augmentation = field(default_factory=Augmentation)
    loss: Loss = field(default_factory=Loss)
    validation: Validation = field(default_factory=Validation)

    def __post_init__(self) -> None:
        self._name_one_network()
        for name in ("batch", "accumulate"):
            _require(getattr(self, name) >= 1, name, "at least 1", getattr(self, name))
        _require(self.width is None or self.width >= 1, "width", "at least 1", self.width)
        _require_epochs("epochs", self.epochs)
        positive, from_zero = f"in (0, {_LARGEST:g}]", f"in [0, {_LARGEST:g}]"
        _require(0 < self.learning_rate <= _LARGEST, "learning_rate", positive, self.learning_rate)
        _require(0 <= self.weight_decay <= _LARGEST, "weight_decay", from_zero, self.weight_decay)
        _require(0 <= self.warmup < 1, "warmup", "in [0, 1)", self.warmup)
        _require(self.clip_norm is None or 0 < self.clip_norm <= _LARGEST, "clip_norm", positive, self.clip_norm)
        _require(0 <= self.averaging < 1, "averaging", "in [0, 1)", self.averaging)
        _require(self.dense_levels >= 0, "dense_levels", "at least 0", self.dense_levels)
        _require(0 <= self.seed < 2**32, "seed", f"0 to {2**32 - 1}", self.seed)

    def _name_one_network(self) -> None:
        if self.model is not None:
            if self.arch is not None or self.width is not None:
                raise InputError(
                    f'training: arch= and width= name a known network, model="{self.model}" one of your own; give the '
                    "one or the other"
                )
            return
        # A frozen value is completed while it is made.
        for name, default in (("arch", "smp-resnet18"), ("width", 64)):
            if getattr(self, name) is None:
                object.__setattr__(self, name, default)

    @property
    def network_name(self) -> str:
        """The network in a few words: ``"smp-resnet18 of width 64"``, or the factory's path."""
        dense = ", made dense" if self.densification else ""
        return (self.model or f"{self.arch} of width {self.width}") + dense


def json_from_config(config: TrainingConfig) -> str:
    """The configuration as one line of JSON, enums by their values."""
    return json.dumps(dataclasses.asdict(config), default=lambda value: value.value, sort_keys=True)


def differences(before: str, now: str) -> list[str]:
    """Which fields two configurations of :func:`json_from_config` differ in: ``"batch: 10, now 8"``."""
    old, new = _flat(json.loads(before)), _flat(json.loads(now))
    return [
        f"{key}: {old.get(key)}, now {new.get(key)}" for key in sorted({*old, *new}) if old.get(key) != new.get(key)
    ]


def _flat(document: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in document.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


def _require_epochs(name: str, received: int) -> None:
    _require(1 <= received <= _MOST_EPOCHS, name, f"1 to {_MOST_EPOCHS}", received)


def _require(holds: bool, name: str, expected: str, received: object) -> None:
    """Refuse a setting by the name of its field."""
    if not holds:
        raise InputError(f"training: {name}= must be {expected}; received {received}")
