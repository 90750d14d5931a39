"""What a study's trials say about its space, as a page of a terminal; 80 columns are enough."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from search.explain.child import change_line
from search.explain.space_advice import Advice
from search.explain.space_findings import Finding
from search.words import one_line, plural

_WORDS = {
    "edge": "bound hit",
    "dead": "did nothing",
    "failed": "failed",
    "weak": "always weak",
}


def space_page(advice: Advice, file: str) -> RenderableType:
    """Return the page; `file` is where the child's study file was written."""
    head = Text(f"{plural(advice.trials, 'trial')} with a value, {advice.failed} that failed.")
    parts: list[RenderableType] = [head, "", _keys(advice)]
    if advice.remark:
        parts += ["", Text(advice.remark, style="yellow")]
    if advice.findings:
        parts += ["", _findings(advice)]
    elif not advice.remark:
        parts += ["", Text("Nothing in it asks for another space.")]
    if advice.changes:
        parts += ["", Text("Changes", style="bold")]
        parts += [Text(f"  {_short(change_line(c.to_dict()))}") for c in advice.changes]
    parts += ["", _next(advice, file)]
    title = Text.assemble((one_line(advice.study), "bold"), " - space")
    return Panel(Group(*parts), title=title, title_align="left", border_style="dim")


def _keys(advice: Advice) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("Parameter", no_wrap=True)
    for column in ("Importance", "Best at lowest", "Best at highest"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("Verdict")
    kinds: dict[str, list[str]] = {}
    for finding in advice.findings:
        kinds.setdefault(finding.key, []).append(_WORDS[finding.kind])
    for key, names in advice.keys.items():
        for name in names:
            share = advice.importance.get(name)
            ends = {one.end: one for one in advice.ends.get(name, ())}
            counts = [
                f"{ends[end].inside} of {ends[end].of} ({ends[end].expected:.1f})"
                if end in ends
                else "-"
                for end in ("lowest", "highest")
            ]
            silent = "cannot tell" if advice.remark else "keep"
            verdict = ", ".join(kinds.get(key, [])) or silent
            table.add_row(
                name,
                "-" if share is None else f"{100 * share:.0f} %",
                *counts,
                verdict if name == names[0] else "",
                style="bold" if key in kinds else None,
            )
    return table


def _findings(advice: Advice) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    for finding in advice.findings:
        table.add_row(_WORDS[finding.kind], Text(_told(finding, advice)))
    return table


def _told(finding: Finding, advice: Advice) -> str:
    text = f"{finding.key}: {finding.evidence}. {sure(finding)}"
    if finding.key in advice.kept:
        text += f" Not changed: {one_line(advice.kept[finding.key])}."
    return text


def sure(finding: Finding) -> str:
    """Return how sure a finding is, in words."""
    if finding.kind == "dead":
        return "Of what does more than that, one in 20 is called so."
    if finding.chance < 1e-6:
        return "Chance would show that in less than one study in a million."
    return f"Chance would show that in one study in {1 / finding.chance:,.0f}."


def _next(advice: Advice, file: str) -> RenderableType:
    lines = [f"Written: {file}", f"Next:    python -m search run --from {advice.study} {file}"]
    return Text("\n".join(lines), style="dim", overflow="fold")


def _short(text: str) -> str:
    # The evidence stands above already.
    return text.partition("}: ")[0] + "}" if "}: " in text else text.partition(": parts")[0]
