"""Memory of one training step: SMP by shrink-expand, and FCN32s and FCN8s on the same backbone.

    python benchmarks/training_memory.py -o training-memory.json

Each step (forward, loss, backward, and one step of Adam) runs in a process of its own. `kept` is what the forward pass
holds for the backward pass, counted by PyTorch's hooks, each storage once and parameters left out; `peak` is how far
the largest resident set of the process grew over that before the step, Adam's state and the gradients in it.
"""

from __future__ import annotations

import json
import multiprocessing
import resource
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor

from converters.networks import network_from_arch
from smp_deploy.cli.console import print_table
from smp_deploy.training import draw_sampling, sampled_labels, sampled_logits, training_form

MIB = 2**20
_KIB = 1024  # Linux counts resident sets in KiB
FAMILIES = {"FCN32s": "fcn32s", "FCN8s": "fcn8s", "SMP": "smp"}


def measured(family: str, options: dict[str, Any]) -> dict[str, float]:
    """MiB that one step keeps and takes at its peak."""
    torch.set_num_threads(options["threads"])
    torch.manual_seed(0)
    network = network_from_arch(f"{family}-{options['backbone']}", classes=19, width=options["width"]).train()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-5, weight_decay=5e-4)
    parameters = {parameter.untyped_storage().data_ptr() for parameter in network.parameters()}
    storages: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    # A small step first: what the libraries load and allocate once is not the step's.
    _step(network, options["batch"], 64)
    network.zero_grad(set_to_none=True)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        _step(network, options["batch"], options["crop"])
    optimizer.step()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return {"kept_mib": sum(storages.values()) / MIB, "peak_mib": peak * _KIB / MIB}


def _step(network: torch.nn.Module, batch: int, crop: int) -> None:
    x, labels = torch.randn(batch, 3, crop, crop), torch.randint(19, (batch, crop, crop))
    form = training_form(network, 0)
    sampling = draw_sampling(form, torch.Generator().manual_seed(0))
    logits, labels = sampled_logits(form, x, sampling), sampled_labels(labels, sampling)
    torch.nn.functional.cross_entropy(logits, labels).backward()  # type: ignore[no-untyped-call]


def main(
    output: Annotated[Path, typer.Option("--output", "-o")],
    backbone: str = "resnet18",
    width: int = 64,
    batch: int = 2,
    crop: int = 512,
    threads: int = 1,
) -> None:
    settings = {"backbone": backbone, "width": width, "batch": batch, "crop": crop, "threads": threads}
    results = {}
    for name, family in FAMILIES.items():
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            results[name] = pool.apply(measured, (family, settings))
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps({"settings": settings, "results": results}, indent=2) + "\n")
    base = results["FCN32s"]
    rows = [
        (name, *(f"{found[key]:.0f} ({found[key] / base[key]:.2f})" for key in ("kept_mib", "peak_mib")))
        for name, found in results.items()
    ]
    title = f"{backbone} of width {width}, {batch} crops of {crop} pixels"
    print_table(("network", "kept, MiB", "peak, MiB"), rows, title=title)


if __name__ == "__main__":
    typer.run(main)
