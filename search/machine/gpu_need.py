"""How much of a GPU's memory one trial needs: measured for the largest networks of a study.

The costliest configurations that the space and the limits allow are trained for a moment, in a
process of their own; what the hungriest takes, with what CUDA itself takes in every process, is
what each trial must have.
"""

from __future__ import annotations

import multiprocessing
import queue
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from data.images import ImageShape, LabelledImages
from model.config import Configuration
from model.geometry import network_cost, plan_network
from search.config.axis import Axis, Placed
from search.config.config import StudyConfig
from search.config.feasible import realiser
from search.machine.end_with_parent import end_with_parent, signals_to_parent_only
from search.machine.gpu_share import GpuNeed

_LEAST_CONTEXT, _MOST_CONTEXT = 300 << 20, 1 << 30
"""What CUDA takes in a process; more than that in use is other programs'."""
_DRAWS, _MEASURED = 1000, 3
_BATCHES = 2
_SCORED_IMAGES = 1000
_SECONDS = 300.0


def need_here(
    config: StudyConfig, images: LabelledImages, noted: Mapping[str, Any] | None = None
) -> GpuNeed | None:
    """Return what a trial of a study needs of a GPU; None where that is not asked for, or no GPU.

    Args:
        config: Of the study; a share that it gives holds.
        images: All training images.
        noted: What was measured before, by the record; then nothing is measured.

    Raises:
        ValueError: It could not be measured; one line that says why.
    """
    import torch

    if config.resources.gpus_per_trial != "auto" or not torch.cuda.device_count():
        return None
    if noted:
        return GpuNeed.from_dict(noted)
    chosen = costliest(config, images.shape)
    return measure_apart(chosen, images) if chosen else None  # the search says that none fits


def costliest(config: StudyConfig, shape: ImageShape) -> list[Configuration]:
    """Return the configurations that may take the most memory, of all that may be proposed.

    Every number of the space is at its upper end in about half of the draws, so the corners are
    among them; what the limits refuse is not. The baselines are as well.
    """
    realise, space, rng = realiser(config, shape), config.search_space(), random.Random(config.seed)

    def place(name: str, axis: Axis) -> float:
        return 1.0 if axis.is_ordered and rng.random() < ends else rng.random()

    found = {c.key(): c for c in config.baseline_configurations().values() if _fits(c, shape)}
    for index in range(_DRAWS):
        ends = (1.0, 0.5, 0.0)[index % 3]
        drawn = realise(space.suggest(Placed(place)))
        if drawn.configuration is not None and not drawn.refusal:
            found[drawn.key] = Configuration.from_dict(drawn.configuration)
    ranked = sorted(found.values(), key=lambda c: training_bytes(c, shape), reverse=True)
    return ranked[:_MEASURED]


def training_bytes(configuration: Configuration, shape: ImageShape) -> int:
    """Return about what a training holds at a time: maps of a batch and their gradients, weights.

    To compare configurations by; what the libraries take beside it is measured.

    Raises:
        ValueError: The network does not fit the images.
    """
    plan = plan_network(configuration.network, shape)
    convs = [conv for block in plan.blocks for conv in block]
    maps = sum(conv.filters * conv.out_size[0] * conv.out_size[1] for conv in convs)
    parameters = network_cost(configuration.network, shape).parameters
    # A map, its normalised and its rectified form, and the gradient of one of them.
    return 4 * (4 * maps * configuration.training.batch_size + 4 * parameters)


