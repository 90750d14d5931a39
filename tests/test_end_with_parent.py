"""Child processes end with a parent that was killed, and leave Ctrl-C to it."""

from __future__ import annotations

import multiprocessing
import signal
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import psutil
import pytest

from search.machine.end_with_parent import signals_to_parent_only

CHECKOUT = Path(__file__).parent.parent
POOL = """
import multiprocessing, time
from concurrent.futures import ProcessPoolExecutor
from search.machine.end_with_parent import end_with_parent

context = multiprocessing.get_context("spawn")
with ProcessPoolExecutor(2, context, end_with_parent) as pool:
    assert list(pool.map(abs, [1, 2])) == [1, 2]
    print("at work", flush=True)
    list(pool.map(time.sleep, [600, 600]))
"""
PROBE = """
import sys
from pathlib import Path
from data.source import DataSpec, load_train
from model.config import Configuration, NetworkConfig, TrainingConfig
from search.machine.probe import probe
from search.machine.slots import Slots

configuration = Configuration(
    network=NetworkConfig(filters=(4,)), training=TrainingConfig(epochs=3, learning_rate=0.1)
)
images = load_train(DataSpec(source="synthetic", synthetic_train=200, synthetic_test=10))
slots = Slots(count=2, threads=1, gpus=0.0)
pixels = ((70.0,), (80.0,))
print("at work", flush=True)
probe([configuration], images, pixels, slots, seconds=600, folder=Path(sys.argv[1]))
"""


@pytest.mark.parametrize("script", [POOL, pytest.param(PROBE, marks=pytest.mark.slow)])
def test_children_of_a_process_that_is_killed_end(script: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", script, str(tmp_path)]
    process = subprocess.Popen(command, cwd=CHECKOUT, stdout=subprocess.PIPE, text=True)
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "at work\n"
        children: list[psutil.Process] = []
        while len(children) < 3:  # two, and one of multiprocessing itself
            assert process.poll() is None
            children = psutil.Process(process.pid).children()
        process.kill()
    _, alive = psutil.wait_procs(children, timeout=20)
    assert not [child for child in alive if child.status() != psutil.STATUS_ZOMBIE]


def test_a_child_can_be_terminated_but_not_interrupted() -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        with signals_to_parent_only():
            answer = pool.submit(signal.pthread_sigmask, signal.SIG_BLOCK, [])
        blocked = answer.result()
    assert {signal.SIGINT, signal.SIGHUP} <= blocked
    assert signal.SIGTERM not in blocked
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before
