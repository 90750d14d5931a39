"""`plan`: what it says of a study, what it refuses and warns of, and the command itself."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from rich.console import Console

import search.plan.plan as planning
from model.config import Configuration
from search.config.config import StudyConfig
from search.machine.bench import Measured
from search.machine.gpu_share import GpuNeed
from search.machine.needs import Need
from search.machine.probe import Probed
from search.machine.slots import Slots, available_cpus
from search.plan.plan import Plan, make_plan
from search.plan.plan_page import plan_page

MakeConfig = Callable[..., StudyConfig]
CHECKOUT = Path(__file__).parent.parent
DATA = {"source": "synthetic", "synthetic_train": 400, "validation_images": 40}
TRAINED, SCORED = 360, 40
EPOCH_SECONDS = 2.0  # of every configuration of a made-up probe


def made_up_probe(
    configurations: Sequence[Configuration],
    *_: Any,
    memory_bytes: int = 300 << 20,
    failures: int = 0,
    **__: Any,
) -> Probed:
    """Return what a probe would, where every configuration takes EPOCH_SECONDS an epoch."""
    failed, trained = configurations[:failures], configurations[failures:]
    return Probed(
        measured=tuple(
            Measured(
                configuration=configuration,
                slot=0,
                train_per_second=TRAINED / EPOCH_SECONDS,
                score_per_second=1e9,
                save_seconds=0.0,
                checkpoint_bytes=1_000_000,
                memory_bytes=memory_bytes,
                gpu_bytes=0,
                cpu_share=0.5,
            )
            for configuration in trained
        ),
        failures=tuple((configuration, "out of memory") for configuration in failed),
        start_seconds=2.4,
        seconds=1.0,
    )


@pytest.fixture
def plan(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Plan]:
    """Return a function that plans a small study on drawn images with a made-up probe."""
    monkeypatch.setattr(planning, "probe", made_up_probe)
    monkeypatch.setattr(psutil, "cpu_percent", lambda interval: 1.0)
    space = {
        "filters": {"choice": [4, 8, 16]},
        "learning_rate": 0.1,
        "batch_size": 40,  # an epoch leaves nothing over
    }

    def make(**changes: Any) -> Plan:
        config = make_config(**({"data": DATA, "space": space} | changes))
        return make_plan(config, tmp_path / "runs", 20, quiet=True)

    return make


def page_of(plan: Plan, width: int = 80) -> str:
    console = Console(width=width, color_system=None, file=io.StringIO())
    console.print(plan_page(plan))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_plan_predicts_times_trials_and_rungs(plan: Callable[..., Plan]) -> None:
    made = plan(
        max_epochs=3,
        asha={"enabled": False},
        budget={"trials": 10},
        resources={"max_concurrent": 1},
        final={"seeds": 2, "baseline_seeds": 0, "export": False},
    )
    forecast = made.forecast
    assert forecast is not None
    assert not made.refusals
    assert forecast.trials.median == forecast.trials.low == forecast.trials.high == 10
    assert forecast.epochs.median == 30
    assert list(forecast.reached) == [3]
    # 4 s for Ray, 5.8 s for the process, 30 epochs; the model's least spread is 3 %.
    assert forecast.search.median == pytest.approx(9.8 + 30 * 2.02 + 9 * 0.1, rel=0.03)
    assert forecast.search.low < forecast.search.median < forecast.search.high
    stages = (forecast.search, forecast.race, forecast.retrain, forecast.rest)
    assert forecast.wall.median == pytest.approx(sum(s.median for s in stages), rel=0.03)
    assert forecast.race.median > 0


def test_what_a_trial_needs_of_a_gpu_is_on_the_page(plan: Callable[..., Plan]) -> None:
    need = GpuNeed(
        training=1_400_000_000,
        context=500_000_000,
        images=100_000_000,
        configuration={"network": {"filters": [64, 128]}, "training": {"batch_size": 512}},
        parameters=1_234_567,
        device="a GPU",
    )
    made = plan()
    assert made.conditions["gpu_need"] is None
    on_gpu = replace(made, conditions=made.conditions | {"gpu_need": need.to_dict()})
    page = " ".join(page_of(on_gpu).replace("│", " ").split())
    assert "GPU a trial takes up to 2.0 GB of GPU memory" in page
    assert "filters 64-128, batches of 512" in page


def test_json_has_every_key_before_and_after_a_refusal(plan: Callable[..., Plan]) -> None:
    for made in (plan(), plan(limits={"parameters": 1})):
        content = json.loads(json.dumps(made.to_dict()))
        assert set(content) == {
            "study", "possible", "refusals", "warnings", "forecast", "quiet", "needs", "space",
            "slots", "conditions", "probe",
        }  # fmt: skip
        assert content["possible"] is (content["refusals"] == [])
        assert set(content["conditions"]) >= {"processor", "cpus", "busy", "precision", "torch"}
    content = plan().to_dict()
    interval = {"median", "low", "high"}
    assert set(content["forecast"]) == {
        "wall", "search", "race", "retrain", "rest", "trials", "epochs", "reached", "first_share",
        "rehearsals",
    }  # fmt: skip
    assert set(content["forecast"]["wall"]) == interval
    assert set(content["forecast"]["reached"][0]) == {"epochs", *interval}
    assert set(content["needs"]) == {"memory", "disk"}
    assert set(content["needs"]["disk"]) == {"parts", "total", "free"}
    assert set(content["probe"]["configurations"][0]) == {
        "name", "network", "parameters", "multiply_adds", "batch_size", "epoch_seconds",
    }  # fmt: skip


def test_the_page_shows_the_answer_its_conditions_and_fits_80_columns(
    plan: Callable[..., Plan],
) -> None:
    made = plan(baselines=["seed-32"])
    page = page_of(made)
    assert made.forecast is not None
    for words in (
        "small - plan ",
        "nine studies in ten",
        "12 trials",
        "synthetic: 360 images to train on, 40 to score on",
        f"{available_cpus()} CPU",
        "whole study",
        "begun",
        "trained for",
        "complete, 9 epochs",
        "memory",
        "disk",
        "seed-32",
        "middling drawn",
    ):
        assert words in page, words
    assert max(map(len, page.splitlines())) <= 80


# What is refused


def test_a_space_beyond_the_limits_is_refused_without_a_probe(
    plan: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "probe", None)  # would fail if it were called
    (reason,) = plan(limits={"parameters": 1}).refusals
    assert reason.startswith("none of 2,000 configurations drawn from the space is within")
    assert "at most 1 are allowed" in reason
    assert "widen `limits`" in reason


def test_fewer_epochs_than_one_trial_needs_are_refused_without_a_probe(
    plan: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "probe", None)
    (reason,) = plan(budget={"epochs": 8}).refusals
    assert "budget.epochs is 8" in reason
    assert "9 epochs" in reason
    assert not plan_is_refused(monkeypatch, plan, budget={"epochs": 9})


def plan_is_refused(
    monkeypatch: pytest.MonkeyPatch, plan: Callable[..., Plan], **changes: Any
) -> bool:
    monkeypatch.setattr(planning, "probe", made_up_probe)
    return bool(plan(**changes).refusals)


def test_a_time_in_which_no_trial_gets_to_its_end_is_refused_with_what_would_do(
    plan: Callable[..., Plan],
) -> None:
    # 9.8 s to start, then 9 epochs of 2.02 s.
    (reason,) = plan(budget={"seconds": 27}).refusals
    assert reason.startswith("budget.seconds is 27, but no configuration of the space can")
    assert "28 s to start and for 9 epochs" in reason
    assert "at least 30, or lower max_epochs to at most 8" in reason
    assert not plan(budget={"seconds": 29}).refusals
    (reason,) = plan(budget={"seconds": 5}).refusals
    assert "max_epochs" not in reason.partition("raise it")[2]  # nothing fits 5 s


def test_too_few_device_hours_are_refused(plan: Callable[..., Plan]) -> None:
    (reason,) = plan(budget={"device_hours": 0.005}).refusals  # 18 of about 24 core-seconds
    assert reason.startswith("budget.device_hours is 0.005, but no configuration of the")
    assert not plan(budget={"device_hours": 0.008}).refusals


def test_too_little_memory_is_refused_with_the_slots_that_would_fit(
    plan: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    def large(*arguments: Any, **named: Any) -> Probed:
        return made_up_probe(*arguments, memory_bytes=1 << 45, **named)

    monkeypatch.setattr(planning, "probe", large)
    (reason,) = plan().refusals
    assert reason.startswith("memory: ")
    assert "x trial" in reason
    assert "but" in reason and "are free" in reason
    if available_cpus() > 1:
        assert "--set resources.max_concurrent=1" in reason


def test_too_little_disk_is_refused(
    plan: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "search.machine.needs.shutil.disk_usage",
        lambda place: type("Usage", (), {"free": 1_000_000})(),
    )
    (reason,) = plan().refusals
    assert reason.startswith("disk: ")
    assert "checkpoints 32.0 MB" in reason  # two slots of four, and two of each that waits
    assert "--runs" in reason


def test_more_threads_than_the_machine_has_are_refused(plan: Callable[..., Plan]) -> None:
    with pytest.raises(ValueError, match=f"this machine has {available_cpus()} CPUs"):
        plan(resources={"cpus_per_trial": available_cpus() + 1})


# What is warned of


def warnings_of(plan: Plan) -> str:
    assert not plan.refusals
    return "\n".join(plan.warnings)


def test_a_sound_study_has_no_warnings(plan: Callable[..., Plan]) -> None:
    assert warnings_of(plan(budget={"trials": 20})) == ""


def test_what_is_unwise_is_warned_of(plan: Callable[..., Plan]) -> None:
    three = ["seed-32", "seed-64", "seed-64-dropout"]
    few = warnings_of(plan(budget={"trials": 5}))
    assert "about 5 trials are expected" in few
    less = warnings_of(plan(baselines=three, budget={"trials": 2}))
    assert "budget.trials is 2, less than the 3 baselines and points" in less
    assert "used up" not in less
    used = warnings_of(plan(baselines=three, budget={"trials": 3}))
    assert "used up by baselines and points" in used
    assert "about 3 trials" not in used
    half = warnings_of(plan(baselines=three, budget={"seconds": 60}, asha={"grace_epochs": 9}))
    assert "baselines and points take" in half
    most = available_cpus() + 1
    slots = warnings_of(plan(resources={"max_concurrent": most}))
    assert f"resources.max_concurrent is {most}, but this machine holds" in slots
    limited = warnings_of(plan(baselines=three, limits={"parameters": 200_000}))
    assert "baseline seed-64 is not run: 347114 parameters" in limited


def test_a_busy_machine_and_a_thin_probe_are_warned_of(
    plan: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(psutil, "cpu_percent", lambda interval: 40.0)

    def thin(configurations: Any, *arguments: Any, **named: Any) -> Probed:
        return made_up_probe(configurations[:3], *arguments, failures=1, **named)

    monkeypatch.setattr(planning, "probe", thin)
    told = warnings_of(plan())
    assert "other programs keep 40 % of the CPUs busy; without them it takes about" in told
    assert "1 of the probed failed" in told
    assert "out of memory" in told
    assert "only 2 configurations could be measured" in told


def test_a_busy_machine_shows_what_a_quiet_one_would_take(
    plan: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert plan().quiet is None
    monkeypatch.setattr(psutil, "cpu_percent", lambda interval: 40.0)
    made = plan(final={"export": False})
    assert made.forecast is not None and made.quiet is not None
    # The made-up trials got half of the time: twice as fast without the others.
    assert made.quiet.median == pytest.approx(made.forecast.wall.median / 2, rel=0.05)
    # 28 s as it is, 14 s without them: not impossible.
    assert not plan(budget={"seconds": 20}).refusals
    assert plan(budget={"seconds": 12}).refusals
    if available_cpus() > 1:  # several threads wait for each other too
        assert plan(resources={"cpus_per_trial": 2}).quiet is None


def test_little_room_is_warned_of_and_shown(plan: Callable[..., Plan]) -> None:
    from search.plan.forecast import refuse_needs, warn_after

    made = plan()
    assert made.forecast is not None
    tight = Need(what="memory", parts={"all": 90}, available=100)
    (told,) = warn_after(made.config, made.draws, made.forecast, [tight])
    assert told == "memory: 90 bytes of the 100 bytes free are needed"
    short = replace(tight, available=10)
    (reason,) = refuse_needs([short], Slots(count=4, threads=1, gpus=0.0))
    assert "resources.max_concurrent=1" in reason
    assert "90 bytes  10 bytes  all 90 bytes" in page_of(replace(made, needs=(short,)))


# The command


def search(*arguments: str) -> Any:
    return subprocess.run(
        [sys.executable, "-m", "search", *arguments],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        timeout=120,
    )


SMALL = (
    "--preset", "quickstart", "--data", "synthetic",
    "--set", "data.synthetic_train=500", "--set", "data.validation_images=50",
    "--set", "space={filters: {choice: [2, 4]}, learning_rate: 0.1, batch_size: 50}",
    "--set", "points=[]", "--set", "baselines=[seed-32]", "--set", "budget={trials: 6}",
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_the_command_probes_really_and_leaves_nothing_behind(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    done = search("plan", *SMALL, "--runs", str(runs), "--probe-seconds", "2", "--json")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    content = json.loads(done.stdout)
    assert content["possible"] is True
    assert content["probe"]["measured"] >= 3
    assert content["slots"]["count"] == available_cpus()
    assert content["conditions"]["train_images"] == 450
    forecast = content["forecast"]
    assert 0 < forecast["search"]["median"] < forecast["wall"]["median"]
    rows = {row["name"]: row for row in content["probe"]["configurations"]}
    assert {"seed-32", "fastest drawn"} <= set(rows)
    assert all(row["epoch_seconds"] > 0 for row in rows.values())
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_refused_plan_exits_with_2_and_a_line_a_reason(tmp_path: Path) -> None:
    refused = search(
        "plan", *SMALL, "--runs", str(tmp_path), "--set", "limits.parameters=1",
        "--set", "budget={epochs: 1}",
    )  # fmt: skip
    assert refused.returncode == 2
    first, second = refused.stderr.splitlines()
    assert first.startswith("error: none of 2,000 configurations")
    assert second.startswith("error: budget.epochs is 1")
    assert "quickstart - plan, refused" in refused.stdout
    assert not list(tmp_path.iterdir())
