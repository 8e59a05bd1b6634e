"""``smp-deploy report``."""

from __future__ import annotations

from pathlib import Path

import click

from engines.bundle.bundle import Bundle
from engines.bundle.records import builtins_from_record
from engines.bundle.staging import write_file
from smp_deploy.cli.console import note, print_json
from smp_deploy.cli.options import bundle_argument, json_option


@click.command("report", short_help="Make a page of the last validation.")
@bundle_argument
@click.option("--output", "-o", type=click.Path(path_type=Path), help="HTML file; default BUNDLE/reports/report.html.")
@json_option
def report_command(bundle: Path, output: Path | None, as_json: bool) -> int:
    """Make one self-contained HTML page of the last validation of BUNDLE, and print its summary.

    The page needs no network and no other file. With --json the same content goes to stdout as one document, and a
    page is written only where -o asks for it. A file that stands at -o is replaced only if it is .html.
    """
    from smp_deploy.reports.benches import rows_of
    from smp_deploy.reports.documents import stored
    from smp_deploy.reports.pages import bench_text, page_of, text_of
    from smp_deploy.reports.targets import check_file_target

    opened = Bundle.open(bundle)
    target = output or opened.path / "reports" / "report.html"
    check_file_target(opened, target, ".html")
    record, benches = stored(opened), list(rows_of(opened))
    if output is not None or not as_json:
        write_file(target, page_of(opened, record).encode())
        note(f"wrote {target}")
    if as_json:
        print_json({**builtins_from_record(record), "benches": benches})
    else:
        click.echo("\n".join(filter(None, (text_of(record), bench_text(benches)))))
    return 0
