"""Frames labelled under a memory budget: the whole process's peak, and seconds per megapixel.

    python benchmarks/bounded_memory.py --memory 1GiB BUNDLE=IMAGE... [--output FILE.json]

Each image is labelled by ``smp-deploy run --memory`` in a process of its own and resized to its bundle's size. Times
mean something only on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from engines import Bundle


def labelled(bundle: Path, image: Path, memory: str) -> dict[str, Any]:
    """One run: its schedule, the peak of its process, seconds, and seconds per megapixel."""
    command = [sys.executable, "-c", "from smp_deploy.cli.entry import main; main()"]
    with tempfile.TemporaryDirectory() as folder:
        command += ["run", str(bundle), str(image), "-o", folder, "--memory", memory, "--resize", "--json"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        said = process.stdout.read()
        # Only wait4 gives the peak of this one child.
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed with exit code {process.returncode}")
    document = json.loads(said)
    height, width = Bundle.open(bundle).manifest.input.size
    seconds, megapixels = document["images"][0]["seconds"], height * width / 1e6
    return {
        "bundle": bundle.name,
        "size": f"{height}x{width}",
        "schedule": document["schedule"],
        "peak_mib": round(usage.ru_maxrss / 1024, 1),
        "seconds": seconds,
        "seconds_per_megapixel": round(seconds / megapixels, 3),
    }


def main() -> None:
    """Run, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", nargs="+", metavar="BUNDLE=IMAGE")
    parser.add_argument("--memory", default="1GiB")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    rows = []
    for pair in options.pairs:
        bundle, _, image = pair.partition("=")
        rows.append(labelled(Path(bundle), Path(image), options.memory))
        print(rows[-1], flush=True)
    if options.output is not None:
        machine = f"{platform.machine()}, {os.cpu_count()} cores"
        document = {"machine": machine, "memory": options.memory, "rows": rows}
        options.output.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
