"""Reports: the record of a validation, and the page that is made of it."""

from smp_deploy.reports.making import Report, report, report_of

__all__ = ["Report", "report", "report_of"]
