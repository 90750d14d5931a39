"""Prove an exported program in a clean process: same answers, without this project.

The process is started with `python -I` (no PYTHONPATH, no current folder) in an empty folder, and
refuses to import this project's packages even where they are installed; for ONNX also PyTorch.
"""

import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data.one_line import OneLineError

TOLERANCE = 1e-4
TIMEOUT_SECONDS = 300

_CLEAN = """
import importlib.abc, sys
import numpy as np

program, pixels_file, logits_file, *refused = sys.argv[1:]

class Refuse(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in refused:
            raise ModuleNotFoundError(f"{name} is refused in this process")

sys.meta_path.insert(0, Refuse())
for name in refused:
    try:
        __import__(name)
    except ModuleNotFoundError:
        continue
    raise SystemExit(f"{name} can be imported: this process is not clean")
"""

_RUN = {
    ".onnx": """
import onnxruntime

options = onnxruntime.SessionOptions()
options.log_severity_level = 3
session = onnxruntime.InferenceSession(program, options, providers=["CPUExecutionProvider"])

def answer(pixels):
    return session.run(["logits"], {"pixels": pixels})[0]

runtime = f"onnxruntime {onnxruntime.__version__}"
""",
    ".pt2": """
import warnings
warnings.simplefilter("ignore")
import torch

network = torch.export.load(program).module()

def answer(pixels):
    with torch.inference_mode():
        return network(torch.from_numpy(pixels)).numpy()

runtime = f"torch {torch.__version__}"
""",
}

# Batches of three sizes, among them 1: N is free.
_ANSWER = """
pixels = np.load(pixels_file).astype(np.float32)
parts = [pixels[:1], *np.array_split(pixels[1:], -(-(len(pixels) - 1) // 250) or 1)]
logits = np.concatenate([answer(part) for part in parts if len(part)])
assert not set(refused) & set(sys.modules), "this process is not clean"
np.save(logits_file, logits)
print(runtime)
"""

_REFUSED = {
    ".onnx": ("data", "model", "search", "torch"),
    ".pt2": ("data", "model", "search"),
}


class ExportError(OneLineError):
    """Say in one line why there is no export."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Proof:
    """State how closely an exported program follows the live network."""

    program: str
    """File name."""
    runtime: str
    """What ran it, with its version."""
    num_images: int
    """Images compared; the same class was answered for all."""
    largest_difference: float
    """Between any two logits."""
    accuracy: float | None
    """Of the program on these images; None where their labels were not given."""


def prove(
    program: Path,
    images: NDArray[np.uint8],
    live: NDArray[np.float32],
    labels: NDArray[np.int64] | None = None,
) -> Proof:
    """Run `program` (.onnx or .pt2) on images (N, C, H, W) and compare with `live` logits (N, K).

    With `labels` (N,) the proof says how many of its answers are right.

    Raises:
        ExportError: The program does not run, answers another class, or strays by over 1e-4.
    """
    with tempfile.TemporaryDirectory(prefix="fashion-search-proof-") as name:
        pixels_file, logits_file = Path(name, "pixels.npy"), Path(name, "logits.npy")
        np.save(pixels_file, images, allow_pickle=False)
        code = _CLEAN + _RUN[program.suffix] + _ANSWER
        files = [str(path.absolute()) for path in (program, pixels_file, logits_file)]
        try:
            process = subprocess.run(
                [sys.executable, "-I", "-c", code, *files, *_REFUSED[program.suffix]],
                cwd=name,
                capture_output=True,
                text=True,
                timeout=TIMEOUT_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise ExportError(
                f"{program.name} gave no answer within {TIMEOUT_SECONDS} s: nothing is exported"
            ) from error
        if process.returncode != 0:
            reason = (process.stderr.strip() or f"exit {process.returncode}").split("\n")[-1]
            raise ExportError(
                f"{program.name} does not run in a clean process ({reason}): nothing is exported"
            )
        logits = np.load(logits_file, allow_pickle=False)
    if logits.shape != live.shape or logits.dtype != np.float32:
        raise ExportError(
            f"{program.name} gives {logits.dtype} logits of shape {logits.shape}, but must give "
            f"float32 of shape {live.shape}: nothing is exported"
        )
    difference = float(np.abs(logits - live).max())
    others = int((logits.argmax(axis=1) != live.argmax(axis=1)).sum())
    if others or not difference <= TOLERANCE:  # not-a-number is no proof either
        raise ExportError(
            f"{program.name} answers another class for {others} of {len(live)} images and its "
            f"logits differ by up to {difference:.2g} (allowed: 0 and {TOLERANCE:g}): nothing is "
            "exported"
        )
    return Proof(
        program=program.name,
        runtime=process.stdout.strip(),
        num_images=len(live),
        largest_difference=difference,
        accuracy=None if labels is None else float((logits.argmax(axis=1) == labels).mean()),
    )
