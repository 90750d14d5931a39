"""Batches: complete, repeatable, resumable, varied as stated, and the shared array left alone."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from torch import Tensor

from data.images import LabelledImages
from data.loader import Augmentation, Loader, as_tensors

ALL = Augmentation(flip=True, shift=2, erase=0.5)


def make_tensors(
    num_images: int = 50, channels: int = 1, height: int = 9, width: int = 7
) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    size = (num_images, channels, height, width)
    # No pixel is 0, so that what comes in from outside the image can be told.
    images = torch.randint(1, 256, size, generator=generator, dtype=torch.uint8)
    return images, torch.arange(num_images)


def collect(loader: Loader, epoch: int) -> tuple[Tensor, Tensor]:
    images, labels = zip(*loader.epoch(epoch), strict=True)
    return torch.cat(images), torch.cat(labels)


def test_tensors_share_the_arrays_memory_even_where_it_is_read_only() -> None:
    images = np.zeros((3, 1, 2, 2), dtype=np.uint8)
    images.setflags(write=False)
    data = LabelledImages(
        images=images, labels=np.array([0, 1, 0]), classes=("a", "b"), name="n", origin="o"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pixels, labels = as_tensors(data, "cpu")

    assert pixels.data_ptr() == images.ctypes.data
    assert (pixels.dtype, labels.dtype) == (torch.uint8, torch.int64)


@pytest.mark.parametrize("augmentation", [Augmentation(), ALL])
def test_an_epoch_never_writes_to_the_shared_images(augmentation: Augmentation) -> None:
    images, labels = make_tensors()
    before = images.clone()
    for batch, _ in Loader(images, labels, batch_size=16, seed=0, augmentation=augmentation).epoch(
        0
    ):
        batch.zero_()  # a batch is the caller's own

    assert torch.equal(images, before)


def test_every_image_comes_once_with_its_own_label() -> None:
    images, labels = make_tensors()
    loader = Loader(images, labels, batch_size=16, seed=3)
    seen, told = collect(loader, 0)

    assert sorted(told.tolist()) == list(range(50))
    assert told.tolist() != list(range(50))
    assert torch.equal(seen, images[told])
    assert [len(batch) for batch, _ in loader.epoch(0)] == [16, 16, 16, 2]
    assert loader.num_batches == 4


def test_drop_last_leaves_out_the_batch_that_is_not_full() -> None:
    loader = Loader(*make_tensors(), batch_size=16, seed=3, drop_last=True)

    assert [len(batch) for batch, _ in loader.epoch(0)] == [16, 16, 16]
    assert loader.num_batches == 3


def test_without_a_seed_images_come_in_order() -> None:
    images, labels = make_tensors()
    seen, told = collect(Loader(images, labels, batch_size=16, seed=None), 0)

    assert torch.equal(seen, images)
    assert torch.equal(told, labels)


def test_an_epoch_is_a_function_of_seed_and_number_alone() -> None:
    def epoch(seed: int, number: int, before: int = 0) -> tuple[Tensor, Tensor]:
        loader = Loader(*make_tensors(), batch_size=16, seed=seed, augmentation=ALL)
        for earlier in range(before):
            collect(loader, earlier)
        return collect(loader, number)

    straight, resumed = epoch(0, 3, before=3), epoch(0, 3)
    assert torch.equal(straight[0], resumed[0])
    assert torch.equal(straight[1], resumed[1])
    # seed + epoch must not be all that counts: (1, 2) is not (2, 1).
    assert not torch.equal(epoch(1, 2)[1], epoch(2, 1)[1])
    assert not torch.equal(epoch(0, 3)[1], epoch(0, 4)[1])
    assert not torch.equal(epoch(0, 3)[1], epoch(1, 3)[1])


def test_the_global_generator_is_neither_read_nor_moved() -> None:
    torch.manual_seed(0)
    state = torch.get_rng_state()
    collect(Loader(*make_tensors(), batch_size=16, seed=0, augmentation=ALL), 0)

    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("channels", [1, 3])
def test_flip_mirrors_about_half_of_the_images(channels: int) -> None:
    images, labels = make_tensors(400, channels)
    flip = Augmentation(flip=True)
    seen, told = collect(Loader(images, labels, batch_size=64, seed=0, augmentation=flip), 0)
    kept = (seen == images[told]).flatten(1).all(1)
    mirrored = (seen == images[told].flip(-1)).flatten(1).all(1)

    assert bool((kept ^ mirrored).all())
    assert 150 < int(mirrored.sum()) < 250


def test_alternating_flip_shows_both_sides_of_every_image_in_two_epochs() -> None:
    images, labels = make_tensors(400, 1)
    flip = Augmentation(flip=True, alternate=True)
    loader = Loader(images, labels, batch_size=64, seed=0, augmentation=flip)
    mirrored = []
    for epoch in (1, 2, 3):
        seen, told = collect(loader, epoch)
        kept = (seen == images[told]).flatten(1).all(1)
        back = torch.empty_like(kept)
        back[told] = ~kept
        assert bool((seen[~kept] == images[told][~kept].flip(-1)).all())
        mirrored.append(back)
    assert 150 < int(mirrored[0].sum()) < 250
    assert torch.equal(mirrored[1], ~mirrored[0])
    assert torch.equal(mirrored[2], mirrored[0])


def test_shift_moves_each_image_by_its_own_offset_and_fills_with_black() -> None:
    images, labels = make_tensors(300, 3)
    shift = Augmentation(shift=2)
    seen, told = collect(Loader(images, labels, batch_size=64, seed=0, augmentation=shift), 0)
    offsets = set()
    for image, original in zip(seen, images[told], strict=True):
        matches = []
        for down in range(-2, 3):
            for right in range(-2, 3):
                # The reference: roll, then blacken what came in on the other side.
                moved = original.roll((down, right), (1, 2))
                if down:
                    moved[:, slice(0, down) if down > 0 else slice(down, None)] = 0
                if right:
                    moved[:, :, slice(0, right) if right > 0 else slice(right, None)] = 0
                if torch.equal(moved, image):
                    matches.append((down, right))
        assert len(matches) == 1
        offsets.add(matches[0])

    assert len(offsets) == 25  # every offset occurs


def test_erasing_replaces_one_rectangle_of_the_stated_size() -> None:
    images, labels = make_tensors(400, 1, 20, 20)
    erase = Augmentation(erase=0.5)
    seen, told = collect(Loader(images, labels, batch_size=64, seed=0, augmentation=erase), 0)
    changed = seen != images[told]
    hit = changed.flatten(1).any(1)

    assert 150 < int(hit.sum()) < 250
    filled = []
    for mask in changed[hit, 0]:
        rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
        height = int(rows.max() - rows.min()) + 1
        width = int(columns.max() - columns.min()) + 1
        # A random pixel equals the old one in 1 of 256 cases; the rest of the rectangle changed.
        assert int(mask.sum()) >= 0.9 * height * width
        assert height * width <= 0.4 * 400 * 1.2  # sides are rounded
        filled.append(height * width)
    assert min(filled) < 40
    assert max(filled) > 120
    noise = seen[changed].float()
    assert 118 < float(noise.mean()) < 137


def test_erase_of_one_hits_every_image() -> None:
    images, labels = make_tensors(100, 1, 20, 20)
    erase = Augmentation(erase=1.0)
    seen, told = collect(Loader(images, labels, batch_size=32, seed=0, augmentation=erase), 0)

    assert bool((seen != images[told]).flatten(1).any(1).all())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shift": -1}, "`shift` is -1, but must be between 0 and 64"),
        ({"erase": 1.5}, "`erase` is 1.5, but must be between 0 and 1"),
        ({"erase": float("nan")}, "`erase` is nan"),
        ({"alternate": True}, "`alternate` is true without `flip`, .* set both"),
    ],
)
def test_refuses_augmentation_out_of_range(changes: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Augmentation(**changes)  # type: ignore[arg-type]


def test_refuses_what_it_cannot_serve() -> None:
    images, labels = make_tensors()
    with pytest.raises(ValueError, match="`batch_size` is 0"):
        Loader(images, labels, batch_size=0, seed=0)
    with pytest.raises(ValueError, match="must be uint8"):
        Loader(images.float(), labels, batch_size=4, seed=0)
    with pytest.raises(ValueError, match="for 49 labels"):
        Loader(images, labels[1:], batch_size=4, seed=0)
    with pytest.raises(ValueError, match="only 50 images"):
        Loader(images, labels, batch_size=64, seed=0, drop_last=True)
    with pytest.raises(ValueError, match="augmentation needs a seed"):
        Loader(images, labels, batch_size=4, seed=None, augmentation=ALL)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_sees_the_batches_that_the_cpu_sees() -> None:
    images, labels = make_tensors(100, 3)
    on_cpu = Loader(images, labels, batch_size=32, seed=0, augmentation=ALL)
    on_gpu = Loader(images.cuda(), labels.cuda(), batch_size=32, seed=0, augmentation=ALL)
    for cpu, gpu in zip(on_cpu.epoch(1), on_gpu.epoch(1), strict=True):
        assert gpu[0].is_cuda
        assert torch.equal(cpu[0], gpu[0].cpu())
        assert torch.equal(cpu[1], gpu[1].cpu())
