"""cluster.yaml: what Ray's launcher would refuse, and what it would not notice."""

from __future__ import annotations

import re
import shlex
import sys
from importlib import metadata
from typing import Any

import pytest
import yaml
from launch import CHECKOUT, FILE, on_premise
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

sys.path.insert(0, str(CHECKOUT / "cluster"))
import pin

TEXT = FILE.read_text(encoding="utf-8")
# Keys of a provider that Ray reads; its schema lets any other pass without a word.
PROVIDER = {
    "aws": {"type", "region", "availability_zone", "cache_stopped_nodes", "use_internal_ips"},
    "local": {"type", "head_ip", "worker_ips"},
}


def forms() -> dict[str, dict[str, Any]]:
    """Return the file as it is, and as it is changed for machines of one's own."""
    return {"aws": yaml.safe_load(TEXT), "local": on_premise(TEXT)}


@pytest.fixture(params=["aws", "local"])
def form(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Return the file in each of its two forms."""
    return forms()[request.param]


def prepared(config: dict[str, Any]) -> dict[str, Any]:
    """Return a file as the launcher completes it, if it accepts it."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    complete = dict(prepare_config(config))
    validate_config(complete)
    return complete


def starts(config: dict[str, Any]) -> dict[str, str]:
    """Return the commands that start Ray on the head and on a worker."""
    names = ("head", "worker")
    return {name: config[f"{name}_start_ray_commands"][-1] for name in names}


def test_the_launcher_accepts_both_forms(form: dict[str, Any]) -> None:
    complete = prepared(form)
    assert complete["provider"] == form["provider"]
    assert complete["head_node_type"] in complete["available_node_types"]


def test_the_launcher_refuses_a_mistake(form: dict[str, Any]) -> None:
    import jsonschema

    with pytest.raises(jsonschema.ValidationError, match="'setup_command' was unexpected"):
        prepared(form | {"setup_command": []})


def test_the_forms_differ_in_their_blocks_only() -> None:
    aws, local = forms().values()
    differing = {key for key in {*aws, *local} if aws.get(key) != local.get(key)}
    assert differing == {
        *("provider", "auth", "max_workers", "initialization_commands"),
        *("available_node_types", "head_node_type"),
    }


def test_no_key_of_the_provider_is_unknown_to_ray(form: dict[str, Any]) -> None:
    provider = form["provider"]
    assert set(provider) <= PROVIDER[provider["type"]]
    assert form["auth"]["ssh_user"]


def test_aws_has_spot_workers_with_and_without_gpus_and_a_head_that_is_kept() -> None:
    types = prepared(forms()["aws"])["available_node_types"]
    spot = {name: "InstanceMarketOptions" in each["node_config"] for name, each in types.items()}
    assert spot == {"head": False, "cpu": True, "gpu": True}
    assert types["head"]["resources"] == {"CPU": 0}  # as its start command says
    assert types["gpu"]["resources"]["GPU"] == 1
    assert "GPU" not in types["cpu"]["resources"]
    assert len({each["node_config"]["ImageId"] for each in types.values()}) == 1
    # A search asks for nothing until a node is there.
    assert sum(each.get("min_workers", 0) for each in types.values()) >= 1


def test_the_token_is_on_at_every_node_and_in_no_file(form: dict[str, Any]) -> None:
    for start in starts(form).values():
        assert "RAY_AUTH_MODE=token" in start.partition("ray start")[0]
    assert form["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    assert not re.search(r"[0-9a-f]{32}|AKIA|BEGIN .*KEY|[Pp]assword|RAY_AUTH_TOKEN=", TEXT)


def test_the_dashboard_listens_on_the_heads_loopback_only(form: dict[str, Any]) -> None:
    options = shlex.split(starts(form)["head"])
    assert "--dashboard-host=127.0.0.1" in options
    assert [word for word in options if "0.0.0.0" in word] == []


def test_a_lost_node_is_noticed_within_ten_seconds(form: dict[str, Any]) -> None:
    said = dict(re.findall(r"RAY_health_check_(\w+)=(\d+)", starts(form)["head"]))
    each_ms = int(said["period_ms"]) + int(said["timeout_ms"])
    assert int(said["initial_delay_ms"]) <= 1000
    assert each_ms * int(said["failure_threshold"]) <= 10_000


def test_workers_that_idle_are_given_back(form: dict[str, Any]) -> None:
    assert 0 < prepared(form)["idle_timeout_minutes"] <= 15


def test_nodes_install_the_pinned_versions(form: dict[str, Any]) -> None:
    mounted = form["file_mounts"]["~/.fashion-search/requirements.txt"]
    assert CHECKOUT / mounted == pin.FILE
    [install] = [line for line in form["setup_commands"] if "pip install" in line]
    assert install.split()[-2:] == ["--requirement", "~/.fashion-search/requirements.txt"]


def pinned() -> dict[str, str]:
    """Return the pinned version of each package."""
    lines = [line for line in pin.FILE.read_text("utf-8").splitlines() if line[:1] != "#"]
    assert all(re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.]*", line) for line in lines)
    return {name: version for name, _, version in (line.partition("==") for line in lines)}


def test_the_pins_are_what_the_project_asks_for() -> None:
    versions = pinned()
    for asked in pin.wanted(CHECKOUT / "pyproject.toml"):
        assert asked.specifier.contains(versions[canonicalize_name(asked.name)]), asked


def test_no_package_that_a_pin_needs_is_left_to_the_day() -> None:
    versions, looked_at = pinned(), 0
    extras: dict[str, set[str]] = {name: {""} for name in versions}
    for asked in pin.wanted(CHECKOUT / "pyproject.toml"):
        extras[canonicalize_name(asked.name)] |= asked.extras
    for name, version in versions.items():
        try:
            package = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue  # this environment was made by other rules
        if package.version.partition("+")[0] != version:
            continue
        looked_at += 1
        for needed in map(Requirement, package.requires or []):
            marker = needed.marker
            if marker and not any(marker.evaluate({"extra": extra}) for extra in extras[name]):
                continue
            assert needed.specifier.contains(versions[canonicalize_name(needed.name)], True), name
    assert looked_at


def test_every_pin_follows_from_the_installed_packages() -> None:
    # The algorithm of `pin.py`, on a package whose needs are known and few.
    assert set(pin.pins([Requirement("jinja2")])) == {"jinja2", "markupsafe"}
    with_colours = pin.pins([Requirement("ray[tune]")])
    assert {"ray", "pandas", "pyarrow", "jsonschema"} <= set(with_colours)
