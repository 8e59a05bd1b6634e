"""Random strided networks, made dense, against themselves on shifted images: every one exact.

    python benchmarks/random_strided.py --count 300 --seed 0 --json build/random-strided.json

In float64: phase (0, 0) of the dense network everywhere, and three other phases, drawn, where no border is in sight.
Frames are odd sizes as often as not. Ends with exit code 1 where one is refused, or off by more than 1e-10.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from converters.densifying import densify
from engines.errors import InputError
from tests.strided import RandomStrided, noise, relative, shifted, with_values

EXACT = 1e-10
OTHER_PHASES = 3


def judged(seed: int) -> dict[str, Any]:
    """How far the dense form of a seed's network is from the network, relative to the largest value."""
    network, draw = with_values(RandomStrided(seed), seed), random.Random(seed)
    rows, columns = network.stride
    size = (rows * draw.randint(7, 9) - draw.randrange(rows), columns * draw.randint(7, 9) - draw.randrange(columns))
    dense, report = densify(network, size)
    height, width = report.padded_size
    margin = (6 * rows, 6 * columns)
    big = noise((height + 2 * margin[0] + rows, width + 2 * margin[1] + columns), seed)
    x = big[..., margin[0] : margin[0] + height, margin[1] : margin[1] + width]
    row: dict[str, Any] = {"seed": seed, "size": size, "windows": report.windows, "kinds": _kinds(report)}
    with torch.no_grad():
        z = dense(x)
        row |= {"phase (0, 0)": relative(z[..., ::rows, ::columns], network(x)), "other phases": 0.0, "positions": 0}
        for _ in range(OTHER_PHASES if network.is_local else 0):
            phase = (draw.randrange(rows), draw.randrange(columns))
            expected, inside = shifted(network, big, margin, (height, width), phase)
            difference = ((z[..., phase[0] :: rows, phase[1] :: columns] - expected) * inside).abs().max()
            row["other phases"] = max(row["other phases"], float(difference / expected.abs().max()))
            row["positions"] += int(inside.sum())
    return row


def _kinds(report: Any) -> list[str]:
    return [row.kind.split(",")[0].split(" ")[0] for row in report.layers if row.fate.value == "dense"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    started, rows, wrong = time.monotonic(), [], 0
    for seed in range(arguments.seed, arguments.seed + arguments.count):
        try:
            row = judged(seed)
            bad = not max(row["phase (0, 0)"], row["other phases"]) <= EXACT
        except InputError as error:
            row, bad = {"seed": seed, "refused": str(error)}, True
        if bad:
            print(row)
        rows.append(row)
        wrong += bad
    done = [row for row in rows if "refused" not in row]
    kinds = Counter(kind for row in done for kind in row["kinds"])
    print(f"{len(rows)} networks in {time.monotonic() - started:.0f} s: {len(rows) - wrong} exact, {wrong} not")
    print(f"largest difference at phase (0, 0): {max(row['phase (0, 0)'] for row in done):.1e}, at others:"
          f" {max(row['other phases'] for row in done):.1e}")  # fmt: skip
    print(f"with positions at other phases inside the border: {sum(row['positions'] > 0 for row in done)}")
    print(f"on frames that were padded: {sum(_is_padded(row) for row in done)}; strided layers: {dict(kinds)}")
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(rows, indent=2), encoding="utf-8")
    return 1 if wrong else 0


def _is_padded(row: dict[str, Any]) -> bool:
    (height, width), (rows, columns) = row["size"], (1, 1)
    for h, w in row["windows"]:
        rows, columns = rows * h, columns * w
    return bool(height % rows or width % columns)


if __name__ == "__main__":
    sys.exit(main())
