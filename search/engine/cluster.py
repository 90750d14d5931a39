"""A Ray cluster that is there already: joined for a search, its nodes counted, and left again.

Nothing of the cluster is started or ended here. A driver runs on one of its machines (`auto`, as a
job that `submit` sends does) or elsewhere, over Ray Client (`ray://HOST:10001`).
"""

from __future__ import annotations

import logging
import os
import re
import socket
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import ray
from ray import _raylet
from ray._private import services, worker

from data.images import LabelledImages
from data.one_line import one_line
from model.config import Configuration
from search.config.config import StudyConfig
from search.config.sections import ResourcesSection
from search.machine.gpu_need import costliest, measure
from search.machine.gpu_share import GpuNeed, gpu_share
from search.machine.slots import CHECKOUT, Slots, slots_on, worker_environment
from search.words import plural

PACKAGES = ("data", "model", "search")
"""Folders of the checkout that workers import from."""
BEGINS = "the search begins"
"""Said when all nodes were found fit."""
_IN_A_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # set by Ray: the job's runtime_env holds already
_MEASURE_SECONDS = 300.0
_KNOCK_SECONDS = 5.0
_TOKEN = re.compile(r"(?i)authenticat|unauthenticated|token|401|403")


@dataclass(frozen=True, kw_only=True, slots=True)
class Node:
    """A machine of the cluster."""

    id: str
    name: str
    """Its host's name; with its address where another one has the same name."""
    ip: str
    cpus: float
    gpus: float
    memory_store: float
    """Bytes of Ray's object store."""


class Cluster:
    """The cluster that this process has joined."""

    def __init__(self, address: str) -> None:
        """Speak for a cluster; use `joined`."""
        self.address = address
        self._images: dict[str, Any] = {}
        self.checked: tuple[Node, ...] = ()
        """The nodes that the preflight has found fit."""
        self.gpu_bytes = 0
        """Memory of the smallest GPU that the preflight has seen; 0 where there is none."""
        self.shares_runs = False
        """Whether all nodes see the folder of the studies; the preflight finds out."""

    @property
    def is_remote(self) -> bool:
        """Whether this process is on none of the cluster's machines."""
        return self.address.startswith("ray://")

    @property
    def here(self) -> str:
        """Return the id of the node that this process is on; of the head, where on none."""
        return str(ray.get_runtime_context().get_node_id())

    def nodes(self) -> list[Node]:
        """Return the nodes that are alive, by name."""
        found = [
            Node(
                id=row["NodeID"],
                name=row["NodeManagerHostname"],
                ip=row["NodeManagerAddress"],
                cpus=float(row["Resources"].get("CPU", 0.0)),
                gpus=float(row["Resources"].get("GPU", 0.0)),
                memory_store=float(row["Resources"].get("object_store_memory", 0.0)),
            )
            for row in ray.nodes()  # type: ignore[no-untyped-call]
            if row["Alive"]
        ]
        names = Counter(node.name for node in found)
        named = [
            node if names[node.name] == 1 else replace(node, name=f"{node.name} ({node.ip})")
            for node in found
        ]
        return sorted(named, key=lambda node: (node.name, node.id))

    def gpu_need(
        self, config: StudyConfig, images: LabelledImages, noted: Mapping[str, Any] | None = None
    ) -> GpuNeed | None:
        """Return what a trial needs of a GPU, measured on one of the nodes.

        As `search.machine.gpu_need.need_here` does on this machine.
        """
        threads = config.resources.cpus_per_trial
        if config.resources.gpus_per_trial != "auto" or not _with_gpu(self.nodes(), threads):
            return None
        if noted:
            return GpuNeed.from_dict(noted)
        chosen = costliest(config, images.shape)
        if not chosen:
            return None
        task: Any = ray.remote(_measure).options(num_cpus=1, num_gpus=1, max_retries=2)
        try:
            need: GpuNeed = ray.get(
                task.remote(chosen, [self.share(images)]), timeout=_MEASURE_SECONDS
            )
        except ray.exceptions.RayError as error:
            said = [line for line in str(error).splitlines() if line.strip()] or ["all are busy"]
            raise ValueError(
                f"what a trial needs of a GPU could not be measured ({one_line(said[-1])[:200]});"
                " give resources.gpus_per_trial"
            ) from error
        return need

    def slot(self, resources: ResourcesSection, need: GpuNeed | None = None) -> Slots:
        """Return what each trial gets; how many there is room for is left at 0."""
        share = resources.gpus_per_trial
        if share == "auto":
            share = self._share(resources.cpus_per_trial, self.nodes(), need)
        return Slots(
            count=0,
            threads=resources.cpus_per_trial,
            gpus=float(share),
            without_gpu=share > 0 and resources.cpu_nodes,
        )

    def slots(self, resources: ResourcesSection, need: GpuNeed | None = None) -> Slots:
        """Divide the cluster, as it is now, among trials.

        Args:
            resources: What a trial is given.
            need: What it takes of a GPU; None where that was not measured: then a whole GPU.

        Raises:
            ValueError: No node holds a trial, and none is to be added.
        """
        nodes = self.nodes()
        each = self.slot(resources, need)
        held = sum(held_by(each, node) for node in nodes)
        if resources.max_concurrent != "auto":
            # More than there is now makes trials wait, for which an autoscaler adds nodes.
            return replace(each, count=resources.max_concurrent)
        if held == 0:
            there = ", ".join(f"{n.name}: {n.cpus:g} CPUs, {n.gpus:g} GPUs" for n in nodes)
            raise ValueError(
                f"no node of the cluster holds a trial of {each.threads} CPUs and"
                f" {each.gpus:g} GPUs ({there}); start workers, ask for less in `resources`, or"
                " say in resources.max_concurrent to how many trials an autoscaler may grow it"
            )
        return replace(each, count=held)

    def _share(self, threads: int, nodes: Sequence[Node], need: GpuNeed | None) -> float:
        with_gpu = _with_gpu(nodes, threads)
        if not with_gpu or need is None or not self.gpu_bytes:
            return 1.0 if with_gpu else 0.0
        trials = max(int(node.cpus / threads / node.gpus) for node in with_gpu)
        return gpu_share(need.total, memory=self.gpu_bytes, trials=max(1, trials))

    def describe(self, slots: Slots) -> str:
        """Return, in a line, the nodes that were found fit, and that the search begins."""
        held = [f"{n.name} ({plural(held_by(slots, n), 'slot')})" for n in self.checked]
        waits = "" if any(held_by(slots, n) for n in self.checked) else ", trials wait for more"
        return f"{plural(len(held), 'node')}, all fit: {', '.join(held)}{waits}; {BEGINS}"

    def share(self, images: LabelledImages) -> Any:
        """Put images into Ray's object store, once; every node fetches them once."""
        key = images.fingerprint()
        if key not in self._images:
            self._images[key] = ray.put(images)
        return self._images[key]


