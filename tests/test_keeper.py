"""What stays on the disk of a study while it is searched, and after."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from search.config.config import StudyConfig
from search.drive.checkpoints import checkpoint_path, found, tidy
from search.drive.keeper import Keeper
from search.record.study import Study, best_of, create


class Disk:
    """Writes what workers would: a checkpoint of so many bytes for each epoch."""

    def __init__(self, study: Study, driver: Any, train: Callable[..., list[str]]) -> None:
        self.study, self._driver, self._train = study, driver, train

    def train(self, trial: int, accuracies: dict[int, float], size: int = 1000) -> None:
        folder = self.study.trial_folder(trial)
        for epoch, accuracy in accuracies.items():
            checkpoint_path(folder, epoch).write_bytes(b"w" * size)
            rows = {row.epoch: row.val_accuracy for row in self.study.record.epochs(trial)}
            scores = {**rows, epoch: accuracy}
            tidy(folder, best_epoch=max(scores, key=lambda e: (scores[e], e)))
            self._train(self._driver, trial, {epoch: accuracy})

    def kept(self) -> dict[int, list[int]]:
        trials = len(self.study.trials())
        folders = {n: found(self.study.trial_folder(n)) for n in range(trials)}
        return {n: [epoch for epoch, _ in there] for n, there in folders.items() if there}


@pytest.fixture
def start(
    make_study: Callable[..., Study],
    make_driver: Callable[..., Any],
    hand_out: Callable[..., Any],
    train: Callable[..., list[str]],
) -> Callable[..., tuple[Disk, Any, list[str], Callable[[], int]]]:
    """Return a function that makes a study that is watched by a keeper.

    It returns its disk, its driver, what the keeper has said, and what hands the next trial out.
    """

    def make(study: Study | None = None, **changes: Any) -> Any:
        said: list[str] = []
        study = study or make_study(**changes)
        keeper = Keeper(study, say=said.append)
        driver = make_driver(study, slots=2, observers=(keeper,))
        return Disk(study, driver, train), driver, said, lambda: hand_out(driver).trial

    return make


PROMOTION = {"form": "promotion", "grace_epochs": 3, "reduction_factor": 3, "min_competitors": 2}


def test_a_running_trial_keeps_two_and_its_best_a_waiting_one_its_last_and_its_best(
    start: Callable[..., Any],
) -> None:
    disk, _, _, hand = start(asha=PROMOTION | {"grace_epochs": 6}, max_epochs=9)
    hand()
    disk.train(0, {1: 0.1, 2: 0.5, 3: 0.2, 4: 0.3, 5: 0.3})
    assert disk.kept() == {0: [5, 4, 2]}
    disk.train(0, {6: 0.4})
    assert disk.kept() == {0: [6, 2]}  # waits


def test_of_ended_trials_the_best_few_keep_their_best_network_and_failed_ones_nothing(
    start: Callable[..., Any],
) -> None:
    disk, _, said, hand = start(asha={"enabled": False}, max_epochs=3, checkpoints={"keep_best": 2})
    for trial, scores in enumerate(([0.1, 0.5, 0.4], [0.2, 0.3, 0.6], [0.1, 0.1, 0.1])):
        assert hand() == trial
        disk.train(trial, dict(enumerate(scores, start=1)))
    assert disk.kept() == {0: [2], 1: [3]}
    hand()
    disk.train(3, {1: 0.7, 2: 0.8, 3: 0.9})
    assert disk.kept() == {1: [3], 3: [3]}
    hand()
    disk.train(4, {1: 0.95, 2: float("nan")})
    assert disk.study.trial(4).outcome == "infeasible"
    assert disk.kept() == {1: [3], 3: [3]}
    assert said == []
    assert (disk.study.trial_folder(0)).is_dir()  # its curves stay


def test_trials_that_the_budget_ended_keep_their_last_to_be_extended(
    start: Callable[..., Any],
) -> None:
    disk, driver, _, hand = start(
        asha=PROMOTION, budget={"epochs": 5}, checkpoints={"keep_best": 1}
    )
    assert [hand(), hand()] == [0, 1]
    disk.train(0, {1: 0.3, 2: 0.4, 3: 0.3})  # waits
    disk.train(1, {1: 0.6, 2: 0.5})
    assert driver.next() is None
    reasons = [trial.reason for trial in disk.study.trials()]
    assert reasons[0].startswith("never promoted: ")
    assert reasons[1] == "the budget ended: 5 epochs"
    assert disk.kept() == {0: [3], 1: [2, 1]}


def test_over_the_quota_the_least_useful_goes_and_it_is_said_once(
    start: Callable[..., Any],
) -> None:
    disk, _, said, hand = start(asha=PROMOTION, checkpoints={"max_gb": 4500 / 1e9})
    hand(), hand()
    disk.train(0, {1: 0.3, 2: 0.5, 3: 0.4})
    hand()
    disk.train(1, {1: 0.4, 2: 0.6, 3: 0.5})
    assert disk.kept() == {0: [3, 2], 1: [3, 2]}
    assert said == []
    disk.train(2, {1: 0.1})
    assert disk.kept() == {0: [3], 1: [3, 2], 2: [1]}
    disk.train(2, {2: 0.2}, size=2500)
    assert disk.kept() == {1: [3], 2: [2, 1]}
    (told,) = said
    assert "checkpoints.max_gb" in told
    disk.train(2, {3: 0.1}, size=9000)  # waits as well now, and is the worst
    assert disk.kept() == {1: [3]}
    assert said == [told]


def test_what_running_trials_need_is_never_deleted_even_over_the_quota(
    start: Callable[..., Any],
) -> None:
    disk, _, said, hand = start(asha={"enabled": False}, checkpoints={"max_gb": 1e-9})
    hand()
    disk.train(0, {1: 0.3, 2: 0.5, 3: 0.4, 4: 0.4})
    assert disk.kept() == {0: [4, 3, 2]}
    (told,) = said
    assert "take 1.0 kB, more than the 1e-09 GB of checkpoints.max_gb" in told
    assert "resources.max_concurrent" in told


def test_a_new_keeper_goes_on_from_the_record_and_clears_what_a_killed_driver_left(
    start: Callable[..., Any],
) -> None:
    disk, _, _, hand = start(asha=PROMOTION, max_epochs=9)
    hand(), hand()
    disk.train(0, {1: 0.3, 2: 0.5, 3: 0.4})
    disk.train(1, {1: 0.3, 2: 0.4})
    left = checkpoint_path(disk.study.trial_folder(0), 1)
    left.write_bytes(b"deleted by the worker, had it not been killed")
    again, _, _, hand = start(study=disk.study)
    assert again.kept() == {0: [3, 2], 1: [2, 1]}
    assert hand() == 1  # in flight
    again.train(1, {3: 0.3})
    assert again.kept() == {0: [3, 2], 1: [3, 2]}


def test_a_trial_that_is_promoted_is_as_safe_as_any_that_runs(
    start: Callable[..., Any],
) -> None:
    disk, _, _, hand = start(asha=PROMOTION, checkpoints={"max_gb": 3500 / 1e9})
    hand(), hand()
    disk.train(0, {1: 0.1, 2: 0.5, 3: 0.2})
    hand()
    disk.train(1, {1: 0.1, 2: 0.2, 3: 0.3})
    assert disk.kept() == {0: [3], 1: [3]}
    disk.train(2, {1: 0.1, 2: 0.1, 3: 0.1})
    assert disk.kept() == {0: [3], 2: [3]}
    assert hand() == 0  # promoted
    disk.train(0, {4: 0.2}, size=9000)
    assert disk.kept() == {0: [4, 3]}


def test_trials_that_end_untold_are_judged_at_the_end(start: Callable[..., Any]) -> None:
    disk, _, _, hand = start(asha=PROMOTION | {"grace_epochs": 3}, budget={"trials": 1})
    hand()
    disk.train(0, {1: 0.3, 2: 0.4, 3: 0.3})
    said: list[str] = []
    keeper = Keeper(disk.study, say=said.append)  # of the next session: it waits
    _, driver, _, _ = start(study=disk.study)  # has another
    assert driver.next() is None
    assert disk.study.trial(0).reason.startswith("never promoted")
    checkpoint_path(disk.study.trial_folder(0), 1).write_bytes(b"left")
    keeper.sweep()
    assert disk.kept() == {0: [3, 2]}
    assert said == []


def test_a_disk_that_is_nearly_full_is_warned_of_once(
    start: Callable[..., Any],
    make_config: Callable[..., StudyConfig],
    small_disk: Callable[[int], Path],
) -> None:
    place = small_disk(20_000_000) / "small"
    study = create(make_config(asha=PROMOTION), place, facts={}, environment={})
    disk, _, said, hand = start(study=study)
    hand()
    disk.train(0, {1: 0.3, 2: 0.4, 3: 0.5})
    (told,) = said
    assert re.fullmatch(rf"only 1\d\.\d MB are free on the disk of {place}; .*`gc` deletes.*", told)


def test_the_record_is_read_whole_only_once(
    start: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    disk, _, _, hand = start(asha=PROMOTION, budget={"trials": 3})
    with monkeypatch.context() as patch:
        patch.setattr(Study, "trials", lambda _: pytest.fail("all trials were read"))
        patch.setattr(
            type(disk.study.record), "decisions", lambda _: pytest.fail("all decisions were read")
        )
        for _ in range(2):
            trial = hand()
            disk.train(trial, {1: 0.3, 2: 0.4, 3: 0.4 + trial / 10})
    assert disk.kept() == {0: [3], 1: [3]}


def test_a_checkpoint_that_cannot_be_deleted_is_said_and_the_search_goes_on(
    start: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    disk, _, said, hand = start(asha=PROMOTION)
    hand()

    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("search.drive.shelf.discard", refuse)  # root may delete everything
    disk.train(0, {1: 0.3, 2: 0.4, 3: 0.5})
    assert disk.kept() == {0: [3, 2]}
    (told,) = said
    assert "e0002.safetensors cannot be deleted: Permission denied" in told


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_after_a_real_search_the_best_network_can_be_used_as_it_was_at_its_best_epoch(
    tmp_path: Path, make_config: Callable[..., StudyConfig]
) -> None:
    from data.loader import as_tensors
    from model.checkpoint import load_checkpoint
    from model.evaluate import predict_logits
    from search.run import new_study, search

    data = {"source": "synthetic", "synthetic_train": 900, "validation_images": 180}
    space = {"num_blocks": 1, "filters": 4, "learning_rate": {"float": [0.02, 0.3], "log": True}}
    config = make_config(
        data=data, space=space, budget={"trials": 4}, max_epochs=4, checkpoints={"keep_best": 1}
    )
    study, images = new_study(config, tmp_path, "quiet")
    assert search(study, images, "quiet")
    trials = study.trials()
    best = best_of(trials)
    assert best is not None and best.best_epoch is not None and best.value is not None
    for trial in trials:
        there = {epoch for epoch, _ in found(study.trial_folder(trial.number))}
        last = {len(trial.epochs)} if trial.reason.startswith("never promoted") else set()
        assert there == last | ({best.best_epoch} if trial == best else set())
    path = checkpoint_path(study.trial_folder(best.number), best.best_epoch)
    training, written = load_checkpoint(path, "cpu")
    assert [row["val_accuracy"] for row in written["epochs"]][-1] == best.value
    pixels, labels = as_tensors(images.validation, "cpu")
    right = predict_logits(training.model.eval(), pixels).argmax(1) == labels.numpy()
    assert right.mean() == pytest.approx(best.value, abs=0.03)  # scored in bfloat16, perhaps
