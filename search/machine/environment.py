"""The conditions of every number: versions, hardware, the commit."""

from __future__ import annotations

import platform
import subprocess
from importlib import metadata
from pathlib import Path

from search.machine.slots import available_cpus


def describe_environment(checkout: Path) -> dict[str, str]:
    """Return versions, hardware and the git commit: the conditions of every number."""
    packages = ("torch", "ray", "optuna", "numpy", "scipy", "tensorboard")
    facts = {"python": platform.python_version()}
    facts |= {name: metadata.version(name) for name in packages}
    facts["system"] = f"{platform.system()} {platform.release()}"
    facts["processor"] = _processor()
    facts["cpus"] = str(available_cpus())
    git = ["git", "-C", str(checkout), "describe", "--always", "--dirty"]
    try:
        answer = subprocess.run(git, capture_output=True, text=True, timeout=10, check=True)
        facts["commit"] = answer.stdout.strip()
    except (OSError, subprocess.SubprocessError):
        facts["commit"] = "unknown"  # not a git checkout
    return facts


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass  # not Linux
    return platform.processor() or platform.machine()
