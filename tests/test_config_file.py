"""Study files: every mistake is one line that says where, what is allowed, what to do."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from search.config.config import StudyConfig
from search.config.config_file import PRESETS, ConfigError, dump_config, load_config, preset_names

GOOD = """\
study: mine
budget: {trials: 20}
space:
  num_blocks: {int: [1, 2]}
  filters: {choice: [8, 16], per_block: true}
  learning_rate: {float: [0.01, 0.4], log: true}
"""
NEXT = GOOD.count("\n") + 1
"""Line of what a test adds."""


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., StudyConfig]:
    """Return a function that loads a text as a study file."""

    def load_text(text: str, *overrides: str) -> StudyConfig:
        path = tmp_path / "study.yaml"
        path.write_text(text, encoding="utf-8")
        return load_config(path, overrides=overrides)

    return load_text


@pytest.fixture
def refuse(load: Callable[..., StudyConfig], tmp_path: Path) -> Callable[..., str]:
    """Return a function that gives the one line with which a text is refused, folder cut off."""

    def message(text: str, *overrides: str) -> str:
        with pytest.raises(ConfigError) as caught:
            load(text, *overrides)
        line = str(caught.value)
        assert "\n" not in line and len(line) < 400, line
        return line.replace(f"{tmp_path}/", "")

    return message


def test_a_good_file_is_read_and_defaults_are_filled_in(load: Callable[..., StudyConfig]) -> None:
    config = load(GOOD)
    assert config.study == "mine"
    assert config.budget.trials == 20
    assert config.max_epochs == 9
    assert config.baselines == ("seed-32", "seed-64", "seed-64-dropout")
    assert config.search_space().epochs == 9


@pytest.mark.parametrize(
    ("added", "message"),
    [
        ("max_epoch: 3", "no key `max_epoch`; did you mean `max_epochs`?"),
        ("asha: {reduction: 3}", "no key `asha.reduction`; did you mean `reduction_factor`?"),
        ("asha:\n  grace_epoch: 3", "no key `asha.grace_epoch`; did you mean `grace_epochs`?"),
        ("data: {xyzzy: 1}", "no key `data.xyzzy`; allowed: source, fallback, validation_images,"),
    ],
)
def test_an_unknown_key_is_named_with_the_nearest(
    refuse: Callable[..., str], added: str, message: str
) -> None:
    line = NEXT + added.count("\n")
    assert refuse(GOOD + added).startswith(f"study.yaml:{line}: {message}")


def test_a_misspelt_section_is_named_rather_than_missed(refuse: Callable[..., str]) -> None:
    assert refuse(GOOD.replace("budget", "budgett")) == (
        "study.yaml:2: no key `budgett`; did you mean `budget`?"
    )


@pytest.mark.parametrize(
    ("added", "message"),
    [
        ("max_epochs: nine", "`max_epochs` is 'nine', but must be a whole number"),
        ("max_epochs: '9'", "`max_epochs` is '9', but must be a whole number"),
        ("max_epochs: true", "`max_epochs` is true, but must be a whole number"),
        ("max_epochs: 2.5", "`max_epochs` is 2.5, but must be a whole number"),
        ("max_epochs:", "`max_epochs` is empty, but must be a whole number"),
        ("study2: 3\nstudy3: 4", "no key `study2`; did you mean `study`?"),
        ("asha: 3", "`asha` is 3, but must be a section of keys and values"),
        ("asha: [3]", "`asha` is [3], but must be a section of keys and values"),
        ("asha: {enabled: 1}", "`asha.enabled` is 1, but must be true or false"),
        (
            "asha: {reduction_factor: 2.5}",
            "`asha.reduction_factor` is 2.5, but must be a whole number or 'auto'",
        ),
        (
            "asha: {grace_epochs: some}",
            "`asha.grace_epochs` is 'some', but must be a whole number or 'auto'",
        ),
        (
            "asha: {audit_share: some}",
            "`asha.audit_share` is 'some', but must be a number or 'auto'",
        ),
        ("asha: {brackets: auto}", "`asha.brackets` is 'auto', but must be a whole number"),
        (
            "sampler: {startup_trials: few}",
            "`sampler.startup_trials` is 'few', but must be a whole number or 'auto'",
        ),
        ("baselines: seed-32", "`baselines` is 'seed-32', but must be a list"),
        ("baselines: [3]", "`baselines.0` is 3, but must be text"),
        ("points: [3]", "`points.0` is 3, but must be a section of keys and values"),
        (
            "resources: {max_concurrent: 1.5}",
            "`resources.max_concurrent` is 1.5, but must be a whole number or 'auto'",
        ),
        (
            "resources: {gpus_per_trial: half}",
            "`resources.gpus_per_trial` is 'half', but must be a number or 'auto'",
        ),
        ("data: {1: 2}", "1 stands as a key, but keys must be text"),
    ],
)
def test_a_wrong_type_is_shown_with_what_is_allowed(
    refuse: Callable[..., str], added: str, message: str
) -> None:
    assert refuse(GOOD + added) == f"study.yaml:{NEXT}: {message}"


@pytest.mark.parametrize(
    ("added", "message"),
    [
        ("max_epochs: 0", "`max_epochs` is 0, but must be above 0"),
        ("seed: -1", "`seed` is -1, but must be at least 0"),
        (
            "asha: {reduction_factor: 1}",
            "`asha.reduction_factor` is 1, but must be at least 2 or 'auto'",
        ),
        ("asha: {grace_epochs: 0}", "`asha.grace_epochs` is 0, but must be above 0 or 'auto'"),
        ("asha: {brackets: 0}", "`asha.brackets` is 0, but must be above 0"),
        (
            "asha: {form: halving}",
            "`asha.form` is 'halving', but must be 'stopping' or 'promotion'",
        ),
        ("asha: {audit_share: 1.5}", "asha.audit_share: 1.5 is no share from 0 to 1"),
        ("asha: {audit_share: -1}", "asha.audit_share: -1 is no share from 0 to 1"),
        (
            "asha: {audit_share: .inf}",
            "`asha.audit_share` is Infinity, but must be a finite number or 'auto'",
        ),
        ("asha: {form: stopping, grow: true}", "asha: grow needs form: promotion"),
        (
            "asha: {grow: true, audit_share: 0.1}",
            "asha: grow and audit_share exclude each other; leave one of them out",
        ),
        ("asha: {grace_epochs: 10}", "asha.grace_epochs is 10, but must be at most max_epochs (9)"),
        (
            "sampler: {kind: cma}",
            "`sampler.kind` is 'cma', but must be 'fidelity', 'tpe' or 'random'",
        ),
        (
            "sampler: {startup_trials: -1}",
            "`sampler.startup_trials` is -1, but must be at least 0 or 'auto'",
        ),
        ("data: {fallback: cifar}", "`data.fallback` is 'cifar', but must be 'synthetic'"),
        (
            "data: {source: ''}",
            'data: `source` is empty, but must be "fashion-mnist", "synthetic" or a folder',
        ),
        (
            "data: {image_size: 4}",
            "data: `image_size` is 4, but must be between 8 and 512",
        ),
        (
            "resources: {gpus_per_trial: 1.5}",
            "resources.gpus_per_trial: 1.5 is no share from 0 to 1, nor a whole number of GPUs",
        ),
        (
            "resources: {gpus_per_trial: .nan}",
            "`resources.gpus_per_trial` is NaN, but must be a finite number or 'auto'",
        ),
        (
            "baselines: [seed-33]",
            "baselines: unknown baseline 'seed-33'; known: seed-32, seed-64, seed-64-dropout",
        ),
        ("baselines: [seed-32, seed-32]", "baselines: a baseline is named twice"),
        ("points: [{}, {filters_1: 9}]", "points[1]: `filters_1` is 9, but must be one of: 8, 16"),
        (
            "points: [{filter_1: 8}]",
            "points[0]: no parameter `filter_1`; did you mean `filters_1`?",
        ),
    ],
)
def test_an_impossible_value_is_shown_with_what_is_allowed(
    refuse: Callable[..., str], added: str, message: str
) -> None:
    assert refuse(GOOD + added) == f"study.yaml:{NEXT}: {message}"


def test_a_name_that_is_no_folder_name_is_refused(refuse: Callable[..., str]) -> None:
    assert refuse(GOOD.replace("mine", "../mine")) == (
        "study.yaml:1: `study` is '../mine', but must be 1 to 64 letters, digits, `.`, `_` and `-`,"
        " beginning with a letter or a digit"
    )


def test_a_long_value_is_cut(refuse: Callable[..., str]) -> None:
    message = refuse(GOOD + f"seed: {'9' * 5000}x")
    assert message.startswith(f"study.yaml:{NEXT}: `seed` is '9999")
    assert message.endswith("9..., but must be a whole number")


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        (
            "{}",
            "budget: no limit is set; give at least one of trials, epochs, seconds, device_hours",
        ),
        (
            "{plateau_trials: 20, regret_bound: 0.005}",
            "budget: no limit is set; give at least one of trials, epochs, seconds, device_hours;"
            " a plateau or a small regret bound may never come",
        ),
        (
            "{trials: 20, plateau_delta: 0.001}",
            "budget: plateau_delta does nothing without plateau_trials; give both",
        ),
        ("{device_hours: 0}", "`budget.device_hours` is 0, but must be above 0"),
        ("{plateau_trials: 0}", "`budget.plateau_trials` is 0, but must be above 0"),
        ("{plateau_delta: -0.1}", "`budget.plateau_delta` is -0.1, but must be at least 0"),
        # Accuracies are fractions: 1 is the 100 % that no bound exceeds.
        ("{regret_bound: 1}", "`budget.regret_bound` is 1, but must be below 1"),
        ("{hours: 1}", "no key `budget.hours`; allowed: trials, epochs, seconds, device_hours,"),
    ],
)
def test_a_budget_that_makes_no_sense_is_refused(
    refuse: Callable[..., str], budget: str, message: str
) -> None:
    assert refuse(GOOD.replace("{trials: 20}", budget)).startswith(f"study.yaml:2: {message}")


@pytest.mark.parametrize(
    "added",
    [
        "asha: {form: promotion, grow: true}",
        "asha: {grow: true, audit_share: 0}",
        "asha: {form: stopping, audit_share: 0}",
        "asha: {audit_share: 0.25, brackets: 3}",
        "asha: {audit_share: auto, grace_epochs: auto, reduction_factor: auto}",
        "sampler: {startup_trials: 0, kind: tpe}",
    ],
)
def test_what_goes_together_is_read_and_written(
    load: Callable[..., StudyConfig], added: str
) -> None:
    config = load(GOOD + added)
    assert load(dump_config(config)) == config


@pytest.mark.parametrize("limit", ["trials", "epochs", "seconds", "device_hours"])
def test_every_limit_alone_is_enough(load: Callable[..., StudyConfig], limit: str) -> None:
    config = load(GOOD.replace("trials: 20", f"{limit}: 20"))
    assert load(dump_config(config)) == config


def test_a_missing_section_is_named_with_an_example(
    refuse: Callable[..., str], load: Callable[..., StudyConfig]
) -> None:
    space = refuse("budget: {trials: 20}\n")
    budget = refuse("space: {filters: 8, learning_rate: 0.1}\n")
    assert space.startswith("study.yaml:1: `space` is missing; add e.g. space: {")
    assert budget == "study.yaml:1: `budget` is missing; add e.g. budget: {trials: 20}"
    # What the two messages tell to add makes a study.
    examples = [message.partition("add e.g. ")[2] for message in (space, budget)]
    assert load("\n".join(examples)).budget.trials == 20


@pytest.mark.parametrize(
    ("line", "changed", "message"),
    [
        (
            6,
            "  learnig_rate: 0.1",
            "space has no key `learnig_rate`; did you mean `learning_rate`?",
        ),
        (6, "  learning_rate: -1", "no combination tried makes a valid network; the last one: "),
        (
            5,
            "  filters: {choise: [8]}",
            "space.filters has no key `choise`; did you mean `choice`?",
        ),
        (
            4,
            "  num_blocks: {int: [1]}",
            "space.num_blocks.int is [1], but must be [lowest, highest]",
        ),
        (4, "  num_blocks: 9", "space.num_blocks must be a whole number from 1 to 8"),
    ],
)
def test_a_mistake_in_the_space_is_found_on_its_line(
    refuse: Callable[..., str], line: int, changed: str, message: str
) -> None:
    lines = GOOD.splitlines()
    lines[line - 1] = changed
    assert refuse("\n".join(lines)).startswith(f"study.yaml:{line}: {message}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "study.yaml: holds nothing, but a study file is a mapping with `space` and `budget`"),
        ("- 1\n", "study.yaml: holds one list, but a study file is a mapping"),
        ("study.yaml\n", "study.yaml: holds one str, but a study file is a mapping"),
        (GOOD + "seed: 1\nseed: 2\n", f"study.yaml:{NEXT + 1}: `seed` stands twice"),
        (GOOD + "asha: {enabled: true, enabled: false}", f"study.yaml:{NEXT}: `enabled` stands"),
        ("study: [\n", "study.yaml:2: not YAML: expected the node content"),
        ("study: *other\n", "study.yaml:1: not YAML: found undefined alias 'other'"),
        ("study: 2001-99-99\n", "study.yaml: not YAML: month must be in 1..12"),
        ("study: !!bool maybe\n", "study.yaml: not YAML: a value does not fit its tag"),
        ("study: !!python/name:os.system\n", "study.yaml:1: not YAML: could not determine a con"),
        ("? [a]\n: b\n", "study.yaml:1: not YAML: found unhashable key"),
        ("study: &a [*a]\n", "study.yaml:1: nested deeper than 20 levels"),
        ("study: " + "[" * 5000, "study.yaml:1: nested deeper than 20 levels"),
        ("study: \x00\n", "study.yaml: not YAML: unacceptable character #x0000"),
    ],
)
def test_what_is_not_a_mapping_in_yaml_is_refused(
    refuse: Callable[..., str], text: str, message: str
) -> None:
    assert refuse(text).startswith(message)


def test_aliases_cannot_make_a_small_file_endless(refuse: Callable[..., str]) -> None:
    rows = [f"k{i}: &k{i} [{', '.join([f'*k{i - 1}'] * 9)}]" for i in range(1, 15)]
    text = "k0: &k0 [1]\n" + "\n".join(rows)
    assert refuse(text) == "study.yaml: holds more than 10000 values, aliases included"


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml: cannot be read: No such file"):
        load_config(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        load_config(tmp_path)
    path = tmp_path / "latin.yaml"
    path.write_bytes("study: caf\xe9".encode("latin-1"))
    with pytest.raises(ConfigError, match=r"latin\.yaml: not UTF-8 text \(byte 10\)"):
        load_config(path)
    path.write_bytes(b"# " + b"x" * (1 << 20))
    with pytest.raises(ConfigError, match="more than the 1048576 bytes that a study file may have"):
        load_config(path)


def test_overrides_replace_and_add_values(load: Callable[..., StudyConfig]) -> None:
    config = load(
        GOOD,
        "asha.reduction_factor=4",
        "budget.trials=7",
        "study=other",
        "space.learning_rate=0.2",
        "space.filters={choice: [4]}",
        "baselines=[seed-64]",
        "budget.seconds=2.5",
    )
    assert config.asha.reduction_factor == 4
    assert config.budget.trials == 7
    assert config.budget.seconds == 2.5
    assert config.study == "other"
    assert config.space["learning_rate"] == 0.2
    assert config.space["filters"] == {"choice": [4]}
    assert config.baselines == ("seed-64",)


def test_an_override_changes_one_place_also_where_an_alias_repeats_it(
    load: Callable[..., StudyConfig],
) -> None:
    text = GOOD + "asha: &a {}\nsampler: *a\n"
    assert load(text, "asha.reduction_factor=4").asha.reduction_factor == 4


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("asha.reduction=4", "no key `asha.reduction`; did you mean `reduction_factor`?"),
        ("ahsa.enabled=true", "no key `ahsa`; did you mean `asha`?"),
        ("budget.trials=many", "`budget.trials` is 'many', but must be a whole number"),
        ("budget.trials=0", "`budget.trials` is 0, but must be above 0"),
        ("study.name=x", "`study` is a value, not a section"),
        ("seed.a.b=1", '`seed` is {"a": {"b": 1}}, but must be a whole number'),
        ("space.learning_rate=-1", "no combination tried makes a valid network; the last one: "),
        ("budget.trials", "must be KEY=VALUE, e.g. asha.reduction_factor=4"),
        ("=4", "must be KEY=VALUE, e.g. asha.reduction_factor=4"),
        ("budget..trials=4", "must be KEY=VALUE, e.g. asha.reduction_factor=4"),
        ("seed=[1", "not YAML: expected ',' or ']'"),
        ("seed=!!bool maybe", "not YAML: a value does not fit its tag"),
    ],
)
def test_a_bad_override_is_named_as_it_was_given(
    refuse: Callable[..., str], override: str, message: str
) -> None:
    assert refuse(GOOD, override).startswith(f"--set {override!r}: {message}")


def test_keys_that_contradict_each_other_name_the_file_and_the_override(
    refuse: Callable[..., str],
) -> None:
    message = refuse(GOOD + "asha: {grow: true}", "asha.form=stopping")
    place = f"study.yaml:{NEXT} with --set 'asha.form=stopping'"
    assert message == f"{place}: asha: grow needs form: promotion"


def test_an_error_in_the_file_is_not_blamed_on_an_override(refuse: Callable[..., str]) -> None:
    message = refuse(GOOD + "asha: {grace_epoch: 2}", "asha.reduction_factor=4")
    assert message.startswith(f"study.yaml:{NEXT}: no key `asha.grace_epoch`")


@pytest.mark.parametrize("path", sorted(PRESETS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_preset_loads_and_is_found_by_name(path: Path) -> None:
    config = load_config(preset=path.stem)
    assert path.stem in preset_names()
    assert config.study == path.stem
    assert load_config(path) == config


def test_an_unknown_preset_is_named_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no preset 'quikstart'; did you mean `quickstart`"):
        load_config(preset="quikstart")
    for both in ({}, {"path": tmp_path / "study.yaml", "preset": "quickstart"}):
        with pytest.raises(ConfigError, match="give either a study file or --preset"):
            load_config(**both)  # type: ignore[arg-type]


def test_what_is_dumped_is_read_back_as_it_was(load: Callable[..., StudyConfig]) -> None:
    extra = "points: [{filters_1: 8, learning_rate: 0.1}]\nresources: {gpus_per_trial: 0.25}\n"
    config = load(GOOD + extra)
    text = dump_config(config)
    assert load(text) == config
    # Defaults are written out.
    assert "min_competitors: 3" in text
    assert "startup_trials: auto" in text


@pytest.mark.parametrize("preset", preset_names())
def test_presets_are_read_back_as_they_were(preset: str, load: Callable[..., StudyConfig]) -> None:
    config = load_config(preset=preset)
    assert load(dump_config(config)) == config


_KEYS = """
study seed max_epochs data space limits baselines points sampler asha budget resources final trials
epochs seconds filters learning_rate num_blocks kernel_size choice float int log step when per_block
source synthetic kind tpe auto gpus_per_trial momentum sgd optimizer
"""
_WORDS = st.sampled_from(_KEYS.split())
_SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.sampled_from([0, 1, 8, 0.1, "sgd", "auto", "!!bool x", "*a", "2001-99-99", 10**400]),
    st.text(max_size=5),
    _WORDS,
)
_TREES = st.recursive(
    _SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(_WORDS | st.text(max_size=3), inner, max_size=4),
    ),
    max_leaves=12,
)


def _check_loads_or_says_why(path: Path, text: str, overrides: list[str]) -> None:
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        config = load_config(path, overrides=overrides)
    except ConfigError as error:
        assert re.fullmatch(r"[^\n]+", str(error)), str(error)
        assert "Error" not in str(error)
    else:
        assert isinstance(config, StudyConfig)
        path.write_text(dump_config(config), encoding="utf-8")
        assert load_config(path) == config


_FUZZ = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@_FUZZ
@given(places=st.lists(st.tuples(st.lists(_WORDS, min_size=1, max_size=3), _TREES), max_size=4))
def test_any_tree_is_a_study_or_one_line(
    tmp_path: Path, places: list[tuple[list[str], object]]
) -> None:
    tree = yaml.safe_load(GOOD)
    for keys, value in places:
        place = tree
        for key in keys[:-1]:
            place = place[key] if isinstance(place.get(key), dict) else place.setdefault(key, {})
            if not isinstance(place, dict):
                break
        else:
            place[keys[-1]] = value
    text = yaml.safe_dump(tree, allow_unicode=True)
    _check_loads_or_says_why(tmp_path / "study.yaml", text, [])


@_FUZZ
@given(
    cuts=st.lists(st.tuples(st.integers(0, len(GOOD)), st.text(max_size=4)), max_size=4),
    override=st.lists(st.text(max_size=12) | _WORDS.map(lambda word: f"{word}=1"), max_size=1),
)
def test_any_text_is_a_study_or_one_line(
    tmp_path: Path, cuts: list[tuple[int, str]], override: list[str]
) -> None:
    text = GOOD
    for at, inserted in cuts:
        text = text[:at] + inserted + text[at + len(inserted) :]
    _check_loads_or_says_why(tmp_path / "study.yaml", text, override)
