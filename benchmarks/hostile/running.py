"""The loop over spoilt copies of a bundle: count how each ended, keep what broke, say how far it is."""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hostile.children import BROKEN, Worker

Spoil = Callable[[Path, random.Random], str]
"""Spoils the folder of a bundle; says how."""

Case = Callable[[Spoil, random.Random, Worker], tuple[str, str]]
"""One spoilt copy: what was done, and how it ended."""


def run_cases(kinds: Sequence[Spoil], case: Case, count: int, seed: int) -> dict[str, Any]:
    """So many cases, each kind in turn: how they ended, by kind, and every one that broke."""
    outcomes: dict[str, Counter[str]] = {}
    broken = []
    started = time.monotonic()
    with Worker() as worker:
        for number in range(count):
            spoil = kinds[number % len(kinds)]
            said, ended = case(spoil, random.Random(f"{seed}-{number}"), worker)
            broke = ended.startswith(BROKEN)
            outcomes.setdefault(spoil.__name__, Counter())[BROKEN if broke else ended] += 1
            if broke:
                broken.append({"number": number, "case": said, "ended": ended})
                print(f"{number}: {said}: {ended}", file=sys.stderr, flush=True)
            elif number % 100 == 99:
                print(f"{number + 1}/{count}, {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    return {"count": count, "seed": seed, "broken": broken, "outcomes": {k: dict(v) for k, v in outcomes.items()}}


def main(description: str | None, run: Callable[[Path, int, int], dict[str, Any]], count: int) -> None:
    """The command line of a benchmark; exit code 1 where anything broke."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--count", type=int, default=count)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="where to write the outcomes")
    options = parser.parse_args()
    found = run(options.bundle, options.count, options.seed)
    for kind, outcomes in found["outcomes"].items():
        print(f"{kind}: {', '.join(f'{number} {ended}' for ended, number in sorted(outcomes.items()))}")
    print(f"{len(found['broken'])} of {found['count']} broken")
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n")
    sys.exit(bool(found["broken"]))
