"""The report's files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cachegen.evaluation.report.tables import write_tables
from cachegen.evaluation.results import Result
from cachegen.evaluation.results_json import to_json


def write_report(results: Sequence[Result], out: Path) -> Path:
    """Write `report.html`, `results.json`, `rows.csv` and the other sections' CSV files.

    Args:
        results: one for every model, in the order in which they are shown.
        out: folder; made where it is missing.

    Returns:
        The HTML file.

    Raises:
        ValueError: there are no results, or jinja2 or matplotlib is missing.
    """
    if not results:
        raise ValueError("expected at least one result, got none")
    check_packages()
    from cachegen.evaluation.report.page import page

    out.mkdir(parents=True, exist_ok=True)
    (out / "results.json").write_text(to_json(results), encoding="utf-8")
    write_tables(results, out)
    path = out / "report.html"
    path.write_text(page(results), encoding="utf-8")
    return path


def check_packages() -> None:
    """Find out before anything is measured whether a report can be written.

    Raises:
        ValueError: a package is missing.
    """
    try:
        import jinja2  # noqa: F401
        import matplotlib  # noqa: F401
    except ModuleNotFoundError as error:
        raise ValueError(f"a report needs {error.name}: pip install 'cachegen[eval]'") from error
