"""``smp-deploy doctor``."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from engines.errors import InputError
from smp_deploy.cli.console import print_json, print_table
from smp_deploy.cli.options import JsonOption


def doctor_command(
    as_json: JsonOption = False,
    sbom: Annotated[
        bool,
        typer.Option(
            "--sbom", help="Print the bill of materials (CycloneDX 1.6) of smp-deploy and of what it requires here."
        ),
    ] = False,
) -> None:
    """Say what this machine can do: runtimes, GPUs, versions, what is missing and how to install it."""
    if sbom and as_json:
        raise InputError("--sbom and --json each print a document of their own; give one")
    if sbom:
        from smp_deploy.materials.cyclonedx import builtins_from_bom
        from smp_deploy.materials.installed import bom_of_installation

        print_json(builtins_from_bom(bom_of_installation()))
        return
    from smp_deploy.machine import capabilities, machine_facts

    facts, found = machine_facts(), capabilities()
    if as_json:
        print_json({"machine": facts, "capabilities": [asdict(capability) for capability in found]})
        return
    print_table(("machine", ""), list(facts.items()))
    print_table(
        ("can it", "", "found", "to get it"),
        [(c.name, "yes" if c.available else "no", c.found, c.remedy) for c in found],
    )
