"""``smp-deploy report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from engines.bundle.bundle import Bundle
from engines.bundle.records import builtins_from_record
from smp_deploy.cli.console import note, print_json, print_lines
from smp_deploy.cli.options import BundleArgument, JsonOption


def report_command(
    bundle: BundleArgument,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="PATH", help="HTML file; default BUNDLE/reports/report.html."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Make one self-contained HTML page of the last validation of BUNDLE, and print its summary.

    The page needs no network and no other file. With --json the same content goes to stdout as one document, and a
    page is written only where -o asks for it. A file that stands at -o is replaced only if it is .html.
    """
    from smp_deploy.reports import report, report_of

    opened = Bundle.open(bundle)
    found = report_of(opened) if as_json and output is None else report(opened, output)
    if found.path is not None:
        note(f"wrote {found.path}")
    if as_json:
        print_json(
            {
                **builtins_from_record(found.validation),
                "bundle_verdict": found.judgement.verdict.value,
                "headline": found.judgement.headline,
                "benches": found.benches,
            }
        )
    else:
        print_lines(found.text)
