"""What ``smp-deploy validate`` costs, whole and ``--quick``, side by side: SMP-18 at full width, 256x512, five frames.

    python benchmarks/validate_cost.py --output build/validate-cost

The weights are random, the frames noise in the range of real frames: neither changes time or memory.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from engines.devices.processor import processor_title

SIZE = (256, 512)
FRAMES = 5
MEASURED = """
import json, resource, subprocess, sys, time
started = time.monotonic()
done = subprocess.run(sys.argv[1:], check=True, capture_output=True, text=True)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps({
    "seconds": round(time.monotonic() - started, 1),
    "cpu_seconds": round(used.ru_utime + used.ru_stime, 1),
    "peak_rss_MiB": round(used.ru_maxrss / 1024),
    "counts": json.loads(done.stdout)["counts"],
}))
"""
"""Runs one command in a process of its own, whose children are that command alone."""


def exported(directory: Path) -> Path:
    import torch

    from converters.exporting import export
    from converters.networks import network_from_arch
    from converters.reference import noise_frame

    bundle = directory / "bundle"
    if not (bundle / "manifest.json").exists():
        torch.manual_seed(0)
        network = network_from_arch("smp-resnet18").eval()
        frames = tuple(noise_frame(SIZE, seed) for seed in range(FRAMES))
        export(network, bundle, size=SIZE, source="smp-resnet18", reference_frames=frames)
    return bundle


def measured(bundle: Path, *options: str) -> dict[str, Any]:
    """Seconds on the clock and on the processors, the latter for a machine that others use; and the peak."""
    command = [str(Path(sys.executable).with_name("smp-deploy")), "validate", str(bundle), "--json", *options]
    done = subprocess.run([sys.executable, "-c", MEASURED, *command], check=True, capture_output=True, text=True)
    return json.loads(done.stdout)  # type: ignore[no-any-return]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    output = parser.parse_args().output
    bundle = exported(output)
    quick, whole = measured(bundle, "--quick"), measured(bundle)
    result = {
        "network": "smp-resnet18, width 64",
        "size": SIZE,
        "frames": FRAMES,
        "processor": processor_title(),
        "quick": quick,
        "whole": whole,
        "ratio_seconds": round(whole["seconds"] / quick["seconds"], 2),
        "ratio_cpu_seconds": round(whole["cpu_seconds"] / quick["cpu_seconds"], 2),
    }
    (output / "validate-cost.json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
