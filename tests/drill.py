"""The drill: a real study whose driver and workers are killed at random moments, again and again.

    python tests/drill.py --driver-kills 20 --worker-kills 20

Whatever is killed, the record must come out as if nothing had happened: no trial lost, none twice,
no rung other than the one derived anew from the events, the budget of trials kept. And every
value must be that of a training nobody disturbed: each trial is trained again here, in one go.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil
import torch
import yaml

from data.loader import as_tensors
from model.cnn import pixel_statistics
from model.config import Configuration
from model.train import Training, fit
from search.explain.verify import verify
from search.record.study import UNSEARCHED, Study, StudyError, Trial, best_of, open_study
from search.run import reopen_images
from search.seeds import derive_seed

CHECKOUT = Path(__file__).parent.parent
_WORKER = re.compile(r"ray::(ResourceTrainable|TrialWorker)")  # as Ray calls its processes
_START_SECONDS = 8.0  # of a driver: Ray, and the processes of its workers
_MOST_SECONDS = 120.0  # without an epoch: then something hangs
STUDY: dict[str, Any] = {
    "study": "drill",
    "max_epochs": 9,
    "data": {
        "source": "synthetic",
        "synthetic_train": 1500,
        "synthetic_test": 100,
        "validation_images": 500,
    },
    "space": {
        "num_blocks": {"int": [1, 2]},
        "filters": {"choice": [8, 12, 16, 24], "per_block": True},
        "learning_rate": {"float": [0.003, 0.3], "log": True},
        "dropout": {"float": [0.0, 0.5]},
        "batch_size": {"choice": [16, 32]},
    },
    "baselines": ["seed-32"],
    "asha": {"grace_epochs": 1, "reduction_factor": 3},
    "budget": {"trials": 40},
    "final": {"finalists": 0, "seeds": 1, "baseline_seeds": 0, "export": False},
}


@dataclass(kw_only=True)
class Outcome:
    """What a drill came to. All but the first six lines must be 0."""

    trials: int = 0
    epochs: int = 0
    driver_kills: int = 0
    worker_kills: int = 0
    attempts: int = 0
    failed_attempts: int = 0
    """Whose worker was killed while it trained."""
    kills_left: int = 0
    """That the study was too short for."""
    lost: int = 0
    """Trials without an end, and epochs missing below a trial's last one."""
    duplicated: int = 0
    """Configurations tried twice, and epochs that two different values are told of."""
    rungs_different: int = 0
    """Proposals, decisions or ends that the events do not lead to."""
    budget_off: int = 0
    """Trials more or fewer than the budget says."""
    values_different: int = 0
    """Epochs whose value is not that of an undisturbed training, bit for bit."""
    places_different: int = 0
    """Places of the leaderboard of undisturbed trainings that another trial holds."""
    details: list[str] = field(default_factory=list)

    @property
    def is_clean(self) -> bool:
        """Whether nothing was lost, changed or done twice."""
        wrong = (self.kills_left, self.lost, self.duplicated, self.rungs_different)
        return not any((*wrong, self.budget_off, self.values_different, self.places_different))


