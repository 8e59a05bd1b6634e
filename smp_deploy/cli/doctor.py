"""``smp-deploy doctor``."""

from __future__ import annotations

from dataclasses import asdict

from smp_deploy.cli.console import print_json, print_table
from smp_deploy.cli.options import JsonOption


def doctor_command(as_json: JsonOption = False) -> None:
    """Say what this machine can do: runtimes, GPUs, versions, what is missing and how to install it."""
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
