"""Time and peak memory of ``smp-deploy validate`` on SMP-18 at full width: 256x512, five frames, two threads.

    python benchmarks/validate_cost.py --output build/validate-cost

The weights are random, the frames noise in the range of real frames: neither changes time or memory.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

SIZE = (256, 512)
FRAMES = 5


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    output = parser.parse_args().output
    # The export runs in a process of its own: peak memory is that of the children's largest.
    code = f"from pathlib import Path; from benchmarks.validate_cost import exported; exported(Path({str(output)!r}))"
    if not (output / "bundle" / "manifest.json").exists():
        subprocess.run([sys.executable, "-c", code], check=True)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.monotonic()
    command = [str(Path(sys.executable).with_name("smp-deploy")), "validate", str(output / "bundle"), "--json"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    seconds = time.monotonic() - started
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    peak = after.ru_maxrss
    document = json.loads(done.stdout)
    result = {
        "network": "smp-resnet18, width 64",
        "size": SIZE,
        "frames": FRAMES,
        "seconds": round(seconds, 1),
        # On a machine that others use, the time on the processors says more than the clock.
        "cpu_seconds": round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 1),
        "peak_rss_MiB": round(peak / 1024) if peak > before.ru_maxrss else None,
        "counts": document["counts"],
    }
    (output / "validate-cost.json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
