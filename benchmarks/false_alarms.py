"""False alarms of ``validate``: random networks and frames, exported right, must pass every check.

    python benchmarks/false_alarms.py --count 200 --output build/false-alarms

Networks differ in width, windows, depth, kernels, shortcuts and parameters, frames in size and content. Each is
exported in fp32, fp16 and int8, calibrated on other frames than it is judged on. A failure is written down with its
seed. Numbers of networks already done are kept: a run that is cut off goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from converters.exporting import export
from converters.pooling import MergePool2d, SplitPool2d
from converters.reference import noise_frame
from converters.verification import Subject, checks_of, reference_frames
from engines import Lowering
from engines.errors import NetworkError

_WINDOWS = ((2, 2), (1, 2), (2, 1), (3, 1), (3, 2))


class RandomSMP(nn.Module):
    """Blocks of a convolution, a batch norm, a split or none, a ReLU and perhaps a shortcut; merged at the end."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        draw = random.Random(seed)
        torch.manual_seed(seed)
        width, channels = draw.choice((4, 8, 12, 16)), 3
        self.splits, self.convs, self.norms, self.shortcuts = (nn.ModuleList() for _ in range(4))
        for block in range(draw.randint(2, 6)):
            kernel = draw.choice((1, 3, 3, 5))
            self.convs.append(nn.Conv2d(channels, width, kernel, padding=kernel // 2, bias=draw.random() < 0.5))
            self.norms.append(nn.BatchNorm2d(width) if draw.random() < 0.8 else nn.Identity())
            splits = block == 0 or draw.random() < 0.5
            self.splits.append(SplitPool2d(draw.choice(_WINDOWS)) if splits and block < 4 else nn.Identity())
            self.shortcuts.append(nn.Conv2d(width, width, 1) if draw.random() < 0.3 else nn.Identity())
            channels = width
        self.head = nn.Conv2d(channels, draw.randint(2, 12), 1)
        pooling = [split for split in self.splits if isinstance(split, SplitPool2d)]
        self.merges = nn.ModuleList(MergePool2d(split) for split in reversed(pooling))
        self.multiple = [1, 1]
        for split in pooling:
            self.multiple = [side * step for side, step in zip(self.multiple, split.window, strict=True)]
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.running_mean, std=0.2)
                nn.init.uniform_(module.running_var, 0.5, 2)
                nn.init.uniform_(module.weight, 0.5, 1.5)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        for conv, norm, split, shortcut in zip(self.convs, self.norms, self.splits, self.shortcuts, strict=True):
            x = nn.functional.relu(split(norm(conv(x))))
            x = x + shortcut(x) if isinstance(shortcut, nn.Conv2d) else x
        x = self.head(x)
        for merge in self.merges:
            x = merge(x)
        return x


def judged(seed: int, directory: Path) -> dict[str, Any]:
    """Export one network and validate it; the checks that failed, of how many."""
    draw = random.Random(1000 + seed)
    network = RandomSMP(seed)
    size = tuple(max(1, draw.randint(16, 72) // step) * step + draw.choice((0, 0, 1)) for step in network.multiple)
    frames = (noise_frame((size[0], size[1]), seed), noise_frame((size[0], size[1]), seed + 10_000))
    lowering = draw.choice(tuple(Lowering))
    settings: dict[str, Any] = {
        "size": size,
        "reference_frames": frames,
        "precisions": ("fp16", "int8"),
        "calibration_frames": [noise_frame((size[0], size[1]), seed + place) for place in (20_000, 30_000)],
    }
    levels = sorted({1, len(network.merges)}) if seed % 2 else (1,)
    try:
        bundle = export(network, directory / "bundle", levels=levels, lowerings=lowering, **settings)
    except NetworkError:
        # This lowering does not understand the network; reshapes always do.
        bundle = export(network, directory / "bundle", lowerings="reshape", **settings)
    checks = list(checks_of(Subject(bundle, reference_frames(bundle), network=network)))
    return {
        "seed": seed,
        "size": size,
        "windows": bundle.manifest.windows,
        "checks": len(checks),
        "failed": [
            f"{check.name}, {check.subject}: {check.value} of {check.tolerance}, {check.detail}, {check.location}"
            for check in checks
            if check.failed
        ],
        "not_run": sorted({f"{check.kind.value}: {check.detail[:60]}" for check in checks if check.value is None}),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    record = arguments.output / "false-alarms.json"
    done: list[dict[str, Any]] = json.loads(record.read_text()) if record.exists() else []
    started = time.monotonic()
    for seed in range(len(done), arguments.count):
        with tempfile.TemporaryDirectory() as directory:
            done.append(judged(seed, Path(directory)))
        record.write_text(json.dumps(done, indent=1) + "\n")
        if done[-1]["failed"]:
            print(f"seed {seed}: {done[-1]['failed']}", flush=True)
    alarms = sum(bool(row["failed"]) for row in done)
    checks = sum(row["checks"] for row in done)
    print(
        f"{alarms} of {len(done)} networks raised a false alarm, in {checks} checks, {time.monotonic() - started:.0f} s"
    )


if __name__ == "__main__":
    main()
