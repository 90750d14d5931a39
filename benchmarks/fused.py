"""What training several networks at once in one process is worth: networks a second.

    python benchmarks/fused.py --networks 1 2 4 8 16 --device cuda --json OUT

The same trainings - one network, its own seed, learning rate and dropout each - three ways in turn:
one after another in one process (`model.train.fit`), a process each at the same time, and all at
once (`model.fused.fit_fused`). Starting processes, loading the images and a first epoch on a few of
them are not timed. Then one step by layout: see `fused_layouts.py`.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

if not __package__:  # run as a script: `search` would be a file of this folder
    sys.path[:] = [str(Path(__file__).resolve().parent.parent), *sys.path[1:]]

import torch
from rich import box
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.fused_layouts import layout_table, measure_layouts
from benchmarks.refusals import check_device, one_line
from data.images import DataError
from data.loader import as_tensors
from model.cnn import pixel_statistics
from model.config import Configuration, NetworkConfig, TrainingConfig
from model.fused import fit_fused
from model.precision import resolve_precision
from model.train import Training, fit
from search.config.config import DataSection
from search.machine.environment import describe_environment
from search.machine.slots import CHECKOUT
from search.record.dataset import load_images

NETWORKS = {
    "notebook": NetworkConfig(filters=(32,), dense_width=100),
    "small": NetworkConfig(filters=(16, 32), dropout=0.2),
    "laptop": NetworkConfig(
        filters=(32, 64, 128), convs_per_block=2, residual=True, head="average", dropout=0.2
    ),
}
_WARM_UP_IMAGES = 2000
_MOST_WAIT_SECONDS = 600.0
Data = tuple[Tensor, Tensor]


def main(arguments: Sequence[str] | None = None) -> int:
    """Train every number of networks every way, and print the tables.

    2 is returned, and one line printed, for what cannot be run.
    """
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--networks", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    parser.add_argument("--network", choices=list(NETWORKS), default="small")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--optimizer", choices=["sgd", "adamw", "muon"], default="sgd")
    parser.add_argument("--ema", type=float, default=0.0, help="decay of the average of weights")
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--images", type=int, help="training and validation; default: all")
    parser.add_argument("--source", default="fashion-mnist", help="or `synthetic`")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1, help="of each process")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    if min([*options.networks, options.epochs, options.rounds, options.threads]) < 1:
        parser.error("--networks, --epochs, --rounds and --threads must be at least 1")
    torch.set_num_threads(options.threads)
    try:
        check_device(options.device)
        answer = _answer(options)
    except (ValueError, DataError) as error:
        sys.stderr.write(f"error: {one_line(error)}\n")
        return 2
    console = Console()
    console.print(_table(answer))
    console.print(layout_table(answer["layouts"]))
    if options.json is not None:
        options.json.write_text(json.dumps(answer) + "\n", encoding="utf-8")
    return 0


def _answer(options: argparse.Namespace) -> dict[str, Any]:
    bench = Bench(options)
    rows = [row for count in options.networks for row in measure(bench, count, options.rounds)]
    layouts = [row for count in options.networks for row in bench.layouts(count)]
    return {"conditions": bench.conditions(), "rows": rows, "layouts": layouts}


class Bench:
    """The images on the device, and the trainings to be timed."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        size = options.images
        held_out = 6000 if size is None else max(1, size // 10)
        section = DataSection(
            source=options.source,
            train_images=size,
            validation_images=held_out,
            synthetic_train=size or 12_000,
        )
        images = load_images(section)
        self.device = torch.device(options.device)
        self.shape = images.everything.shape
        self.train: Data = as_tensors(images.train, self.device)
        self.validation: Data = as_tensors(images.validation, self.device)
        self.mean, self.std = pixel_statistics(self.train[0])

    def start(self, number: int, network: NetworkConfig | None = None) -> Training:
        """Start training `number`, which has its own seed, learning rate and dropout."""
        network = NETWORKS[self.options.network] if network is None else network
        if network.dropout:
            network = replace(network, dropout=0.1 + 0.05 * (number % 5))
        recipe = TrainingConfig(
            epochs=self.options.epochs,
            learning_rate=0.05 * 2 ** (number % 4 - 2),
            batch_size=self.options.batch_size,
            optimizer=self.options.optimizer,
            ema=self.options.ema,
            weight_decay=5e-4,
            flip=True,
        )
        configuration = Configuration(network=network, training=recipe)
        return Training.start(configuration, self.shape, self.mean, self.std, number, self.device)

    def warm_up(self, count: int) -> None:
        """Let libraries load, allocators grow and cuDNN choose: an epoch on a few images."""
        few = (self.train[0][:_WARM_UP_IMAGES], self.train[1][:_WARM_UP_IMAGES])
        list(fit(self.start(0), few, few, until=1))
        if count > 1:
            trainings = [self.start(number) for number in range(count)]
            list(fit_fused(trainings, [few] * count, [few] * count, until=1))

    def layouts(self, count: int) -> list[dict[str, Any]]:
        """Time one step of `count` networks by layout, without dropout."""
        network = replace(NETWORKS[self.options.network], dropout=0.0)
        models = [self.start(number, network).model for number in range(count)]
        size = self.options.batch_size
        return measure_layouts(models, self.train[0][:size], self.train[1][:size])

    def conditions(self) -> dict[str, Any]:
        """Return what the numbers depend on."""
        known = {key: value for key, value in vars(self.options).items() if key != "json"}
        gpu = torch.cuda.get_device_name() if self.device.type == "cuda" else None
        return {
            **known,
            "train_images": len(self.train[0]),
            "validation_images": len(self.validation[0]),
            "parameters": sum(p.numel() for p in self.start(0).model.parameters()),
            "precision": resolve_precision("auto", self.device),
            "gpu": gpu,
            "environment": describe_environment(CHECKOUT),
        }


def measure(bench: Bench, count: int, rounds: int) -> list[dict[str, Any]]:
    """Time `count` trainings each way, in turn, `rounds` times."""
    ways: dict[str, Callable[[], tuple[float, list[float]]]] = {
        "one after another": lambda: _one_after_another(bench, count),
        "a process each": lambda: _a_process_each(bench, count),
        "fused": lambda: _fused(bench, count),
    }
    bench.warm_up(count)
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    accuracies: dict[str, list[float]] = {}
    for _ in range(rounds):
        for way, run in ways.items():
            took, accuracies[way] = run()
            seconds[way].append(took)
    return [
        {
            "networks": count,
            "way": way,
            "seconds": seconds[way],
            "networks_per_second": count / statistics.median(seconds[way]),
            "seconds_per_network": statistics.median(seconds[way]) / count,
            "times_one_after_another": statistics.median(seconds["one after another"])
            / statistics.median(seconds[way]),
            "val_accuracies": accuracies[way],
        }
        for way in ways
    ]


def _one_after_another(bench: Bench, count: int) -> tuple[float, list[float]]:
    begun, accuracies = time.perf_counter(), []
    for number in range(count):
        *_, last = fit(bench.start(number), bench.train, bench.validation)
        accuracies.append(last.val_accuracy or 0.0)
    return time.perf_counter() - begun, accuracies


def _fused(bench: Bench, count: int) -> tuple[float, list[float]]:
    begun = time.perf_counter()
    trainings = [bench.start(number) for number in range(count)]
    *_, last = fit_fused(trainings, [bench.train] * count, [bench.validation] * count)
    return time.perf_counter() - begun, [metrics.val_accuracy or 0.0 for metrics in last]


def _a_process_each(bench: Bench, count: int) -> tuple[float, list[float]]:
    # Spawned: a forked process cannot use CUDA, nor torch's threads.
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(count, timeout=_MOST_WAIT_SECONDS)
    with context.Pool(count, _remember, (barrier,)) as pool:
        given = [(bench.options, number) for number in range(count)]
        times = pool.starmap(_in_a_process, given, chunksize=1)
    begun, ended = min(b for b, _, _ in times), max(e for _, e, _ in times)
    return ended - begun, [accuracy for _, _, accuracy in times]


_barriers: list[Any] = []  # of a process of the pool


def _remember(barrier: Any) -> None:
    _barriers.append(barrier)


def _in_a_process(options: argparse.Namespace, number: int) -> tuple[float, float, float]:
    """Return when a training began and ended, on the clock all processes share, and its worth."""
    torch.set_num_threads(options.threads)
    bench = Bench(options)
    bench.warm_up(1)
    _barriers[0].wait()  # also keeps a process from taking two
    begun = time.monotonic()
    *_, last = fit(bench.start(number), bench.train, bench.validation)
    return begun, time.monotonic(), last.val_accuracy or 0.0


def _table(answer: dict[str, Any]) -> Table:
    known = answer["conditions"]
    where = known["gpu"] or f"CPU, {known['threads']} threads a process"
    table = Table(
        title=f"{known['network']}, {known['parameters']:,} parameters: {known['epochs']} epochs of"
        f" {known['train_images']:,} images, batch {known['batch_size']}, {known['optimizer']},"
        f" ema {known['ema']:g}, {known['precision']}, {where}",
        title_justify="left",
        caption_justify="left",
        caption=f"median of {known['rounds']} rounds; torch {known['environment']['torch']}",
        box=box.SIMPLE_HEAD,
    )
    for heading in ("networks", "way", "seconds", "each", "a second", "times", "accuracy"):
        if heading == "way":
            table.add_column(heading, no_wrap=True)
        else:
            table.add_column(heading, justify="right")
    for row in answer["rows"]:
        table.add_row(
            str(row["networks"]),
            row["way"],
            f"{statistics.median(row['seconds']):.2f}",
            f"{row['seconds_per_network']:.2f}",
            f"{row['networks_per_second']:.2f}",
            f"{row['times_one_after_another']:.2f}",
            f"{math.fsum(row['val_accuracies']) / row['networks']:.4f}",
        )
    return table


if __name__ == "__main__":
    sys.exit(main())
