"""Reading a study file: YAML, presets, `--set` overrides, and errors that name the line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from data.plain_file import open_plain
from search.config.config import StudyConfig
from search.config.config_error import ConfigError as ConfigError
from search.config.config_error import Place, explain
from search.config.dimension import nearest
from search.config.yaml_tree import MAX_DEPTH, parse

PRESETS = Path(__file__).parent.parent / "presets"
_MAX_BYTES = 1 << 20  # a study file is a page or two
_LONGEST = 120  # characters of an override that a message repeats


def preset_names() -> list[str]:
    """Return the names that `--preset` takes."""
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))


def load_config(
    path: Path | None = None, *, preset: str | None = None, overrides: Sequence[str] = ()
) -> StudyConfig:
    """Read and check a study file or a preset, with `section.key=value` overrides applied.

    Raise ConfigError with file, line, what is allowed and the nearest key.
    """
    if (path is None) == (preset is None):
        raise ConfigError("give either a study file or --preset, not both and not none")
    if preset is not None:
        path = PRESETS / f"{preset}.yaml"
        if preset not in preset_names():
            raise ConfigError(f"no preset {preset!r}{nearest(preset, preset_names())}")
    assert path is not None
    return load_text(_read_file(path), str(path), overrides=overrides)


def load_text(text: str, name: str, *, overrides: Sequence[str] = ()) -> StudyConfig:
    """Check a study file's content, as `load_config` does; `name` is what errors call it."""
    tree, lines = _parse(text, name)
    for override in overrides:
        _apply(tree, lines, override)
    try:
        return StudyConfig.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(explain(error, tree, lines, name)) from None


def dump_config(config: StudyConfig) -> str:
    """Return the resolved configuration as YAML: every default written out."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=False)


def _read_file(path: Path) -> str:
    try:
        with open_plain(path) as file:
            raw = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror or error}") from None
    if len(raw) > _MAX_BYTES:
        raise ConfigError(
            f"{path}: has more than the {_MAX_BYTES} bytes that a study file may have"
        )
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text (byte {error.start})") from None


def _parse(text: str, path: str) -> tuple[dict[str, Any], dict[Place, str]]:
    tree, lines = parse(text, path, numbered=True)
    if not isinstance(tree, dict):
        holds = "nothing" if tree is None else f"one {type(tree).__name__}"
        raise ConfigError(
            f"{path}: holds {holds}, but a study file is a mapping with `space` and `budget`"
        )
    return tree, lines


def _apply(tree: dict[str, Any], lines: dict[Place, str], override: str) -> None:
    given = f"--set {override if len(override) <= _LONGEST else f'{override[:_LONGEST]}...'!r}"
    key, separator, text = override.partition("=")
    path = tuple(key.split("."))
    if not separator or not all(path) or len(path) > MAX_DEPTH:
        raise ConfigError(f"{given}: must be KEY=VALUE, e.g. asha.reduction_factor=4")
    value, _ = parse(text, given, numbered=False)
    place = tree
    for part in path[:-1]:
        inner = place.get(part)
        if inner is not None and not isinstance(inner, dict):
            raise ConfigError(f"{given}: `{part}` is a value, not a section")
        place = place.setdefault(part, {}) if inner is not None else _fresh(place, part)
    place[path[-1]] = value
    for end in range(1, len(path)):
        # Keys of a section may contradict each other: then both places are named.
        written = lines.get(path[:end])
        lines[path[:end]] = f"{f'{written} with ' if written else ''}{given}"
    for replaced in [at for at in lines if at[: len(path)] == path]:
        del lines[replaced]
    lines[path] = given


def _fresh(place: dict[str, Any], part: str) -> dict[str, Any]:
    place[part] = {}
    section: dict[str, Any] = place[part]
    return section
