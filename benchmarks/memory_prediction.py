"""Predicted against measured peaks of schedules on ONNX Runtime, each measured in a process of its own.

    python benchmarks/memory_prediction.py BUNDLE... [--largest-mib 600] [--output docs/results]

One bundle a network and size. Schedules that are predicted above ``--largest-mib`` are left out, and counted.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from pathlib import Path
from typing import Any

import onnxruntime

from engines import Bundle
from engines.backends.memory import MIB
from engines.planning.planner import plan
from smp_deploy.benchmarking.peak_memory import session_peak


def rows_of(path: Path, largest_mib: int) -> tuple[list[dict[str, Any]], int]:
    """Measured rows of a bundle, and how many schedules were left out."""
    bundle, rows, left_out = Bundle.open(path), [], 0
    frame = "x".join(map(str, bundle.manifest.input.size))
    network = f"{bundle.manifest.network.source}, width {bundle.manifest.network.width}"
    for candidate in sorted(plan(bundle).candidates, key=lambda candidate: candidate.peak_bytes):
        if candidate.peak_bytes > largest_mib * MIB:
            left_out += 1
            continue
        measured = session_peak(path, candidate.schedule).work_bytes
        error = candidate.peak_bytes / measured - 1
        rows.append(
            {
                "network": network,
                "size": frame,
                "schedule": str(candidate.schedule),
                "predicted_mib": round(candidate.peak_bytes / MIB, 1),
                "measured_mib": round(measured / MIB, 1),
                "error": round(error, 4),
            }
        )
        print(rows[-1], flush=True)
    return rows, left_out


def page(result: dict[str, Any]) -> str:
    """The result as a page."""
    rows = result["rows"]
    lines = [
        "# Predicted and measured peaks",
        "",
        f"{result['machine']}, ONNX Runtime {result['onnxruntime']}, fp32; `benchmarks/memory_prediction.py`.",
        "Peaks are above the empty process, MiB. The measured one is the resident set of a fresh process that labels",
        f"three sub-batches. {len(rows)} schedules were measured; {result['left_out']} predicted above "
        f"{result['largest_mib']} MiB were left out.",
        "",
        f"Largest error: {max(row['error'] for row in rows):+.1%} (too high), "
        f"{min(row['error'] for row in rows):+.1%} (too low).",
        "",
        "| network | size | schedule | predicted | measured | error |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        lines.append(
            f"| {row['network']} | {row['size']} | {row['schedule']} | {row['predicted_mib']} | {row['measured_mib']} "
            f"| {row['error']:+.1%} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", nargs="+", type=Path)
    parser.add_argument("--largest-mib", type=int, default=600)
    parser.add_argument("--output", type=Path, default=Path(__file__).resolve().parents[1] / "docs" / "results")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    left_out = 0
    for bundle in options.bundles:
        more, skipped = rows_of(bundle, options.largest_mib)
        rows, left_out = rows + more, left_out + skipped
        result = {
            "machine": f"{platform.machine()}, {os.cpu_count()} cores, no GPU",
            "onnxruntime": onnxruntime.__version__,
            "largest_mib": options.largest_mib,
            "left_out": left_out,
            "rows": rows,
        }
        # After every bundle: an interrupted run leaves what it has measured.
        options.output.mkdir(parents=True, exist_ok=True)
        (options.output / "memory-prediction.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
        (options.output / "memory-prediction.md").write_text(page(result), encoding="utf-8")


if __name__ == "__main__":
    main()
