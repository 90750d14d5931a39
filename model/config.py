"""Describe a network and its training recipe as plain, checked values.

No torch here: a command can refuse a bad configuration before anything heavy is imported.
Whether a network fits an image size is asked of `model.geometry`.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from difflib import get_close_matches
from typing import Any, Literal, Self, TypeVar

MAX_BLOCKS = 8
MAX_WIDTH = 4096
MAX_KERNEL_SIZE = 11


@dataclass(frozen=True, kw_only=True, slots=True)
class NetworkConfig:
    """Configure one convolutional network: blocks, then a head.

    `model.cnn` defines the order of the layers inside a block.

    Raises:
        ValueError: One line naming the value, the block and what is allowed.
    """

    filters: tuple[int, ...]
    """Output channels of each block; its length is the number of blocks."""
    kernel_sizes: tuple[int, ...] = (3,)
    """Side of the square kernels of each block; a single value serves every block."""
    block_dropouts: tuple[float, ...] = (0.0,)
    """Probability of dropping after each block; a single value serves every block."""
    block_dropout_kind: Literal["element", "channel"] = "element"
    """What is dropped after a block: single elements, or whole channels (arXiv:1411.4280)."""
    convs_per_block: int = 1
    """1 or 2; the first is the pooled one."""
    padding: Literal["same", "valid"] = "same"
    """"same" keeps the map's size through a convolution, "valid" loses kernel_size - 1."""
    pooling: Literal["max", "avg", "stride"] = "max"
    """How a block halves its map: 2x2 pooling, or a stride of 2 in its first convolution."""
    batch_norm: bool = True
    """Normalise after every convolution (which then has no bias)."""
    residual: bool = False
    """Add a shortcut around the second convolution of each block."""
    squeeze: bool = False
    """Weigh each block's channels by squeeze-and-excitation (Hu et al., arXiv:1709.01507)."""
    head: Literal["flatten", "average"] = "flatten"
    """"flatten" keeps every position of the last map, "average" keeps one mean per filter."""
    dense_width: int = 0
    """Units of a hidden dense layer in the head, with relu; 0 means none."""
    dropout: float = 0.0
    """Probability of dropping an input of the last linear layer."""

    def __post_init__(self) -> None:
        filters = _as_tuple("filters", self.filters)
        if not 1 <= len(filters) <= MAX_BLOCKS:
            raise ValueError(
                f"filters names {len(filters)} blocks, but a network has 1 to {MAX_BLOCKS}: "
                "give one number of filters per block"
            )
        for block, width in enumerate(filters, start=1):
            _check_int(f"filters of block {block}", width, 1, MAX_WIDTH)
        _check_int("convs_per_block", self.convs_per_block, 1, 2)
        _check_choice("padding", self.padding, ("same", "valid"))
        _check_choice("pooling", self.pooling, ("max", "avg", "stride"))
        _check_choice("block_dropout_kind", self.block_dropout_kind, ("element", "channel"))
        _check_bool("squeeze", self.squeeze)
        _check_choice("head", self.head, ("flatten", "average"))
        _check_bool("batch_norm", self.batch_norm)
        _check_bool("residual", self.residual)
        _check_int("dense_width", self.dense_width, 0, MAX_WIDTH)
        kernels = _one_per_block("kernel_sizes", self.kernel_sizes, len(filters))
        for block, kernel in enumerate(kernels, start=1):
            _check_int(f"kernel size of block {block}", kernel, 1, MAX_KERNEL_SIZE)
            if self.padding == "same" and kernel % 2 == 0:
                raise ValueError(
                    f"kernel size of block {block} is {kernel}, but padding 'same' centres the "
                    "kernel: choose an odd size or padding 'valid'"
                )
        dropouts = _one_per_block("block_dropouts", self.block_dropouts, len(filters))
        dropouts = tuple(
            _check_float(f"dropout of block {block}", rate, 0.0, 1.0, below=True)
            for block, rate in enumerate(dropouts, start=1)
        )
        dropout = _check_float("dropout", self.dropout, 0.0, 1.0, below=True)
        if self.residual and self.convs_per_block != 2:
            raise ValueError(
                f"residual is true with convs_per_block {self.convs_per_block}, but the shortcut "
                "goes around a block's second convolution: set convs_per_block to 2"
            )
        if self.residual and self.padding == "valid":
            raise ValueError(
                "residual is true with padding 'valid', but a shortcut adds maps of equal size: "
                "set padding to 'same'"
            )
        # A frozen dataclass is normalised through object.__setattr__, so that two spellings of one
        # network (a list, a broadcast value, 0 for 0.0) are equal and have one key.
        object.__setattr__(self, "filters", filters)
        object.__setattr__(self, "kernel_sizes", kernels)
        object.__setattr__(self, "block_dropouts", dropouts)
        object.__setattr__(self, "dropout", dropout)


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingConfig:
    """Configure how a network is trained.

    Raises:
        ValueError: One line naming the value and what is allowed.
    """

    epochs: int
    """Length of the learning-rate schedule; training may stop earlier, never later."""
    learning_rate: float
    """Highest learning rate of the schedule; "muon" moves matrices at a tenth of it."""
    batch_size: int = 256
    """Images per optimizer step."""
    optimizer: Literal["sgd", "adamw", "muon"] = "sgd"
    """"sgd" is with Nesterov momentum; "adamw" with weight_decay 0 is Adam; see `model.muon`."""
    momentum: float = 0.9
    """Nesterov momentum of "sgd" and "muon" (0: none); "adamw" does not read it."""
    weight_decay: float = 0.0
    """Not applied to biases and batch-norm parameters. "adamw" decouples it from the gradient, as
    "muon" does for its matrices."""
    schedule: Literal["one-cycle", "cosine", "constant"] = "one-cycle"
    """How the learning rate moves over all steps; see `model.schedule`."""
    label_smoothing: float = 0.0
    """Share of the target spread evenly over the classes (Szegedy et al., arXiv:1512.00567)."""
    flip: bool = False
    """Mirror an image left to right with probability one half."""
    alternate: bool = False
    """With `flip`: mirror every image in every other epoch (arXiv:2404.00498)."""
    shift: int = 0
    """Move an image by up to this many pixels along each axis."""
    erase: float = 0.0
    """Probability of erasing one rectangle of an image (arXiv:1708.04896)."""
    ema: float = 0.0
    """Decay a step of an exponential average of the weights, used in their place; 0: no average."""
    precision: Literal["fp32", "bf16", "auto"] = "auto"
    """"auto" is bf16 where the hardware computes in it natively, else fp32."""

    def __post_init__(self) -> None:
        _check_int("epochs", self.epochs, 1, 100_000)
        _check_int("batch_size", self.batch_size, 2, 1_000_000)
        _check_int("shift", self.shift, 0, 64)
        _check_bool("flip", self.flip)
        _check_bool("alternate", self.alternate)
        _check_choice("optimizer", self.optimizer, ("sgd", "adamw", "muon"))
        _check_choice("schedule", self.schedule, ("one-cycle", "cosine", "constant"))
        _check_choice("precision", self.precision, ("fp32", "bf16", "auto"))
        learning_rate = _check_float("learning_rate", self.learning_rate, 0.0, 1e6)
        if learning_rate == 0.0:
            raise ValueError("learning_rate is 0, but nothing is learned then: give a positive one")
        momentum = _check_float("momentum", self.momentum, 0.0, 1.0, below=True)
        ema = _check_float("ema", self.ema, 0.0, 1.0, below=True)
        object.__setattr__(self, "learning_rate", learning_rate)
        object.__setattr__(
            self, "alternate", self.flip and self.alternate
        )  # no flip, no form of it
        object.__setattr__(self, "momentum", momentum)
        object.__setattr__(self, "ema", ema)
        for name, high, below in (
            ("weight_decay", 1e6, False),
            ("label_smoothing", 1.0, True),
            ("erase", 1.0, False),
        ):
            value = _check_float(name, getattr(self, name), 0.0, high, below=below)
            object.__setattr__(self, name, value)


