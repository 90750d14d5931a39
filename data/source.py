"""Turn what the user named as data into images: the one door that every command uses."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from data.download import Progress
from data.images import DataError, LabelledImages
from data.one_line import is_text

Kind = Literal["idx", "csv", "folder"]

_ALLOWED = (
    "an IDX quartet (train-images-idx3-ubyte[.gz], ...), fashion-mnist_train.csv[.gz] and "
    "fashion-mnist_test.csv[.gz], or image folders train/<class>/*.png|jpg|jpeg and test/<class>/"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class DataSpec:
    """State which data to use, in full: equal specs give equal images."""

    source: str = "fashion-mnist"
    """"fashion-mnist", "synthetic" (drawn by this program), or a folder's path."""

    image_size: int = 28
    """Image folders only: every image is resized to this many pixels each way."""

    colour: bool = False
    """Image folders only: red, green and blue instead of grey."""

    synthetic_train: int = 12_000
    """"synthetic" only: number of training images."""

    synthetic_test: int = 2_000
    """"synthetic" only: number of test images."""

    seed: int = 0
    """"synthetic" only: every seed draws other images."""

    download: bool = True
    """"fashion-mnist" only: whether what is missing may be fetched."""

    def __post_init__(self) -> None:
        if not self.source:
            raise ValueError(
                '`source` is empty, but must be "fashion-mnist", "synthetic" or a folder'
            )
        for name, low, high in (
            ("image_size", 8, 512),
            ("synthetic_train", 20, 10_000_000),
            ("synthetic_test", 10, 10_000_000),
            ("seed", 0, 2**63 - 1),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                raise ValueError(f"`{name}` is {value}, but must be between {low} and {high}")


def load_train(spec: DataSpec, progress: Progress | None = None) -> LabelledImages:
    """Load the training images; no test file is opened (a download may fetch and check them).

    `progress` is called with (file, bytes done, bytes in total) while something is downloaded.
    Raises DataError.
    """
    return _load(spec, "train", progress)


def load_test(spec: DataSpec, progress: Progress | None = None) -> LabelledImages:
    """Load the test images: the one function of this project that opens them. Raises DataError."""
    return _load(spec, "test", progress)


def describe_kind(directory: Path) -> Kind:
    """Tell in which of the three forms a folder holds data, by its file names alone.

    Raises DataError if it holds none of them, or more than one.
    """
    from data.folder import has_folders
    from data.idx import has_idx
    from data.tabular import has_csv

    if not directory.is_dir():
        raise DataError(
            f'{directory}: is no folder; give "fashion-mnist", "synthetic", or a folder with '
            f"{_ALLOWED}"
        )
    found: list[Kind] = []
    if has_idx(directory):
        found.append("idx")
    if has_csv(directory):
        found.append("csv")
    if has_folders(directory):
        found.append("folder")
    if len(found) == 1:
        return found[0]
    try:
        names = sorted(path.name for path in directory.iterdir())
    except OSError as error:
        raise DataError(f"{directory}: cannot be read ({error.strerror or error})") from error
    told = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    raise DataError(
        f"{directory}: holds {told or 'nothing'}, but must hold "
        f"{'only one of these' if found else 'one of these'}: {_ALLOWED}"
    )


def _load(
    spec: DataSpec, part: Literal["train", "test"], progress: Progress | None
) -> LabelledImages:
    if spec.source == "fashion-mnist":
        from data.fashion_mnist import load_fashion_mnist

        return load_fashion_mnist(part, may_download=spec.download, progress=progress)
    if spec.source == "synthetic":
        from data.synthetic import draw_garments

        num_images = spec.synthetic_train if part == "train" else spec.synthetic_test
        return draw_garments(num_images, part=part, seed=spec.seed)
    directory = _directory(spec.source)
    kind = describe_kind(directory)
    if kind == "idx":
        from data.idx import load_idx

        return load_idx(directory, part)
    if kind == "csv":
        from data.tabular import load_csv

        return load_csv(directory, part)
    from data.folder import load_folder

    return load_folder(directory, part, image_size=spec.image_size, colour=spec.colour)


def _directory(source: str) -> Path:
    try:
        directory = Path(source).expanduser().absolute()
        directory.is_dir()  # raises OSError for a name that no file can have
    except RuntimeError:
        raise DataError(
            f"{source}: there is no such user; write the folder's path in full"
        ) from None
    except OSError as error:
        raise DataError(f"{source}: cannot be read ({error.strerror or error})") from error
    if not is_text(str(directory)):
        raise DataError(f"{str(directory)!a}: holds what cannot be shown or written; rename it")
    return directory
