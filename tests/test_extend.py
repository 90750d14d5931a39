"""A study that goes on beyond its budget: as if it had been begun with the larger one."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import pytest

from model.train import EpochMetrics
from search.drive.driver import Driver
from search.drive.extend import Wish, extend
from search.explain.verify import verify
from search.final.finalists import best_length
from search.final.retrain import plan_final_models
from search.record.extension import taken_back
from search.record.study import Study, StudyError, best_of, open_study

MakeStudy = Callable[..., Study]
MakeDriver = Callable[..., Driver]
MakeEpoch = Callable[..., EpochMetrics]
Finish = Callable[..., Study]


def _accuracy(key: str, epoch: int) -> float:
    # A curve of its own for each configuration, the same in every study.
    draw = int(hashlib.sha256(key.encode()).hexdigest()[:6], 16) / 0xFFFFFF
    return round(0.5 + 0.4 * draw - 0.3 / (epoch + 1), 6)


@pytest.fixture
def finish(make_driver: MakeDriver, make_epoch: MakeEpoch) -> Finish:
    """Return a function that searches a study to the end of its budget, on one slot."""

    def search(study: Study, stop_after: int | None = None) -> Study:
        study.note(
            "data", {"channels": 1, "height": 28, "width": 28, "classes": list("0123456789")}
        )
        driver, told = make_driver(study), 0
        while (assignment := driver.next()) is not None:
            for epoch in range(assignment.from_epoch + 1, 1000):
                key = f"{assignment.configuration.network.filters}{assignment.trial}"
                verdict = driver.on_epoch(
                    assignment.trial, make_epoch(epoch, _accuracy(key, epoch))
                )
                told += 1
                if told == stop_after:
                    return study
                if verdict.action == "stop":
                    break
        study.set_state("searched")
        return study

    return search


def _happened(study: Study) -> list[tuple[Any, ...]]:
    """Return the events, as if nothing had been taken back."""
    events = study.record.events()
    back = taken_back(events)
    return [
        (e.kind, e.trial, e.epoch, e.value, e.outcome, e.reason)
        for e in events
        if e.kind not in ("extended", "reopened") and e.id not in back
    ]


def _same(one: Study, other: Study) -> bool:
    pairs = zip(one.trials(), other.trials(), strict=True)
    decisions = [
        [{k: v for k, v in row.items() if k not in ("at", "id", "event", "study")} for row in rows]
        for rows in (one.record.decisions(), other.record.decisions())
    ]
    return (
        _happened(one) == _happened(other)
        and all(a.configuration == b.configuration and a.outcome == b.outcome for a, b in pairs)
        and decisions[0] == decisions[1]
    )


@pytest.mark.parametrize("form", ["promotion", "stopping"])
def test_an_extended_study_is_as_one_begun_with_the_larger_budget(
    form: str, make_study: MakeStudy, finish: Finish
) -> None:
    asha = {"form": form}
    whole = finish(make_study("whole", asha=asha, budget={"trials": 30}))
    study = finish(make_study("grown", asha=asha, budget={"trials": 12}))
    ended = [trial for trial in study.trials() if trial.reason.startswith("never promoted")]
    assert bool(ended) == (form == "promotion")
    study, said = extend(study, Wish(trials="+8"))
    assert study.config.budget.trials == 20 and "budget.trials is 20 now" in said
    # Optuna's own tables say so too.
    states = [trial.state.name for trial in study.optuna.get_trials()]
    assert states.count("RUNNING") == len(ended)
    study, _ = extend(finish(study), Wish(trials="30"))
    study = open_study(finish(study).folder)
    assert _same(whole, study)
    assert verify(study).difference is None, str(verify(study))
    assert study.config.budget.trials == 30
    assert "trials: 30" in (study.folder / "config.yaml").read_text(encoding="utf-8")


def test_a_trial_that_the_budget_cut_short_goes_on_from_its_last_epoch(
    make_study: MakeStudy, finish: Finish, make_driver: MakeDriver
) -> None:
    study = finish(make_study(asha={"enabled": False}, budget={"epochs": 13}))
    cut = study.trials()[-1]
    assert (cut.outcome, len(cut.epochs)) == ("pruned", 4)
    study, _ = extend(study, Wish(epochs="+20"))
    assert study.trial(cut.number).outcome == "running"
    assignment = make_driver(study).next()
    assert assignment is not None
    assert (assignment.trial, assignment.from_epoch) == (cut.number, 4)


def test_an_extension_that_died_half_way_is_made_up_for(
    make_study: MakeStudy, finish: Finish, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = finish(make_study(budget={"trials": 12}))
    waiting = [t.number for t in study.trials() if t.reason.startswith("never promoted")]

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("search.drive.extend.Ledger.reopen", die)
    with pytest.raises(KeyboardInterrupt):
        extend(study, Wish(trials="+8"))
    monkeypatch.undo()
    study = open_study(study.folder)
    assert study.state == "stopped", "`resume` searches on"
    assert study.config.budget.trials == 20, "the record counts, not the file"
    study = finish(study)
    assert len(study.trials()) == 20 and len(waiting) > 0
    assert verify(study).difference is None, str(verify(study))
    assert all(trial.outcome != "running" for trial in study.trials())


def test_a_longer_training_begins_with_the_best_anew(make_study: MakeStudy, finish: Finish) -> None:
    study = finish(make_study(baselines=["seed-32"], budget={"trials": 12}))
    best = sorted((t for t in study.trials() if t.can_win), key=lambda t: t.merit)[:4]
    study, said = extend(study, Wish(max_epochs=20, trials="+10"))
    assert study.config.max_epochs == 20
    assert said[-1].startswith(f"training lasts 20 epochs now; {best[0].name}, ")
    study = open_study(finish(study).folder)
    trials = study.trials()
    assert len(trials) == 22
    for old, new in zip(best, trials[12:16], strict=True):
        assert new.origin == f"{old.name} again, for longer"
        assert old.configuration is not None and new.configuration is not None
        assert new.configuration["network"] == old.configuration["network"]
    assert {trial.max_epochs for trial in trials[:12]} == {9}
    assert {trial.max_epochs for trial in trials[12:]} == {20}
    # Rungs start empty: what was trained with another schedule is no competitor.
    first = next(d for d in study.record.decisions() if d["trial"] == 12)
    assert (first["rung"], first["competitors"]) == (1, 0)
    assert any(d["rung"] == 9 for d in study.record.decisions())
    assert verify(study).difference is None, str(verify(study))


def test_a_longer_training_that_is_killed_goes_on_as_it_would_have(
    make_study: MakeStudy, finish: Finish
) -> None:
    studies = []
    for name, kills in (("whole", ()), ("killed", (7, 1, 20))):
        study = finish(make_study(name, budget={"trials": 8}))
        study, _ = extend(study, Wish(max_epochs=20, trials="+10"))
        for epochs in kills:
            study = open_study(finish(study, stop_after=epochs).folder)
        studies.append(finish(study))
    assert _same(*studies)


def test_longer_training_alone_trains_the_best_four(make_study: MakeStudy, finish: Finish) -> None:
    study = finish(make_study(budget={"trials": 12, "epochs": 40}))
    study, _ = extend(study, Wish(max_epochs=18))
    assert (study.config.budget.trials, study.config.budget.epochs) == (16, 40)
    study = finish(study)
    assert len(study.trials()) <= 16


def test_limits_that_were_met_are_dropped_and_named(make_study: MakeStudy, finish: Finish) -> None:
    budget = {"trials": 100, "epochs": 20, "plateau_trials": 50, "plateau_delta": 0.01}
    study = finish(make_study(budget=budget))
    _, said = extend(study, Wish(trials="+5"))
    assert said[0] == "budget.trials is 105 now"
    assert any(line.startswith("budget.epochs was met and is dropped (20 of 20") for line in said)
    assert open_study(study.folder).config.budget.plateau_trials == 50


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        (Wish(), "nothing is asked for; give --trials +50"),
        (Wish(trials="many"), "--trials 'many' is no number above 0; give +50 for more, or 200"),
        (Wish(trials="+0"), "--trials '+0' is no number above 0"),
        (Wish(trials="+4.5"), "--trials '+4.5' is no number above 0"),
        (Wish(trials="99999999999"), "--trials 99999999999 is more than the 1,000,000,000 that a"),
        (Wish(minutes="+9" + "9" * 30), "--minutes '+99999"),
        (Wish(trials="12"), "--trials 12 is no more than the 12 that are allowed or used"),
        (Wish(max_epochs=5), "--max-epochs 5 is less than the 9 of small"),
        (Wish(max_epochs=9), "nothing is asked for"),
    ],
)
def test_what_is_no_extension_is_refused_and_changes_nothing(
    wish: Wish, message: str, make_study: MakeStudy, finish: Finish
) -> None:
    study = finish(make_study(budget={"trials": 12}))
    before = (study.folder / "config.yaml").read_text(encoding="utf-8")
    with pytest.raises(StudyError) as raised:
        extend(study, wish)
    assert str(raised.value).startswith(message)
    assert study.state == "searched" and not study.record.events(kind="extended")
    assert (study.folder / "config.yaml").read_text(encoding="utf-8") == before


def test_a_longer_training_waits_for_the_end_of_the_search(make_study: MakeStudy) -> None:
    with pytest.raises(StudyError, match="the search of small has not ended; `resume small` first"):
        extend(make_study(), Wish(max_epochs=20))


def test_a_winner_of_the_shorter_training_is_retrained_for_its_own_length(
    make_study: MakeStudy, finish: Finish
) -> None:
    study = finish(make_study(asha={"enabled": False}, budget={"epochs": 13}))
    study, _ = extend(study, Wish(max_epochs=20, trials="+2"))
    best = best_of(study.trials())
    assert best is not None and best.max_epochs == 9
    lengths = {m.epochs for m in plan_final_models(study) if m.group == "winner"}
    assert lengths == {best_length(best)} and max(lengths) <= 9


def test_a_limit_that_would_end_a_study_earlier_is_refused(make_study: MakeStudy) -> None:
    study = make_study(budget={"trials": 12})
    with pytest.raises(StudyError, match="small has no limit of epochs, so a new one could only"):
        extend(study, Wish(epochs="+2"))
    study, _ = extend(study, Wish(trials="+2"))
    assert study.config.budget.trials == 14
