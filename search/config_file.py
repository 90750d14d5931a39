"""Reading a study file: YAML, presets, `--set` overrides, and errors that name the line."""

from __future__ import annotations

import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from search.config import StudyConfig
from search.space import nearest

PRESETS = Path(__file__).parent / "presets"
_MAX_BYTES = 1 << 20  # a study file is a page or two; YAML aliases could blow up a larger one


class ConfigError(ValueError):
    """A study file that cannot be used: one line that says where, what is allowed, what to do."""


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
    tree, lines = _read_yaml(path)
    for override in overrides:
        _apply(tree, lines, override)
    try:
        return StudyConfig.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(_first_error(error, tree, lines, path)) from None


def dump_config(config: StudyConfig) -> str:
    """Return the resolved configuration as YAML: every default written out."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=False)


def _read_yaml(path: Path) -> tuple[dict[str, Any], dict[tuple[Any, ...], str]]:
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror or error}") from None
    if len(raw) > _MAX_BYTES:
        raise ConfigError(f"{path}: {len(raw)} bytes, but a study file has at most {_MAX_BYTES}")
    try:
        text = raw.decode("utf-8")
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        lines: dict[tuple[Any, ...], str] = {}
        if node is not None:
            _note_lines(node, (), lines, path, depth=0)
        tree = yaml.safe_load(text)
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text (byte {error.start})") from None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else "?"
        raise ConfigError(f"{path}:{line}: not YAML: {error.problem}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: holds {type(tree).__name__}, but a study file is a mapping")
    return tree, lines


def _note_lines(
    node: yaml.Node, at: tuple[Any, ...], lines: dict[tuple[Any, ...], str], path: Path, depth: int
) -> None:
    if depth > 20:
        raise ConfigError(f"{path}:{node.start_mark.line + 1}: nested deeper than 20 levels")
    lines[at] = f"{path}:{node.start_mark.line + 1}"
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            line = f"{path}:{key.start_mark.line + 1}"
            if key.value in seen:
                raise ConfigError(f"{line}: `{key.value}` stands twice")
            seen.add(str(key.value))
            _note_lines(value, (*at, key.value), lines, path, depth + 1)
            lines[(*at, key.value)] = line
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            _note_lines(item, (*at, index), lines, path, depth + 1)


def _apply(tree: dict[str, Any], lines: dict[tuple[Any, ...], str], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise ConfigError(f"--set {override!r}: must be KEY=VALUE, e.g. asha.reduction_factor=4")
    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        raise ConfigError(f"--set {override!r}: the value is not YAML") from None
    place, path = tree, tuple(key.split("."))
    for part in path[:-1]:
        inner = place.get(part)
        if inner is not None and not isinstance(inner, dict):
            raise ConfigError(f"--set {override!r}: `{part}` is a value, not a section")
        place = place.setdefault(part, {}) if inner is not None else _fresh(place, part)
    place[path[-1]] = value
    for end in range(1, len(path) + 1):
        lines.setdefault(path[:end], f"--set {override!r}")
    lines[path] = f"--set {override!r}"


def _fresh(place: dict[str, Any], part: str) -> dict[str, Any]:
    place[part] = {}
    section: dict[str, Any] = place[part]
    return section


def _first_error(
    error: ValidationError,
    tree: Mapping[str, Any],
    lines: Mapping[tuple[Any, ...], str],
    path: Path,
) -> str:
    first = error.errors(include_url=False)[0]
    at = tuple(first["loc"])
    # The longest part of the place that stands in the file: a missing key has only its section.
    known = next((at[:end] for end in range(len(at), -1, -1) if at[:end] in lines), ())
    where = lines.get(known, str(path))
    name = ".".join(map(str, at))
    if first["type"] == "extra_forbidden":
        section = _section_at(at[:-1])
        allowed = tuple(section.model_fields) if section else ()
        return f"{where}: no key `{name}`{nearest(str(at[-1]), allowed)}"
    message = first["msg"].removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    if first["type"] == "value_error":
        # Our own messages name the key: find its line where it is one of the space's.
        for key in tree.get("space") or {} if isinstance(tree.get("space"), dict) else {}:
            if f"space.{key}" in message or f"no key `{key}`" in message:
                where = lines.get(("space", key), where)
                break
        return f"{where}: {name + ': ' if name else ''}{message}"
    given = "" if first["type"] == "missing" else f" is {first['input']!r}, but"
    return f"{where}: `{name}`{given} {message.replace('input should', 'must')}"


def _section_at(at: tuple[Any, ...]) -> type[BaseModel] | None:
    section: type[BaseModel] = StudyConfig
    for part in at:
        found = section.model_fields.get(str(part))
        candidates = [] if found is None else [found.annotation, *typing.get_args(found.annotation)]
        inner = next(
            (c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), None
        )
        if inner is None:
            return None
        section = inner
    return section
