"""The report: one HTML file that shows a whole benchmark and needs no network."""

from frbench.report.build import write_report

__all__ = ["write_report"]