@dataclass(frozen=True, kw_only=True, slots=True)
class Configuration:
    """Join a network with its recipe: what one trial trains."""

    network: NetworkConfig
    """The network."""
    training: TrainingConfig
    """The recipe."""

    def settings(self) -> dict[str, Any]:
        """Return {"network": {...}, "training": {...}} of JSON values, every setting of them."""
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return plain

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as records hold them: later ones only where they are not default.

        So that a configuration recorded before a setting existed equals the same one of today.
        """
        plain = self.settings()
        for part, later in _LATER.items():
            for name, default in later.items():
                if plain[part][name] == default:
                    del plain[part][name]
        return plain

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Build a configuration from the mapping that `to_dict` returns.

        Values left out take their defaults.

        Raises:
            ValueError: An unknown key (the nearest known one is named), a missing or bad value.
        """
        _check_keys("configuration", values, cls)
        return cls(
            network=_build(NetworkConfig, "network", values["network"]),
            training=_build(TrainingConfig, "training", values["training"]),
        )

    def key(self) -> str:
        """Return a hash that is equal exactly for equal configurations (64 hex digits)."""
        canonical = json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode("ascii")).hexdigest()


# Settings that records of the first version lack, and what they stood for without them.
_LATER: dict[str, dict[str, Any]] = {
    "network": {"block_dropout_kind": "element", "squeeze": False},
    "training": {"alternate": False, "ema": 0.0},
}

