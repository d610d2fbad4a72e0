"""The report of an evaluation: one HTML page, tables as CSV, results as JSON."""

from cachegen.evaluation.report.write import check_packages, write_report

__all__ = ["check_packages", "write_report"]
