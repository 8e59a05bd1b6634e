"""Build a TensorRT-RTX engine of a bundle and keep it there; the second time it is found, not built.

``python 04_build_an_engine.py road.bundle``; without TensorRT-RTX it says how to install it and exits with 1.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import smp_deploy


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--sub-batch", type=int, default=2, help="phases that the engine takes at a time")
    options = parser.parse_args()

    bundle = smp_deploy.Bundle.open(options.bundle)
    for _ in range(2):
        started = time.perf_counter()
        try:
            build = smp_deploy.build_engine(bundle, "tensorrt-rtx", "fp16", levels=2, sub_batch=options.sub_batch)
        except smp_deploy.MissingDependency as error:
            print(f"no engine is built: {error}", file=sys.stderr)
            return 1
        bundle, engine = build.bundle, build.engine
        size = bundle.file(engine.engine).stat().st_size / 2**20
        done = "found" if build.cached else "built"
        print(f"{done} in {time.perf_counter() - started:.1f} s: {engine.engine}, {size:.2f} MiB, {engine.schedule}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
