"""One trunk built several times with TensorRT-RTX: are the engines the same, byte for byte, and where do they differ?

    python benchmarks/engine_reproducibility.py [--builds 10] [--size 360x480] [--bundle smp18.bundle]

Every build is a process of its own, `smp-deploy build-engine --force` as a user calls it. Each plan is compared with
the first of its precision: by its hash, by the sections that the table at its beginning names, and once more after the
numbers that TensorRT's compiler gives to values of its own (``__mye27881``) are counted anew in the order in which they
first appear. The network has random weights. Writes ``docs/results/engine-reproducibility.json`` and a readable page.
About three minutes on two cores, much of it the export.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import struct
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import tensorrt_rtx
from engine_builds import run
from safetensors.torch import save_file

from converters.networks import network_from_arch
from engines import Bundle
from engines.bundle.records import BuildRecord, compared_builds, record_from_json
from smp_deploy.machine import machine_facts

RESULTS = Path(__file__).resolve().parent.parent / "docs" / "results"
PRECISIONS = ("fp32", "fp16")
SUB_BATCHES = (1, 4)
"""One of 1 has no free axis left; with more the engine computes its shapes when it runs."""
TAGS = {b"NGNE": "engine", b"THGW": "weights"}
"""Of the sections, as they stand in the table: a tag, then offset and size as 64-bit numbers."""
_NUMBERED = re.compile(rb"(__mye)(\d+)")


def sections(plan: bytes) -> dict[str, tuple[int, int]]:
    """Begin and end of the sections, and of what lies outside of them: before and after."""
    found = {}
    for tag, name in TAGS.items():
        place = plan.index(tag, 0, 256)
        offset, size = struct.unpack_from("<QQ", plan, place + 8)
        found[name] = (offset, offset + size)
    first, last = min(begin for begin, _ in found.values()), max(end for _, end in found.values())
    return {"header": (0, first), **found, "rest": (last, len(plan))}


def renumbered(plan: bytes) -> bytes:
    """The plan with the compiler's own names counted in the order in which they first appear."""
    numbers: dict[bytes, int] = {}
    return _NUMBERED.sub(lambda name: name[1] + b"%d" % numbers.setdefault(name[2], len(numbers)), plan)


def differing(first: bytes, other: bytes) -> dict[str, Any]:
    """Where two plans differ."""
    result: dict[str, Any] = {
        "equal": first == other,
        "equal_size": len(first) == len(other),
        "equal_after_renumbering": renumbered(first) == renumbered(other),
    }
    where = sections(first)
    if len(first) == len(other):
        places = np.flatnonzero(np.frombuffer(first, np.uint8) != np.frombuffer(other, np.uint8))
        result["bytes"] = {
            name: int(((places >= begin) & (places < end)).sum()) for name, (begin, end) in where.items()
        }
    result["equal_sections"] = [
        name for name, (begin, end) in where.items() if sections(other)[name] == (begin, end) and
        first[begin:end] == other[begin:end]
    ]  # fmt: skip
    return result


def builds(bundle: Path, precision: str, sub_batch: int, count: int) -> dict[str, Any]:
    """Build one trunk so many times and compare."""
    plans: dict[str, list[bytes]] = {"trunk": [], "prepare": []}
    records = []
    for index in range(count):
        options = (f"--{precision}", "--sub-batch", sub_batch, "--flavour", "tensorrt-rtx", "--force")
        built = run("build-engine", bundle, *options)
        opened = Bundle.open(bundle)
        engine = opened.engines[-1]
        plans["trunk"].append((bundle / engine.engine).read_bytes())
        plans["prepare"].append((bundle / engine.prepare).read_bytes())
        records.append(record_from_json((bundle / engine.record).read_bytes(), BuildRecord, engine.record))
        print(
            f"{precision}, sub-batch {sub_batch}, build {index}: {built.seconds:.1f} s, {records[-1].plan_sha256[:16]}",
            flush=True,
        )
    graphs = {}
    for graph, held in plans.items():
        shas = [hashlib.sha256(plan).hexdigest() for plan in held]
        others = {sha: plan for sha, plan in zip(shas, held, strict=True) if sha != shas[0]}
        graphs[graph] = {
            "plan_bytes": sorted({len(plan) for plan in held}),
            "plans": dict(Counter(shas)),
            "plans_after_renumbering": len({hashlib.sha256(renumbered(plan)).hexdigest() for plan in held}),
            "against_the_first": {sha: differing(held[0], plan) for sha, plan in others.items()},
        }
    comparisons = [compared_builds(records[0], record) for record in records[1:]]
    return {
        "precision": precision,
        "sub_batch": sub_batch,
        "builds": count,
        "graphs": graphs,
        "fields_that_differ": sorted({found.what for held in comparisons for found in held.differences}),
        "not_compared": sorted({reason for held in comparisons for reason in held.not_compared}),
    }


