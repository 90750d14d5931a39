"""The budget: what is counted, what ends the search, and that nothing is passed by far."""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search.config.config import BudgetSection
from search.prune.budget import Budget, describe


def _budget(share: float = 1.0, **limits: Any) -> Budget:
    return Budget(BudgetSection(**limits), share=share)


def _ended(budget: Budget, *values: float | None) -> str:
    for value in values:
        budget.trial_ended(value)
    return budget.spent(0.0)


def test_a_number_of_trials_ends_new_trials_but_not_those_in_flight() -> None:
    budget = _budget(trials=2)
    for reason in ("", "2 trials"):
        budget.trial_begun()
        assert budget.spent(0.0) == reason
    assert budget.exhausted(1e9) == ""


def test_a_trial_that_is_refused_after_all_makes_room_for_another() -> None:
    budget = _budget(trials=1)
    budget.trial_begun()
    assert budget.spent(0.0) == "1 trial"
    budget.trial_refused()
    assert budget.spent(0.0) == ""


def test_epochs_of_all_trials_end_everything() -> None:
    budget = _budget(epochs=3)
    for reason in ("", "", "3 epochs"):
        budget.epoch()
        assert (budget.spent(0.0), budget.exhausted(0.0)) == (reason, reason)


def test_wall_seconds_end_everything() -> None:
    budget = _budget(seconds=270)
    assert (budget.spent(269.9), budget.exhausted(269.9)) == ("", "")
    assert (budget.spent(270.0), budget.exhausted(270.0)) == ("270 seconds", "270 seconds")


def test_the_last_stretch_is_what_is_too_short_for_a_new_trial() -> None:
    budget = _budget(epochs=100)
    met = []
    for epoch in range(100):
        met += [epoch] if budget.is_last_stretch(0.0, epochs=18) else []
        budget.epoch()
    assert met == list(range(83, 100))
    assert not _budget(trials=3).is_last_stretch(1e6, epochs=18)


def test_the_last_stretch_is_a_quarter_of_a_short_search_at_most() -> None:
    budget = _budget(epochs=20)
    met = []
    for epoch in range(20):
        met += [epoch] if budget.is_last_stretch(0.0, epochs=18) else []
        budget.epoch()
    assert met == list(range(16, 20))


def test_the_last_stretch_of_a_time_is_told_by_the_pace_so_far() -> None:
    budget = _budget(seconds=1000)
    assert not budget.is_last_stretch(999.0, epochs=9)  # nothing is known of its pace
    for _ in range(40):
        budget.epoch()
    # 40 epochs in 400 seconds: 100 in all.
    assert not budget.is_last_stretch(400.0, epochs=9)
    assert budget.is_last_stretch(820.0, epochs=9)


def test_device_hours_are_those_of_attempts_that_ended_and_of_those_that_last() -> None:
    budget = _budget(share=2.0, device_hours=2)
    budget.device_seconds(600)  # an earlier session
    budget.attempt_begun(0, 100.0)
    budget.attempt_begun(1, 400.0)
    budget.attempt_ended(0, 1000.0)
    # 600 + 900 + 600 s by now, on 2 cores.
    assert budget.device_hours(1000.0) == pytest.approx(2 * 2100 / 3600)
    assert budget.exhausted(2499.0) == ""
    # One slot is left: another 1500 s make the 3600 s.
    assert budget.exhausted(2500.0) == "2 device-hours"
    assert budget.spent(2500.0) == "2 device-hours"
    budget.attempt_ended(1, 2500.0)
    assert budget.device_hours(9000.0) == pytest.approx(2.0)


def test_a_quarter_of_a_gpu_is_a_quarter_of_its_hours() -> None:
    budget = _budget(share=0.25, device_hours=0.5)
    for trial in range(4):
        budget.attempt_begun(trial, 0.0)
    assert budget.exhausted(1799.0) == ""
    assert budget.exhausted(1800.0) == "0.5 device-hours"


def test_a_plateau_ends_new_trials_but_not_those_in_flight() -> None:
    budget = _budget(trials=100, plateau_trials=3)
    assert _ended(budget, 0.5, 0.8, 0.7, 0.8) == ""
    assert _ended(budget, 0.1) == "no better trial among the last 3"
    assert budget.exhausted(1e9) == ""


