"""Before a study: what it would take on this machine, or why it cannot be.

The machine is probed for a moment (`search.machine.probe`), the pace of every configuration follows
from that (`search.machine.pace`), and the study is rehearsed many times (`search.plan.rehearsal`).
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from rich.console import Console

from data.loader import as_tensors
from model.cnn import pixel_statistics
from model.geometry import network_cost
from model.precision import resolve_precision
from search.config.config import StudyConfig
from search.config.draws import Draws, draw_configurations
from search.machine.environment import describe_environment
from search.machine.gpu_need import need_here
from search.machine.gpu_share import GpuNeed, share_here
from search.machine.needs import Need, disk_need, gpu_memory_need, memory_need
from search.machine.pace import Example, Pace, examples
from search.machine.probe import Probed, probe
from search.machine.slots import CHECKOUT, Slots, available_cpus, pick_device, plan_slots
from search.plan.forecast import (
    Forecast,
    Interval,
    refuse_before,
    refuse_needs,
    refuse_short,
    warn_after,
    warn_before,
    warn_busy,
    warn_probe,
)
from search.plan.rehearsal import Scene, overheads_here, rehearse_often
from search.prune.settle import asha_rules, settle
from search.record.dataset import StudyImages, settle_source
from search.screen.progress import download_progress
from search.words import span

_DRAWS = 500  # to know the space by
_MOST_PROBED, _LEAST_PROBED = 24, 4  # of them
_SECONDS_EACH = 1.3  # of a slot's time, for one configuration
_PROBE_BYTES = 64 << 20  # of images, where that is enough for a batch
_BUSY = 0.1  # of all CPUs, by other programs


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What is known of a study before it begins. After a refusal, what was known by then."""

    config: StudyConfig
    """As `run` would settle it."""
    slots: Slots
    conditions: dict[str, Any]
    """Of the probe: the machine, the data, what else was going on."""
    draws: Draws
    refusals: tuple[str, ...]
    """Why the study cannot be, each on one line; empty where it can."""
    warnings: tuple[str, ...]
    probed: Probed | None = None
    examples: tuple[Example, ...] = ()
    spread: float | None = None
    """Of the logarithm of measured by predicted seconds of an epoch."""
    forecast: Forecast | None = None
    quiet: Interval | None = None
    """Seconds of the whole study without the other programs that kept the CPUs busy; None where
    there were none, or where trials use several threads or a GPU: it cannot be told then."""
    needs: tuple[Need, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return what `plan --json` prints."""
        forecast = None if self.forecast is None else asdict(self.forecast)
        if forecast is not None:
            forecast["reached"] = [
                {"epochs": epochs, **trials} for epochs, trials in forecast["reached"].items()
            ]
        probe = None
        if self.probed is not None:
            probe = {
                "seconds": self.probed.seconds,
                "start_seconds": self.probed.start_seconds,
                "measured": len(self.probed.measured),
                "spread": self.spread,
                "configurations": [asdict(row) for row in self.examples],
            }
        return {
            "study": self.config.study,
            "possible": not self.refusals,
            "refusals": list(self.refusals),
            "warnings": list(self.warnings),
            "forecast": forecast,
            "quiet": None if self.quiet is None else asdict(self.quiet),
            "needs": {
                need.what: {"parts": dict(need.parts), "total": need.total, "free": need.available}
                for need in self.needs
            },
            "space": {"draws": self.draws.num_draws, "refused_share": self.draws.refused_share},
            "slots": asdict(self.slots),
            "conditions": self.conditions,
            "probe": probe,
        }


def make_plan(config: StudyConfig, runs: Path, seconds: float, *, quiet: bool) -> Plan:
    """Plan a study.

    Args:
        config: As read from the study file.
        runs: Folder that holds the studies; it need not be there yet.
        seconds: How long to probe.
        quiet: Say nothing meanwhile.

    Raises:
        DataError: The data cannot be had.
        ValueError: A trial asks for more than this machine has, or a probing process died.
    """
    plan_slots(config.resources)  # refuses what is not there
    began = time.monotonic()
    with download_progress("quiet" if quiet else "normal") as progress:
        config, images, substitution = settle_source(config, progress)
    loading = time.monotonic() - began
    need = need_here(config, images.everything)
    share = share_here(need, threads=config.resources.cpus_per_trial, cpus=available_cpus())
    slots = plan_slots(config.resources, measured=share)
    config = settle(config, slots=slots.count)
    shape = images.everything.shape
    draws = draw_configurations(config, shape, count=_DRAWS)
    warnings = [substitution] if substitution else []
    warnings += warn_before(config, draws, slots)
    busy = psutil.cpu_percent(interval=0.5) / 100
    plan = Plan(
        config=config,
        slots=slots,
        conditions=_conditions(images, slots, busy, need),
        draws=draws,
        refusals=tuple(refuse_before(config, draws)),
        warnings=tuple(warnings),
    )
    if plan.refusals:
        return plan
    with _saying(f"probing {slots.count} at a time for {span(seconds)}", quiet):
        probed = _probe(config, draws, images, slots, seconds, runs)
    return _foresee(plan, probed, images, loading, runs)


def _probe(
    config: StudyConfig,
    draws: Draws,
    images: StudyImages,
    slots: Slots,
    seconds: float,
    runs: Path,
) -> Probed:
    num_drawn = int(slots.count * seconds / _SECONDS_EACH) - len(draws.first)
    drawn = draws.drawn[: max(_LEAST_PROBED, min(_MOST_PROBED, num_drawn))]
    # Drawn ones first: what little time there is must show the space; then the ones that run first.
    configurations = [*drawn[:_LEAST_PROBED], *draws.first.values(), *drawn[_LEAST_PROBED:]]
    batch = max(c.training.batch_size for c in configurations)
    each = images.everything.images[0].nbytes
    count = min(len(images.train_indices), max(batch, min(8 * batch, _PROBE_BYTES // each)))
    part = images.everything.take(images.train_indices[:count])
    mean, std = pixel_statistics(as_tensors(images.everything, "cpu")[0])
    # Beside the studies: checkpoints are written to the disk that theirs will be written to.
    place = next(folder for folder in (runs, *runs.parents) if folder.exists())
    with tempfile.TemporaryDirectory(prefix=".plan-", dir=place) as folder:
        return probe(configurations, part, (mean, std), slots, seconds=seconds, folder=Path(folder))


def _foresee(plan: Plan, probed: Probed, images: StudyImages, loading: float, runs: Path) -> Plan:
    config, draws, slots = plan.config, plan.draws, plan.slots
    pace, scene = _scene(plan, probed, images, loading)
    max_epochs, rules = config.max_epochs, asha_rules(config)
    forecast = Forecast.of(rehearse_often(scene), rules, max_epochs)
    busy, quiet, fastest = plan.conditions["busy"] > _BUSY, None, scene
    if busy and slots.threads == 1 and slots.gpus == 0:
        _, fastest = _scene(plan, probed.undisturbed(), images, loading)
        quiet = Forecast.of(rehearse_often(fastest), rules, max_epochs).wall
    costs = [network_cost(m.configuration.network, pace.shape) for m in probed.measured]
    needs = [
        memory_need(slots, probed.measured, images.everything),
        disk_need(
            config,
            runs,
            trials=forecast.trials.high,
            slots=slots.count,
            checkpoint=float(np.mean([m.checkpoint_bytes for m in probed.measured])),
            model=4 * float(np.mean([cost.parameters for cost in costs])),
        ),
    ]
    if (gpu := gpu_memory_need(slots, probed.measured)) is not None:
        needs.append(gpu)
    warnings = list(plan.warnings)
    warnings += warn_busy(plan.conditions["busy"], quiet) if busy else []
    warnings += [*warn_probe(probed), *warn_after(config, draws, forecast, needs)]
    return replace(
        plan,
        probed=probed,
        examples=examples(draws, pace),
        spread=pace.spread,
        forecast=forecast,
        quiet=quiet,
        needs=tuple(needs),
        # Only what a quiet machine could not do either is impossible.
        refusals=(*refuse_short(fastest), *refuse_needs(needs, slots)),
        warnings=tuple(warnings),
    )


def _scene(plan: Plan, probed: Probed, images: StudyImages, loading: float) -> tuple[Pace, Scene]:
    config, draws, slots = plan.config, plan.draws, plan.slots
    pace = Pace(
        probed.measured,
        images.everything.shape,
        train_images=len(images.train_indices),
        validation_images=len(images.validation_indices),
    )
    baselines = []
    for configuration in config.baseline_configurations().values():
        with suppress(ValueError):  # too large for the images: it was warned of
            baselines.append(pace.epoch(configuration))
    return pace, Scene(
        config=config,
        slots=slots.count,
        share=slots.gpus or slots.threads,
        first=[pace.epoch(configuration) for configuration in draws.first.values()],
        drawn=[pace.epoch(configuration) for configuration in draws.drawn],
        baselines=baselines,
        spread=pace.spread,
        overheads=overheads_here(config, probed.start_seconds, loading),
    )


def _conditions(
    images: StudyImages, slots: Slots, busy: float, need: GpuNeed | None
) -> dict[str, Any]:
    environment, data = describe_environment(CHECKOUT), images.facts()
    device = pick_device(slots.gpus)
    return {
        "processor": environment["processor"],
        "cpus": available_cpus(),
        "busy": busy,
        "device": _device_name(device),
        "gpu_need": None if need is None else need.to_dict(),
        "precision": resolve_precision("auto", device),
        "torch": environment["torch"],
        "data": data["name"],
        "train_images": data["train_images"],
        "validation_images": data["validation_images"],
    }


def _device_name(device: Any) -> str:
    import torch

    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


@contextmanager
def _saying(text: str, quiet: bool) -> Iterator[None]:
    if quiet or not sys.stderr.isatty():
        yield
        return
    with Console(stderr=True).status(text):
        yield
