"""The values of a YAML text with the place of each, and never more of them than a study file needs.

A small text can stand for endless values: aliases of aliases, a number of a million digits, a
million brackets. Nothing is made of a text before it is known how much it would be.
"""

from __future__ import annotations

from typing import Any

import yaml

from search.config.config_error import ConfigError, Place

MAX_DEPTH = 20
_MAX_VALUES = 10_000
_MAX_CHARACTERS = 10_000  # of one value
_MAX_WHOLE = 2**63 - 1  # larger ones fit into no table
_MOST_DIGITS = 30


def parse(text: str, name: str, *, numbered: bool) -> tuple[Any, dict[Place, str]]:
    """Return the value of a YAML text, and where each value in it stands.

    That is `name` with the line if `numbered`, else `name`. Raises ConfigError.
    """
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None, {}
        lines: dict[Place, int] = {}
        _note_lines(node, (), lines)
        value = loader.construct_document(node)
    except _Refused as error:
        where = f"{name}:{error.line}" if numbered and error.line else name
        raise ConfigError(f"{where}: {error}") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"{name}:{mark.line + 1}" if numbered and mark else name
        raise ConfigError(f"{where}: not YAML: {error.problem or error.context}") from None
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"{name}: not YAML: {error}") from None
    except Exception:  # PyYAML's constructors raise whatever comes: `!!bool x` is a KeyError
        raise ConfigError(f"{name}: not YAML: a value does not fit its tag (!!...)") from None
    places = {at: f"{name}:{line}" if numbered else name for at, line in lines.items()}
    return _unshared(value), places


class _Refused(Exception):
    """More than a study file needs; on which line, or 0."""

    def __init__(self, message: str, line: int) -> None:
        super().__init__(message)
        self.line = line


class _Loader(yaml.SafeLoader):
    """PyYAML's, which stops when a text is too deep or holds too much."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = self._num_nodes = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Compose as PyYAML does."""
        self._depth += 1
        self._num_nodes += 1
        _check_size(self._depth, self._num_nodes // 2, self.line + 1)  # keys are nodes too
        node: yaml.Node | None = super().compose_node(parent, index)
        self._depth -= 1
        return node


def _construct_whole(loader: _Loader, node: yaml.ScalarNode) -> int:
    if len(node.value) <= _MOST_DIGITS:
        number = loader.construct_yaml_int(node)
        if abs(number) <= _MAX_WHOLE:
            return number
    shown = node.value if len(node.value) <= _MOST_DIGITS else f"{node.value[:_MOST_DIGITS]}..."
    raise _Refused(f"{shown} is too large; whole numbers go up to 2^63 - 1", _line(node))


_Loader.add_constructor("tag:yaml.org,2002:int", _construct_whole)


def _note_lines(node: yaml.Node, at: Place, lines: dict[Place, int]) -> None:
    """Note the line of every value, those that aliases repeat included."""
    _check_size(len(at), len(lines), _line(node))
    lines[at] = _line(node)
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise _Refused("not YAML: found unhashable key", _line(key))
            if key.value in seen:
                raise _Refused(f"`{key.value}` stands twice", _line(key))
            seen.add(key.value)
            _note_lines(value, (*at, key.value), lines)
            lines[(*at, key.value)] = _line(key)
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            _note_lines(item, (*at, index), lines)
    elif len(node.value) > _MAX_CHARACTERS:
        raise _Refused(f"a value of {len(node.value)} characters", _line(node))


def _unshared(value: Any) -> Any:
    """Return a value without parts that are one object: an override changes one place."""
    if isinstance(value, dict):
        return {key: _unshared(inner) for key, inner in value.items()}
    return list(map(_unshared, value)) if isinstance(value, list) else value


def _check_size(depth: int, num_values: int, line: int) -> None:
    if depth > MAX_DEPTH:
        raise _Refused(f"nested deeper than {MAX_DEPTH} levels", line)
    if num_values >= _MAX_VALUES:
        raise _Refused(f"holds more than {_MAX_VALUES} values, aliases included", 0)


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1