def test_a_better_trial_begins_the_plateau_anew() -> None:
    budget = _budget(trials=100, plateau_trials=3)
    assert _ended(budget, 0.8, 0.7, 0.7, 0.81, 0.7, 0.7) == ""
    assert _ended(budget, 0.81) == "no better trial among the last 3"


def test_trials_without_a_value_count_neither_for_nor_against_a_plateau() -> None:
    budget = _budget(trials=100, plateau_trials=2)
    assert _ended(budget, None, None, None) == ""
    assert _ended(budget, 0.8, None, None, 0.7, None) == ""
    assert _ended(budget, 0.7) == "no better trial among the last 2"


def test_small_gains_of_a_plateau_add_up() -> None:
    budget = _budget(trials=100, plateau_trials=3, plateau_delta=0.01)
    # 0.806 and 0.808 are no more than 0.01 over 0.8; 0.812 is.
    assert _ended(budget, 0.8, 0.806, 0.808, 0.812, 0.813, 0.814) == ""
    assert _ended(budget, 0.822) == "no trial better by more than 0.01 among the last 3"


def test_exactly_the_least_gain_is_not_more() -> None:
    assert _ended(_budget(trials=9, plateau_trials=1, plateau_delta=0.001), 0.9, 0.901) != ""
    assert _ended(_budget(trials=9, plateau_trials=1, plateau_delta=0.001), 0.9, 0.9012) == ""


def test_a_plateau_is_not_left_by_a_trial_that_was_in_flight() -> None:
    budget = _budget(trials=100, plateau_trials=1)
    assert _ended(budget, 0.8, 0.7) == "no better trial among the last 1"
    assert _ended(budget, 0.9) == "no better trial among the last 1"


def test_a_small_regret_bound_ends_new_trials_for_good() -> None:
    budget = _budget(trials=100, regret_bound=0.005)
    budget.regret(0.0123)
    assert budget.spent(0.0) == ""
    budget.regret(0.0049)
    reason = "the regret bound is 0.0049, no more than 0.005"
    assert budget.spent(0.0) == reason
    assert budget.exhausted(1e9) == ""
    budget.regret(0.0200)
    assert budget.spent(0.0) == reason


def test_a_regret_bound_that_nobody_asked_for_ends_nothing() -> None:
    budget = _budget(trials=100)
    budget.regret(0.0)
    assert _ended(budget, *[0.5] * 50) == ""


def test_what_also_stops_trials_in_flight_is_said_first() -> None:
    budget = _budget(trials=1, seconds=10)
    budget.trial_begun()
    assert budget.spent(9.0) == "1 trial"
    assert budget.spent(10.0) == "10 seconds"


def test_every_limit_says_how_far_it_is_used() -> None:
    budget = _budget(
        share=4,
        trials=1200,
        epochs=8,
        seconds=200,
        device_hours=1,
        plateau_trials=4,
        regret_bound=0.01,
    )
    assert [use.limit for use in budget.uses(0.0)] == [
        *("trials", "epochs", "seconds", "device_hours", "plateau_trials")
    ], "the regret bound is not known yet"
    for _ in range(300):
        budget.trial_begun()
    budget.epoch()
    budget.device_seconds(90)
    budget.regret(0.04)
    _ended(budget, 0.5, 0.4, 0.4, 0.4)
    assert [(use.limit, use.share, use.text) for use in budget.uses(75.0)] == [
        ("trials", 0.25, "300 of 1,200 trials"),
        ("epochs", 0.125, "1 of 8 epochs"),
        ("seconds", 0.375, "1 min 15 s of 3 min 20 s"),
        ("device_hours", 0.1, "0.10 of 1 device-hours"),
        ("plateau_trials", 0.75, "3 of 4 trials without a better one"),
        ("regret_bound", 0.25, "regret bound 0.04, ends at 0.01"),
    ]
    # A plateau that may yet be left is no measure of how far the search is.
    assert budget.used(75.0).limit == "seconds"
    budget.trial_ended(0.4)
    assert budget.used(75.0).limit == "plateau_trials"
    assert budget.spent(75.0)


def test_a_share_is_never_more_than_all() -> None:
    budget = _budget(seconds=10)
    assert budget.used(12.0).share == 1.0
    assert budget.used(12.0).text == "12 s of 10 s"


