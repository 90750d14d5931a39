"""What others report on Fashion-MNIST."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from data.images import ImageShape
from model.geometry import network_cost
from search.config.baselines import BASELINES


@dataclass(frozen=True, kw_only=True, slots=True)
class Published:
    """One row, on the 10,000 test images unless `on` says otherwise."""

    name: str
    accuracy: float
    """In percent."""
    parameters: int | None
    """As stated there; None where it is not."""
    bound: Literal["", "<= ", "~"] = ""
    """How `parameters` is meant."""
    epochs: int | None = None
    on: Literal["test", "validation"] = "test"
    note: str = ""
    source: str

    @property
    def label(self) -> str:
        """Name, and what sets it apart from the others."""
        return self.name if self.on == "test" else f"{self.name} ({self.on})"


FASHION = ImageShape(channels=1, height=28, width=28, num_classes=10)
_ZALANDO = "github.com/zalandoresearch/fashion-mnist, README, table of benchmarks"
_FASTAI = "github.com/fastai/course22p2, nbs/"
PUBLISHED = (
    Published(
        name="2 conv, <= 100K (hardmaru)",
        accuracy=92.5,
        parameters=100_000,
        bound="<= ",
        source=_ZALANDO,
    ),
    Published(
        name="2 conv + 3 dense",
        accuracy=93.4,
        parameters=500_000,
        bound="~",
        source=_ZALANDO,
    ),
    Published(
        name="Google AutoML",
        accuracy=93.9,
        parameters=None,
        note="24 compute hours",
        source=_ZALANDO,
    ),
    Published(name="DenseNet-BC", accuracy=95.4, parameters=768_000, source=_ZALANDO),
    Published(
        name="fastai ResNet",
        accuracy=92.8,
        parameters=1_229_000,
        epochs=5,
        note="one seed",
        source=f"{_FASTAI}13_resnet.ipynb",
    ),
    Published(
        name="fastai wide ResNet",
        accuracy=94.3,
        parameters=4_900_000,
        epochs=20,
        note="one seed; 94.5 with the mirror image",
        source=f"{_FASTAI}14_augment.ipynb",
    ),
    Published(
        name="JAHS-Bench-201",
        accuracy=95.18,
        parameters=None,
        on="validation",
        note="Hyperband, predicted by a surrogate; about 100 full evaluations of 200 epochs",
        source="github.com/automl/jahs_bench_201, docs/leaderboards.md",
    ),
    *(
        Published(
            name=f"notebook, {name}",
            accuracy=100 * baseline.published_test_accuracy,
            parameters=network_cost(baseline.network, FASHION).parameters,
            note="one run; parameters as counted here",
            source="Fashion-Class-Classifier notebook",
        )
        for name, baseline in BASELINES.items()
    ),
)
"""Rows that ours are put beside."""
