"""A network file gives back what was saved, or says in one line why it cannot."""

import errno
import json
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from data.images import ImageShape
from model.checkpoint import (
    CheckpointError,
    load_checkpoint,
    load_model,
    save_checkpoint,
    save_model,
)
from model.config import Configuration, NetworkConfig, TrainingConfig
from model.schedule import optimizer_tensors
from model.train import Training, fit

SHAPE = ImageShape(channels=3, height=8, width=8, num_classes=3)
CLASSES = ("coat", "bag", "boot")

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def training() -> Training:
    """Return a network trained for one of two epochs."""
    config = Configuration(
        network=NetworkConfig(filters=(2, 3), convs_per_block=2),
        training=TrainingConfig(epochs=2, learning_rate=0.01, batch_size=8, optimizer="adamw"),
    )
    training = Training.start(config, SHAPE, [90.0, 91.5, 92.25], [50.0, 1 / 3, 70.0], 7, "cpu")
    images = torch.randint(0, 256, (16, 3, 8, 8), generator=torch.Generator().manual_seed(0))
    for _ in fit(training, (images.to(torch.uint8), torch.arange(16) % 3), None, until=1):
        pass
    return training


@pytest.fixture
def saved(training: Training, tmp_path: Path) -> Path:
    save_checkpoint(training, tmp_path / "c.safetensors", {"val_accuracy": [0.5, float("inf")]})
    return tmp_path / "c.safetensors"


def same(left: dict[str, Any], right: dict[str, Any]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


def header(path: Path) -> dict[str, Any]:
    """Read the header as any program can: JSON within safetensors."""
    with safe_open(path, framework="pt") as file:
        content: dict[str, Any] = json.loads(file.metadata()["fashion-search"])
    return content


def change_header(path: Path, **changes: Any) -> None:
    """Write the file again with other words and the same SHA-256."""
    content = json.dumps(header(path) | changes)
    save_file(load_file(path), path, metadata={"fashion-search": content})


def test_a_checkpoint_gives_back_all_that_was_saved(training: Training, saved: Path) -> None:
    loaded, metrics = load_checkpoint(saved, "cpu")
    assert metrics == {"val_accuracy": [0.5, float("inf")]}
    assert (loaded.epoch, loaded.seed, loaded.shape) == (1, 7, SHAPE)
    assert loaded.configuration == training.configuration
    assert same(loaded.model.state_dict(), training.model.state_dict())
    state = optimizer_tensors(training.optimizer)
    assert len(state) == 3 * len(list(training.model.parameters()))
    assert same(optimizer_tensors(loaded.optimizer), state)


def test_a_restored_state_lies_in_memory_as_its_weights_do(saved: Path) -> None:
    # The fused optimizers read weight and state by position; equal values in another order of
    # axes would be wrong numbers.
    loaded, _ = load_checkpoint(saved, "cpu")
    parameters = [p for group in loaded.optimizer.param_groups for p in group["params"]]
    assert parameters[0].is_contiguous(memory_format=torch.channels_last)
    for parameter in parameters:
        assert loaded.optimizer.state[parameter]["exp_avg"].stride() == parameter.stride()


def test_a_model_file_holds_the_network_alone(training: Training, tmp_path: Path) -> None:
    path = tmp_path / "new" / "m.safetensors"
    save_model(training, path, classes=CLASSES, metrics={"val_accuracy": 0.75})
    loaded = load_model(path, "cpu")
    assert (loaded.classes, loaded.seed, loaded.epoch) == (CLASSES, 7, 1)
    assert loaded.metrics == {"val_accuracy": 0.75}
    assert loaded.configuration == training.configuration
    assert not loaded.model.training
    assert same(loaded.model.state_dict(), training.model.state_dict())
    assert all(key.startswith("model.") for key in load_file(path))


def test_a_loaded_model_is_saved_again_as_the_same_bytes(
    training: Training, tmp_path: Path
) -> None:
    save_model(training, tmp_path / "a", classes=CLASSES, metrics={})
    loaded = load_model(tmp_path / "a", "cpu")
    save_model(loaded, tmp_path / "b", classes=loaded.classes, metrics=loaded.metrics)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("at", ["pathlib.Path.open", "os.fsync", "pathlib.Path.replace"])
def test_a_failed_write_leaves_the_old_file_and_no_other(
    training: Training, saved: Path, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    before = saved.read_bytes()

    def full_disk(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(at, full_disk)
        with pytest.raises(OSError, match="No space left") as caught:
            save_checkpoint(training, saved, {"other": 1})
    assert caught.value.errno == errno.ENOSPC
    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"nowhere\.safetensors does not exist"):
        load_checkpoint(tmp_path / "nowhere.safetensors", "cpu")


def test_a_checkpoint_is_not_taken_for_a_model_nor_the_reverse(
    training: Training, saved: Path, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match="is a checkpoint, but a model is needed"):
        load_model(saved, "cpu")
    save_model(training, tmp_path / "m", classes=CLASSES, metrics={})
    with pytest.raises(CheckpointError, match="is a model, but a checkpoint is needed"):
        load_checkpoint(tmp_path / "m", "cpu")


def test_another_programs_safetensors_file_is_refused(tmp_path: Path) -> None:
    save_file({"w": torch.zeros(2)}, tmp_path / "f")
    with pytest.raises(CheckpointError, match="is a safetensors file of another program"):
        load_checkpoint(tmp_path / "f", "cpu")


def test_a_file_of_a_newer_version_is_refused_as_such(saved: Path) -> None:
    change_header(saved, version=2)
    with pytest.raises(CheckpointError, match="has format version 2, this program reads 1"):
        load_checkpoint(saved, "cpu")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x80\x02}q\x00.", b"\xff" * 100])
def test_what_is_no_safetensors_file_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(content)
    with pytest.raises(CheckpointError, match="is not a whole safetensors file"):
        load_checkpoint(tmp_path / "f", "cpu")


def test_a_folder_in_place_of_the_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"cannot be read .Is a directory"):
        load_checkpoint(tmp_path, "cpu")


