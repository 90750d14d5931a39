"""Write the first look as one HTML page that needs nothing from outside."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from data.explore_facts import ClassFacts, Duplicates, Twin
from data.images import LabelledImages

_STYLE = """
:root { color-scheme: light dark; --ground: #fff; --ink: #1c2330; --soft: #5b6676;
  --line: #d9dee6; --warn: #fff4d6; }
@media (prefers-color-scheme: dark) {
  :root { --ground: #14181f; --ink: #e6eaf0; --soft: #a0abba; --line: #333c49; --warn: #4a3a10; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 60rem; background: var(--ground);
  color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.7rem; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2.5rem 0 .5rem; }
p { margin: .4rem 0; } .soft { color: var(--soft); overflow-wrap: anywhere; }
.warn { background: var(--warn); padding: .7rem 1rem; border-radius: .4rem; margin: 1rem 0; }
dl { display: grid; grid-template-columns: repeat(auto-fit, minmax(8.5rem, 1fr)); gap: .6rem 1rem;
  border-block: 1px solid var(--line); padding: 1rem 0; margin: 1rem 0; }
dt { color: var(--soft); font-size: .85rem; }
dd { margin: 0; font-size: 1.15rem; font-weight: 600; }
figure, .wide { margin: .5rem 0; overflow-x: auto; }
/* On a phone a figure is wider than the page, so that its words can be read: it scrolls. */
img { display: block; width: 100%; min-width: 40rem; height: auto; background: #fff;
  border: 1px solid var(--line); border-radius: .4rem; padding: .4rem; }
@media (prefers-color-scheme: dark) { img { filter: brightness(.88); } }
@media print { img { min-width: 0; } figure { break-inside: avoid; } h2 { break-after: avoid; } }
@media (max-width: 40rem) { td:first-child, th:first-child { position: sticky; left: 0;
  background: var(--ground); max-width: 9rem; white-space: normal; } }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .6rem; border-bottom: 1px solid var(--line); text-align: right;
  white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """Hold one section of the page."""

    heading: str
    """Of the section."""

    text: str
    """What to see in it."""

    png: bytes | None
    """The figure; None where the text says it all."""


def render_page(
    train: LabelledImages,
    test: LabelledImages | None,
    facts: Sequence[ClassFacts],
    duplicates: Duplicates,
    pictures: Sequence[Picture],
) -> str:
    """Return the page; images lie inside it, and its policy lets a browser fetch nothing."""
    warning = (
        '<p class="warn"><strong>Not real data.</strong> This program drew the images itself; '
        "figures measured on them say nothing about real photographs.</p>"
        if train.synthetic
        else ""
    )
    body = [
        f"<h1>{escape(train.name)}: a first look</h1>",
        f'<p class="soft">Source: {escape(train.origin)}</p>',
        warning,
        _summary(train, test, duplicates),
        *(_section(picture) for picture in pictures),
        _class_table(facts),
        f'<p class="soft">Fingerprint of the training part (SHA-256): {train.fingerprint()}</p>',
    ]
    return "\n".join(
        [
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">',
            '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
            "img-src data:; style-src 'unsafe-inline'\">",
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(train.name)}: a first look</title>",
            f"<style>{_STYLE}</style></head><body>",
            *body,
            "</body></html>\n",
        ]
    )


def tell_duplicates(
    train: LabelledImages, test: LabelledImages | None, duplicates: Duplicates
) -> str:
    """Say in words how many exact copies there are, and how many are labelled differently."""
    told = _tell(duplicates.within_train, train, "training images repeat an earlier one")
    if duplicates.across is not None and test is not None:
        told += " " + _tell(duplicates.across, test, "test images are also training images")
    return told + " Compared by SHA-256 of the pixels; near copies are not found."


def _tell(twins: Sequence[Twin], among: LabelledImages, what: str) -> str:
    share = 100 * len(twins) / among.num_images
    differ = sum(not twin.same_label for twin in twins)
    labels = f", {differ:,} of them under another label" if twins else ""
    return f"{len(twins):,} of {among.num_images:,} {what} ({share:.2f} %){labels}."


def _summary(train: LabelledImages, test: LabelledImages | None, duplicates: Duplicates) -> str:
    shape = train.shape
    colour = "grey" if shape.channels == 1 else "colour"
    items = [
        ("training images", f"{train.num_images:,}"),
        ("test images", "not looked at" if test is None else f"{test.num_images:,}"),
        ("size", f"{shape.height} x {shape.width}, {colour}"),
        ("classes", f"{shape.num_classes}"),
        ("copies", f"{len(duplicates.within_train):,}"),
    ]
    if duplicates.across is not None:
        items.append(("test in training", f"{len(duplicates.across):,}"))
    inside = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in items)
    return f"<dl>{inside}</dl>"


def _section(picture: Picture) -> str:
    words = f"<h2>{escape(picture.heading)}</h2><p>{escape(picture.text)}</p>"
    if picture.png is None:
        return words
    encoded = base64.b64encode(picture.png).decode("ascii")
    alt = escape(picture.heading)
    return f'{words}<figure><img alt="{alt}" src="data:image/png;base64,{encoded}"></figure>'


def _class_table(facts: Sequence[ClassFacts]) -> str:
    heads = "".join(
        f"<th>{head}</th>"
        for head in ("class", "training", "test", "mean pixel", "std. dev.", "black pixels")
    )
    rows = "".join(
        f"<tr><td>{escape(fact.name)}</td><td>{fact.num_train:,}</td>"
        f"<td>{'-' if fact.num_test is None else f'{fact.num_test:,}'}</td>"
        f"<td>{fact.mean:.1f}</td><td>{fact.deviation:.1f}</td>"
        f"<td>{100 * fact.black:.1f} %</td></tr>"
        for fact in facts
    )
    return (
        "<h2>In figures</h2><p>Pixel values run from 0 (black) to 255; measured on training "
        f'images.</p><div class="wide"><table><thead><tr>{heads}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )
