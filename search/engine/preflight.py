"""Before the first trial on a cluster: can every node do what trials will ask of it?

One task a node says what is there: versions, our code, the images as they arrive, GPUs, and
whether it sees the folder of the studies. What does not fit is told in one line that names the
node; nothing of the study has been made by then.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import platform
import secrets
import shutil
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from data.images import LabelledImages
from data.one_line import one_line
from search.config.config import StudyConfig
from search.drive.shelf import check_shelf
from search.engine.cluster import PACKAGES, Cluster, Node
from search.words import plural

ANSWER_SECONDS = 120.0
"""A node may have to fetch code and images, and import PyTorch, before it answers."""
_COMPARED = ("torch", "ray", "numpy")
MARK = ".fashion-search-"


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """What one node says of itself."""

    versions: dict[str, str]
    code: str
    """SHA-256 of our source files, as workers import them there."""
    images: str
    """Fingerprint of the training images, as they arrive there."""
    gpus: int
    """That PyTorch sees."""
    gpu_bytes: int
    """Memory of the smallest of them; 0 where there is none."""
    shared: bool
    """Whether it sees the folder of the studies."""
    complaint: str
    """Why the folder, though it is there, cannot be used; empty if it can."""


def preflight(cluster: Cluster, config: StudyConfig, images: LabelledImages, runs: Path) -> None:
    """Ask every node, compare, and tell the cluster object what was found.

    Args:
        cluster: Joined.
        config: Of the study: the store of its checkpoints is tried from every node.
        images: Of the study, to train on.
        runs: Folder of the studies on this machine; made where it is missing.

    Raises:
        ValueError: A node does not answer, or is not like this machine; one line that names it.
    """
    nodes = cluster.nodes()
    runs.mkdir(parents=True, exist_ok=True)
    mark = make_mark(runs)
    try:
        pending = {node.id: ask(cluster, node, config, images, mark) for node in nodes}
        done, _ = ray.wait(list(pending.values()), num_returns=len(nodes), timeout=ANSWER_SECONDS)
        silent = [node.name for node in nodes if pending[node.id] not in done]
        if silent:
            raise ValueError(
                f"{', '.join(silent)} did not answer within {ANSWER_SECONDS:.0f} s; see"
                " `ray status`, and end or mend it"
            )
        answers = {node: answer(node, pending[node.id]) for node in nodes}
        for node, seen in answers.items():
            if seen.shared and not (mark / node.id).exists():
                raise ValueError(
                    f"what {node.name} writes to {runs} does not arrive here: it is another folder"
                    " of that name; mount the same one on all nodes"
                )
        for node, seen in answers.items():
            check(node, seen, images)
        shared = _is_shared(cluster, answers, runs)
        if cluster.is_remote and not shared and config.checkpoints.url is None:
            raise ValueError(
                f"the nodes do not see {runs}, and this machine is none of them: no checkpoint gets"
                " there; set checkpoints.url, or hand the study over with `submit`"
            )
        cluster.gpu_bytes = min((s.gpu_bytes for s in answers.values() if s.gpus), default=0)
        cluster.checked, cluster.shares_runs = tuple(nodes), shared
    finally:
        shutil.rmtree(mark, ignore_errors=True)


def make_mark(runs: Path) -> Path:
    """Make a folder beside the studies, by which a node tells whether it sees them; return it."""
    mark = runs / f"{MARK}{secrets.token_hex(6)}"
    mark.mkdir()
    (mark / "driver").write_text("driver", encoding="utf-8")
    return mark


def ask(
    cluster: Cluster, node: Node, config: StudyConfig, images: LabelledImages, mark: Path
) -> Any:
    """Send a node the question; return the reference to its answer."""
    there = NodeAffinitySchedulingStrategy(node_id=node.id, soft=False)
    asked: Any = _look.options(scheduling_strategy=there)
    store = config.model_dump(mode="json") if config.checkpoints.url else None
    return asked.remote([cluster.share(images)], str(mark), node.id, store)


def answer(node: Node, reference: Any) -> Seen:
    """Return what a node has answered.

    Raises:
        ValueError: It could not.
    """
    try:
        seen: Seen = ray.get(reference)
    except Exception as error:
        last = [line for line in str(error).splitlines() if line.strip()][-1:]
        raise ValueError(
            f"{node.name} cannot train: {one_line(' '.join(last))[:300]}; mend or remove that node"
        ) from error
    return seen


def check(node: Node, seen: Seen, images: LabelledImages) -> None:
    """Refuse a node that is not like this machine.

    Raises:
        ValueError: In one line, what differs.
    """
    for name, here in versions().items():
        if (there := seen.versions[name]) != here:
            raise ValueError(
                f"{node.name} has {name} {there}, but the driver has {here}; install the same"
                " versions on all nodes (`setup_commands` of cluster.yaml do)"
            )
    if seen.code != source_digest():
        raise ValueError(
            f"{node.name} imports another version of this project than the driver runs; remove the"
            " one that is installed there"
        )
    if seen.images != images.fingerprint():
        raise ValueError(
            f"the images that arrive at {node.name} are not those of the driver (fingerprint"
            f" {seen.images[:12]}, not {images.fingerprint()[:12]}): bad memory, or a bad network"
        )
    if seen.gpus < int(node.gpus):
        raise ValueError(
            f"{node.name} offers {plural(int(node.gpus), 'GPU')} to Ray, but PyTorch sees"
            f" {seen.gpus} there; install a CUDA build of torch, or start Ray with --num-gpus=0"
        )
    if seen.complaint:
        raise ValueError(f"{node.name} cannot use the folder of the studies: {seen.complaint}")


def versions() -> dict[str, str]:
    """Return the versions that must be equal on all nodes; builds of one version may differ."""
    found = {"Python": platform.python_version()}
    return found | {name: metadata.version(name).partition("+")[0] for name in _COMPARED}


def source_digest() -> str:
    """Return the SHA-256 of our source files' names and contents, as imported here."""
    digest = hashlib.sha256()
    for package in PACKAGES:
        # Not by the checkout: Ray gives each package a folder of its own.
        found = importlib.util.find_spec(package)
        assert found is not None and found.origin is not None
        folder = Path(found.origin).parent
        for path in sorted(folder.rglob("*.py")):
            digest.update(str(path.relative_to(folder.parent)).encode() + b"\0")
            digest.update(path.read_bytes())
    return digest.hexdigest()


