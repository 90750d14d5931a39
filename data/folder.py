"""Read image folders: train/<class>/*.png|jpg|jpeg and test/<class>/..."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray

from data.images import DataError, ImageShape, LabelledImages
from data.memory import check_memory
from data.one_line import is_text
from data.plain_file import open_plain

if TYPE_CHECKING:
    from PIL import Image

PICTURES = (".png", ".jpg", ".jpeg")  # suffixes of what read_image takes, in lower case
_MAX_PIXELS = 50_000_000  # a photograph has less; a decompression bomb has more
_MAX_SIDE = 65_535  # what JPEG allows; to shrink a side takes memory in proportion to it
_MAX_BYTES = 256 << 20  # of a file
_MAX_SCANS = 100  # progressive JPEG has about ten; each goes over all pixels, however short it is
_END_OF_SCAN = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
# Pillow's names of modes whose values are 8 bits. Others (16-bit grey) it would clip, not scale.
_MODES_OF_8_BITS = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")


def has_folders(directory: Path) -> bool:
    """Tell whether `directory` has a train/ with folders in it."""
    train = directory / "train"
    return train.is_dir() and any(path.is_dir() for path in _visible(train))


def load_folder(
    directory: Path, part: Literal["train", "test"], *, image_size: int, colour: bool
) -> LabelledImages:
    """Load the images of one part, resized to `image_size` pixels each way: (N, C, size, size).

    C is 3 with `colour`, otherwise 1. The classes are the folders of train/, sorted by name; those
    of test/ must be among them. Only file names of train/ are looked at for the test part. Raises
    DataError.
    """
    classes = tuple(path.name for path in _class_folders(directory / "train"))
    shape = ImageShape(
        channels=3 if colour else 1,
        height=image_size,
        width=image_size,
        num_classes=max(len(classes), 2),  # a lone class is refused below, in words for people
    )
    paths: list[Path] = []
    labels: list[int] = []
    for folder in _class_folders(directory / part):
        if folder.name not in classes:
            raise DataError(
                f"{folder}: is no class of {directory / 'train'} ({', '.join(classes[:10])}); "
                "rename it, or add training images"
            )
        inside = _image_files(folder)
        paths += inside
        labels += [classes.index(folder.name)] * len(inside)
    check_memory(directory, len(paths) * shape.channels * image_size**2)
    images = np.empty((len(paths), shape.channels, image_size, image_size), dtype=np.uint8)
    for number, path in enumerate(paths):
        images[number] = read_image(path, shape)
    return LabelledImages(
        images=images,
        labels=np.array(labels, dtype=np.int64),
        classes=classes,
        name=directory.name,
        origin=str(directory),
    )


def read_image(path: Path, shape: ImageShape) -> NDArray[np.uint8]:
    """Read one PNG or JPEG file as (C, H, W) uint8 of the given shape; see `decode_image`."""
    try:
        with open_plain(path) as file:
            return decode_image(file, str(path), shape)
    except FileNotFoundError as error:
        raise DataError(f"{path}: there is no such file; check the name") from error
    except OSError as error:
        raise _unreadable(str(path), error) from error


def decode_image(
    file: BinaryIO, name: str, shape: ImageShape, *, max_pixels: int = _MAX_PIXELS
) -> NDArray[np.uint8]:
    """Read one PNG or JPEG image as (C, H, W) uint8 of the given shape; `name` is for errors.

    The image is turned upright as its EXIF tag says, made grey (ITU-R 601-2 luma) for one channel,
    and resized (bilinear over the source's area, the sides not kept in proportion); what is
    transparent becomes black. Raises DataError if it is no whole 8-bit image of at most
    `max_pixels` (50 million) pixels.
    """
    from PIL import Image, ImageOps

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # remarks on what stands beside the pixels
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file, formats=("PNG", "JPEG")) as opened:
                _check_header(opened, file, name, max_pixels)
                upright = ImageOps.exif_transpose(opened)
            if upright.has_transparency_data:
                ground = Image.new("RGBA", upright.size, (0, 0, 0, 255))
                upright = Image.alpha_composite(ground, upright.convert("RGBA"))
            plain = upright.convert("L" if shape.channels == 1 else "RGB")
    except DataError:
        raise
    # Pillow's decoders raise nearly anything on damaged bytes; every one means the same to people.
    except Exception as error:
        raise _unreadable(name, error) from error
    size = (shape.width, shape.height)
    if plain.size != size:
        plain = plain.resize(size, Image.Resampling.BILINEAR)
    pixels = np.asarray(plain, dtype=np.uint8).reshape(shape.height, shape.width, shape.channels)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _unreadable(name: str, error: Exception) -> DataError:
    from PIL import UnidentifiedImageError

    strange = isinstance(error, UnidentifiedImageError)
    reason = "it is of another kind" if strange else str(error).replace(name, "the file")
    return DataError(
        f"{name}: cannot be read as a PNG or JPEG image ({reason}); replace or remove it"
    )


def _check_header(opened: Image.Image, file: BinaryIO, name: str, max_pixels: int) -> None:
    """Refuse what would take long or much memory, or lose values, before a pixel is unpacked."""
    mode, (width, height) = opened.mode, opened.size
    if width * height > max_pixels or max(width, height) > _MAX_SIDE:
        raise DataError(
            f"{name}: has {width} x {height} pixels, more than {max_pixels} or a side of more "
            f"than {_MAX_SIDE}; make it smaller first"
        )
    if mode not in _MODES_OF_8_BITS:
        raise DataError(
            f"{name}: stores pixels as {mode!r}, but 8 bits a channel are needed; convert it first"
        )
    place = file.tell()
    file.seek(0)
    content = file.read(_MAX_BYTES + 1)
    file.seek(place)
    if len(content) > _MAX_BYTES:
        raise DataError(f"{name}: has more than {_MAX_BYTES} bytes; make it smaller first")
    if opened.format != "PNG" and _num_scans(content) > _MAX_SCANS:
        raise DataError(
            f"{name}: draws its pixels more than {_MAX_SCANS} times over; save it again as PNG"
        )


def _num_scans(content: bytes) -> int:
    """Count the scans of a JPEG, up to one more than are allowed."""
    place, found = 2, 0
    while place + 4 <= len(content) and found <= _MAX_SCANS and content[place] == 0xFF:
        marker = content[place + 1]
        if marker == 0xFF:  # filling
            place += 1
            continue
        if marker == 0xD9:  # the end of the image: others may follow it in the file
            break
        place += 2 + int.from_bytes(content[place + 2 : place + 4], "big")
        if marker == 0xDA:
            found += 1
            end = _END_OF_SCAN.search(content, place)
            place = end.start() if end else len(content)
    return found


def _class_folders(part: Path) -> list[Path]:
    if not part.is_dir():
        raise DataError(f"{part}: is no folder; make it, with one folder for each class")
    folders = sorted(path for path in _visible(part) if path.is_dir())
    if not folders:
        raise DataError(f"{part}: holds no folder; put the images of each class in one")
    for folder in folders:
        if not is_text(folder.name):
            raise DataError(
                f"{part}: holds a folder named {folder.name!a}, which names no class that can be "
                "shown; rename it"
            )
    return folders


def _image_files(folder: Path) -> list[Path]:
    """List a class's images by name; refuse what would otherwise be left out unsaid."""
    files = sorted(_visible(folder))
    for path in files:
        if path.suffix.lower() not in PICTURES or not path.is_file():
            raise DataError(
                f"{path}: is neither a .png, .jpg nor .jpeg file; convert, move or remove it"
            )
    if not files:
        raise DataError(f"{folder}: holds no image; add some, or remove the folder")
    return files


def _visible(folder: Path) -> list[Path]:
    try:
        return [path for path in folder.iterdir() if not path.name.startswith(".")]
    except OSError as error:
        raise DataError(f"{folder}: cannot be read ({error.strerror or error})") from error
