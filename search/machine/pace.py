"""How long an epoch of any configuration takes: a model fitted to the few that were measured.

Seconds an image are taken to be a sum of what an image costs: its multiply-adds, the numbers
written to maps, those passed through dropout, and its share of the step (the optimizer's walk over
the parameters, Muon's products, and a constant). The weights are fitted without negative ones, so
that a larger network is never predicted to be faster.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from data.images import ImageShape
from model.config import Configuration
from model.geometry import network_cost, plan_network
from search.config.draws import Draws
from search.machine.bench import Measured
from search.words import describe_network

_UNKNOWN_SPREAD = 0.3  # of the logarithm, where too little was measured to tell
_LEAST_SPREAD = 0.03  # two epochs of one trial differ by this much on a quiet machine


@dataclass(frozen=True, kw_only=True, slots=True)
class Epoch:
    """What an epoch of one configuration is predicted to take, in seconds."""

    trial: float
    """Of a trial: training images and validation images."""
    full: float
    """Of the retraining: all images to train on, none to score on."""
    measured: bool
    """Whether the configuration itself was probed."""


class Pace:
    """Predicts the seconds of an epoch on the machine that was probed."""

    shape: ImageShape
    """Of the images."""
    spread: float
    """Standard deviation of the logarithm of measured by predicted seconds."""

    def __init__(
        self,
        measured: Sequence[Measured],
        shape: ImageShape,
        *,
        train_images: int,
        validation_images: int,
    ) -> None:
        """Fit the model to what was `measured` on images of `shape`.

        Args:
            measured: Probed configurations, at least one.
            shape: Of the images.
            train_images: Number of them that trials train on.
            validation_images: Number of them that trials are scored on.
        """
        self.shape, self._train, self._validation = shape, train_images, validation_images
        self._known = {probed.configuration.key(): probed for probed in measured}
        work = np.array([_work(probed.configuration, shape) for probed in measured])
        self._training, self.spread = _fit(work, [1 / m.train_per_second for m in measured])
        self._scoring, _ = _fit(work, [1 / m.score_per_second for m in measured])
        self._saving = float(np.median([m.save_seconds for m in measured]))

    def epoch(self, configuration: Configuration) -> Epoch:
        """Return an epoch's seconds: from its own measurement where there is one."""
        probed = self._known.get(configuration.key())
        if probed is None:
            work = _work(configuration, self.shape)
            training, scoring = float(work @ self._training), float(work @ self._scoring)
            saving = self._saving
        else:
            training, scoring = 1 / probed.train_per_second, 1 / probed.score_per_second
            saving = probed.save_seconds
        batch = configuration.training.batch_size
        trial = training * _trained(self._train, batch) + scoring * self._validation + saving
        return Epoch(
            trial=trial,
            full=training * _trained(self._train + self._validation, batch),
            measured=probed is not None,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """One configuration and what an epoch of it takes."""

    name: str
    network: str
    parameters: int
    multiply_adds: int
    batch_size: int
    epoch_seconds: float
    """Of a trial: all its training and validation images."""


def examples(draws: Draws, pace: Pace) -> tuple[Example, ...]:
    """Return baselines and points, and of the drawn ones the fastest, the middling, the slowest."""
    ordered = sorted(draws.drawn, key=lambda drawn: pace.epoch(drawn).trial)
    shown = {**draws.first, "fastest drawn": ordered[0]}
    shown |= {"middling drawn": ordered[len(ordered) // 2], "slowest drawn": ordered[-1]}
    found = []
    for name, configuration in shown.items():
        cost = network_cost(configuration.network, pace.shape)
        found.append(
            Example(
                name=name,
                network=describe_network(configuration.to_dict()),
                parameters=cost.parameters,
                multiply_adds=cost.multiply_adds,
                batch_size=configuration.training.batch_size,
                epoch_seconds=pace.epoch(configuration).trial,
            )
        )
    return tuple(found)


def _trained(images: int, batch_size: int) -> int:
    # As `model.train.fit` has it: the last, smaller batch of an epoch is dropped.
    return images // batch_size * batch_size if images > batch_size else images


def _work(configuration: Configuration, shape: ImageShape) -> NDArray[np.float64]:
    """Return what one image of a batch costs, by kind."""
    network, batch = configuration.network, configuration.training.batch_size
    plan = plan_network(network, shape)
    multiply_adds = written = dropped = parameters = products = 0
    for convs, dropout in zip(plan.blocks, network.block_dropouts, strict=True):
        for conv in convs:
            size = conv.out_size[0] * conv.out_size[1]
            multiply_adds += conv.multiply_adds
            weights = conv.in_channels * conv.kernel_size**2
            parameters += conv.filters * weights
            products += _muon_products(conv.filters, weights)
            written += conv.filters * size
        window = 1 if convs[0].stride == 2 else 2  # halved by the convolution, or by a pooling
        sides = [side // window for side in convs[0].out_size]
        pooled = convs[0].filters * sides[0] * sides[1]
        written += pooled
        dropped += pooled if dropout else 0
    products += sum(_muon_products(*layer) for layer in plan.linears[:-1])
    for inputs, outputs in plan.linears:
        multiply_adds += inputs * outputs
        parameters += inputs * outputs
    dropped += plan.linears[-1][0] if network.dropout else 0
    products = products if configuration.training.optimizer == "muon" else 0
    step = (parameters / batch, products / batch, 1000 / batch)
    return np.array((multiply_adds, written, dropped, *step, 1000), dtype=np.float64)


def _muon_products(rows: int, columns: int) -> int:
    """Return about the multiply-adds that make one matrix orthogonal, as `model.muon` does."""
    short, long = sorted((rows, columns))
    return 5 * (2 * short * short * long + short**3)


def _fit(work: NDArray[np.float64], seconds: Sequence[float]) -> tuple[NDArray[np.float64], float]:
    """Return weights that fit with the least squared relative errors, and the errors' spread."""
    scale = np.maximum(work.max(axis=0), 1e-12)
    measured = np.asarray(seconds)
    weights, _ = nnls(work / scale / measured[:, None], np.ones(len(measured)))
    errors = np.log(measured / (work / scale @ weights))
    freedom = len(measured) - int((weights > 0).sum())
    if freedom < 2:
        return weights / scale, _UNKNOWN_SPREAD
    return weights / scale, max(_LEAST_SPREAD, math.sqrt(float(errors @ errors) / freedom))
