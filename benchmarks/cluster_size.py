"""How many workers one driver serves, on paper: the first bottleneck of 16 to 1,000 workers.

    python benchmarks/cluster_size.py --costs BOOKKEEPING.json --json OUT

A simulation without Ray: workers train epochs, and one thread on the head (Ray Tune's loop, with
our driver in it) answers every result and hands out every trial, one after the other. A worker
waits from the end of its epoch until it is answered. Beside it the head's network card: relayed
checkpoints go through it (where there is no shared storage), and the images when nodes start.

The costs are measured ones: those of `bookkeeping.py` and `asking.py`. How trials stop is ASHA's
share, promotions included; the lengths of epochs vary as networks do.
"""

from __future__ import annotations

import argparse
import heapq
import json
import random
import sys
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

if not __package__:  # run as a script: `search` would be a file of this folder
    sys.path[:] = [str(Path(__file__).resolve().parent.parent), *sys.path[1:]]

from rich import box
from rich.console import Console
from rich.table import Table

from search.prune.ladder import rung_epochs

SIZES = (16, 64, 256, 1000)
EPOCH_SECONDS = (10.0, 60.0, 600.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Costs:
    """What things take; measured on two cores of 2026, see benchmarks/README.md."""

    ours_trial_ms: float = 0.9
    """The driver, for handing out a trial and ending it, with their records; asking apart."""
    ours_epoch_ms: float = 0.45
    """The driver, for one epoch."""
    ray_trial_ms: float = 9.0
    """Ray's loop, for starting and stopping a trial on a worker that is there."""
    ray_epoch_ms: float = 0.6
    """Ray's loop, for one result."""
    ask_ms: float = 17.0
    """The sampler `fidelity`, for a proposal in a young study."""
    ask_ms_per_thousand: float = 4.5
    """What is added for every thousand trials that have ended."""
    checkpoint_mb: float = 3.0
    """Of one epoch: weights and the optimizer's state."""
    images_mb: float = 55.0
    """All images of Fashion-MNIST."""
    network_mb_per_second: float = 1250.0
    """Of the head's card: 10 Gbit/s."""
    node_start_seconds: float = 15.0
    """Ray's processes and the import of PyTorch, on every node at the same time."""
    slots_per_node: int = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class Scene:
    """What is simulated."""

    workers: int
    epoch_seconds: float
    """Of the median network."""
    relay: bool
    """Whether checkpoints go through the head."""
    ended: int
    """Trials that have ended before: proposals take longer with them."""
    hours: float = 2.0
    grace: int = 3
    eta: int = 3
    max_epochs: int = 81


def main() -> None:
    """Simulate and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--costs", type=Path, help="what bookkeeping.py --json wrote")
    parser.add_argument("--workers", type=int, nargs="+", default=SIZES)
    parser.add_argument("--epoch-seconds", type=float, nargs="+", default=EPOCH_SECONDS)
    parser.add_argument("--ended", type=int, default=2000, help="trials that have ended before")
    parser.add_argument("--hours", type=float, default=2.0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    costs = Costs() if options.costs is None else measured(json.loads(options.costs.read_text()))
    rows = [
        simulate(
            Scene(
                workers=workers,
                epoch_seconds=seconds,
                relay=relay,
                ended=options.ended,
                hours=options.hours,
            ),
            costs,
        )
        for seconds in options.epoch_seconds
        for relay in (False, True)
        for workers in options.workers
    ]
    Console().print(_table(rows))
    if options.json is not None:
        answer = {"costs": asdict(costs), "rows": rows}
        options.json.write_text(json.dumps(answer) + "\n", encoding="utf-8")


def measured(found: dict[str, Any]) -> Costs:
    """Return the costs with those that `bookkeeping.py` has measured put in."""
    known = {field.name for field in fields(Costs)}
    return replace(Costs(), **{k: v for k, v in found.get("costs", {}).items() if k in known})


def simulate(scene: Scene, costs: Costs, *, seed: int = 0) -> dict[str, Any]:
    """Return how busy everybody is, and what is full first."""
    return _Cluster(scene, costs, random.Random(seed)).run()


class _Cluster:
    """Workers, the head's thread and its network card."""

    def __init__(self, scene: Scene, costs: Costs, chance: random.Random) -> None:
        self._scene, self._costs, self._chance = scene, costs, chance
        self._ends = [
            *rung_epochs(
                grace_epochs=scene.grace,
                reduction_factor=scene.eta,
                max_epochs=scene.max_epochs,
            ),
            scene.max_epochs,
        ]
        self._busy = dict.fromkeys(("driver", "Ray", "proposals", "network"), 0.0)
        self._free_at = {"head": 0.0, "network": 0.0}
        self._trained = self._waited = 0.0
        self._epochs = self._trials = 0
        self._asks = scene.ended

    def run(self) -> dict[str, Any]:
        scene, costs = self._scene, self._costs
        end = scene.hours * 3600
        nodes = -(-scene.workers // costs.slots_per_node)
        images = nodes * costs.images_mb / costs.network_mb_per_second
        # When, whether the head is told (or an epoch has just been trained), who.
        queue = [
            (self._ready_at(1 + worker // costs.slots_per_node), 1, worker)
            for worker in range(scene.workers)
        ]
        heapq.heapify(queue)
        left: dict[int, int] = {}
        """Worker -> epochs until its trial is stopped, pauses or is complete."""
        seconds: dict[int, float] = {}
        since: dict[int, float] = {}
        while queue and queue[0][0] < end:
            now, is_told, worker = heapq.heappop(queue)
            if not is_told:
                since[worker] = now
                if scene.relay:
                    now = self._send(now)
                heapq.heappush(queue, (now, 1, worker))
                continue
            answered = now
            if worker in left:  # its checkpoint is written
                left[worker] -= 1
                answered = self._answer(now, is_last=left[worker] == 0)
            if not left.get(worker):
                left[worker], seconds[worker], answered = self._hand_out(answered)
            self._waited += answered - since.get(worker, now)
            done = answered + seconds[worker]
            self._trained += max(0.0, min(done, end) - answered)
            heapq.heappush(queue, (done, 0, worker))
        shares = {name: busy / end for name, busy in self._busy.items()}
        # These three are one thread: together they are full, or none is.
        head = shares["driver"] + shares["Ray"] + shares["proposals"]
        first = "network" if shares["network"] > head else "the head's thread"
        if first != "network":
            parts = {name: shares[name] for name in ("driver", "Ray", "proposals")}
            first = max(parts, key=lambda name: parts[name])
        busiest = max(head, shares["network"])
        return asdict(scene) | {
            "epochs_per_hour": self._epochs / scene.hours,
            "trials_per_hour": self._trials / scene.hours,
            "efficiency": self._trained / (scene.workers * end),
            "wait_ms": 1000 * self._waited / max(1, self._epochs),
            "head_share": head,
            **{f"{name}_share": share for name, share in shares.items()},
            "images_seconds": images,
            "bottleneck": first,
            "full_at_workers": scene.workers / busiest if busiest else None,
        }

    def _ready_at(self, node: int) -> float:
        """Return when a node, from 1, has started; they get the images one after the other."""
        costs = self._costs
        return costs.node_start_seconds + node * costs.images_mb / costs.network_mb_per_second

    def _send(self, now: float) -> float:
        """Send a checkpoint to the head; return when it is there."""
        seconds = self._costs.checkpoint_mb / self._costs.network_mb_per_second
        self._busy["network"] += seconds
        return self._serve("network", now, seconds)

    def _serve(self, what: str, now: float, seconds: float) -> float:
        """Let a request wait for its turn; return when it is done."""
        self._free_at[what] = max(now, self._free_at[what]) + seconds
        return self._free_at[what]

    def _answer(self, now: float, *, is_last: bool) -> float:
        ours, ray = self._costs.ours_epoch_ms / 1000, self._costs.ray_epoch_ms / 1000
        if is_last:  # half of a trial's cost is its end
            ours += self._costs.ours_trial_ms / 2000
            ray += self._costs.ray_trial_ms / 2000
        self._busy["driver"] += ours
        self._busy["Ray"] += ray
        self._epochs += 1
        return self._serve("head", now, ours + ray)

    def _hand_out(self, now: float) -> tuple[int, float, float]:
        """Return for how many epochs, of how many seconds each, and when the worker begins."""
        costs, rung = self._costs, 0
        ours, ray = costs.ours_trial_ms / 2000, costs.ray_trial_ms / 2000
        # Of all who leave a rung, one in eta is promoted: a trial that waits needs no proposal.
        while rung < len(self._ends) - 1 and self._chance.random() < 1 / self._scene.eta:
            rung += 1
        ask = 0.0
        if rung == 0:
            ask = (costs.ask_ms + costs.ask_ms_per_thousand * self._asks / 1000) / 1000
            self._asks += 1
            self._trials += 1
        epochs = self._ends[rung] - (self._ends[rung - 1] if rung else 0)
        self._busy["driver"] += ours
        self._busy["Ray"] += ray
        self._busy["proposals"] += ask
        # Networks of a space differ: one in three takes more than 1.6 times the median or less.
        seconds = self._scene.epoch_seconds * self._chance.lognormvariate(0.0, 0.5)
        return epochs, seconds, self._serve("head", now, ours + ray + ask)


def _table(rows: list[dict[str, Any]]) -> Table:
    table = Table(title="One driver, so many workers", title_justify="left", box=box.SIMPLE_HEAD)
    for name in ("epoch", "relay", "workers", "epochs/h", "efficiency", "wait ms"):
        table.add_column(name, justify="right")
    for name in ("head", "ours", "Ray", "asks", "network", "first full", "at workers"):
        table.add_column(name, justify="right")
    before = None
    for row in rows:
        if before not in (None, row["epoch_seconds"]):
            table.add_section()
        before = row["epoch_seconds"]
        shares = ("head", "driver", "Ray", "proposals", "network")
        table.add_row(
            f"{row['epoch_seconds']:g} s",
            "yes" if row["relay"] else "no",
            f"{row['workers']:,}",
            f"{row['epochs_per_hour']:,.0f}",
            f"{row['efficiency']:.1%}",
            f"{row['wait_ms']:,.0f}",
            *(f"{row[f'{name}_share']:.1%}" for name in shares),
            row["bottleneck"],
            f"{row['full_at_workers']:,.0f}",
        )
    return table


if __name__ == "__main__":
    main()
