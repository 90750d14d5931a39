"""Find Fashion-MNIST (Xiao et al., arXiv:1708.07747) on this machine, or fetch it once."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from data.download import Progress, RemoteFile, download
from data.idx import load_idx
from data.images import DataError, DataUnavailable, LabelledImages

# Lengths and MD5 as published by Zalando (github.com/zalandoresearch/fashion-mnist).
FILES = (
    RemoteFile(
        name="train-images-idx3-ubyte.gz",
        num_bytes=26421880,
        md5="8d4fb7e6c68d591d4c3dfef9ec88bf0d",
    ),
    RemoteFile(
        name="train-labels-idx1-ubyte.gz", num_bytes=29515, md5="25c81989df183df01b3e8a0aad5dffbe"
    ),
    RemoteFile(
        name="t10k-images-idx3-ubyte.gz", num_bytes=4422102, md5="bef4ecab320f06d8554ea6380940ec79"
    ),
    RemoteFile(
        name="t10k-labels-idx1-ubyte.gz", num_bytes=5148, md5="bb300cfdad3c16e7a12a480ee83cd310"
    ),
)

MIRRORS = (
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/",
)


def load_fashion_mnist(
    part: Literal["train", "test"],
    *,
    may_download: bool = True,
    progress: Progress | None = None,
    mirrors: Sequence[str] = MIRRORS,
    backoff_seconds: float = 1.0,
) -> LabelledImages:
    """Load the 60,000 training or the 10,000 test images, (N, 1, 28, 28).

    Looks in the folder FASHION_MNIST_DIR if that variable is set, and nowhere else then; otherwise
    in the user's cache, fetching what is missing or damaged there. Every file that is opened has
    its MD5 checked. Raises DataError.
    """
    # The names of the classes come with the training labels, so a test part opens those too.
    needed = tuple(
        file for file in FILES if file.name.startswith(("train-labels", _PREFIXES[part]))
    )
    own = os.environ.get("FASHION_MNIST_DIR")
    if own:
        directory = Path(own).absolute()
        _check_own(directory, needed)
    else:
        directory = cache_directory()
        _complete_cache(directory, needed, may_download, progress, mirrors, backoff_seconds)
    return replace(load_idx(directory, part), name="fashion-mnist")


def cache_directory() -> Path:
    """Name the folder that downloads are kept in (not made yet, perhaps)."""
    import platformdirs

    return Path(platformdirs.user_cache_dir("fashion-search")) / "fashion-mnist"


_PREFIXES = {"train": "train", "test": "t10k"}


def _check_own(directory: Path, needed: Sequence[RemoteFile]) -> None:
    """Refuse a folder of the user's own that is not complete and sound; never write to it."""
    for file in needed:
        if not (directory / file.name).is_file():
            raise DataError(
                f"FASHION_MNIST_DIR is {directory}, which lacks {file.name}; put the four "
                "published files there, or unset FASHION_MNIST_DIR to have them fetched"
            )
        if not file.is_at(directory / file.name):
            raise DataError(
                f"{directory / file.name}: is damaged (its MD5 should be {file.md5}); replace it, "
                "or unset FASHION_MNIST_DIR to have it fetched"
            )


def _complete_cache(
    directory: Path,
    needed: Sequence[RemoteFile],
    may_download: bool,
    progress: Progress | None,
    mirrors: Sequence[str],
    backoff_seconds: float,
) -> None:
    bad = [file for file in needed if not file.is_at(directory / file.name)]
    if not bad:
        return
    if not may_download:
        raise DataError(
            f"Fashion-MNIST is not complete in {directory} ({', '.join(f.name for f in bad)}) and "
            "downloading is off; allow it, or set FASHION_MNIST_DIR to a folder that has the files"
        )
    # Once the network is needed, fetch the other part as well: the next command may run offline.
    absent = [f for f in FILES if f not in needed and not (directory / f.name).exists()]
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for file in bad + absent:
            download(
                file,
                directory,
                mirrors=mirrors,
                progress=progress,
                backoff_seconds=backoff_seconds,
            )
    except DataUnavailable as error:
        raise DataUnavailable(
            f"{error}, or set FASHION_MNIST_DIR to a folder that has the four files"
        ) from error
    except OSError as error:
        raise DataError(
            f"{directory}: cannot be written ({error.strerror or error}); set XDG_CACHE_HOME to "
            "another folder, or FASHION_MNIST_DIR to one that has the files"
        ) from error
