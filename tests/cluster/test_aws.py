"""cluster.yaml on AWS, as far as it goes without AWS: Ray's launcher against a stand-in for it."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from launch import FILE

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(180),
    # Of boto3 and of the stand-in, not ours.
    pytest.mark.filterwarnings("ignore"),
]
CONFIG: dict[str, Any] = yaml.safe_load(FILE.read_text(encoding="utf-8"))


@pytest.fixture
def launched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Let the launcher prepare an empty account and start a node of each type."""
    for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(key, "testing")
    monkeypatch.setenv("MOTO_IAM_LOAD_MANAGED_POLICIES", "true")
    (tmp_path / ".ssh").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))  # the launcher writes a key there
    from moto import mock_aws
    from ray.autoscaler._private.aws import config as launcher
    from ray.autoscaler._private.providers import _get_node_provider
    from ray.autoscaler._private.util import prepare_config, validate_config

    # It waits twice for the account to know its new role.
    monkeypatch.setattr(launcher, "time", SimpleNamespace(sleep=lambda seconds: None))
    with mock_aws():
        complete = prepare_config(copy.deepcopy(CONFIG))
        validate_config(complete)
        ready = launcher.bootstrap_aws(complete)
        provider = _get_node_provider(ready["provider"], ready["cluster_name"])
        for name, kind in ready["available_node_types"].items():
            tags = {"ray-user-node-type": name, "ray-cluster-name": ready["cluster_name"]}
            provider.create_node(kind["node_config"], tags, 1)
        import boto3

        yield boto3.client("ec2", CONFIG["provider"]["region"])


def test_the_launcher_starts_every_type_and_lets_in_ssh_alone(launched: Any) -> None:
    found = {
        node["InstanceType"]: node
        for reservation in launched.describe_instances()["Reservations"]
        for node in reservation["Instances"]
    }
    types = CONFIG["available_node_types"]
    wanted = {each["node_config"]["InstanceType"]: name for name, each in types.items()}
    assert set(found) == set(wanted)
    on_spot = {wanted[kind]: "InstanceLifecycle" in node for kind, node in found.items()}
    assert on_spot == {"head": False, "cpu": True, "gpu": True}
    # One group of all nodes: from outside it, ssh alone comes in.
    [group] = {node["SecurityGroups"][0]["GroupId"] for node in found.values()}
    rules = launched.describe_security_groups(GroupIds=[group])["SecurityGroups"][0]
    outside = [rule for rule in rules["IpPermissions"] if rule["IpRanges"]]
    assert [(rule["FromPort"], rule["ToPort"]) for rule in outside] == [(22, 22)]
    inside = [rule for rule in rules["IpPermissions"] if not rule["IpRanges"]]
    assert [pair["GroupId"] for rule in inside for pair in rule["UserIdGroupPairs"]] == [group]
