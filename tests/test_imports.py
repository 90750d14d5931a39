"""The house: who may import whom, where Ray and Optuna may be, how long a file may be."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parent.parent
PACKAGES = ("data", "model", "search")
FILES = sorted(
    path.relative_to(CHECKOUT) for name in PACKAGES for path in (CHECKOUT / name).rglob("*.py")
)
MAY_IMPORT = {
    "data": {"data"},
    "model": {"data", "model"},
    "search": {"data", "model", "search"},
}
# The rooms of `search`, in order: each may import from those before it.
ROOMS = (
    "config",
    "prune",
    "propose",
    "record",
    "machine",
    "drive",
    "engine",
    "explain",
    "screen",
    "plan",
    "final",
    "handover",
    "report",
    "care",
)
WITH_RAY = {"engine"}
WITH_OPTUNA = {"propose", "prune", "record", "drive", "explain", "report"}


def _imported(path: Path) -> set[str]:
    """Return the full names of all that a file imports, wherever in the file."""
    names: set[str] = set()
    for node in ast.walk(ast.parse((CHECKOUT / path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            module = str(node.module)
            names |= {f"{module}.{a.name}" for a in node.names} if module in PACKAGES else {module}
    return names


def _top(path: Path) -> set[str]:
    return {name.partition(".")[0] for name in _imported(path)}


def test_there_is_something_to_check() -> None:
    assert {path.parts[0] for path in FILES} == set(PACKAGES)
    assert len(FILES) > 20


@pytest.mark.parametrize("path", FILES, ids=str)
def test_imports_run_leftwards_only(path: Path) -> None:
    ours = _top(path) & {*PACKAGES, "tests", "benchmarks"}
    assert ours <= MAY_IMPORT[path.parts[0]]


@pytest.mark.parametrize("path", FILES, ids=str)
def test_rooms_import_from_rooms_before_them_only(path: Path) -> None:
    if len(path.parts) < 3:
        return
    before = ROOMS[: ROOMS.index(path.parts[1]) + 1]
    outside = {"words", "seeds", "study_error"}
    ours = {name.split(".")[1] for name in _imported(path) if name.startswith("search.")}
    assert ours <= {*before, *outside}


def test_ray_is_imported_in_its_rooms_only() -> None:
    found = {path for path in FILES if "ray" in _top(path)}
    assert {path.parts[:-1] for path in found} <= {("search", room) for room in WITH_RAY}
    assert found, "the rule has something to hold for"


def test_optuna_is_imported_in_its_rooms_only() -> None:
    found = {path for path in FILES if "optuna" in _top(path)}
    assert {path.parts[:-1] for path in found} <= {("search", room) for room in WITH_OPTUNA}
    assert found


def test_the_rules_of_a_search_bring_in_neither_ray_nor_optuna_nor_torch() -> None:
    # Not by way of others either: what decides can be taken out and used elsewhere.
    rules = ["asha", "budget", "ladder", "pasha", "settle"]
    names = [f"prune.{rule}" for rule in rules]
    names += ["config.cube", "propose.fidelity", "propose.surrogate"]
    imports = "".join(f"import search.{name}\n" for name in names)
    script = f"{imports}import sys\nprint({{'ray', 'optuna', 'torch'}} & set(sys.modules))"
    answer = subprocess.run(
        [sys.executable, "-c", script], cwd=CHECKOUT, capture_output=True, text=True
    )
    assert (answer.stdout, answer.stderr) == ("set()\n", "")


@pytest.mark.parametrize("path", FILES, ids=str)
def test_a_package_is_imported_by_its_modules(path: Path) -> None:
    # `import data` would collide with local variables of that name.
    assert not _imported(path) & set(PACKAGES)


def test_no_file_is_a_drawer_for_everything() -> None:
    drawers = {"utils", "util", "helpers", "helper", "common", "misc"}
    assert not [str(path) for path in FILES if path.stem in drawers]


@pytest.mark.parametrize("path", FILES, ids=str)
def test_no_file_is_longer_than_300_lines(path: Path) -> None:
    assert len((CHECKOUT / path).read_text(encoding="utf-8").splitlines()) <= 300


def test_every_file_says_what_it_is_for() -> None:
    for path in FILES:
        tree = ast.parse((CHECKOUT / path).read_text(encoding="utf-8"))
        assert ast.get_docstring(tree), path


def test_no_source_file_is_ignored_by_git() -> None:
    # Ray leaves ignored files out of what it ships to workers: an unanchored `data/` line would
    # make `import data` fail there, and only there.
    names = [*PACKAGES, *map(str, FILES)]
    answer = subprocess.run(
        ["git", "check-ignore", "--no-index", *names], cwd=CHECKOUT, capture_output=True, text=True
    )
    assert answer.returncode in (0, 1), answer.stderr
    assert answer.stdout == ""