_Config = TypeVar("_Config", NetworkConfig, TrainingConfig)


def _build(kind: type[_Config], name: str, values: Any) -> _Config:
    if not isinstance(values, Mapping):
        raise ValueError(f"{name} is {values!r}, but must be a mapping of settings to values")
    _check_keys(name, values, kind)
    return kind(**(_LATER[name] | dict(values)))


def _check_keys(owner: str, values: Mapping[str, Any], kind: type[Any]) -> None:
    known = {field.name: field.default is MISSING for field in fields(kind)}
    for key in values:
        if key not in known:
            near = get_close_matches(str(key), known, n=1, cutoff=0.0)[0]
            raise ValueError(
                f"{owner} has no setting {key!r}: did you mean {near!r}? (known: "
                f"{', '.join(known)})"
            )
    for key, required in known.items():
        if required and key not in values:
            raise ValueError(f"{owner} lacks {key!r}, which has no default: add it")


def _as_tuple(name: str, values: Any) -> tuple[Any, ...]:
    if not isinstance(values, tuple | list):
        raise ValueError(f"{name} is {values!r}, but must be a list with one value per block")
    return tuple(values)


def _one_per_block(name: str, values: Any, num_blocks: int) -> tuple[Any, ...]:
    given = _as_tuple(name, values)
    if len(given) not in (1, num_blocks):
        raise ValueError(
            f"{name} has {len(given)} values for {num_blocks} blocks: give one for all blocks, "
            f"or {num_blocks}"
        )
    return given if len(given) == num_blocks else given * num_blocks


def _check_int(name: str, value: Any, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ValueError(f"{name} is {value!r}, but must be a whole number from {low} to {high}")


def _check_float(name: str, value: Any, low: float, high: float, *, below: bool = False) -> float:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or not low <= value <= high:
        raise ValueError(f"{name} is {value!r}, but must be a number from {low:g} to {high:g}")
    if below and value == high:
        raise ValueError(f"{name} is {value!r}, but must be below {high:g}")
    return float(value) + 0.0  # -0.0 becomes 0.0: one value, one key


def _check_bool(name: str, value: Any) -> None:
    if not isinstance(value, bool):
        raise ValueError(f"{name} is {value!r}, but must be true or false")


def _check_choice(name: str, value: Any, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} is {value!r}, but must be one of {', '.join(allowed)}")
