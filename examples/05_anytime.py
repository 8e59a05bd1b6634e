"""Complete predictions before the last phase: growing ones with ``refine``, and the best one by a deadline.

``python 05_anytime.py road.bundle --deadline-ms 20``; at least one sub-batch is computed, however short the deadline
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import smp_deploy


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--deadline-ms", type=float, default=20.0)
    options = parser.parse_args()

    bundle = smp_deploy.Bundle.open(options.bundle)
    frame = smp_deploy.Scenes("val", size=bundle.manifest.input.size).load(0).image
    with smp_deploy.Session.open(bundle, schedule=smp_deploy.Schedule(levels=2, sub_batch=4)) as session:
        whole = session.predict(frame)
        for step in session.refine(frame):
            equal = (step.prediction == whole).mean()
            print(f"{step.phases_done} of {step.phases} phases: {step.computed.mean():.2%} computed, {equal:.2%} final")
        print("the last is predict's:", bool((step.prediction == whole).all()))

        started = time.perf_counter()
        given = session.predict(frame, deadline_ms=options.deadline_ms)
        took = (time.perf_counter() - started) * 1000
        print(f"deadline {options.deadline_ms:g} ms: {given.phases_done} of {given.phases} phases in {took:.1f} ms")


if __name__ == "__main__":
    main()
