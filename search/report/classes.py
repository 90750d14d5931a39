"""What the report says of the final model class by class: scores, mistakes, calibration, images."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data.plain_file import open_plain
from model.evaluate import wilson_interval
from search.record.study import Study, StudyError
from search.report.figures import Figure, new_figure, points

_DRAWS = 2000
_MOST_KEPT = 256 << 20  # bytes of the few images that were misjudged most surely


def class_facts(study: Study, model: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return each class's scores, the most frequent mistakes and the most wrong images.

    Args:
        study: Whose model it is.
        model: Its row of final/metrics.json; None, or without `test`, before the look.

    Raises:
        StudyError: The images that were kept are damaged.
    """
    evaluation = model["test"] if model else None
    if model is None or evaluation is None:
        return {"classes": [], "confusions": [], "worst": []}
    bounds = f1_intervals(evaluation["confusion"])
    scores = [
        dict(score) | {"f1_ci95": ci95}
        for score, ci95 in zip(evaluation["per_class"], bounds, strict=True)
    ]
    return {
        "classes": scores,
        "confusions": _confusions(evaluation),
        "worst": _worst(
            study.folder / "final" / model["name"] / "worst.npz",
            [score["name"] for score in scores],
        ),
    }


def f1_intervals(confusion: Sequence[Sequence[int]]) -> list[list[float]]:
    """Return the 95 % bootstrap interval of each class's F1, over test images.

    F1 needs four counts only, so images are redrawn by a multinomial of these (Efron 1979).

    Args:
        confusion: (K, K) counts; the row is the true class, the column the answer.
    """
    draw = np.random.default_rng(0)
    table = np.asarray(confusion, dtype=np.int64)
    total, found = int(table.sum()), []
    for k in range(len(table)):
        right = int(table[k, k])
        missed, wrong = int(table[k].sum()) - right, int(table[:, k].sum()) - right
        cells = [right, missed, wrong, total - right - missed - wrong]
        drawn = draw.multinomial(total, np.array(cells) / total, size=_DRAWS)
        below = 2 * drawn[:, 0] + drawn[:, 1] + drawn[:, 2]
        f1 = 2 * drawn[:, 0] / np.maximum(below, 1)
        found.append([float(bound) for bound in np.quantile(f1, (0.025, 0.975))])
    return found


def class_figures(facts: Mapping[str, Any]) -> dict[str, Figure]:
    """Return the reliability diagram, if the test images were looked at."""
    bins = [b for b in (facts["evaluation"] or {}).get("reliability", []) if b["num_images"]]
    if not bins:
        return {}
    x = [100 * b["confidence"] for b in bins]
    y = [100 * b["accuracy"] for b in bins]
    bounds = [
        wilson_interval(round(b["accuracy"] * b["num_images"]), b["num_images"]) for b in bins
    ]
    interval = {"type": "data", "symmetric": False, "color": "var(--best)", "thickness": 1}
    interval["array"] = [100 * high - v for (_, high), v in zip(bounds, y, strict=True)]
    interval["arrayminus"] = [v - 100 * low for (low, _), v in zip(bounds, y, strict=True)]
    text = [
        f"confidence {c:.1f}%, right {a:.1f}%\n{b['num_images']} images"
        for c, a, b in zip(x, y, bins, strict=True)
    ]
    counts = [b["num_images"] for b in bins]
    middles = [50 * (b["low"] + b["high"]) for b in bins]
    data = [
        points("as sure as right", [0, 100], [0, 100], ["", ""], "var(--muted)", mode="lines",
               dash="dash", hoverinfo="skip"),
        points("bins, 95% interval", x, y, text, "var(--best)", mode="lines+markers",
               error_y=interval),
        {"type": "bar", "name": "images", "x": middles, "y": counts, "yaxis": "y2",
         "marker": {"color": "var(--stopped)"}, "width": 90 / 15,
         "hovertemplate": "%{y} images<extra></extra>"},
    ]  # fmt: skip
    layout = {
        "xaxis": {"title": {"text": "confidence, %"}, "range": [0, 101], "anchor": "y2"},
        "yaxis": {"domain": [0.3, 1], "range": [0, 103], "title": {"text": "right, %"}},
        "yaxis2": {"domain": [0, 0.2], "nticks": 3, "title": {"text": "images"}},
    }
    label = "Confidence against accuracy on the test images"
    return {"reliability": new_figure(label, data, layout, height=390)}


def _confusions(evaluation: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the eight most frequent mistakes: true class, answer, images, share of the class."""
    names = [score["name"] for score in evaluation["per_class"]]
    pairs = [
        {"true": names[i], "answer": names[j], "images": count, "share": count / sum(row)}
        for i, row in enumerate(evaluation["confusion"])
        for j, count in enumerate(row)
        if i != j and count
    ]
    return sorted(pairs, key=lambda pair: -pair["images"])[:8]


def _worst(path: Path, names: Sequence[str]) -> list[dict[str, Any]]:
    """Return the test images that the first final model misjudged most surely, as PNG data."""
    if not path.is_file():
        return []
    try:
        return _drawn(path, names)
    except Exception as error:  # NumPy raises nearly anything on a damaged file
        raise StudyError(
            f"{path} is not what was written ({error}); remove it, and the report leaves the"
            " misjudged images out"
        ) from error


def _drawn(path: Path, names: Sequence[str]) -> list[dict[str, Any]]:
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
