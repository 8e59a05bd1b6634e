"""Prove that a bundle computes what its network computes, hop by hop, with the live network and a labelled frame.

``python 02_validate.py road.bundle``; exits with 1 where a check failed.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from safetensors.torch import load_file

import smp_deploy


def say(check: smp_deploy.Check) -> None:
    figure = check.detail if check.value is None else f"{check.value:.3g} (tolerance {check.tolerance:.3g})"
    print(f"{check.status.value:8} {check.name}: {figure}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    bundle = smp_deploy.Bundle.open(parser.parse_args().bundle)

    network = smp_deploy.network_from_arch("smp-resnet18", classes=len(bundle.manifest.classes), width=8).eval()
    network.load_state_dict(load_file(bundle.path.with_suffix(".safetensors")))
    scene = smp_deploy.Scenes("val", size=bundle.manifest.input.size).load(0)
    # An image alone will do; with labels that people gave, the mean IoU is compared too.
    frame = smp_deploy.Frame(scene.name, scene.image, truth=scene.labels)
    validation = smp_deploy.validate(bundle, network=network, frames=[frame], on_check=say)

    counts = ", ".join(f"{count} {status.value}" for status, count in validation.counts.items())
    print(f"{validation.verdict.value}: {counts}; {validation.seconds:.1f} s")
    for precision, labels in validation.agreements.items():
        print(f"{precision.value}: {labels.differing} of {labels.pixels} labels differ from fp32's")
    return int(validation.verdict is smp_deploy.Status.FAILED)


if __name__ == "__main__":
    sys.exit(main())
