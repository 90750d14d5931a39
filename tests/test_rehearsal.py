"""Studies run without training: slots, budget and ASHA by hand, and what many of them tell."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from statistics import mean
from typing import Any

import numpy as np
import pytest

from search.config.config import StudyConfig
from search.machine.pace import Epoch
from search.plan.forecast import Forecast, Interval
from search.plan.rehearsal import (
    Overheads,
    Rehearsal,
    Scene,
    made_up_value,
    overheads_here,
    rehearse,
    rehearse_often,
)
from search.prune.settle import asha_rules, settle

MakeConfig = Callable[..., StudyConfig]
MakeScene = Callable[..., Scene]


def epoch(trial: float, full: float = 0.0) -> Epoch:
    return Epoch(trial=trial, full=full, measured=True)


@pytest.fixture
def make_scene(make_config: MakeConfig) -> MakeScene:
    """Return a function that makes a scene: 3 epochs a trial, 10 s each, ASHA off."""

    def make(
        *,
        drawn: tuple[float, ...] = (10.0,),
        first: tuple[float, ...] = (),
        slots: int = 1,
        spread: float = 0.0,
        overheads: Overheads | None = None,
        baselines: tuple[Epoch, ...] = (),
        **changes: Any,
    ) -> Scene:
        values: dict[str, Any] = {
            "max_epochs": 3,
            "asha": {"enabled": False},
            "budget": {"trials": 4},
            "final": {"finalists": 0, "seeds": 1, "baseline_seeds": 1},
        }
        return Scene(
            config=settle(make_config(**(values | changes)), slots=slots),
            slots=slots,
            share=1.0,
            first=[epoch(seconds) for seconds in first],
            drawn=[epoch(seconds) for seconds in drawn],
            baselines=baselines,
            spread=spread,
            overheads=overheads or Overheads(),
        )

    return make


def test_one_slot_takes_trials_times_epochs_times_seconds(make_scene: MakeScene) -> None:
    done = rehearse(make_scene(), seed=0)
    assert done.search_seconds == pytest.approx(4 * 3 * 10)
    assert (done.trials, done.epochs) == (4, 12)
    assert done.reached == {1: 4, 2: 4, 3: 4}


def test_two_slots_take_half_of_it_and_an_odd_trial_waits_for_none(make_scene: MakeScene) -> None:
    assert rehearse(make_scene(slots=2), seed=0).search_seconds == pytest.approx(60)
    odd = make_scene(slots=2, budget={"trials": 5})
    assert rehearse(odd, seed=0).search_seconds == pytest.approx(90)


def test_overheads_are_counted_where_they_occur(make_scene: MakeScene) -> None:
    over = Overheads(start=1000, ray=100, worker=20, trial=2, epoch=0.5, retrain_worker=7, end=3000)
    scene = make_scene(overheads=over, drawn=(10.0,))
    done = rehearse(scene, seed=0)
    # One process, hence one start; three times one trial after another; twelve epochs.
    assert done.search_seconds == pytest.approx(100 + 20 + 3 * 2 + 12 * 10.5)
    assert done.retrain_seconds == pytest.approx(7)  # a full epoch takes nothing here
    assert done.rest_seconds == pytest.approx(4000)
    assert done.wall_seconds == pytest.approx(252 + 7 + 4000)


def test_the_retraining_hands_seeds_and_baselines_to_the_process_that_is_free(
    make_scene: MakeScene,
) -> None:
    scene = make_scene(
        slots=2,
        final={"finalists": 0, "seeds": 3, "baseline_seeds": 1},
        baselines=(epoch(1, full=5), epoch(1, full=40)),
    )
    scene = replace(scene, drawn=[epoch(10, full=20)])
    # One process: 60 and 60. The other: 60, then the baselines' 15 and 120.
    assert rehearse(scene, seed=0).retrain_seconds == pytest.approx(195)


def test_the_race_trains_every_finalist_twice_and_then_those_who_stay(
    make_scene: MakeScene,
) -> None:
    final = {"finalists": 2, "rounds": 2, "seeds": 1, "baseline_seeds": 0}
    twice = replace(make_scene(final=final), drawn=[epoch(10, full=20)])
    assert rehearse(twice, seed=0).race_seconds == pytest.approx(2 * 2 * 3 * 20)
    scene = make_scene(final=final, baselines=(epoch(1, full=5),))
    with_baseline = replace(scene, drawn=[epoch(10, full=20)])
    assert rehearse(with_baseline, seed=0).race_seconds == pytest.approx(240 + 2 * 3 * 5)
    longer = make_scene(final=final | {"rounds": 5}, budget={"trials": 8})
    longer = replace(longer, drawn=[epoch(10, full=20)])
    took = {rehearse(longer, seed=seed).race_seconds for seed in range(40)}
    assert min(took) == pytest.approx(240) and 240 < max(took) <= 240 + 3 * 120


def test_trials_in_flight_stop_at_their_next_epoch_when_the_seconds_are_spent(
    make_scene: MakeScene,
) -> None:
    done = rehearse(make_scene(drawn=(7.0,), budget={"seconds": 20}), seed=0)
    assert done.search_seconds == pytest.approx(21)
    assert done.reached == {1: 1, 2: 1, 3: 1}
    done = rehearse(make_scene(drawn=(7.0,), budget={"seconds": 22}), seed=0)
    assert done.search_seconds == pytest.approx(28)
    assert done.trials == 2


def test_a_number_of_epochs_ends_the_search_in_the_middle_of_a_trial(
    make_scene: MakeScene,
) -> None:
    done = rehearse(make_scene(budget={"epochs": 5}), seed=0)
    assert done.epochs == 5
    assert done.reached == {1: 2, 2: 2, 3: 1}


def test_device_hours_count_what_slots_are_held(make_scene: MakeScene) -> None:
    # 60 core-seconds on two slots: 30 seconds, one trial each.
    done = rehearse(make_scene(slots=2, budget={"device_hours": 60 / 3600}), seed=0)
    assert done.search_seconds == pytest.approx(30)
    assert done.trials == 2


def test_baselines_and_points_come_first_and_their_share_is_known(make_scene: MakeScene) -> None:
    done = rehearse(make_scene(first=(30.0,), drawn=(10.0,), budget={"trials": 2}), seed=0)
    assert done.search_seconds == pytest.approx(3 * 30 + 3 * 10)
    assert done.first_share == pytest.approx(0.75)


@pytest.mark.parametrize("seed", range(5))
def test_more_slots_are_never_slower_for_a_number_of_trials(
    make_scene: MakeScene, seed: int
) -> None:
    drawn = tuple(map(float, np.random.default_rng(seed).uniform(1, 30, 20)))
    first = drawn[:12]  # their order and lengths are the same whatever the slots
    seconds = [
        rehearse(
            make_scene(first=first, drawn=drawn, slots=slots, budget={"trials": 12}), seed=seed
        ).search_seconds
        for slots in range(1, 13)
    ]
    assert seconds == sorted(seconds, reverse=True)
    assert seconds[0] == pytest.approx(3 * sum(first))
    assert seconds[-1] == pytest.approx(3 * max(first))


def test_more_time_trains_more_trials(make_scene: MakeScene) -> None:
    counts = [
        rehearse(make_scene(drawn=(3.0, 10.0), budget={"seconds": seconds}), seed=1).epochs
        for seconds in (30, 100, 300, 1000)
    ]
    assert counts == sorted(set(counts))


def test_asha_stops_most_trials_at_the_first_rung(make_scene: MakeScene) -> None:
    asha = {"grace_epochs": 1, "reduction_factor": 3, "min_competitors": 3}
    scene = make_scene(max_epochs=9, asha=asha, budget={"trials": 60}, slots=2)
    done = rehearse_often(scene, most=20)
    assert all(r.reached[1] == 60 for r in done)
    # A third in the limit, more of the early ones, who meet few others.
    assert 1 / 3 <= mean(r.reached[2] for r in done) / 60 < 0.55
    assert mean(r.reached[9] for r in done) <= mean(r.reached[4] for r in done) < 60 / 3
    off = rehearse(make_scene(max_epochs=9, budget={"trials": 60}, slots=2), seed=0)
    assert mean(r.search_seconds for r in done) < off.search_seconds / 2


def test_the_promotion_form_pauses_trials_and_goes_on_with_the_best(
    make_scene: MakeScene,
) -> None:
    asha = {"form": "promotion", "grace_epochs": 1, "reduction_factor": 3}
    scene = make_scene(max_epochs=9, asha=asha, budget={"trials": 30}, slots=2)
    done = rehearse(scene, seed=0)
    assert done.reached[1] == 30
    # A third, and those that were promoted before better ones came.
    assert 9 <= done.reached[2] <= 15
    assert done.reached[2] > done.reached[4] >= done.reached[9] >= 1


def test_a_plateau_ends_the_rehearsed_search_too(make_scene: MakeScene) -> None:
    scene = make_scene(budget={"trials": 1000, "plateau_trials": 5})
    counts = [rehearse(scene, seed=seed).trials for seed in range(10)]
    assert min(counts) >= 6
    assert max(counts) < 200


def test_equal_seeds_give_equal_studies_and_others_differ(make_scene: MakeScene) -> None:
    scene = make_scene(drawn=(5.0, 10.0, 20.0), spread=0.1, slots=2, budget={"trials": 9})
    assert rehearse(scene, seed=3) == rehearse(scene, seed=3)
    assert len({rehearse(scene, seed=seed).wall_seconds for seed in range(5)}) == 5


def test_a_wider_spread_widens_the_interval(make_scene: MakeScene) -> None:
    widths = []
    for spread in (0.0, 0.05, 0.2):
        done = rehearse_often(make_scene(spread=spread), most=100)
        wall = Interval.of([r.wall_seconds for r in done])
        widths.append(wall.high - wall.low)
    assert widths[0] == 0
    assert widths[0] < widths[1] < widths[2]


def test_made_up_ranks_at_a_rung_resemble_those_at_the_next_more_than_those_at_the_end() -> None:
    last, early = np.random.default_rng(0).normal(size=(2, 4000))

    def ranks(done: float) -> Any:
        values = [made_up_value(*trial, done) for trial in zip(last, early, strict=True)]
        return np.argsort(np.argsort(values))

    near = np.corrcoef(ranks(1 / 9), ranks(1 / 3))[0, 1]
    end = np.corrcoef(ranks(1 / 9), ranks(1.0))[0, 1]
    assert 0.6 < end < 0.85 < near < 1


def test_rehearsals_stop_when_their_time_is_up(make_scene: MakeScene) -> None:
    assert len(rehearse_often(make_scene(), most=50)) == 50
    assert len(rehearse_often(make_scene(), most=50, least=7, seconds=0)) == 7


def test_a_search_too_long_to_rehearse_goes_on_as_it_began(make_scene: MakeScene) -> None:
    done = rehearse(make_scene(slots=2, budget={"trials": 40_000}), seed=0)
    assert done.search_seconds == pytest.approx(40_000 * 3 * 10 / 2, rel=0.01)
    assert done.trials == pytest.approx(40_000, rel=0.01)
    assert done.reached[3] == pytest.approx(40_000, rel=0.01)
    timed = rehearse(make_scene(slots=2, budget={"seconds": 1e7}), seed=0)
    assert timed.search_seconds == pytest.approx(1e7, rel=0.01)
    assert timed.epochs == pytest.approx(2e6, rel=0.01)


def test_overheads_follow_the_start_of_a_process(make_config: MakeConfig) -> None:
    config = make_config()
    one, two = overheads_here(config, 2.4, 1.0), overheads_here(config, 4.8, 1.0)
    assert two.ray == pytest.approx(2 * one.ray)
    assert two.worker == pytest.approx(2 * one.worker)
    assert one.retrain_worker == pytest.approx(3.4)
    bare = overheads_here(make_config(final={"export": False}), 2.4, 1.0)
    assert bare.end < one.end


def test_a_forecast_counts_who_gets_to_each_rung_and_to_the_end(make_config: MakeConfig) -> None:
    def study(trials: int, reached: dict[int, int]) -> Rehearsal:
        return Rehearsal(
            search_seconds=10.0 * trials,
            race_seconds=0.0,
            retrain_seconds=5.0,
            rest_seconds=1.0,
            trials=trials,
            epochs=sum(reached.values()),
            reached=reached,
            first_share=0.5,
        )

    config = settle(make_config(asha={"grace_epochs": 1, "reduction_factor": 3}), slots=1)
    done = [study(2, {1: 2}), study(4, {1: 4, 2: 3, 3: 2}), study(6, {1: 6, 3: 4, 9: 1})]
    forecast = Forecast.of(done, asha_rules(config), config.max_epochs)
    assert list(forecast.reached) == [1, 3, 9]
    assert forecast.reached[1].median == 4
    assert forecast.reached[3].median == 2
    assert forecast.reached[9].median == 0
    assert forecast.wall.median == 46
    assert forecast.trials.low < 4 < forecast.trials.high
    assert forecast.rehearsals == 3