def measure(
    configurations: Sequence[Configuration], images: LabelledImages, device: Any
) -> GpuNeed:
    """Train each configuration for two batches, in this process, and return the hungriest's need.

    Args:
        configurations: From `costliest`; at least one.
        images: All training images of the study.
        device: Where to train. On the CPU it takes nothing of a GPU: for tests.

    Raises:
        ValueError: Not even one could be trained.
    """
    import torch

    device = torch.device(device)
    on_gpu = device.type == "cuda"
    most, hungriest, refusal = -1, configurations[0], ""
    for configuration in configurations:
        if on_gpu:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(device)
        try:
            _train(configuration, images, device)
        except torch.OutOfMemoryError as error:
            refusal = str(error)  # a whole GPU is too little for it: others tell what fits
            continue
        taken = torch.cuda.max_memory_reserved(device) if on_gpu else 0
        if taken > most:
            most, hungriest = taken, configuration
    if most < 0:
        raise ValueError(f"no configuration could be trained on {device}: {refusal}")
    return GpuNeed(
        training=most,
        context=_context_bytes(device) if on_gpu else 0,
        images=_bytes_of(images),
        configuration=hungriest.to_dict(),
        parameters=network_cost(hungriest.network, images.shape).parameters,
        device=torch.cuda.get_device_name(device) if on_gpu else "the CPU",
    )


def measure_apart(
    configurations: Sequence[Configuration], images: LabelledImages, device: str = "cuda"
) -> GpuNeed:
    """Do the same in a process that ends: a driver must not keep a part of the GPU for itself.

    Raises:
        ValueError: It could not be measured; one line that says why.
    """
    context = multiprocessing.get_context("spawn")
    answers: Any = context.Queue()
    largest = max(c.training.batch_size for c in configurations)
    few = _cut(images, max(_BATCHES * largest, _SCORED_IMAGES))  # all of them need not travel
    arguments = (tuple(configurations), few, device, answers)
    process = context.Process(target=_answer, args=arguments, daemon=True)
    with signals_to_parent_only():
        process.start()
    try:
        answer = _next(answers, process)
    finally:
        process.terminate()
        process.join()
    if isinstance(answer, str):
        raise ValueError(
            f"what a trial needs of the GPU could not be measured ({answer}); give"
            " resources.gpus_per_trial"
        )
    measured: GpuNeed = replace(answer, images=_bytes_of(images))
    return measured


def _next(answers: Any, process: Any) -> GpuNeed | str:
    deadline = time.monotonic() + _SECONDS
    while time.monotonic() < deadline:
        alive = process.is_alive()  # before the look: what it said last is not missed
        try:
            answer: GpuNeed | str = answers.get(timeout=1)
            return answer
        except queue.Empty:
            if not alive:
                return f"its process ended with {process.exitcode}"
    return f"no answer within {_SECONDS:g} s"


def _answer(
    configurations: Sequence[Configuration], images: LabelledImages, device: str, answers: Any
) -> None:
    end_with_parent()
    try:
        answers.put(measure(configurations, images, device))
    except Exception as error:  # said by the one who asked
        answers.put(" ".join(f"{type(error).__name__}: {error}".split())[:300])


def _train(configuration: Configuration, images: LabelledImages, device: Any) -> None:
    from data.loader import as_tensors
    from model.cnn import pixel_statistics
    from model.train import Training, fit

    batch = configuration.training.batch_size
    few = _cut(images, max(_BATCHES * batch, _SCORED_IMAGES))
    pixels, labels = as_tensors(few, device)
    mean, std = pixel_statistics(as_tensors(few, "cpu")[0])
    training = Training.start(configuration, images.shape, mean, std, 0, device)
    trained = (pixels[: _BATCHES * batch], labels[: _BATCHES * batch])
    for _ in fit(training, trained, (pixels, labels), until=1):
        pass


def _context_bytes(device: Any) -> int:
    """Return what CUDA takes of the GPU in this process, once kernels are loaded."""
    import torch

    free, total = torch.cuda.mem_get_info(device)
    used = total - free - torch.cuda.memory_reserved(device)
    return int(min(max(used, _LEAST_CONTEXT), _MOST_CONTEXT))


def _bytes_of(images: LabelledImages) -> int:
    return int(images.images.nbytes + 8 * images.num_images)  # labels are int64 there


def _cut(images: LabelledImages, count: int) -> LabelledImages:
    return replace(images, images=images.images[:count], labels=images.labels[:count])


def _fits(configuration: Configuration, shape: ImageShape) -> bool:
    try:
        plan_network(configuration.network, shape)
    except ValueError:
        return False
    return True