def _is_shared(cluster: Cluster, answers: dict[Node, Seen], runs: Path) -> bool:
    others = {node: seen for node, seen in answers.items() if node.id != cluster.here}
    if cluster.is_remote:
        others = answers
    with_it = _names([node for node, seen in others.items() if seen.shared])
    without = _names([node for node, seen in others.items() if not seen.shared])
    if with_it and without:
        raise ValueError(
            f"{without} does not see {runs}, which {with_it} and the driver share; mount it there,"
            " choose another --runs, or set checkpoints.url"
        )
    return bool(others) and not without  # one alone may get company that sees nothing


def _names(nodes: Sequence[Node]) -> str:
    return ", ".join(node.name for node in nodes)


@ray.remote(num_cpus=0, max_retries=1)
def _look(images: list[Any], mark: str, node: str, store: dict[str, Any] | None) -> Seen:
    import torch

    if store is not None:
        check_shelf(StudyConfig.model_validate(store))

    arrived: LabelledImages = ray.get(images[0])
    gpus = torch.cuda.device_count()
    shared, complaint = False, ""
    folder = Path(mark)
    try:
        shared = (folder / "driver").read_text(encoding="utf-8") == "driver"
        with (folder / node).open("w", encoding="utf-8") as file:
            file.write(socket.gethostname())
            file.flush()
            os.fsync(file.fileno())
    except FileNotFoundError:
        pass
    except OSError as error:
        complaint = f"{error.filename}: {error.strerror}"
    return Seen(
        versions=versions(),
        code=source_digest(),
        images=arrived.fingerprint(),
        gpus=gpus,
        gpu_bytes=min(
            (torch.cuda.get_device_properties(i).total_memory for i in range(gpus)), default=0
        ),
        shared=shared,
        complaint=complaint,
    )
