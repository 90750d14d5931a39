"""The first look: its numbers against plain counting, its page against a parser."""

from __future__ import annotations

import base64
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from data.explore import explore
from data.explore_facts import find_duplicates, measure_classes
from data.images import LabelledImages
from data.synthetic import draw_garments


def with_copies() -> tuple[LabelledImages, LabelledImages]:
    """Make small colour parts: train 5 and 9 repeat train 2, and test 0 and 3 are train 4."""
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (40, 3, 6, 6), dtype=np.uint8)
    images[[5, 9]] = images[2]
    labels = np.arange(40) % 3
    labels[9] = (labels[2] + 1) % 3
    other = generator.integers(0, 256, (10, 3, 6, 6), dtype=np.uint8)
    other[[0, 3]] = images[4]
    told = np.array([labels[4], 0, 0, (labels[4] + 1) % 3, 1, 1, 2, 2, 0, 1])
    classes = ("a <b>", "bag & more", "a class with a very long name")
    train = LabelledImages(
        images=images, labels=labels, classes=classes, name="small <set>", origin="/some/where"
    )
    return train, LabelledImages(
        images=other, labels=told, classes=classes, name="small <set>", origin="/some/where"
    )


@pytest.fixture(scope="module")
def looked_at(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return explore(*with_copies(), tmp_path_factory.mktemp("look") / "new" / "folder")


class Page(HTMLParser):
    """Collect tags and words; complain of nothing left open."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data


def test_copies_are_found_within_train_and_across_with_their_labels() -> None:
    found = find_duplicates(*with_copies())

    assert [(t.first, t.second, t.same_label) for t in found.within_train] == [
        (2, 5, True),
        (2, 9, False),
    ]
    assert found.across is not None
    assert [(t.first, t.second, t.same_label) for t in found.across] == [
        (4, 0, True),
        (4, 3, False),
    ]
    assert find_duplicates(with_copies()[0], None).across is None


def test_classes_are_measured_as_plain_numpy_would() -> None:
    train, test = with_copies()
    for label, facts in enumerate(measure_classes(train, test)):
        pixels = train.images[train.labels == label].astype(np.float64)
        assert facts.num_train == len(pixels)
        assert facts.num_test == (test.labels == label).sum()
        assert facts.mean == pytest.approx(pixels.mean())
        assert facts.deviation == pytest.approx(pixels.std())
        assert facts.black == pytest.approx((pixels == 0).mean())


def test_every_figure_lies_in_the_folder_and_in_the_page(looked_at: Path) -> None:
    folder = looked_at.parent
    names = ["balance", "samples", "means", "intensity", "embedding", "copies"]
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        ["index.html", *(f"{name}.png" for name in names)]
    )
    sources = [
        attrs["src"] or "" for tag, attrs in Page(looked_at.read_text()).tags if tag == "img"
    ]
    for name, source in zip(names, sources, strict=True):
        png = (folder / f"{name}.png").read_bytes()
        assert png.startswith(b"\x89PNG")
        assert base64.b64decode(source.removeprefix("data:image/png;base64,")) == png


def test_the_page_needs_nothing_from_outside_and_runs_nothing(looked_at: Path) -> None:
    text = looked_at.read_text()
    page = Page(text)

    assert page.open == []
    assert "http://" not in text
    assert "https://" not in text
    assert {tag for tag, _ in page.tags} & {"script", "link", "iframe"} == set()
    policy = [attrs["content"] for tag, attrs in page.tags if "http-equiv" in attrs]
    assert policy == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]
    assert all(attrs.get("alt") for tag, attrs in page.tags if tag == "img")
    assert ("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}) in (
        page.tags
    )
    assert "prefers-color-scheme: dark" in text


def test_the_page_says_where_the_data_are_from_and_names_are_not_markup(looked_at: Path) -> None:
    page = Page(looked_at.read_text())

    for words in ("small <set>: a first look", "Source: /some/where", "a <b>", "bag & more"):
        assert words in page.words
    assert "2 of 40 training images repeat an earlier one (5.00 %), 1 of them" in page.words
    assert "2 of 10 test images are also training images (20.00 %), 1 of them" in page.words
    assert "Not real data" not in page.words
    assert with_copies()[0].fingerprint() in page.words


def test_drawn_data_are_called_so_and_a_test_part_may_be_left_out(tmp_path: Path) -> None:
    page = Page(explore(draw_garments(60, part="train", seed=0), None, tmp_path).read_text())

    assert "Not real data." in page.words
    assert "drawn by this program, seed 0" in page.words
    assert "not looked at" in page.words
    assert "0 of 60 training images repeat an earlier one (0.00 %)." in page.words
    assert "test images are also" not in page.words
    assert not (tmp_path / "copies.png").exists()
