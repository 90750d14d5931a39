"""The README cannot rot: its tree is the tree, and its commands are the commands."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

from search.cli import app
from search.config.config_file import preset_names

CHECKOUT = Path(__file__).parent.parent
README = (CHECKOUT / "README.md").read_text(encoding="utf-8")


def _commands() -> list[list[str]]:
    blocks = re.findall(r"```sh\n(.*?)```", README, flags=re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    return [
        shlex.split(line, comments=True) for line in lines if line.startswith("python -m search ")
    ]


@pytest.mark.parametrize("words", _commands(), ids=" ".join)
def test_every_command_of_the_readme_is_one_the_program_takes(
    words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://localhost:8265")  # as the README has it
    group: Any = typer.main.get_command(app)
    name, *arguments = words[3:]
    # Parses the options and arguments as a call would, and raises on one that is not known.
    context = group.commands[name].make_context(name, arguments)
    preset = context.params.get("preset")
    assert preset is None or preset in preset_names()


def test_every_command_of_the_program_is_in_the_readme() -> None:
    group: Any = typer.main.get_command(app)
    shown = {name for name, command in group.commands.items() if not command.hidden}
    assert {words[3] for words in _commands()} == shown
    for command in group.commands.values():
        assert command.help


def test_every_preset_is_named_in_the_readme() -> None:
    for name in preset_names():
        assert f"`{name}`" in README


def test_the_tree_in_the_readme_lists_every_file_of_the_house_and_no_other() -> None:
    tree = README.partition("## The house")[2].partition("```\n")[2].partition("```")[0]
    listed: set[str] = set()
    folder = ""
    for line in tree.splitlines():
        name = line.split()[0]
        if name.endswith("/") and not line.startswith(" "):
            folder = name
        elif line.startswith("  "):
            listed.add(folder + name)
    found = {
        str(path.relative_to(CHECKOUT))
        for package in ("data", "model", "search", "benchmarks")
        for path in (CHECKOUT / package).rglob("*.py")
        if path.name != "__init__.py"
    }
    assert {name for name in listed if name.endswith(".py")} == found


def test_pictures_in_the_readme_exist() -> None:
    for picture in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", README):
        assert (CHECKOUT / picture).is_file(), picture
