"""Open an export folder without PyTorch: checked against its sums, run by ONNX Runtime."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.images import ImageShape
from data.plain_file import open_plain
from model.batch import images_at_once
from model.proof import ExportError

SUMS = "SHA256SUMS"


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportedModel:
    """An export folder's network, ready to answer."""

    folder: Path
    """Where it is."""
    shape: ImageShape
    """Of the images it takes."""
    classes: tuple[str, ...]
    """Their names, in the order of the logits."""
    facts: dict[str, Any]
    """model_card.json."""
    sha256: str
    """Of model.onnx."""
    ground: str | None
    """`dark` where pictures must be bright on dark, see preprocessing.json."""
    session: Any
    """onnxruntime's."""

    def logits(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Answer images (N, C, H, W) uint8, N at least 1, with logits (N, K)."""
        step = images_at_once(self.bytes_each)
        answers = [
            self.session.run(["logits"], {"pixels": pixels[i : i + step].astype(np.float32)})[0]
            for i in range(0, len(pixels), step)
        ]
        return np.concatenate(answers)

    @property
    def bytes_each(self) -> int:
        """Memory that one image takes inside the network."""
        return int(self.facts["bytes_per_image"])


def open_export(folder: Path, *, threads: int = 0) -> ExportedModel:
    """Open the export in `folder`, once every file that SHA256SUMS names is as it was written.

    Args:
        folder: What `export_model` wrote, or a copy of it; files that are not needed to run it
            may be missing.
        threads: CPU threads of the runtime; 0 leaves that to it.

    Raises:
        ExportError: It holds no such export, a file was changed, or the program does not run.
    """
    sums = dict(_sums(folder))
    needed = ("model.onnx", "labels.json", "preprocessing.json", "model_card.json")
    if missing := [name for name in needed if name not in sums]:
        raise ExportError(
            f"{folder / SUMS} does not name {missing[0]}: this is an export of an older version,"
            " or of another program; make it again with `export`"
        )
    for name, expected in sums.items():
        try:
            found = _sha256(folder / name)
        except FileNotFoundError:
            if name in needed:
                raise ExportError(f"{folder / name} is missing; copy the whole export") from None
            continue
        except OSError as error:
            raise ExportError(f"{folder / name} cannot be read ({error.strerror})") from None
        if found != expected:
            raise ExportError(
                f"{folder / name} is not what was exported (SHA-256 {found[:12]}, {SUMS} says"
                f" {expected[:12]}); copy the folder again, or `export` again"
            )
    try:
        ports = _json(folder, "preprocessing.json")
        classes = tuple(map(str, _json(folder, "labels.json")))
        _, channels, height, width = ports["input"]["shape"]
        shape = ImageShape(channels=channels, height=height, width=width, num_classes=len(classes))
        facts = _json(folder, "model_card.json")
        int(facts["bytes_per_image"])
        session = open_program(folder / "model.onnx", threads)
    except Exception as error:  # the sums are right, so it was written so; what is raised varies
        raise ExportError(f"{folder} holds no model that runs here: {error}") from error
    return ExportedModel(
        folder=folder,
        shape=shape,
        classes=classes,
        facts=facts,
        sha256=sums["model.onnx"],
        ground=ports.get("ground"),
        session=session,
    )


def open_program(program: Path, threads: int) -> Any:
    """Return ONNX Runtime's session of a .onnx file, on the CPU; 0 threads leave that to it.

    Raises what ONNX Runtime raises.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(str(program), options, providers=["CPUExecutionProvider"])


def _sums(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield the file names and digests of SHA256SUMS. Raises ExportError."""
    try:
        with open_plain(folder / SUMS) as file:
            text = file.read(1 << 16).decode("ascii")
    except FileNotFoundError:
        raise ExportError(f"{folder} holds no export ({SUMS}); make one with `export`") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ExportError(f"{folder / SUMS} cannot be read: {error}") from None
    for line in text.splitlines():
        digest, _, name = line.partition("  ")
        if len(digest) != 64 or not name or Path(name).name != name:
            raise ExportError(f"{folder / SUMS} is damaged: {line!r} is no sum of a file")
        yield name, digest


def _sha256(path: Path) -> str:
    with open_plain(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _json(folder: Path, name: str) -> Any:
    return json.loads((folder / name).read_text(encoding="utf-8"))