def test_limits_are_described_on_one_line() -> None:
    assert describe(BudgetSection(trials=8)) == "8 trials"
    assert describe(BudgetSection(epochs=1, seconds=86400)) == "1 epoch or 86,400 seconds"
    every = BudgetSection(
        trials=1000, device_hours=1.5, plateau_trials=20, plateau_delta=0.001, regret_bound=0.005
    )
    assert describe(every) == (
        "1,000 trials or 1.5 device-hours or 20 trials without one better by more than 0.001"
        " or a regret bound of 0.005"
    )
    plain = BudgetSection(trials=9, plateau_trials=5)
    assert describe(plain) == "9 trials or 5 trials without one better"


@dataclass(kw_only=True)
class _Search:
    """A search of made-up trials that asks a budget as the driver does."""

    budget: Budget
    slots: int
    plans: list[tuple[int, list[int], float | None]]
    """Of each trial: epochs it has to train, seconds of its epochs in turn, its value."""
    begun: list[float] = field(default_factory=list)
    """When each trial was begun."""
    epochs: list[tuple[float, float]] = field(default_factory=list)
    """Beginning and end of every epoch trained."""
    ended: list[tuple[float, float | None]] = field(default_factory=list)
    """When each trial ended, and its value, in order."""

    def run(self) -> None:
        flying: list[tuple[float, int, int, float]] = []  # end of epoch, trial, epoch, its start
        now = 0.0
        while True:
            while len(flying) < self.slots and not self.budget.spent(now):
                if len(self.begun) == len(self.plans):
                    return  # nothing more was made up
                trial = len(self.begun)
                self.budget.trial_begun()
                self.budget.attempt_begun(trial, now)
                self.begun.append(now)
                heapq.heappush(flying, (now + self._seconds(trial, 1), trial, 1, now))
            if not flying:
                return
            now, trial, epoch, start = heapq.heappop(flying)
            self.epochs.append((start, now))
            self.budget.epoch()
            if epoch == self.plans[trial][0] or self.budget.exhausted(now):
                self.budget.attempt_ended(trial, now)
                self.budget.trial_ended(self.plans[trial][2])
                self.ended.append((now, self.plans[trial][2]))
            else:
                end = now + self._seconds(trial, epoch + 1)
                heapq.heappush(flying, (end, trial, epoch + 1, now))

    def _seconds(self, trial: int, epoch: int) -> int:
        seconds = self.plans[trial][1]
        return seconds[(epoch - 1) % len(seconds)]

    def device_seconds(self, at: float) -> float:
        """Return the seconds of slots used by then: a slot is never idle within a trial."""
        return sum(min(end, at) - start for start, end in self.epochs if start < at)


_simulated = settings(max_examples=60, deadline=None)
_PLANS = st.lists(
    st.tuples(
        st.integers(1, 9),
        st.lists(st.integers(1, 40), min_size=1, max_size=3),
        st.none() | st.integers(0, 20).map(lambda images: images / 20),
    ),
    min_size=60,
    max_size=60,
)


def _run(slots: int, plans: Any, share: float = 1.0, **limits: Any) -> _Search:
    search = _Search(budget=_budget(share, **limits), slots=slots, plans=plans)
    search.run()
    return search


def _assert_only_present_epochs_end_after(search: _Search, met: float) -> None:
    late = [start for start, end in search.epochs if end > met]
    assert all(start <= met for start in late), "no epoch begins after the limit is met"
    assert len(late) <= search.slots
    assert all(begun <= met for begun in search.begun)


@_simulated
@given(slots=st.integers(1, 6), plans=_PLANS, limit=st.integers(1, 30))
def test_no_trial_is_begun_over_the_number_of_trials(slots: int, plans: Any, limit: int) -> None:
    search = _run(slots, plans, trials=limit)
    assert len(search.begun) == limit
    assert len(search.epochs) == sum(plan[0] for plan in plans[:limit]), "all train to their end"


@_simulated
@given(slots=st.integers(1, 6), plans=_PLANS, limit=st.integers(1, 50))
def test_epochs_are_passed_by_less_than_the_trials_in_flight(
    slots: int, plans: Any, limit: int
) -> None:
    search = _run(slots, plans, epochs=limit)
    assert limit <= len(search.epochs) < limit + slots
    _assert_only_present_epochs_end_after(search, sorted(e for _, e in search.epochs)[limit - 1])


