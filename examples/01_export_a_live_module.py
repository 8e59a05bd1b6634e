"""Export a network that is in memory: every trunk in fp32 and fp16, and what the manifest says of them.

``python 01_export_a_live_module.py road.bundle``; the parameters go to ``road.safetensors``, as a training would leave
them. The other examples read on from this bundle.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from safetensors.torch import save_file

import smp_deploy

SIZE = (64, 96)
CLASSES = smp_deploy.Scenes.info.classes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path, help="where the bundle goes")
    path = parser.parse_args().bundle

    torch.manual_seed(0)
    network = smp_deploy.network_from_arch("smp-resnet18", classes=len(CLASSES), width=8).eval()
    save_file(network.state_dict(), path.with_suffix(".safetensors"))
    bundle = smp_deploy.export(
        network,
        path,
        size=SIZE,
        precisions=("fp16",),
        levels=(1, 2),
        classes=CLASSES,
        source="smp-resnet18",  # with these two, smp-deploy validate --checkpoint builds the network anew
        width=8,
        replace=True,
    )

    manifest = bundle.manifest
    print(f"{manifest.network.source}: {manifest.network.parameters} parameters, frames of {manifest.input.size}")
    print("windows:", ", ".join(f"{rows}x{columns}" for rows, columns in manifest.windows))
    for trunk in manifest.trunks:
        phases, graphs = len(manifest.grid(trunk).phases), ", ".join(precision.value for precision in trunk.graphs)
        print(f"levels {trunk.levels}, {trunk.lowering.value}: {phases} phases; {graphs}")


if __name__ == "__main__":
    main()
