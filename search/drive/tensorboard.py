"""TensorBoard events: a curve and an hparams row for every trial, also for those that are stopped.

The driver writes them, so a cluster needs no shared log folder. Ray's own writer is not used: it
writes hparams only when a trial ends, loses conditional parameters and makes every scalar a metric.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event  # type: ignore[import-untyped]
from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-untyped]
from tensorboard.plugins.hparams import (  # type: ignore[import-untyped]
    api_pb2,
    metadata,
    plugin_data_pb2,
    summary_v2,
)
from tensorboard.summary.writer.record_writer import (  # type: ignore[import-untyped]
    RecordWriter,
)

from model.config import Configuration, NetworkConfig, TrainingConfig
from model.train import EpochMetrics
from search.prune.assignment import Assignment
from search.prune.ladder import Decision
from search.record.study import StudyError, trial_name
from search.record.whole_file import cannot_write

VALUE = "accuracy/validation"
"""Tag of the value that is searched for."""
_COUNT = count()  # two files may be begun in the same second, and are read in the order of names


class Curves:
    """Writes the epochs of one training as scalars.

    Not by TensorBoard's own writer: that writes from a thread, whose errors nobody can catch.
    """

    def __init__(self, folder: Path) -> None:
        """Begin another file of events in `folder`.

        Raises:
            StudyError: It cannot be written, such as on a full disk; so do all methods but `close`.
        """
        stamp = f"{time.time():010.0f}.{platform.node()}.{os.getpid()}.{next(_COUNT):06d}"
        self._path = folder / f"events.out.tfevents.{stamp}"
        with self._told():
            folder.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("wb")
        try:
            self._write(Event(file_version="brain.Event:2"))
        except StudyError:
            self.close()
            raise

    def add(self, metrics: EpochMetrics) -> None:
        """Write one epoch and make it visible to a running TensorBoard."""
        scalars = {
            VALUE: metrics.val_accuracy,
            "accuracy/train": metrics.train_accuracy,
            "loss/validation": metrics.val_loss,
            "loss/train": metrics.train_loss,
            "learning_rate": metrics.learning_rate,
            "images_per_second": metrics.images_per_second,
        }
        summary = Summary()
        for tag, value in scalars.items():
            if value is not None:
                summary.value.add(tag=tag, simple_value=value)
        self.add_summary(summary, metrics.epoch)

    def add_summary(self, summary: Any, step: int = 0) -> None:
        """Write a ready-made summary."""
        self._write(Event(step=step, summary=summary))

    def close(self) -> None:
        """Close the file; all that could be written was."""
        with suppress(OSError):  # what could not be is tried once more, and was told
            self._file.close()

    def _write(self, event: Event) -> None:
        event.wall_time = time.time()
        with self._told():
            RecordWriter(self._file).write(event.SerializeToString())
            self._file.flush()

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise cannot_write(self._path, error) from None


class Board:
    """Follows a search: one folder of curves per trial, one hparams table for the study."""

    def __init__(self, folder: Path, *, max_blocks: int) -> None:
        """Write under `folder`, the study's trials/; `max_blocks` says how many columns there are.

        The columns are described once for the whole study, before any trial: a description taken
        from one trial would hide the parameters that only deeper networks have.
        """
        self._folder = folder
        self._open: dict[int, Curves] = {}
        with closing(Curves(folder)) as root:
            root.add_summary(
                summary_v2.hparams_config_pb(
                    hparams=[summary_v2.HParam(name) for name in columns(max_blocks)],
                    metrics=[summary_v2.Metric(VALUE, display_name="validation accuracy")],
                )
            )

    def started(self, assignment: Assignment, origin: str) -> None:
        """Open the trial's curves and write its hparams at once, not when it ends."""
        values = flatten(assignment.configuration) | {"origin": origin}
        if assignment.trial in self._open:  # its worker died, and it is handed out again
            self._open.pop(assignment.trial).close()
        name = trial_name(assignment.trial)
        self._open[assignment.trial] = curves = Curves(self._folder / name)
        curves.add_summary(
            summary_v2.hparams_pb(values, trial_id=name, start_time_secs=time.time())
        )

    def epoch(self, trial: int, metrics: EpochMetrics, decision: Decision | None) -> None:
        """Write one epoch."""
        self._open[trial].add(metrics)

    def failed(self, trial: int, failure: str, reason: str) -> None:
        """Do nothing: it goes on, or ends, later."""

    def stopping(self, reason: str) -> None:
        """Do nothing: curves are written until the last epoch."""

    def ended(self, trial: int, outcome: str, reason: str) -> None:
        """Close the trial's hparams row with how it ended."""
        status = {
            "complete": api_pb2.Status.STATUS_SUCCESS,
            "pruned": api_pb2.Status.STATUS_SUCCESS,
        }.get(outcome, api_pb2.Status.STATUS_FAILURE)
        with closing(self._open.pop(trial)) as curves:
            curves.add_summary(_session_end(status))

    def close(self) -> None:
        """Close the curves of trials that did not end."""
        for curves in self._open.values():
            curves.close()
        self._open.clear()


def columns(max_blocks: int) -> list[str]:
    """Return the hparams columns of a study whose deepest network has `max_blocks` blocks."""
    deepest = Configuration(
        network=NetworkConfig(filters=(1,) * max_blocks),
        training=TrainingConfig(epochs=1, learning_rate=0.1),
    )
    return ["origin", *flatten(deepest)]


def flatten(configuration: Configuration) -> dict[str, bool | float | str]:
    """Return a configuration as flat columns: `filters_1`, `kernel_sizes_2`, `learning_rate`."""
    plain = configuration.settings()
    flat: dict[str, bool | float | str] = {"blocks": float(len(plain["network"]["filters"]))}
    for section in plain.values():
        for key, value in section.items():
            if isinstance(value, list):
                flat |= {f"{key}_{i}": float(item) for i, item in enumerate(value, start=1)}
            else:
                flat[key] = value if isinstance(value, bool | str) else float(value)
    return flat


def _session_end(status: int) -> Summary:
    # The public helper for this needs TensorFlow; the record itself is one protocol buffer.
    info = plugin_data_pb2.SessionEndInfo(status=status, end_time_secs=time.time())
    content = plugin_data_pb2.HParamsPluginData(
        session_end_info=info, version=metadata.PLUGIN_DATA_VERSION
    )
    summary = Summary()
    summary.value.add(
        tag=metadata.SESSION_END_INFO_TAG,
        metadata=metadata.create_summary_metadata(content),
        tensor=metadata.NULL_TENSOR,
    )
    return summary