def page(result: dict[str, Any]) -> str:
    """The result for people."""
    lines = [
        "# One trunk, built several times",
        "",
        f"Made by `python benchmarks/engine_reproducibility.py` with TensorRT-RTX {result['tensorrt_rtx']} on "
        f"{result['machine']['machine']} without a GPU. {result['network']}, frames of {result['size']}. "
        "Every build is a process of its own.",
        "",
        "| precision | sub-batch | graph | builds | MB | different plans | after renumbering | bytes that differ |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in result["rows"]:
        for graph, held in row["graphs"].items():
            size = ", ".join(f"{size / 1e6:.3f}" for size in held["plan_bytes"])
            counts = " + ".join(map(str, sorted(held["plans"].values(), reverse=True)))
            plans = f"{len(held['plans'])} ({counts})"
            shown = [
                ", ".join(f"{count} in {name}" for name, count in found["bytes"].items() if count)
                for found in held["against_the_first"].values()
                if "bytes" in found
            ]
            shown += ["another size" for found in held["against_the_first"].values() if not found["equal_size"]]
            lines.append(
                f"| {row['precision']} | {row['sub_batch']} | {graph} | {row['builds']} | {size} | {plans} "
                f"| {held['plans_after_renumbering']} | {'; '.join(sorted(set(shown))) or 'none'} |"
            )
    fields = sorted({field for row in result["rows"] for field in row["fields_that_differ"]})
    absent = sorted({reason for row in result["rows"] for reason in row["not_compared"]})
    return "\n".join(
        [
            *lines,
            "",
            "*Different plans* counts hashes, and in brackets how many builds gave each. *After renumbering* counts "
            "them once more when the names that TensorRT's compiler makes up (`__mye27881`) are numbered in the order "
            "in which they first appear. A plan has a header, a section with the engine and one with the weights.",
            "So two plans may be told apart by their hash and be the same engine: a hash says that an engine *is* the "
            "one that was tested, and cannot say that it is *not* an equal one.",
            "",
            f"Fields of the build records that differ: {', '.join(fields) or 'none'}. "
            f"Not compared: {'; '.join(absent)}.",
            "",
            "TensorRT-RTX times no kernels when it builds: they are compiled on the GPU that the engine meets. So this "
            "says nothing of TensorRT proper, whose builds choose kernels by time; there `build-engine "
            "--record-tactics` and `--reproduce` pin them, which has not been run on a GPU.",
            "",
        ]
    )


def main() -> None:
    """Build, compare, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--builds", type=int, default=10)
    parser.add_argument("--size", default="360x480")
    parser.add_argument("--bundle", type=Path, help="one in fp32 and fp16 that is changed; nothing is written then")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        bundle = arguments.bundle or Path(directory) / "smp18.bundle"
        if arguments.bundle is None:
            checkpoint = Path(directory) / "weights.safetensors"
            save_file(network_from_arch("smp-resnet18").state_dict(), checkpoint)
            options = ("--size", arguments.size, "--levels", 2, "--lowering", "reshape")
            run("export", checkpoint, "--arch", "smp-resnet18", *options, "-o", bundle)
        manifest = Bundle.open(bundle).manifest
        result = {
            "machine": machine_facts(),
            "tensorrt_rtx": tensorrt_rtx.__version__,
            "network": manifest.network.source,
            "size": "x".join(map(str, manifest.input.size)),
            "rows": [
                builds(bundle, precision, sub_batch, arguments.builds)
                for precision in PRECISIONS
                for sub_batch in SUB_BATCHES
            ],
        }
    if arguments.bundle is None:
        (RESULTS / "engine-reproducibility.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
        (RESULTS / "engine-reproducibility.md").write_text(page(result), encoding="utf-8")
    print(page(result))


if __name__ == "__main__":
    main()
