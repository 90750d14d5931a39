"""Measure a network: accuracy with its interval, each class, confusion, calibration.

Shapes: N images, K classes.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

NUM_BINS = 15
TOP_K = (1, 2, 3)
# The standard normal quantile of 0.975: intervals hold the true share 95 times in 100.
Z_95 = 1.959963984540054


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassScore:
    """State how well one class is found; a share of nothing is given as 0 within (0, 1)."""

    name: str
    """Of the class."""
    precision: float
    """Share of right ones among the images called this class."""
    precision_ci95: tuple[float, float]
    """Its Wilson interval."""
    recall: float
    """Share of this class's images that were called so."""
    recall_ci95: tuple[float, float]
    """Its Wilson interval."""
    f1: float
    """Harmonic mean of precision and recall."""
    support: int
    """Images of this class."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ReliabilityBin:
    """Compare confidence with accuracy for the answers whose confidence lies in one bin."""

    low: float
    """Lower edge, not included."""
    high: float
    """Upper edge, included."""
    num_images: int
    """Answers in the bin."""
    confidence: float | None
    """Their mean confidence; None in an empty bin."""
    accuracy: float | None
    """Their share of right ones; None in an empty bin."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """State what a network's logits are worth on labelled images."""

    num_images: int
    """N."""
    loss: float
    """Mean cross-entropy in nats."""
    accuracy: float
    """Share of right answers."""
    ci95: tuple[float, float]
    """Its Wilson interval."""
    top_k: dict[int, float]
    """Share of images whose class is among the k largest logits, for each k."""
    per_class: tuple[ClassScore, ...]
    """One for each class, in label order."""
    confusion: tuple[tuple[int, ...], ...]
    """(K, K) counts: the row is the true class, the column the answer."""
    calibration_error: float
    """Expected calibration error over 15 equal bins, in [0, 1]."""
    reliability: tuple[ReliabilityBin, ...]
    """The bins behind it."""

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values; the keys of `top_k` become strings."""
        plain = asdict(self)
        plain["top_k"] = {str(k): share for k, share in self.top_k.items()}
        plain["ci95"] = list(self.ci95)
        plain["confusion"] = [list(row) for row in self.confusion]
        plain["reliability"] = list(plain["reliability"])
        plain["per_class"] = [
            score | {name: list(score[name]) for name in ("precision_ci95", "recall_ci95")}
            for score in plain["per_class"]
        ]
        return plain


@torch.inference_mode()
def predict_logits(model: nn.Module, images: Tensor, batch_size: int = 250) -> NDArray[np.float32]:
    """Return logits (N, K) float32 for images (N, C, H, W) uint8 on the model's device.

    Computed in float32 and evaluation mode, as the exported network is; the mode is put back.
    """
    was_training = model.training
    model.eval()
    try:
        logits = [model(batch).cpu() for batch in torch.split(images, batch_size)]
    finally:
        model.train(was_training)
    result: NDArray[np.float32] = torch.cat(logits).numpy()
    return result


def evaluate_logits(
    logits: NDArray[np.float32], labels: NDArray[np.int64], classes: Sequence[str]
) -> Evaluation:
    """Compare logits (N, K) with labels (N,) in 0..K-1.

    Raises:
        ValueError: The shapes disagree, there are no images, or a logit is not finite.
    """
    num_images, num_classes = len(labels), len(classes)
    if num_images == 0 or logits.shape != (num_images, num_classes):
        raise ValueError(
            f"logits have shape {logits.shape} for {num_images} labels and {num_classes} classes, "
            f"but must be (N, {num_classes}) for N >= 1 labels"
        )
    if not np.isfinite(logits).all():
        raise ValueError(
            "some logits are not finite: the training diverged; evaluate another network"
        )
    scores = logits.astype(np.float64)
    scores -= scores.max(axis=1, keepdims=True)
    log_probabilities = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
    answers = logits.argmax(axis=1)
    right = answers == labels
    confusion = np.zeros((num_classes, num_classes), dtype=np.int64)
    np.add.at(confusion, (labels, answers), 1)
    reliability = _reliability(np.exp(log_probabilities.max(axis=1)), right)
    return Evaluation(
        num_images=num_images,
        loss=float(-log_probabilities[np.arange(num_images), labels].mean()),
        accuracy=float(right.mean()),
        ci95=wilson_interval(int(right.sum()), num_images),
        top_k=_top_k(logits, labels),
        per_class=tuple(_class_score(name, k, confusion) for k, name in enumerate(classes)),
        confusion=tuple(tuple(int(count) for count in row) for row in confusion),
        calibration_error=sum(
            part.num_images / num_images * abs(part.accuracy - part.confidence)
            for part in reliability
            if part.accuracy is not None and part.confidence is not None
        ),
        reliability=reliability,
    )


def wilson_interval(num_right: int, num_images: int) -> tuple[float, float]:
    """Return the 95% score interval of a share (Wilson, JASA 22(158), 1927, p. 209-212).

    Unlike the share plus or minus two standard errors it stays within [0, 1] and keeps its promise
    near both ends. Of nothing, nothing is known: (0, 1).
    """
    if num_images == 0:
        return (0.0, 1.0)
    share, z2n = num_right / num_images, Z_95**2 / num_images
    centre = (share + z2n / 2) / (1 + z2n)
    half = Z_95 / (1 + z2n) * math.sqrt(share * (1 - share) / num_images + z2n / num_images / 4)
    return (max(0.0, centre - half), min(1.0, centre + half))


def _class_score(name: str, k: int, confusion: NDArray[np.int64]) -> ClassScore:
    right, called, support = (
        int(count) for count in (confusion[k, k], confusion[:, k].sum(), confusion[k].sum())
    )
    return ClassScore(
        name=name,
        precision=right / called if called else 0.0,
        precision_ci95=wilson_interval(right, called),
        recall=right / support if support else 0.0,
        recall_ci95=wilson_interval(right, support),
        f1=2 * right / (called + support) if called + support else 0.0,
        support=support,
    )


def _top_k(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> dict[int, float]:
    # argmax keeps the first of equal logits; a stable sort does too, so top 1 is the accuracy.
    order = np.argsort(-logits, axis=1, kind="stable")
    place = (order == labels[:, None]).argmax(axis=1)
    return {k: float((place < k).mean()) for k in TOP_K if k < logits.shape[1]}


def _reliability(
    confidence: NDArray[np.float64], right: NDArray[np.bool_]
) -> tuple[ReliabilityBin, ...]:
    """Sort answers into M bins, (m - 1)/M < confidence <= m/M (Guo et al., arXiv:1706.04599)."""
    edges = np.linspace(0.0, 1.0, NUM_BINS + 1)
    place = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, NUM_BINS - 1)
    bins = []
    for m in range(NUM_BINS):
        inside = place == m
        some = bool(inside.any())
        bins.append(
            ReliabilityBin(
                low=float(edges[m]),
                high=float(edges[m + 1]),
                num_images=int(inside.sum()),
                confidence=float(confidence[inside].mean()) if some else None,
                accuracy=float(right[inside].mean()) if some else None,
            )
        )
    return tuple(bins)
