"""Making a report: what a bundle's records hold, as a value, as text and as a page."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from engines.bundle.bundle import REPORTS, Bundle
from engines.bundle.records import Proven, Validation
from smp_deploy.reports.benches import rows_of
from smp_deploy.reports.documents import stored, stored_proofs
from smp_deploy.reports.pages import bench_text, page_of, text_of
from smp_deploy.reports.targets import check_file_target, write_to_target
from smp_deploy.reports.verdicts import Judgement, judged

_PAGE = "report.html"


@dataclass(frozen=True)
class Report:
    """The last validation of a bundle, and what was benchmarked."""

    validation: Validation
    """The record of the validation."""
    benches: list[dict[str, Any]]
    """A row for every measurement."""
    judgement: Judgement
    """The verdict of all records together: no pass where the validation is of other bytes than the bundle's."""
    proofs: dict[Proven, Validation]
    """Those of backends on a target."""
    path: Path | None = None
    """The page, where one was written."""

    @property
    def text(self) -> str:
        """A summary, line by line."""
        return "\n".join(filter(None, (text_of(self.validation, self.judgement), bench_text(self.benches))))


def report_of(bundle: Bundle | str | Path) -> Report:
    """Read what a report shows, without writing a page.

    Raises :class:`InputError` where the bundle has not been validated, :class:`BundleError` where its record cannot be
    read.
    """
    opened = Bundle.of(bundle)
    validation, proofs = stored(opened), stored_proofs(opened)
    return Report(validation, list(rows_of(opened)), judged(opened, validation, proofs), proofs)


def report(bundle: Bundle | str | Path, output: str | Path | None = None) -> Report:
    """Make one self-contained HTML page of the last validation of a bundle.

    Args:
        bundle: an open bundle, or the path of one.
        output: the page; by default ``reports/report.html`` of the bundle. A file that stands there is replaced only
            if its name ends in ``.html``.

    Raises:
        OutputError: the page cannot be written there.
        MissingDependency: the packages of the extra ``[report]`` are missing.
        InputError, BundleError: as :func:`report_of`.
    """
    opened = Bundle.of(bundle)
    target = opened.path / REPORTS / _PAGE if output is None else Path(output)
    check_file_target(opened, target, ".html")
    found = report_of(opened)
    page = page_of(opened, found.validation, found.judgement).encode()
    if output is None:
        opened.write_report(_PAGE, page)
    else:
        write_to_target(target, page, ".html")
    return replace(found, path=target)