class Drill:
    """One study and those who kill it."""

    def __init__(self, runs: Path, *, trials: int, seed: int) -> None:
        self._runs, self._chance = runs, random.Random(seed)
        self._folder = runs / "drill"
        self._config = runs / "drill.yaml"
        runs.mkdir(parents=True, exist_ok=True)
        study = STUDY | {"seed": seed, "budget": {"trials": trials}}
        self._config.write_text(yaml.safe_dump(study), encoding="utf-8")
        self._trials = trials
        self._opened: Study | None = None
        self.outcome = Outcome()

    def run(self, *, driver_kills: int, worker_kills: int) -> Outcome:
        """Begin the study, kill, resume, until all kills are done and the study is searched."""
        kills = ["driver"] * driver_kills + ["worker"] * worker_kills
        self._chance.shuffle(kills)
        driver = self._start()
        try:
            while kills:
                if kills[0] == "driver" and self._chance.random() < 0.25:
                    time.sleep(self._chance.uniform(0.5, _START_SECONDS))  # perhaps before an epoch
                elif not self._wait_for_epochs(driver, self._chance.choice((1, 1, 2, 3))):
                    break
                time.sleep(self._chance.uniform(0.0, 0.4))
                if kills[0] == "worker":
                    kills.pop(0) if self._kill_worker(driver) else time.sleep(0.3)
                else:
                    kills.pop(0)
                    driver.kill()
                    driver.wait()
                    self.outcome.driver_kills += 1
                    driver = self._start()
            driver.wait()
        finally:
            if driver.poll() is None:
                driver.kill()
                driver.wait()
        self.outcome.kills_left = len(kills)
        if driver.returncode != 0:
            self.outcome.details.append(f"the last driver left with {driver.returncode}")
            self.outcome.lost += 1
        self._check(open_study(self._folder))
        return self.outcome

    def _start(self) -> subprocess.Popen[bytes]:
        arguments = ["resume", "drill"]
        if self._study() is None:
            shutil.rmtree(self._folder, ignore_errors=True)  # killed before it was made to its end
            arguments = ["run", str(self._config), "--name", "drill"]
        command = [sys.executable, "-m", "search", *arguments, "--runs", str(self._runs), "-q"]
        return subprocess.Popen(command, cwd=CHECKOUT, stdout=subprocess.DEVNULL)

    def _wait_for_epochs(self, driver: subprocess.Popen[bytes], count: int) -> bool:
        """Wait for some more epochs; return False where the search has ended before."""
        wanted, until = self._num_epochs() + count, time.monotonic() + _MOST_SECONDS
        while self._num_epochs() < wanted:
            if driver.poll() is not None or self._is_over():
                return False
            if time.monotonic() > until:
                raise TimeoutError(f"no epoch in {_MOST_SECONDS:.0f} s")
            time.sleep(0.1)
        return True

    def _kill_worker(self, driver: subprocess.Popen[bytes]) -> bool:
        with suppress(psutil.Error):
            family = psutil.Process(driver.pid).children(recursive=True)
            workers = [p for p in family if _WORKER.match(" ".join(p.cmdline()))]
            if workers:
                self._chance.choice(workers).send_signal(signal.SIGKILL)
                self.outcome.worker_kills += 1
                return True
        return False

    def _num_epochs(self) -> int:
        study = self._study()
        return 0 if study is None else len(study.record.events(kind="epoch"))

    def _is_over(self) -> bool:
        study = self._study()
        return study is not None and study.state not in UNSEARCHED

    def _study(self) -> Study | None:
        """Return the study, as soon as it is made; a reader, beside the driver."""
        if self._opened is None:
            with suppress(StudyError):
                self._opened = open_study(self._folder)
        return self._opened

    def _check(self, study: Study) -> None:
        found, trials = self.outcome, study.trials()
        found.trials = len(trials)
        found.epochs = sum(len(trial.epochs) for trial in trials)
        attempts = study.record.attempts()
        found.attempts = len(attempts)
        found.failed_attempts = sum(row["failure"] is not None for row in attempts)
        for trial in trials:
            if trial.outcome == "running":
                found.lost += 1
                found.details.append(f"{trial.name} has no end")
            if [row.epoch for row in trial.epochs] != list(range(1, len(trial.epochs) + 1)):
                found.lost += 1
                found.details.append(f"{trial.name} has gaps")
        configurations = Counter(json.dumps(t.configuration, sort_keys=True) for t in trials)
        found.duplicated += sum(count - 1 for count in configurations.values())
        told: dict[tuple[int, int | None], set[float | None]] = {}
        for event in study.record.events(kind="epoch"):
            told.setdefault((event.trial, event.epoch), set()).add(event.value)
        found.duplicated += sum(len(values) - 1 for values in told.values())
        found.duplicated += abs(len(told) - found.epochs)
        derived = verify(study)
        if derived.difference is not None:
            found.rungs_different += 1
            found.details.append(str(derived))
        found.budget_off = abs(sum(not trial.refusal for trial in trials) - self._trials)
        again = list(_trained_again(study, trials))
        for trial, values in zip(trials, again, strict=True):
            different = [
                row.epoch for row in trial.epochs if values[row.epoch - 1] != row.val_accuracy
            ]
            found.values_different += len(different)
            if different:
                found.details.append(f"{trial.name} differs at epochs {different}")
        board = sorted((t for t in trials if t.can_win), key=lambda trial: trial.merit)
        undisturbed = sorted(
            board, key=lambda t: (-max(again[t.number]), t.parameters or 0, t.number)
        )
        pairs = zip(board, undisturbed, strict=True)
        found.places_different = sum(one.number != other.number for one, other in pairs)
        assert best_of(trials) is (board[0] if board else None)


def _trained_again(study: Study, trials: list[Trial]) -> Iterator[list[float]]:
    """Yield the validation accuracies of each trial's epochs, trained in one go, undisturbed."""
    images, before = reopen_images(study), torch.get_num_threads()
    torch.set_num_threads(study.config.resources.cpus_per_trial)
    train, validation = as_tensors(images.train, "cpu"), as_tensors(images.validation, "cpu")
    mean, std = pixel_statistics(train[0])
    for trial in trials:
        training = Training.start(
            Configuration.from_dict(trial.configuration or {}),
            images.train.shape,
            mean=mean,
            std=std,
            seed=derive_seed(study.config.seed, "trial", trial.number),
            device=torch.device("cpu"),
        )
        epochs = fit(training, train, validation, until=len(trial.epochs))
        yield [metrics.val_accuracy for metrics in epochs]
    torch.set_num_threads(before)


def main() -> None:
    """Run a drill and print what it came to; exit code 1 where something was lost."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--driver-kills", type=int, default=20)
    parser.add_argument("--worker-kills", type=int, default=20)
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="fashion-search-drill-") as folder:
        drill = Drill(Path(folder), trials=options.trials, seed=options.seed)
        outcome = drill.run(driver_kills=options.driver_kills, worker_kills=options.worker_kills)
    facts = asdict(outcome)
    details = facts.pop("details")
    for name, value in facts.items():
        print(f"{name.replace('_', ' '):<18} {value}")
    print(f"{'seconds':<18} {time.monotonic() - began:.0f}")
    for line in details:
        print(line)
    sys.exit(not outcome.is_clean)


if __name__ == "__main__":
    main()
