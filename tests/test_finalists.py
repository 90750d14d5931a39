"""Who is raced after a search, also after an extension; what a record of the race is worth."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from simulated_search import FACTS, search_on

from search.config.config import StudyConfig
from search.drive.extend import Wish, extend
from search.final.finalists import RACE, entrants_of, is_raced, winner_of
from search.machine.environment import describe_environment
from search.machine.slots import CHECKOUT
from search.record.study import Study, best_of, create, open_study

MakeConfig = Callable[..., StudyConfig]


@pytest.fixture
def searched(make_config: MakeConfig, tmp_path: Path) -> Callable[..., Study]:
    """Return what makes a study with a baseline and searches it, without training."""

    def make(**changes: Any) -> Study:
        values: dict[str, Any] = {"baselines": ["seed-32"], "budget": {"trials": 12}}
        config = make_config(**(values | changes))
        environment = describe_environment(CHECKOUT)
        study = create(config, tmp_path / "small", facts=FACTS, environment=environment)
        search_on(study).set_state("searched")
        return open_study(study.folder)

    return make


def test_the_best_trials_and_the_baselines_are_raced_for_their_own_length(
    searched: Callable[..., Study],
) -> None:
    study = searched(final={"finalists": 3})
    entrants, trials = entrants_of(study), {t.name: t for t in study.trials()}
    assert sum(e.kind == "finalist" for e in entrants) == 3
    assert [e.name for e in entrants if e.kind == "baseline"] == ["seed-32"]
    able = sorted((t for t in trials.values() if t.can_win), key=lambda t: t.merit)
    names = [t.name for t in able if not t.origin.startswith("baseline ")][:3]
    assert [e.name for e in entrants if e.kind == "finalist"] == names
    for entrant in entrants:
        assert 1 <= entrant.epochs <= trials[entrant.trial].max_epochs
        assert entrant.search_value == trials[entrant.trial].value


def test_after_a_longer_training_nobody_is_raced_beyond_his_schedule(
    searched: Callable[..., Study],
) -> None:
    study, _ = extend(searched(), Wish(max_epochs=20, trials="+8"))
    search_on(study).set_state("searched")
    study = open_study(study.folder)
    entrants, trials = entrants_of(study), {t.name: t for t in study.trials()}
    assert len({e.name for e in entrants}) == len(entrants)
    for entrant in entrants:
        assert entrant.epochs <= trials[entrant.trial].max_epochs


def test_a_baseline_that_is_trained_again_for_longer_is_a_baseline_still(
    searched: Callable[..., Study], monkeypatch: pytest.MonkeyPatch
) -> None:
    study = searched(budget={"trials": 3})  # too few: the baseline is among the best four
    study, _ = extend(study, Wish(max_epochs=20, trials="+4"))
    search_on(study).set_state("searched")
    study = open_study(study.folder)
    again = [t for t in study.trials() if t.origin == "t0000 again, for longer"]
    assert again, "the case is there"
    raced = {e.trial: e for e in entrants_of(study)}
    assert sum(e.name == "seed-32" for e in raced.values()) == 1
    assert all(raced[t.name].kind == "baseline" for t in again if t.name in raced)


def test_a_baseline_that_is_the_best_is_raced_even_where_baselines_are_not(
    searched: Callable[..., Study],
) -> None:
    study = searched(budget={"trials": 1}, final={"race_baselines": False})
    best = best_of(study.trials())
    assert best is not None and best.origin == "baseline seed-32"
    assert [e.trial for e in entrants_of(study)] == [best.name]


def test_a_race_of_other_finalists_chooses_nobody(searched: Callable[..., Study]) -> None:
    study = searched()
    last = entrants_of(study)[-1]
    rows = [
        {"name": e.name, "trial": e.trial, "epochs": e.epochs, "values": [0.9, 0.9]}
        for e in entrants_of(study)
    ]
    race = {"candidates": rows, "ended": "it did", "chosen": last.name}
    study.note(RACE, race | {"max_rounds": study.config.final.rounds})
    assert is_raced(study) and winner_of(study)[0].name == last.trial
    study.note(RACE, race | {"max_rounds": study.config.final.rounds, "candidates": rows[1:]})
    best = best_of(study.trials())
    assert not is_raced(study) and best is not None and winner_of(study)[0].name == best.name
