"""Every schedule against the whole graph: SMP-18 at 256x512 and 50 random small networks, fp32, ONNX Runtime.

    python benchmarks/exactness.py [--networks 50] [--quick]

All levels, all lowerings, one phase at a time and as many as can go together. The random networks have windows,
kernels, paddings, dilations, groups, shortcuts and splits at random places. Writes ``docs/results/exactness.json`` and
a readable page; ends with exit code 1 when anything but rounding differs. About half an hour on two cores.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from torch import nn

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))
from converters.analysis.network import traced_network  # noqa: E402
from converters.exporting import export  # noqa: E402
from converters.networks import network_from_arch  # noqa: E402
from engines import Lowering  # noqa: E402
from smp_deploy.benchmarking.exactness import LOGITS_TOLERANCE, TIE, differences  # noqa: E402
from smp_deploy.machine import machine_facts  # noqa: E402
from tests.networks import RandomNetwork, with_statistics  # noqa: E402 - the tests' own generator

RESULTS = REPOSITORY / "docs" / "results"


def compared(name: str, network: nn.Module, size: tuple[int, int], directory: Path) -> Iterator[dict[str, Any]]:
    """All schedules of one network, on a frame of noise."""
    bundle = export(
        network,
        directory / "bundle",
        size=size,
        outputs="logits",
        precisions=(),
        levels=range(traced_network(network).most_levels + 1),
        lowerings=Lowering,
        replace=True,
    )
    frame = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    for schedule, difference in differences(bundle, frame):
        row = {
            "network": name,
            "size": f"{size[0]}x{size[1]}",
            "levels": schedule.levels,
            "lowering": schedule.lowering.value,
            "sub_batch": schedule.sub_batch,
            "pixels": size[0] * size[1],
            **asdict(difference),
            "exact": difference.exact,
        }
        print(row, flush=True)
        yield row


def random_networks(count: int) -> Iterator[tuple[str, nn.Module, tuple[int, int]]]:
    """Those of the tests, on frames of a few positions in every split batch."""
    for seed in range(count):
        network = with_statistics(lambda seed=seed: RandomNetwork(seed), seed)
        height, width = traced_network(network).size_multiple
        yield f"random {seed}", network, (height * 8, width * 6)


def page(result: dict[str, Any]) -> str:
    """The result for people."""
    rows = result["schedules"]
    named = [row for row in rows if not row["network"].startswith("random")]
    random = [row for row in rows if row["network"].startswith("random")]
    lines = [
        "# Every schedule against the whole graph",
        "",
        f"Made by `python benchmarks/exactness.py` with ONNX Runtime {result['onnxruntime']} on the CPU "
        f"({result['machine']['machine']}), fp32, frames of noise, random weights and batch-norm statistics far from "
        "the identity.",
        "",
        f"{sum(row['exact'] for row in rows)} of {len(rows)} schedules are exact: logits within {LOGITS_TOLERANCE:g} "
        f"of the largest logit, and labels that differ only where the two highest logits are within {TIE:g} of it.",
        "",
        "| network | frame | levels | lowering | sub-batch | error of logits | labels that differ | widest gap there |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in named:
        lines.append(
            f"| {row['network']} | {row['size']} | {row['levels']} | {row['lowering']} | {row['sub_batch']} "
            f"| {row['relative_error']:.1e} | {row['labels_differ']} of {row['pixels']} | {row['widest_gap']:.1e} |"
        )
    if random:
        networks = len({row["network"] for row in random})
        lines += [
            "",
            f"{networks} random networks, {len(random)} schedules of up to {max(row['levels'] for row in random)} "
            f"levels: largest error of logits {max(row['relative_error'] for row in random):.1e}; "
            f"{sum(row['labels_differ'] for row in random)} of {sum(row['pixels'] for row in random)} labels differ, "
            f"with gaps up to {max(row['widest_gap'] for row in random):.1e}.",
        ]
    return "\n".join([*lines, ""])


def main() -> None:
    """Compare, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", type=int, default=50, help="random networks")
    parser.add_argument("--quick", action="store_true", help="SMP-18 of width 8 at 64x96, and write nothing")
    arguments = parser.parse_args()
    size, width = ((64, 96), 8) if arguments.quick else ((256, 512), 64)
    smp18 = with_statistics(lambda: network_from_arch("smp-resnet18", width=width), seed=0)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for name, network, frame in random_networks(arguments.networks):
            rows += compared(name, network, frame, Path(folder))
        rows += compared("SMP-18", smp18, size, Path(folder))
    result = {"machine": machine_facts(), "onnxruntime": onnxruntime.__version__, "schedules": rows}
    print(page(result))
    if not arguments.quick:
        (RESULTS / "exactness.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        (RESULTS / "exactness.md").write_text(page(result), encoding="utf-8")
    if not all(row["exact"] for row in rows):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
