"""Study files and `--set`: whatever stands in them, a study or one line that says what is wrong."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from fuzzing import LIMIT, Tally, fuzz
from hypothesis import strategies as st

from search.config.config import StudyConfig
from search.config.config_file import ConfigError, dump_config, load_config

pytestmark = LIMIT

GOOD = """\
study: mine
seed: 1
max_epochs: 9
data: {source: fashion-mnist, validation_images: 6000, image_size: 28, seed: 0}
space:
  num_blocks: {int: [1, 2]}
  filters: {choice: [8, 16], per_block: true}
  optimizer: {choice: [sgd, adamw]}
  momentum: {float: [0.8, 0.99], when: {optimizer: sgd}}
  learning_rate: {float: [0.01, 0.4], log: true}
points: [{filters_1: 8}]
budget: {trials: 20, seconds: 1.5}
asha: {grace_epochs: 1, reduction_factor: 3, audit_share: 0.1}
resources: {gpus_per_trial: 0.5}
"""
_WORDS = """
study seed max_epochs data space limits baselines points sampler asha budget resources final trials
epochs seconds filters learning_rate num_blocks kernel_size choice float int log step when per_block
source synthetic kind tpe auto gpus_per_trial momentum sgd optimizer filters_1 form parameters
"""
_KEYS = _WORDS.split()
_ODD = [
    "9" * 10_000, "-" + "9" * 4_000, "0x" + "f" * 9_000, "1" + ":59" * 3_000, "0b1" * 50,
    "1e999", ".inf", "-.inf", ".nan", "1e-320", "-0.0", "0o17", "1_000", "9223372036854775808",
    "2001-01-01", "2001-99-99", "2001-01-01 25:61:61", "1:2:3", "~", "yes", "''", '"\\e[2J"',
    '"\\x00"', '"\\ud800"', "'\u202e'", "\u2028", "\ufeff", "\x85", "\U0001f600" * 300, "x" * 9_000,
    "!!binary aGk=", "!!binary '='", "!!set {a, b}", "!!omap [a: 1]", "!!pairs [a: 1]",
    "!!timestamp x", "!!int x", "!!int 12", "!!float []", "!!bool maybe", "!!str 1", "!!null x",
    "!!python/object/apply:os.system [true]", "!!python/name:os.system", "!x y", "!<tag:x> 1",
    "&a 1", "*a", "&a [*a]", "&a {x: *a}", "<<", "{<<: {a: 1}}", "{<<: [{a: 1}, {b: 2}]}",
    "{<<: 1}", "=", "{1: 2}", "{2001-01-01: 1}", "{null: 1}", "{[1]: 2}", "{{a: 1}: 2}",
    "{.nan: 1}", "? " * 900, "[" * 30 + "]" * 30, "{a: " * 30 + "}" * 30, "[" * 9_000, "{" * 9_000,
    "- " * 300 + "x", "[" + "1," * 300 + "]", "&a []" + " *a" * 9, "|\n  x", ">-\n  x", "'", '"',
    "%YAML 9.9", "---", "...", "--- a\n--- b", "@", "`", "[1, 2**63]", "[0, 1.0e+300]",
]  # fmt: skip
_SCALARS = st.one_of(
    st.sampled_from(_ODD),
    st.integers().map(str),
    st.floats().map(lambda x: yaml.safe_dump(x).split("\n")[0]),
    st.text(max_size=6),
    st.sampled_from(_KEYS),
)
_FLOW = st.recursive(
    _SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda parts: f"[{', '.join(parts)}]"),
        st.dictionaries(st.sampled_from(_KEYS) | _SCALARS, inner, max_size=3).map(
            lambda parts: f"{{{', '.join(f'{k}: {v}' for k, v in parts.items())}}}"
        ),
    ),
    max_leaves=5,
)


def bomb(kind: str, levels: int = 9) -> str:
    """Return a text of a few hundred characters that stands for nine to the ninth values."""
    rows = ["k0: &k0 {a: 1}" if kind == "merge" else "k0: &k0 [1]"]
    for level in range(1, levels + 1):
        inside = ", ".join([f"*k{level - 1}"] * 9)
        rows.append(
            f"k{level}: &k{level} " + (f"{{<<: [{inside}]}}" if kind == "merge" else f"[{inside}]")
        )
    return "\n".join(rows)


def load(path: Path, text: str, overrides: tuple[str, ...] = ()) -> StudyConfig:
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    return load_config(path, overrides=overrides)


def check_reads_back(config: StudyConfig | None, path: Path) -> None:
    if config is not None:
        assert load(path, dump_config(config)) == config


def test_a_damaged_study_file_is_a_study_or_one_line(tmp_path: Path) -> None:
    lines = GOOD.splitlines()
    path = tmp_path / "study.yaml"

    def damage(draw: Any) -> str:
        changed = list(lines)
        for _ in range(draw(st.sampled_from([0, 1, 1, 1, 2]))):
            at = draw(st.integers(0, len(changed) - 1))
            way = draw(
                st.sampled_from(
                    ["value", "inside", "digits", "digits", "line", "cut", "twice", "drop"]
                )
            )
            old = changed[at]
            if way == "value" and ":" in old:
                changed[at] = f"{old.partition(':')[0]}: {draw(_FLOW)}"
            elif way == "inside" and "{" in old:
                start = draw(st.integers(old.index("{"), len(old)))
                changed[at] = f"{old[:start]}{draw(_FLOW)}{old[start + draw(st.integers(0, 3)) :]}"
            elif way == "line":
                changed.insert(at, f"{draw(st.sampled_from(_KEYS))}: {draw(_FLOW)}")
            elif way == "cut":
                changed[at] = old[: draw(st.integers(0, len(old)))]
            elif way == "digits":
                changed[at] = re.sub(r"\d+", lambda _: str(draw(st.integers(0, 99))), old)
            elif way == "twice":
                changed.append(old)
            elif way == "drop" and len(changed) > 1:
                del changed[at]
        return "\n".join(changed)

    def check(tally: Tally, draw: Any) -> None:
        text = damage(draw)
        check_reads_back(tally.answer(lambda: load(path, text)), path)

    fuzz("study files", ConfigError, check)


def test_any_override_is_taken_or_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    sections = yaml.safe_load(GOOD)
    known = [
        *sections,
        *(f"{top}.{key}" for top in sections if isinstance(sections[top], dict)
          for key in sections[top]),
    ]  # fmt: skip
    keys = st.one_of(
        st.sampled_from(known),
        st.lists(st.sampled_from(_KEYS), min_size=1, max_size=4).map(".".join),
        st.text(max_size=8),
        st.sampled_from(["", ".", "a" * 9_000, ".".join("a" * 9_000), "1", "\udcff", "\x1b[2J"]),
    )
    fair = st.sampled_from(
        ["seed=7", "max_epochs=3", "budget.trials=5", "budget.epochs=90", "asha.enabled=false",
         "data.source=synthetic", "space.filters={choice: [4]}", "space.learning_rate=0.1",
         "points=[]", "baselines=[]", "resources.gpus_per_trial=1.0", "limits.parameters=99"]
    )  # fmt: skip
    odd = st.builds(
        lambda key, between, value: key + between + value,
        keys,
        st.sampled_from(["="] * 8 + ["", "==", ": "]),
        _FLOW,
    )

    def check(tally: Tally, draw: Any) -> None:
        given = tuple(draw(st.lists(fair | odd, min_size=1, max_size=2)))
        check_reads_back(tally.answer(lambda: load(path, GOOD, given)), path)

    fuzz("--set", ConfigError, check)


@pytest.mark.parametrize(
    ("added", "message"),
    [
        (bomb("merge"), "holds more than 10000 values, aliases included"),
        (bomb("list"), "holds more than 10000 values, aliases included"),
        ("x: [" + "1," * 400_000 + "]", "holds more than 10000 values"),
        ("x: " + "[" * 900_000, "nested deeper than 20 levels"),
        ("x: " + "- " * 400_000, "nested deeper than 20 levels|not YAML"),
        ("seed: 1" + ":59" * 300_000, "a value of 900001 characters"),
        ("seed: " + "9" * 10_000, r"999\.\.\. is too large; whole numbers go up to 2\^63 - 1"),
        ("seed: 0x" + "f" * 9_000, "is too large; whole numbers go up to"),
        ("seed: -9223372036854775808", "is too large; whole numbers go up to"),
        ("seed: {2001-01-01: 1}", r"`seed` is .*, but must be a whole number"),
        ("study: ['\\", "not YAML"),
    ],
    ids=lambda text: text[:20],
)
def test_a_small_text_cannot_stand_for_an_endless_one(
    tmp_path: Path, added: str, message: str
) -> None:
    text = GOOD.replace("seed: 1\n", "") + added
    with pytest.raises(ConfigError, match=message):
        load(tmp_path / "study.yaml", text)
    key, _, value = added.partition(": ")
    if "\n" not in added:
        with pytest.raises(ConfigError, match=message):
            load(tmp_path / "study.yaml", GOOD, (f"{key}={value}",))


def test_a_step_too_small_for_its_range_is_refused(tmp_path: Path) -> None:
    changed = "space.learning_rate={float: [0, 1.0e+15], step: 1.0e-300}"
    with pytest.raises(ConfigError, match="the highest must be a whole number of steps"):
        load(tmp_path / "study.yaml", GOOD, (changed,))
