"""What is wrong with a study file, in one line: where, what was given, what is allowed."""

from __future__ import annotations

import json
import typing
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from data.one_line import OneLineError
from search.config.config import StudyConfig
from search.config.dimension import nearest

Place = tuple[Any, ...]
"""Keys and list indices from the top of the file down to a value."""

_LONGEST = 60
_MISSING = {
    "space": "space: {filters: {choice: [16, 32]}, learning_rate: 0.1}",
    "budget": "budget: {trials: 20}",
}
_RULES = {
    "bool_type": "true or false",
    "dict_type": "a section of keys and values",
    "finite_number": "a finite number",
    "float_type": "a number",
    "greater_than": "above {gt:g}",
    "greater_than_equal": "at least {ge:g}",
    "int_type": "a whole number",
    "less_than": "below {lt:g}",
    "literal_error": "{expected}",
    "model_type": "a section of keys and values",
    "string_pattern_mismatch": "1 to 64 letters, digits, `.`, `_` and `-`, beginning with a letter"
    " or a digit",
    "string_type": "text",
    "tuple_type": "a list",
}


class ConfigError(OneLineError, ValueError):
    """A study file that cannot be used: one line that says where, what is allowed, what to do."""


def explain(
    error: ValidationError, tree: Mapping[str, Any], lines: Mapping[Place, str], file: str
) -> str:
    """Return the first thing that pydantic found wrong, with the line that it stands on.

    `lines` holds the place of every value in the file or on the command line.
    """
    found = error.errors(include_url=False)
    # A misspelt key first: the "missing" that it causes would lead astray.
    first = min(found, key=lambda details: details["type"] != "extra_forbidden")
    place = _place(first["loc"])
    name = ".".join(map(str, place))
    where = _line(place, lines, file)
    if first["type"] == "extra_forbidden":
        allowed = tuple(_section_at(place[:-1]).model_fields)
        return f"{where}: no key `{name}`{nearest(str(place[-1]), allowed)}"
    if first["type"] == "missing":
        return f"{where}: `{name}` is missing; add e.g. {_MISSING[name]}"
    if first["type"] == "invalid_key" or "[key]" in first["loc"]:
        return f"{where}: {_shown(first['input'])} stands as a key, but keys must be text"
    if first["type"] == "value_error":
        message = str(first["ctx"]["error"])
        if not place:
            where = _line(_named(message, tree, lines), lines, file)
        return f"{where}: {name + ': ' if name else ''}{message}"
    # A value that may be of several types has one error for each.
    rules = [_rule(details) for details in found if _place(details["loc"]) == place]
    allowed_values = " or ".join(dict.fromkeys(rules))
    return f"{where}: `{name}` is {_shown(first['input'])}, but must be {allowed_values}"


def _place(location: Sequence[Any]) -> Place:
    # pydantic's location goes on, after the field, with the type that did not fit.
    place: list[Any] = []
    section: type[BaseModel] | None = StudyConfig
    for part in location:
        if section is None and not isinstance(part, int):
            break
        place.append(part)
        section = _inner(section, part) if section is not None else None
    return tuple(place)


def _section_at(place: Place) -> type[BaseModel]:
    section: type[BaseModel] = StudyConfig
    for part in place:
        section = _inner(section, part) or section
    return section


def _inner(section: type[BaseModel], part: Any) -> type[BaseModel] | None:
    field = section.model_fields.get(str(part))
    kinds = [] if field is None else [field.annotation, *typing.get_args(field.annotation)]
    return next((k for k in kinds if isinstance(k, type) and issubclass(k, BaseModel)), None)


def _line(place: Place, lines: Mapping[Place, str], file: str) -> str:
    # A missing key has only its section, a missing section only the file.
    for end in range(len(place), -1, -1):
        if place[:end] in lines:
            return lines[place[:end]]
    return file


def _named(message: str, tree: Mapping[str, Any], lines: Mapping[Place, str]) -> Place:
    """Return the place that a message of our own speaks of, as far as it can be told."""
    space = tree.get("space")
    for key in space if isinstance(space, Mapping) else ():
        if f"space has no key `{key}`" in message or f": {key} is " in message:
            return ("space", key)
    spoken = [place for place in lines if place and message.startswith(_dotted(place))]
    if spoken:
        return max(spoken, key=len)
    return ("space",) if "valid network" in message else ()


def _dotted(place: Place) -> str:
    return "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in place).removeprefix(".")


def _rule(details: ErrorDetails) -> str:
    rule = _RULES.get(details["type"])
    if rule is None:
        return details["msg"].replace("Input should be ", "")
    return rule.format(**details.get("ctx", {}))


def _shown(value: Any) -> str:
    if isinstance(value, str):
        text = repr(value)
    else:
        try:
            text = "empty" if value is None else json.dumps(value, default=str)
        except TypeError:  # a key that JSON does not have, such as a date
            text = str(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
