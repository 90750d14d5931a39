"""final/metrics.json: what is known of the retrained models, with a digest that notices any change.

"sha256" is over everything else in it. What cannot be read is never taken for "not retrained yet".
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data.plain_file import open_plain
from search.record.whole_file import write_json
from search.study_error import StudyError

_NAME = "metrics.json"
_DIGEST = "sha256"


def write_metrics(final: Path, content: dict[str, Any]) -> None:
    """Write metrics.json (JSON values) into the folder `final`. Raises StudyError."""
    plain = json.loads(json.dumps(content))  # as a reader will see it
    write_json(final / _NAME, plain | {_DIGEST: _digest(plain)})


def read_metrics(final: Path) -> dict[str, Any]:
    """Return what `write_metrics` wrote, or an empty dictionary where it has written nothing.

    Raises:
        StudyError: The file is damaged, or somebody has changed it.
    """
    path = final / _NAME
    try:
        with open_plain(path) as file:
            content = json.load(file)
        if not isinstance(content, dict) or content.pop(_DIGEST, None) != _digest(content):
            raise ValueError("its SHA-256 does not match")
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise StudyError(
            f"{path} is not what was written ({reason}); put a copy of {final.name}/ back, or train"
            f" the models again with `retrain {final.parent.name}`"
        ) from error
    return content


def winner_rows(metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the rows of the winner's models, the one that is exported first."""
    return [row for row in metrics.get("models", []) if row["group"] == "winner"]


def _digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
