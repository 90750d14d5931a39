"""The short form of the drill; `make drill` is the long one."""

from __future__ import annotations

from pathlib import Path

import pytest
from drill import Drill


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_study_that_is_killed_again_and_again_comes_out_as_if_it_had_not(tmp_path: Path) -> None:
    outcome = Drill(tmp_path, trials=14, seed=1).run(driver_kills=2, worker_kills=3)
    assert outcome.is_clean, outcome
    assert (outcome.driver_kills, outcome.worker_kills) == (2, 3)
    assert outcome.trials >= 14 and outcome.failed_attempts >= 1
