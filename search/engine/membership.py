"""The nodes of a cluster while a search goes on: they come, they go, and the slots with them."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.tune import Callback
from ray.tune.experiment import Trial

from data.images import LabelledImages
from search.drive.driver import Driver
from search.engine.bridge import DriverSearcher
from search.engine.cluster import Cluster, Node, held_by
from search.engine.preflight import ANSWER_SECONDS, Seen, answer, ask, check, make_mark
from search.machine.slots import Slots
from search.record.nodes import Nodes
from search.record.study import Study
from search.words import plural

_LOOK_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class _Asked:
    """A node that has joined and is being looked at."""

    node: Node
    reference: Any
    mark: Path
    since: float


class NodeWatch(Callback):
    """Records every node, gives the driver its slots, and checks those that come later."""

    def __init__(
        self,
        cluster: Cluster,
        driver: Driver,
        searcher: DriverSearcher,
        *,
        study: Study,
        images: LabelledImages,
        slots: Slots,
        say: Callable[[str], None],
    ) -> None:
        """Begin with the nodes that the preflight has checked.

        Args:
            cluster: Joined, and checked by the preflight.
            driver: Is told how many slots there are.
            searcher: Ends the search where a node does not fit.
            study: For the record.
            images: All training images, as the preflight compared them.
            slots: What each trial gets.
            say: Is told in a line of every node that comes or goes.
        """
        self._cluster = cluster
        self._driver, self._searcher = driver, searcher
        self._images, self._slots, self._say = images, slots, say
        self._config = study.config
        self._fixed = study.config.resources.max_concurrent != "auto"
        self._runs = study.folder.parent
        self._nodes = Nodes(study)
        self._there: dict[str, Node] = {}
        if slots.gpus and slots.without_gpu:
            searcher.spread_over(lambda: self.gpu_slots)
        self._asked: dict[str, _Asked] = {}
        self._names: dict[str, str] = {}
        self._looked_at = 0.0
        self.on_loss: Callable[[], None] = lambda: None
        """Called when a node is gone."""
        for node in cluster.checked:
            self._admit(node)
        self._resize()

    def name_of(self, node: str) -> str:
        """Return what a node (its id) is called; its id where it is not known yet."""
        if node not in self._names:
            self.look()
        return self._names.get(node, node)

    @property
    def gpu_slots(self) -> int:
        """Return how many trials the GPUs of the nodes hold."""
        return sum(self._held(node) for node in self._there.values() if node.gpus)

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        """Look, every second, who is there."""
        if time.monotonic() - self._looked_at < _LOOK_SECONDS:
            return
        self.look()
        self._read_answers()

    def end(self) -> None:
        """Record that the search has left all nodes."""
        for asked in self._asked.values():
            shutil.rmtree(asked.mark, ignore_errors=True)
        self._nodes.end()

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tuner pickles its arguments for a restore that we never use

    def look(self) -> None:
        """See who is there, and give the driver its slots."""
        self._looked_at = time.monotonic()
        now = {node.id: node for node in self._cluster.nodes()}
        self._names |= {node.id: node.name for node in now.values()}
        for node in now.values():
            if node.id not in self._there and node.id not in self._asked:
                self._question(node)
        for key in [key for key in self._asked if key not in now]:
            shutil.rmtree(self._asked.pop(key).mark, ignore_errors=True)
        gone = [node for key, node in self._there.items() if key not in now]
        for node in gone:
            del self._there[node.id]
            self._nodes.left(node.id, lost=True)
        if gone:
            self._resize()
            self.on_loss()
        for node in gone:
            self._say(f"{node.name} is lost; its trials go on elsewhere, from their checkpoints")

    def _admit(self, node: Node) -> None:
        self._names[node.id] = node.name
        self._there[node.id] = node
        self._nodes.joined(
            id=node.id,
            name=node.name,
            ip=node.ip,
            cpus=node.cpus,
            gpus=node.gpus,
            slots=self._held(node),
        )

    def _question(self, node: Node) -> None:
        mark = make_mark(self._runs)
        reference = ask(self._cluster, node, self._config, self._images, mark)
        self._asked[node.id] = _Asked(node, reference, mark, time.monotonic())

    def _read_answers(self) -> None:
        for key, asked in list(self._asked.items()):
            done, _ = ray.wait([asked.reference], timeout=0)
            late = time.monotonic() - asked.since > ANSWER_SECONDS
            if not done and not late:
                continue
            del self._asked[key]
            try:
                if not done:
                    raise ValueError(f"{asked.node.name} has joined, but does not answer; end it")
                self._check(asked.node, answer(asked.node, asked.reference))
            except ValueError as error:
                if key in {node.id for node in self._cluster.nodes()}:  # not lost meanwhile
                    self._searcher.error = self._searcher.error or error
            else:
                self._admit(asked.node)
                self._resize()
                slots = plural(self._held(asked.node), "slot")
                self._say(f"{asked.node.name} has joined: {slots} more")
            finally:
                shutil.rmtree(asked.mark, ignore_errors=True)

    def _check(self, node: Node, seen: Seen) -> None:
        check(node, seen, self._images)
        if self._cluster.shares_runs and not seen.shared:
            raise ValueError(
                f"{node.name} has joined, but does not see {self._runs}, which the others share;"
                " mount it there, or remove the node"
            )
        if 0 < seen.gpu_bytes < self._cluster.gpu_bytes:
            raise ValueError(
                f"a GPU of {node.name}, which has joined, has less memory than those before, by"
                " which trials share a GPU; remove the node, or give resources.gpus_per_trial"
            )

    def _held(self, node: Node) -> int:
        return held_by(self._slots, node)

    def _resize(self) -> None:
        if not self._fixed:
            self._driver.resize(sum(map(self._held, self._there.values())))
