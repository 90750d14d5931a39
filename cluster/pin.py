"""Write requirements.txt: the exact version of every package that a node of a cluster needs.

    python cluster/pin.py

It reads what pyproject.toml asks for, and what of it is installed where the command is given; all
that those packages need in turn is pinned too. Give it where the tests have passed.
"""

from __future__ import annotations

import tomllib
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

CHECKOUT = Path(__file__).resolve().parent.parent
FILE = CHECKOUT / "cluster" / "requirements.txt"
# What a node has beside the project's own needs: the autoscaler of a head on AWS talks to it.
_ALSO = ("boto3",)
_HEAD = """\
# Exact versions of what a node of a cluster needs, made by `python cluster/pin.py`: do not edit.
# PyTorch's CUDA libraries are not named here: each PyTorch names the exact versions of its own.
"""


def wanted(pyproject: Path) -> list[Requirement]:
    """Return what the nodes need by name: the project's dependencies, also for PostgreSQL."""
    project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
    asked = [*project["dependencies"], *project["optional-dependencies"]["postgres"], *_ALSO]
    return [Requirement(line) for line in asked]


def pins(roots: list[Requirement]) -> dict[str, str]:
    """Return the installed version of every package that `roots` need, by its normalized name.

    Raises:
        PackageNotFoundError: One of them is not installed.
    """
    found: dict[str, str] = {}
    open_ = [(root, extra) for root in roots for extra in ("", *root.extras)]
    seen: set[tuple[str, str]] = set()
    while open_:
        requirement, extra = open_.pop()
        name = canonicalize_name(requirement.name)
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        package = metadata.distribution(name)
        # Another build of the same version runs on the nodes: 2.13.0, not 2.13.0+cpu.
        found[name] = Version(package.version).public
        for line in package.requires or []:
            needed = Requirement(line)
            if needed.marker is None or needed.marker.evaluate({"extra": extra}):
                open_ += [(needed, more) for more in ("", *needed.extras)]
    return found


def main() -> None:
    """Write the file."""
    lines = [f"{name}=={version}\n" for name, version in sorted(pins(wanted(_PYPROJECT)).items())]
    FILE.write_text(_HEAD + "".join(lines), encoding="utf-8")
    print(f"{FILE.name}: {len(lines)} packages")


_PYPROJECT = CHECKOUT / "pyproject.toml"

if __name__ == "__main__":
    main()
