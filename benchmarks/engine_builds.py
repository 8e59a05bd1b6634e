"""Engine builds without a GPU: fp16 with TensorRT-RTX, for every network, levels and lowering, twice each.

    python benchmarks/engine_builds.py [--size 1024x2048] [--network smp-resnet18 ...]

Every export and build is a process of its own, `smp-deploy` as a user calls it; times are those of the process, from
start to end. The second build of each engine must be answered from the bundle. Networks have random weights. Writes
``docs/results/engine-builds.json`` and a readable page. About a quarter of an hour on two cores.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import tensorrt_rtx
from safetensors.torch import save_file

from converters.networks import network_from_arch
from smp_deploy.machine import machine_facts

RESULTS = Path(__file__).resolve().parent.parent / "docs" / "results"
NETWORKS = ("smp-resnet18", "smp-resnet34", "smp-resnet101")
LEVELS = (2, 3)
LOWERINGS = ("reshape", "strided", "dilated")


class Run(NamedTuple):
    """What a command prints with ``--json``, and what it took."""

    document: dict[str, Any]
    seconds: float
    cpu_s: float
    """Of all cores; on a busy machine less misleading than the wall clock."""
    peak_gib: float


def run(*arguments: object) -> Run:
    """One command in a process of its own."""
    command = [str(Path(sys.executable).with_name("smp-deploy")), *map(str, arguments), "--json"]
    started = time.perf_counter()
    with tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(command, stdout=said, stderr=errors)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.perf_counter() - started
        if process.returncode:
            errors.seek(0)
            raise SystemExit(f"{' '.join(command)}\n{errors.read().decode()}")
        said.seek(0)
        return Run(json.loads(said.read()), seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 2**20)


def builds(arch: str, size: str, directory: Path) -> Iterator[dict[str, Any]]:
    """Export one network, build each of its engines twice."""
    checkpoint, bundle = directory / "weights.safetensors", directory / f"{arch}.bundle"
    save_file(network_from_arch(arch).state_dict(), checkpoint)
    options = [option for levels in LEVELS for option in ("--levels", levels)]
    options += [option for lowering in LOWERINGS for option in ("--lowering", lowering)]
    export = run("export", checkpoint, "--arch", arch, "--size", size, *options, "-o", bundle)
    print(f"{arch}: export {export.seconds:.0f} s, peak {export.peak_gib:.1f} GiB", flush=True)
    for levels in LEVELS:
        for lowering in LOWERINGS:
            schedule = ("--levels", levels, "--lowering", lowering)
            command = ("build-engine", bundle, "--fp16", "--flavour", "tensorrt-rtx", *schedule)
            first, second = run(*command), run(*command)
            row = {
                "network": arch,
                "levels": levels,
                "lowering": lowering,
                "export_s": export.seconds,
                "export_cpu_s": export.cpu_s,
                "export_peak_gib": export.peak_gib,
                "build_s": first.seconds,
                "build_cpu_s": first.cpu_s,
                "build_peak_gib": first.peak_gib,
                "plan_bytes": first.document["plan_bytes"],
                "convolutions": first.document["convolutions"],
                "cached": second.document["cached"] and not first.document["cached"],
                "second_s": second.seconds,
                "second_cpu_s": second.cpu_s,
            }
            print(row, flush=True)
            yield row


def page(result: dict[str, Any]) -> str:
    """The result for people."""
    rows = result["builds"]
    slowest, slowest_cpu = (max(row[name] for row in rows) for name in ("second_s", "second_cpu_s"))
    answered = sum(row["cached"] for row in rows)
    lines = [
        "# Engine builds without a GPU",
        "",
        f"Made by `python benchmarks/engine_builds.py` with TensorRT-RTX {result['tensorrt_rtx']} on "
        f"{result['machine']['machine']} without a GPU. fp16, frames of {result['size']}, 19 classes, random weights, "
        "sub-batch 1. Times are of the whole process, `smp-deploy build-engine` from start to end.",
        "",
        f"{answered} of {len(rows)} second builds were answered from the bundle, the slowest in {slowest:.2f} s of "
        f"wall clock and {slowest_cpu:.2f} s of CPU time "
        "(wanted: under a second). That time is the start of Python and the hashing of every file of the bundle, which "
        "holds the engines built so far.",
        "",
        "CPU times are of all cores together; on a machine with other work they say more than the wall clock.",
        "",
        "| network | levels | lowering | build, s (CPU) | peak, GiB | engine, MB | convolutions | second, s (CPU) |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        convolutions = ", ".join(f"{count} {kind}" for kind, count in row["convolutions"].items())
        lines.append(
            f"| {row['network']} | {row['levels']} | {row['lowering']} "
            f"| {row['build_s']:.1f} ({row['build_cpu_s']:.1f}) "
            f"| {row['build_peak_gib']:.1f} | {row['plan_bytes'] / 1e6:.1f} | {convolutions} "
            f"| {row['second_s']:.2f} ({row['second_cpu_s']:.2f}) |"
        )
    exports = {row["network"]: (row["export_s"], row["export_cpu_s"], row["export_peak_gib"]) for row in rows}
    shown = ", ".join(
        f"{arch} {s:.0f} s ({cpu:.0f} s CPU) and {gib:.1f} GiB" for arch, (s, cpu, gib) in exports.items()
    )
    return "\n".join([*lines, "", f"Exports of these six trunks, in fp32 and fp16: {shown}.", ""])


def main() -> None:
    """Build, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="1024x2048")
    parser.add_argument("--network", action="append", help="by default all three; with it nothing is written")
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for arch in arguments.network or NETWORKS:
        with tempfile.TemporaryDirectory() as directory:
            rows += builds(arch, arguments.size, Path(directory))
        result = {
            "machine": machine_facts(),
            "tensorrt_rtx": tensorrt_rtx.__version__,
            "size": arguments.size,
            "builds": rows,
        }
        if arguments.network is None:
            # After every network: the run is long, and may be cut short.
            (RESULTS / "engine-builds.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
            (RESULTS / "engine-builds.md").write_text(page(result), encoding="utf-8")
    print(page(result))


if __name__ == "__main__":
    main()
