"""Reading a study file: YAML, presets, `--set` overrides, and errors that name the line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from search.config import StudyConfig
from search.config_error import ConfigError as ConfigError
from search.config_error import Place, explain
from search.dimension import nearest

PRESETS = Path(__file__).parent / "presets"
_MAX_BYTES = 1 << 20  # a study file is a page or two
_MAX_DEPTH = 20
_MAX_VALUES = 10_000  # aliases of aliases could make a small file endless


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
        raise ConfigError(explain(error, tree, lines, str(path))) from None


def dump_config(config: StudyConfig) -> str:
    """Return the resolved configuration as YAML: every default written out."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=False)


def _read_yaml(path: Path) -> tuple[dict[str, Any], dict[Place, str]]:
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror or error}") from None
    if len(raw) > _MAX_BYTES:
        raise ConfigError(f"{path}: {len(raw)} bytes, but a study file has at most {_MAX_BYTES}")
    try:
        text = raw.decode("utf-8")
        tree = yaml.safe_load(text)
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text (byte {error.start})") from None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else "?"
        raise ConfigError(f"{path}:{line}: not YAML: {error.problem}") from None
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise ConfigError(f"{path}: nested deeper than {_MAX_DEPTH} levels") from None
    except Exception:  # PyYAML's constructors raise whatever comes: `!!bool x` is a KeyError
        raise ConfigError(f"{path}: not YAML: a value does not fit its tag (!!...)") from None
    if not isinstance(tree, dict):
        holds = "nothing" if tree is None else f"one {type(tree).__name__}"
        raise ConfigError(
            f"{path}: holds {holds}, but a study file is a mapping with `space` and `budget`"
        )
    assert node is not None
    lines: dict[Place, str] = {}
    _note_lines(node, (), lines, path)
    return tree, lines


def _note_lines(node: yaml.Node, at: Place, lines: dict[Place, str], path: Path) -> None:
    if len(at) > _MAX_DEPTH:
        line = node.start_mark.line + 1
        raise ConfigError(f"{path}:{line}: nested deeper than {_MAX_DEPTH} levels")
    if len(lines) >= _MAX_VALUES:
        raise ConfigError(f"{path}: holds more than {_MAX_VALUES} values, aliases included")
    lines[at] = f"{path}:{node.start_mark.line + 1}"
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            line = f"{path}:{key.start_mark.line + 1}"
            if key.value in seen:
                raise ConfigError(f"{line}: `{key.value}` stands twice")
            seen.add(str(key.value))
            _note_lines(value, (*at, key.value), lines, path)
            lines[(*at, key.value)] = line
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            _note_lines(item, (*at, index), lines, path)


def _apply(tree: dict[str, Any], lines: dict[Place, str], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not all(key.split(".")):
        raise ConfigError(f"--set {override!r}: must be KEY=VALUE, e.g. asha.reduction_factor=4")
    try:
        value = yaml.safe_load(text)
    except Exception:  # as above
        raise ConfigError(f"--set {override!r}: the value is not YAML") from None
    place, path = tree, tuple(key.split("."))
    for part in path[:-1]:
        inner = place.get(part)
        if inner is not None and not isinstance(inner, dict):
            raise ConfigError(f"--set {override!r}: `{part}` is a value, not a section")
        place = place.setdefault(part, {}) if inner is not None else _fresh(place, part)
    place[path[-1]] = value
    for end in range(1, len(path)):
        # Keys of a section may contradict each other: then both places are named.
        written = lines.get(path[:end])
        lines[path[:end]] = f"{f'{written} with ' if written else ''}--set {override!r}"
    lines[path] = f"--set {override!r}"


def _fresh(place: dict[str, Any], part: str) -> dict[str, Any]:
    place[part] = {}
    section: dict[str, Any] = place[part]
    return section