@_simulated
@given(slots=st.integers(1, 6), plans=_PLANS, limit=st.integers(1, 300))
def test_seconds_are_passed_by_present_epochs_only(slots: int, plans: Any, limit: int) -> None:
    search = _run(slots, plans, seconds=limit)
    if len(search.begun) < len(plans):
        _assert_only_present_epochs_end_after(search, limit)


@_simulated
@given(
    slots=st.integers(1, 6),
    plans=_PLANS,
    limit=st.integers(1, 600),
    share=st.sampled_from([0.25, 1.0, 3.0]),
)
def test_device_hours_are_passed_by_present_epochs_only(
    slots: int, plans: Any, limit: int, share: float
) -> None:
    # A slow trial that tells nothing for long must not let a quick one go on.
    search = _run(slots, plans, share, device_hours=limit * share / 3600)
    if len(search.begun) < len(plans):
        starts = [start for start, _ in search.epochs]
        assert max(map(search.device_seconds, starts)) < limit + 1e-6, "none begins after that"
        assert search.device_seconds(1e9) > limit - 1e-6, "none is stopped before"


@_simulated
@given(slots=st.integers(1, 6), plans=_PLANS, limit=st.integers(1, 6))
def test_a_plateau_lets_trials_in_flight_finish_and_begins_no_other(
    slots: int, plans: Any, limit: int
) -> None:
    search = _run(slots, plans, trials=10**6, plateau_trials=limit)
    # Found in another way: the first trial after which the best is `limit` trials old.
    values = [value for _, value in search.ended if value is not None]
    ages = [n - 1 - values[:n].index(max(values[:n])) for n in range(1, len(values) + 1)]
    if limit not in ages:
        assert search.budget.spent(0.0) == ""
        return
    times = [at for at, value in search.ended if value is not None]
    met = times[ages.index(limit)]
    assert search.budget.spent(0.0) == f"no better trial among the last {limit}"
    assert all(begun <= met for begun in search.begun)
    assert sum(at > met for at, _ in search.ended) < slots
    if len(search.begun) < len(plans):
        epochs = sum(plan[0] for plan in plans[: len(search.begun)])
        assert len(search.epochs) == epochs, "all train to their end"


@_simulated
@given(
    slots=st.integers(1, 6),
    plans=_PLANS,
    share=st.sampled_from([0.25, 2.0]),
    limits=st.fixed_dictionaries(
        {"trials": st.integers(1, 50)},
        optional={
            "epochs": st.integers(1, 200),
            "seconds": st.integers(1, 1000),
            "device_hours": st.floats(0.001, 0.5),
            "plateau_trials": st.integers(1, 9),
        },
    ),
)
def test_what_the_record_tells_again_makes_the_same_budget(
    slots: int, plans: Any, share: float, limits: Any
) -> None:
    search = _run(slots, plans, share, **limits)
    again = _budget(share, **limits)
    # By kind, as the record holds it; only the trials' ends keep their order.
    again.device_seconds(search.device_seconds(1e9))
    for _, value in search.ended:
        again.trial_ended(value)
    for _ in search.epochs:
        again.epoch()
    for _ in search.begun:
        again.trial_begun()
    now = max(end for _, end in search.epochs)
    assert again.spent(now) == search.budget.spent(now)
    assert again.exhausted(now) == search.budget.exhausted(now)
    for ours, theirs in zip(again.uses(now), search.budget.uses(now), strict=True):
        assert ours.share == pytest.approx(theirs.share)
        assert ours.text == theirs.text


def test_a_trial_that_waits_counts_towards_the_plateau_once() -> None:
    budget = Budget(BudgetSection(trials=99, plateau_trials=3), share=1.0)
    budget.trial_ended(0.9, trial=0)
    for trial in (1, 2):
        budget.trial_ended(0.5, trial=trial)  # it pauses
        budget.trial_ended(0.6, trial=trial)  # it went on, and ends
    assert budget.spent(0.0) == ""
    budget.trial_ended(0.5, trial=3)
    assert budget.spent(0.0) == "no better trial among the last 3"
