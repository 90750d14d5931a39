"""One trial on one core: images per second, the machine's ceiling, and where a step's time goes.

Run by `trials.py`, every measurement in a process of its own, in the environment that its kind of
trial has; the answer is the last line printed.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal
from unittest.mock import patch

from benchmarks.epoch_images import trained_images
from search.machine.slots import worker_environment

ROOT = Path(__file__).resolve().parent.parent
Who = Literal["stock", "stock, our memory", "ours, fp32", "ours"]
KINDS: tuple[Who, ...] = ("stock", "stock, our memory", "ours, fp32", "ours")
"""What is measured, in this order, again and again. `our memory`: with the settings of glibc's
allocator that our workers are started with."""
SIDE, CEILING_SECONDS = 1024, 1.0
STEP_PIECES = ("batches", "forward", "loss", "backward", "optimizer")
"""Of a training step, in order; what is left is bookkeeping."""


def in_a_process(module: str, given: dict[str, Any], *, ours: bool) -> Any:
    """Run the `main` of a module of this folder in a new process and return its answer."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")}
    environment |= {"PYTHONPATH": worker_environment()["PYTHONPATH"]}
    if ours:
        environment |= worker_environment()
    command = [sys.executable, "-m", f"benchmarks.{module}", json.dumps(given)]
    answer = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
    if answer.returncode:
        raise RuntimeError(f"{module} with {given} has failed with {answer.returncode}")
    return json.loads(answer.stdout.splitlines()[-1])


def ceiling() -> dict[str, float]:
    """Return the GFLOP/s of a matrix product of side 1024 in both precisions, the best of many."""
    import torch

    found = {}
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        a, b = torch.randn(SIDE, SIDE, dtype=dtype), torch.randn(SIDE, SIDE, dtype=dtype)
        best, end = float("inf"), time.perf_counter() + CEILING_SECONDS
        while time.perf_counter() < end:
            started = time.perf_counter()
            torch.mm(a, b)
            best = min(best, time.perf_counter() - started)
        found[name] = 2 * SIDE**3 / best / 1e9
    return found


def measure(
    who: Who, network: str, *, images: int, epochs: int, seed: int, data: str, profile: bool
) -> dict[str, Any]:
    """Train one trial; return the images per second of each epoch but the first.

    With `profile`, also the seconds of an epoch by piece, see `profiled`.
    """
    from model.precision import resolve_precision

    run, configuration, shape = _trial(who, network, images, epochs, seed, data)
    with ExitStack() as stack:
        pieces = stack.enter_context(profiled()) if profile else None
        rows = list(run())
    from model.geometry import network_cost

    cost = network_cost(configuration.network, shape)
    precision = configuration.training.precision
    found: dict[str, Any] = {
        "who": who,
        "precision": resolve_precision(precision, "cpu") if who.startswith("ours") else "fp32",
        "images_per_second": [row["images_per_second"] for row in rows[1:]],
        "multiply_adds": cost.multiply_adds,
        "parameters": cost.parameters,
    }
    if pieces is not None:
        found["profile"] = _by_piece(rows, pieces, rows[0]["num_images"])
    return found


def _trial(
    who: Who, network: str, images: int, epochs: int, seed: int, data: str
) -> tuple[Callable[[], Iterator[dict[str, Any]]], Any, Any]:
    """Return what trains an epoch an item, the configuration, and the images' shape."""
    from benchmarks import stock_trial
    from benchmarks.trials_study import configuration_of, study_config
    from data.loader import as_tensors
    from model.checkpoint import save_checkpoint
    from model.cnn import pixel_statistics
    from model.train import Training, fit
    from search.record.dataset import load_images

    study = study_config(network, trials=1, epochs=epochs, images=images, seed=seed, data=data)
    loaded, configuration = load_images(study.data), configuration_of(study)
    train, validation = loaded.train, loaded.validation
    mean, std = pixel_statistics(as_tensors(train, "cpu")[0])
    num_images = trained_images(train.num_images, configuration.training.batch_size)
    seen = {"num_images": num_images, "checkpoint": 0.0}
    if who == "ours, fp32":
        configuration = replace(
            configuration, training=replace(configuration.training, precision="fp32")
        )

    def stock() -> Iterator[dict[str, Any]]:
        for row in stock_trial.train(configuration, train, validation, mean, std, seed):
            yield row | seen

    def ours() -> Iterator[dict[str, Any]]:
        tensors = as_tensors(train, "cpu"), as_tensors(validation, "cpu")
        training = Training.start(configuration, train.shape, mean, std, seed, "cpu")
        with tempfile.TemporaryDirectory() as place:
            for metrics in fit(training, *tensors):
                started = time.perf_counter()
                save_checkpoint(training, Path(place) / "checkpoint.safetensors", {"epochs": []})
                yield (
                    {
                        "images_per_second": metrics.images_per_second,
                        "seconds": metrics.seconds,
                    }
                    | seen
                    | {"checkpoint": time.perf_counter() - started}
                )

    return (ours if who.startswith("ours") else stock), configuration, train.shape


@contextmanager
def profiled() -> Iterator[dict[str, float]]:
    """Count, in the block, the seconds of the pieces of training steps by the names given here."""
    import torch
    from torch.utils.data import DataLoader

    from benchmarks.stock_trial import Net
    from data.loader import Loader
    from model.cnn import CNN

    seconds: dict[str, float] = defaultdict(float)

    def counted(piece: str, call: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(call)
        def inner(*args: Any, **kwargs: Any) -> Any:
            if not torch.is_grad_enabled():  # validation
                return call(*args, **kwargs)
            started = time.perf_counter()
            try:
                return call(*args, **kwargs)
            finally:
                seconds[piece] += time.perf_counter() - started

        return inner

    def items(call: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(call)
        def inner(*args: Any, **kwargs: Any) -> Iterator[Any]:
            take = counted("batches", functools.partial(next, call(*args, **kwargs), None))
            while (item := take()) is not None:
                yield item

        return inner

    with ExitStack() as stack:
        for owner, name, piece in (
            (CNN, "forward", "forward"),
            (Net, "forward", "forward"),
            (torch.nn.functional, "cross_entropy", "loss"),
            (torch.Tensor, "backward", "backward"),
            (torch.optim.SGD, "step", "optimizer"),
        ):
            wrapped = counted(piece, getattr(owner, name))
            stack.enter_context(patch.object(owner, name, wrapped))
        stack.enter_context(patch.object(Loader, "epoch", items(Loader.epoch)))
        stack.enter_context(patch.object(DataLoader, "__iter__", items(DataLoader.__iter__)))
        yield seconds


def _by_piece(
    rows: list[dict[str, Any]], pieces: dict[str, float], num_images: int
) -> dict[str, float]:
    """Return the mean seconds of an epoch by piece, all epochs alike."""
    training = sum(num_images / row["images_per_second"] for row in rows)
    whole = sum(row["seconds"] for row in rows)
    found = {piece: pieces[piece] for piece in STEP_PIECES}
    found["rest of the step"] = training - sum(found.values())
    found |= {"validation": whole - training, "checkpoint": sum(r["checkpoint"] for r in rows)}
    return {piece: value / len(rows) for piece, value in found.items()}


def main() -> None:
    """Measure what the one argument (JSON) says and print the answer."""
    import torch

    given = json.loads(sys.argv[1])
    torch.set_num_threads(1)
    print(json.dumps(measure(**given) if given else ceiling()))


if __name__ == "__main__":
    main()
