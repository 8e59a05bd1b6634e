"""Plan for a memory budget: what every schedule is predicted to hold, which one is chosen, and why.

``python 03_plan_and_open_with_a_budget.py road.bundle --memory 512MiB``
"""

from __future__ import annotations

import argparse
from pathlib import Path

import smp_deploy


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--memory", default="512MiB", help="what the process may hold")
    options = parser.parse_args()

    bundle = smp_deploy.Bundle.open(options.bundle)
    plan = smp_deploy.plan(bundle, memory=options.memory)
    for candidate in plan.candidates:
        peak = plan.needed_bytes(candidate) / 2**20
        print(f"{candidate.schedule}: {peak:.1f} MiB, compute x{candidate.compute:.2f}, fits: {plan.fits(candidate)}")

    chosen = smp_deploy.choose_schedule(bundle, memory=options.memory)
    print(f"chosen: {chosen.schedule}")
    print(f"because: {chosen.reason}")
    with smp_deploy.Session.open(bundle, memory=options.memory) as session:
        labels = session.predict(smp_deploy.Scenes("val", size=bundle.manifest.input.size).load(0).image)
        print(f"opened: {session.schedule}; {len(session.grid.phases)} phases; labels {labels.shape} {labels.dtype}")


if __name__ == "__main__":
    main()
