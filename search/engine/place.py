"""Where trials are trained: on this machine, with a Ray of our own, or on a cluster that is there.

No Ray is imported here before its environment is set.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from search.machine.gpu_need import need_here
from search.machine.gpu_share import GpuNeed, share_here
from search.machine.slots import Slots, available_cpus, plan_slots, worker_environment

if TYPE_CHECKING:
    from data.images import LabelledImages
    from search.config.config import StudyConfig
    from search.config.sections import ResourcesSection
    from search.engine.cluster import Cluster

SETTINGS = {
    # Tune's own output, loggers and snapshots: the record and the screen are ours.
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "86400",
    # Workers of all slots start together: the driver says how many trials there are.
    "TUNE_MAX_PENDING_TRIALS_PG": "100000",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    # Signals are handled by `search.drive.session`.
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",
}
"""Environment of a driver, for Ray and Tune."""


@contextmanager
def place(address: str | None) -> Iterator[Cluster | None]:
    """Join the cluster at an address for the length of a block; None stands for this machine.

    Raises:
        ValueError: It cannot be joined; in one line.
    """
    if address is None:
        yield None
        return
    os.environ |= SETTINGS
    from search.engine.cluster import joined

    with joined(address) as cluster:
        yield cluster


def set_up_here() -> None:
    """Set the environment of a Ray of our own: before it is imported.

    Its token is made up for this process: others who may use this machine cannot send it work.
    What the environment says of it already, such as for a Ray that was imported before, holds.
    """
    os.environ |= SETTINGS | worker_environment()
    if os.environ.setdefault("RAY_AUTH_MODE", "token") == "token":
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))


def need_of(
    config: StudyConfig,
    images: LabelledImages,
    cluster: Cluster | None,
    noted: Mapping[str, Any] | None = None,
) -> GpuNeed | None:
    """Return what a trial needs of a GPU of the place; None where that is not asked for.

    Args:
        config: Of the study.
        images: All training images.
        cluster: Joined, and checked; None for this machine.
        noted: What was measured before, by the record.

    Raises:
        ValueError: It could not be measured.
    """
    if cluster is None:
        return need_here(config, images, noted)
    return cluster.gpu_need(config, images, noted)


def slots_of(
    resources: ResourcesSection, cluster: Cluster | None, need: GpuNeed | None = None
) -> Slots:
    """Divide the place among trials.

    Raises:
        ValueError: It does not hold a single one.
    """
    if cluster is not None:
        return cluster.slots(resources, need)
    share = share_here(need, threads=resources.cpus_per_trial, cpus=available_cpus())
    return plan_slots(resources, measured=share)
