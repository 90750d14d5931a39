"""The outcome of a study for people: report.html, one file that works offline; two twins of it.

Needs no Ray, and no finished study: a section without data says which command makes it.
"""

from __future__ import annotations

import base64
import gzip
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import Any

from search.record.study import Study
from search.record.whole_file import write_json, write_text
from search.report.answer import answer_figures
from search.report.audit import audit_figures
from search.report.classes import class_figures
from search.report.course import course_figures
from search.report.facts import MOST_FAILURES, MOST_ROWS, gather
from search.report.formats import FILTERS
from search.report.race import race_figures
from search.report.rungs import rung_figures
from search.report.space import space_figures
from search.report.twin import twin

TEMPLATES = Path(__file__).parent / "templates"


def write_report(study: Study) -> Path:
    """Write report.html, report.md and report.json into the study's folder; return the first.

    Raises:
        StudyError: A file cannot be written, or what was kept for the report is damaged.
    """
    facts = gather(study)
    facts |= {
        "written": datetime.now(UTC).timestamp(),
        "config_text": (study.folder / "config.yaml").read_text(encoding="utf-8"),
        "most_failures": MOST_FAILURES,
        "most_rows": MOST_ROWS,
    }
    figures = answer_figures(facts) | course_figures(facts) | rung_figures(facts)
    figures |= audit_figures(facts) | space_figures(facts)
    figures |= race_figures(facts) | class_figures(facts)
    page = {
        "figures": figures,
        "plotly": _packed_plotly() if figures else "",
        "css": (TEMPLATES / "report.css").read_text(encoding="utf-8"),
        "script": (TEMPLATES / "report.js").read_text(encoding="utf-8"),
    }
    path = study.folder / "report.html"
    # The largest one first: on a full disk all stay as they are.
    write_text(path, _render("report.html.j2", facts | page, escape=True))
    write_json(study.folder / "report.json", twin(facts))
    write_text(study.folder / "report.md", _render("report.md.j2", facts, escape=False))
    return path


def _render(template: str, facts: dict[str, Any], *, escape: bool) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=escape,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= FILTERS
    return environment.get_template(template).render(facts)


def _packed_plotly() -> str:
    # 4.8 MB as it is, 2 MB so; the page unpacks it with what every browser since 2023 has.
    code = resources.files("plotly").joinpath("package_data/plotly.min.js").read_bytes()
    return base64.b64encode(gzip.compress(code, 9, mtime=0)).decode("ascii")
