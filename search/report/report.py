"""The outcome of a study for people: report.html, one file that works offline, and report.md.

Needs no Ray, and no finished study: a section without data says which command makes it.
"""

from __future__ import annotations

import base64
import gzip
import io
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import Any

from data.plain_file import open_plain
from search.record.study import Study, StudyError
from search.record.whole_file import write_text
from search.report.audit import audit_figures
from search.report.course import course_figures
from search.report.facts import MOST_FAILURES, MOST_ROWS, gather
from search.report.figures import result_figures
from search.report.rungs import rung_figures
from search.report.space import space_figures

TEMPLATES = Path(__file__).parent / "templates"
_MOST_KEPT = 256 << 20  # bytes of the few images that were misjudged most surely


def write_report(study: Study) -> Path:
    """Write report.html and report.md into the study's folder; return the HTML file."""
    facts = gather(study)
    facts |= {
        "written": datetime.now(UTC).timestamp(),
        "config_text": (study.folder / "config.yaml").read_text(encoding="utf-8"),
        "worst": _worst(study, facts),
        "most_failures": MOST_FAILURES,
        "most_rows": MOST_ROWS,
    }
    figures = result_figures(facts) | course_figures(facts) | rung_figures(facts)
    figures |= audit_figures(facts) | space_figures(facts)
    page = {
        "figures": figures,
        "plotly": _packed_plotly() if figures else "",
        "css": (TEMPLATES / "report.css").read_text(encoding="utf-8"),
        "script": (TEMPLATES / "report.js").read_text(encoding="utf-8"),
    }
    path = study.folder / "report.html"
    # The larger one first: on a full disk both stay as they are.
    write_text(path, _render("report.html.j2", facts | page, escape=True))
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
    environment.filters |= {
        "percent": percent,
        "interval": interval,
        "count": count,
        "short": short,
        "duration": duration,
        "when": when,
        "plain": plain,
    }
    return environment.get_template(template).render(facts)


def percent(value: float | None, digits: int = 2) -> str:
    """Return a share in percent: 0.91236 -> 91.24%; a dash for nothing."""
    return "-" if value is None else f"{100 * value:.{digits}f}%"


def interval(bounds: list[float] | None, digits: int = 2) -> str:
    """Return an interval in percent: 90.65 to 91.80%."""
    if bounds is None:
        return "-"
    return f"{100 * bounds[0]:.{digits}f} to {100 * bounds[1]:.{digits}f}%"


def count(value: float | None) -> str:
    """Return a whole number with its thousands apart: 72,666."""
    return "-" if value is None else f"{value:,.0f}"


def short(value: float | None) -> str:
    """Return a large number in three digits: 3154816 -> 3.15 M."""
    if value is None:
        return "-"
    for size, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if value >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"


def duration(seconds: float) -> str:
    """Return a time in the two units that matter: 3905 -> 1 h 05 min."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def when(at: float) -> str:
    """Return a Unix time as a date and time, UTC."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M UTC")


def plain(text: Any) -> str:
    """Return text that stands for itself in a cell of a Markdown table."""
    words = " ".join(str(text).split()).replace("\\", "\\\\")
    for mark, kept in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;")):
        words = words.replace(mark, kept)
    for mark in "|`*_[]":
        words = words.replace(mark, "\\" + mark)
    return words


def _worst(study: Study, facts: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the test images that the winner's first model misjudged most surely, as PNG data."""
    path = study.folder / "final" / "winner-s0" / "worst.npz"
    if not path.is_file() or facts["evaluation"] is None:
        return []
    try:
        return _drawn(path, [score["name"] for score in facts["evaluation"]["per_class"]])
    except Exception as error:  # NumPy raises nearly anything on a damaged file
        raise StudyError(
            f"{path} is not what was written ({error}); remove it, and the report leaves the"
            " misjudged images out"
        ) from error


def _drawn(path: Path, names: list[str]) -> list[dict[str, Any]]:
    import numpy as np
    from PIL import Image

    found = []
    with open_plain(path) as file, np.load(file, allow_pickle=False) as kept:
        if sum(part.file_size for part in kept.zip.infolist()) > _MOST_KEPT:
            raise ValueError(f"it unpacks to more than {_MOST_KEPT} bytes")
        rows = zip(
            *(kept[key] for key in ("images", "labels", "predictions", "probabilities")),
            strict=True,
        )
        for pixels, label, answer, shares in rows:
            if label == answer:
                continue  # so few mistakes that right answers were kept too
            image = Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))
            buffer = io.BytesIO()
            image.save(buffer, "PNG", optimize=True)
            found.append(
                {
                    "true": names[int(label)],
                    "answer": names[int(answer)],
                    "share": float(shares[int(answer)]),
                    "share_of_true": float(shares[int(label)]),
                    "png": base64.b64encode(buffer.getvalue()).decode("ascii"),
                }
            )
    return found


def _packed_plotly() -> str:
    # 4.8 MB as it is, 2 MB so; the page unpacks it with what every browser since 2023 has.
    code = resources.files("plotly").joinpath("package_data/plotly.min.js").read_bytes()
    return base64.b64encode(gzip.compress(code, 9, mtime=0)).decode("ascii")
