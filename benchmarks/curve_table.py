"""Tables of configurations and their learning curves: what a search is replayed on."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_KEYS = (
    "names",
    "is_log",
    "is_int",
    "lower",
    "upper",
    "configs",
    "metric",
    "seconds",
    "direction",
)


class TableError(ValueError):
    """A table that cannot be used; one line."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CurveTable:
    """n configurations of d dimensions and their curves over R epochs, higher is better."""

    name: str
    """The file's stem."""
    names: tuple[str, ...]
    """The d dimensions."""
    points: NDArray[np.float64]
    """(n, d) in the unit cube, even in the logarithm where a dimension is logarithmic."""
    values: NDArray[np.float64]
    """(n, R); "min" tables are negated; NaN where training had diverged."""
    seconds: NDArray[np.float64]
    """(n, R) since the start of training, never falling."""
    sign: int
    """1 or -1: a value times this is the table's own metric."""

    @property
    def num_rows(self) -> int:
        """Return n."""
        return len(self.values)

    @property
    def max_epochs(self) -> int:
        """Return R."""
        return len(self.values[0])

    @property
    def finals(self) -> NDArray[np.float64]:
        """Return (n,) the values after the last epoch."""
        return self.values[:, -1]

    @property
    def best(self) -> float:
        """Return the best final value."""
        return float(np.nanmax(self.finals))

    @property
    def median_final(self) -> float:
        """Return the final value of the median row among those that did not diverge.

        The lower of the middle two: it is the value of a row.
        """
        finite = np.sort(self.finals[np.isfinite(self.finals)])
        return float(finite[(len(finite) - 1) // 2])

    @property
    def full_seconds(self) -> float:
        """Return what one full training costs: the median over the rows."""
        return float(np.median(self.seconds[:, -1]))


def load_table(path: Path) -> CurveTable:
    """Read a table: an .npz file without pickles.

    It holds names, is_log, is_int, lower, upper (d,); configs (n, d); metric (n, R), not finite
    where training had diverged; seconds (n, R) cumulative; direction "max" or "min".

    Raises:
        TableError: The file is missing, is no such table, or contradicts itself.
    """
    arrays = _read(path)
    direction = str(arrays["direction"])
    if direction not in ("max", "min"):
        raise TableError(f"{path}: direction is {direction!r}; it must be 'max' or 'min'")
    _check_shapes(path, arrays)
    sign = 1 if direction == "max" else -1
    with np.errstate(invalid="ignore"):
        values = sign * arrays["metric"].astype(np.float64)
    values[~np.isfinite(values)] = np.nan
    if np.isnan(values[:, -1]).all():
        raise TableError(f"{path}: no row has a finite metric after its last epoch")
    seconds = arrays["seconds"].astype(np.float64)
    if not np.isfinite(seconds).all() or (np.diff(seconds, axis=1, prepend=0.0) < 0).any():
        raise TableError(f"{path}: seconds must be finite, 0 or more, and never fall along a row")
    table = CurveTable(
        name=path.stem,
        names=tuple(str(name) for name in arrays["names"]),
        points=_unit_cube(path, arrays),
        values=values,
        seconds=seconds,
        sign=sign,
    )
    if table.full_seconds <= 0:
        raise TableError(f"{path}: the median row trains in 0 seconds, so nothing can be counted")
    return table


def _read(path: Path) -> dict[str, NDArray[Any]]:
    try:
        file = np.load(path, allow_pickle=False)
        if not isinstance(file, np.lib.npyio.NpzFile):
            raise TableError(f"{path}: one array, not an .npz file with {', '.join(_KEYS)}")
        with file:
            missing = [key for key in _KEYS if key not in file]
            if missing:
                raise TableError(f"{path}: has no {', '.join(missing)}")
            return {key: file[key] for key in _KEYS}
    except FileNotFoundError:
        raise TableError(f"{path}: there is no such file") from None
    except TableError:
        raise
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if path.is_file() and not zipfile.is_zipfile(path):
            reason = "it is none"  # NumPy takes every such file for a pickle
        raise TableError(f"{path}: cannot be read as an .npz file: {reason}") from error


def _check_shapes(path: Path, arrays: dict[str, NDArray[Any]]) -> None:
    for key in ("lower", "upper", "configs", "metric", "seconds"):
        if arrays[key].dtype.kind not in "fiu":
            raise TableError(f"{path}: {key} holds {arrays[key].dtype}, not numbers")
    if arrays["configs"].ndim != 2 or arrays["metric"].ndim != 2:
        raise TableError(f"{path}: configs and metric must have two axes")
    n, d = arrays["configs"].shape
    epochs = arrays["metric"].shape[1]
    if not n or not d or not epochs:
        raise TableError(f"{path}: {n} rows, {d} dimensions, {epochs} epochs; at least 1 of each")
    wanted: dict[str, tuple[int, ...]] = {"metric": (n, epochs), "seconds": (n, epochs)}
    for key in ("names", "is_log", "is_int", "lower", "upper"):
        wanted[key] = (d,)
    for key, shape in wanted.items():
        if arrays[key].shape != shape:
            raise TableError(f"{path}: {key} has shape {arrays[key].shape}; it must be {shape}")


def _unit_cube(path: Path, arrays: dict[str, NDArray[Any]]) -> NDArray[np.float64]:
    lower, upper, configs = (arrays[k].astype(np.float64) for k in ("lower", "upper", "configs"))
    log = arrays["is_log"].astype(bool)
    names = [str(name) for name in arrays["names"]]
    for index, name in enumerate(names):
        low, high, column = lower[index], upper[index], configs[:, index]
        if not (np.isfinite(column).all() and np.isfinite(low) and np.isfinite(high)):
            raise TableError(f"{path}: {name} has a bound or a value that is not finite")
        if low > high:
            raise TableError(f"{path}: {name}: lower {low:g} is above upper {high:g}")
        if log[index] and (low <= 0 or column.min() <= 0):
            raise TableError(
                f"{path}: {name} is logarithmic; its bounds and values must be above 0"
            )
    lower[log], upper[log], configs[:, log] = (
        np.log(lower[log]),
        np.log(upper[log]),
        np.log(configs[:, log]),
    )
    # A dimension of one value is 0 everywhere: it tells no rows apart.
    span = upper - lower
    points = (configs - lower) / np.where(span > 0, span, 1.0)
    points[:, span == 0] = 0.0
    # Bounds that were rounded to fewer digits than the values are no contradiction.
    outside = np.argwhere((points < -1e-3) | (points > 1 + 1e-3))
    if len(outside):
        row, index = outside[0]
        raise TableError(f"{path}: row {row} lies outside the bounds of {names[index]}")
    return np.clip(points, 0.0, 1.0)