def test_changed_words_in_the_header_are_noticed(saved: Path) -> None:
    change_header(saved, epoch=0)
    with pytest.raises(CheckpointError, match="its SHA-256 does not match"):
        load_checkpoint(saved, "cpu")


def test_a_setting_this_version_does_not_know_is_named(
    training: Training, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = Configuration.to_dict

    def with_more(self: Configuration) -> dict[str, Any]:
        values = known(self)
        values["training"]["warm_up"] = 3
        return values

    monkeypatch.setattr(Configuration, "to_dict", with_more)
    save_checkpoint(training, saved, {})
    with pytest.raises(CheckpointError, match="training has no setting 'warm_up'") as caught:
        load_checkpoint(saved, "cpu")
    assert "\n" not in str(caught.value)


def read_or_refuse(path: Path) -> tuple[Training, dict[str, Any]] | None:
    try:
        return load_checkpoint(path, "cpu")
    except CheckpointError as error:
        assert "\n" not in str(error)
        return None


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_a_damaged_file_is_refused_or_harmless(
    training: Training, saved: Path, data: st.DataObject
) -> None:
    whole = saved.read_bytes()
    (header_size,) = struct.unpack("<Q", whole[:8])
    damaged = bytearray(whole)
    # Half of the blows go to the header, where the structure is.
    end = data.draw(st.sampled_from([8 + header_size, len(whole)]))
    for _ in range(data.draw(st.integers(0, 3))):
        place = data.draw(st.integers(0, end - 1))
        damaged[place] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        del damaged[data.draw(st.integers(0, len(whole))) :]
    path = saved.with_name("damaged")
    path.write_bytes(damaged)
    found = read_or_refuse(path)
    if found is not None:
        loaded, metrics = found
        assert metrics == {"val_accuracy": [0.5, float("inf")]}
        assert (loaded.epoch, loaded.seed) == (1, 7)
        assert loaded.configuration == training.configuration
        assert same(loaded.model.state_dict(), training.model.state_dict())


def test_the_header_can_be_read_by_any_json_reader(training: Training, tmp_path: Path) -> None:
    save_model(training, tmp_path / "m", classes=CLASSES, metrics={})
    content = header(tmp_path / "m")
    assert Configuration.from_dict(content["configuration"]) == training.configuration
    assert content["mean"] == [90.0, 91.5, 92.25]