def held_by(slots: Slots, node: Node) -> int:
    """Return how many slots a node holds."""
    return slots_on(slots, cpus=node.cpus, gpus=node.gpus)


@contextmanager
def joined(address: str) -> Iterator[Cluster]:
    """Join a cluster for the length of a block.

    Args:
        address: `auto` on one of its machines, `ray://HOST:10001` from elsewhere.

    Raises:
        ValueError: There is none, it refuses, or its versions are others; in one line.
    """
    if address != "auto" and not address.startswith("ray://"):
        raise ValueError(
            f"--address {address} is neither auto (on a machine of a cluster) nor ray://HOST:10001;"
            " to hand a study over to a cluster use `submit --address http://HOST:8265`"
        )
    logging.getLogger("ray").setLevel(logging.ERROR)
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # a lost worker is told by ours
    worker.print_to_stdstream = _do_nothing  # it would be in the middle of our screen
    try:
        try:
            if address == "auto":
                _knock()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # what it warns of is told below
                ray.init(
                    address=address,
                    runtime_env=None if _IN_A_JOB in os.environ else runtime_env(),
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                )
        except Exception as error:
            raise ValueError(_why_not(address, error)) from error
        yield Cluster(address)
    finally:
        ray.shutdown()


def runtime_env() -> dict[str, Any]:
    """Return how our code reaches the workers of a driver that is no job."""
    return {
        "py_modules": [str(CHECKOUT / name) for name in PACKAGES],
        "excludes": ["**/__pycache__"],
        "env_vars": worker_variables(),
    }


def worker_variables() -> dict[str, str]:
    """Return the environment of every worker on a cluster: paths are another matter there."""
    return {k: v for k, v in worker_environment().items() if k != "PYTHONPATH"}


def _with_gpu(nodes: Sequence[Node], threads: int) -> list[Node]:
    # A head that gives trials no CPU has, to Ray, its GPU all the same.
    return [node for node in nodes if node.gpus and node.cpus >= threads]


def _measure(configurations: Sequence[Configuration], images: list[Any]) -> GpuNeed:
    return measure(configurations, ray.get(images[0]), "cuda")


def _knock() -> None:
    """Raise what is wrong with the cluster on this machine; Ray itself would wait for ever."""
    found = services.canonicalize_bootstrap_address("auto")
    if found is None:
        raise ConnectionError("none was started")
    host, _, port = found.rpartition(":")
    socket.create_connection((host.strip("[]"), int(port)), _KNOCK_SECONDS).close()
    room: Any = _raylet
    room.GcsClient(address=found)


def _why_not(address: str, error: Exception) -> str:
    text = one_line(str(error))
    if "ersion mismatch" in text:
        return f"the cluster at {address} has other versions than this machine: {text[:300]}"
    if type(error).__name__ == "AuthenticationError" or _TOKEN.search(text):
        return (
            f"the cluster at {address} refuses this machine's token; set RAY_AUTH_MODE=token and"
            " put the cluster's token into ~/.ray/auth_token, or its path into RAY_AUTH_TOKEN_PATH"
        )
    if address != "auto" and isinstance(error, ConnectionError):
        return (
            f"no Ray Client server answers at {address}, or it refuses this machine's token"
            " without saying which; see ~/.ray/auth_token, and the head's port 10001"
        )
    if isinstance(error, OSError):  # of which ConnectionError is one
        where = "on this machine" if address == "auto" else f"at {address}"
        return f"there is no Ray cluster {where} to join: {text[:200]}; start it with `ray up`"
    return f"the cluster at {address} cannot be joined: {text[:300]}"


def _do_nothing(*_: Any, **__: Any) -> None:
    """Stand in for a function of Ray's."""
