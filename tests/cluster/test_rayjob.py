"""The manifest for Kubernetes: what KubeRay and the API server would refuse is refused here."""

from __future__ import annotations

import copy
import importlib.resources
import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import referencing
import yaml
from launch import CHECKOUT

KUBERNETES = "v1.34.0-local-strict"
"""The release whose pods are checked against; `strict`: unknown fields are refused."""


@pytest.fixture(scope="module")
def check() -> Any:
    """Return the validator of a RayJob."""
    schemas = importlib.resources.files(kubernetes_validate) / "kubernetes-json-schema"
    pods = json.loads((schemas / KUBERNETES / "_definitions.json").read_text(encoding="utf-8"))
    text = (Path(__file__).parent / "rayjob_schema.yaml").read_text(encoding="utf-8")
    registry = referencing.Registry().with_resource(
        "pods", referencing.Resource.from_contents({**pods, "$id": "pods"})
    )
    return jsonschema.Draft202012Validator(yaml.safe_load(text), registry=registry)


@pytest.fixture
def manifest() -> dict[str, Any]:
    """Return the manifest, its anchors resolved to objects of their own."""
    text = (CHECKOUT / "cluster" / "rayjob.yaml").read_text(encoding="utf-8")
    return dict(copy.deepcopy(json.loads(json.dumps(yaml.safe_load(text)))))


def groups(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the head's group and the workers'."""
    cluster = manifest["spec"]["rayClusterSpec"]
    return [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]


def test_the_manifest_is_a_rayjob(check: Any, manifest: dict[str, Any]) -> None:
    assert [error.message for error in check.iter_errors(manifest)] == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["spec", "entryPoint"], "a word of another case"),
        (["spec", "ttlSecondsAfterFinished"], "ten minutes"),
        (["spec", "rayClusterSpec", "authOptions", "mode"], "password"),
        (["spec", "rayClusterSpec", "headGroupSpec", "rayStartParams", "num-cpus"], 0),
        (["spec", "rayClusterSpec", "workerGroupSpecs", 0, "template", "spec", "volume"], []),
        (["spec", "rayClusterSpec", "workerGroupSpecs", 0, "template", "spec", "containers"], 1),
    ],
)
def test_a_mistake_in_it_is_found(
    check: Any, manifest: dict[str, Any], path: list[Any], value: Any
) -> None:
    # A schema that accepts everything would pass the test above.
    place: Any = manifest
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    errors = list(check.iter_errors(manifest))
    assert len(errors) == 1
    assert str(path[-1]) in [*map(str, errors[0].absolute_path), errors[0].message.split("'")[1]]


def test_it_runs_one_ray_with_a_token_on_one_image(manifest: dict[str, Any]) -> None:
    cluster = manifest["spec"]["rayClusterSpec"]
    pins = (CHECKOUT / "cluster" / "requirements.txt").read_text(encoding="utf-8")
    ray = re.search(r"(?m)^ray==(.*)$", pins)
    recipe = (CHECKOUT / "cluster" / "Dockerfile").read_text(encoding="utf-8")
    assert ray and cluster["rayVersion"] == ray[1]
    assert f"FROM rayproject/ray:{ray[1]}-py3" in recipe
    assert cluster["authOptions"] == {"mode": "token"}
    containers = [group["template"]["spec"]["containers"] for group in groups(manifest)]
    assert {len(each) for each in containers} == {1}
    assert len({each[0]["image"] for each in containers}) == 1
    assert manifest["spec"]["rayClusterSpec"]["headGroupSpec"]["serviceType"] == "ClusterIP"


def test_every_pod_mounts_the_volume_that_studies_are_written_to(manifest: dict[str, Any]) -> None:
    runs = re.search(r"--runs (\S+)", manifest["spec"]["entrypoint"])
    assert runs
    for group in groups(manifest):
        pod = group["template"]["spec"]
        [mount] = pod["containers"][0]["volumeMounts"]
        assert runs[1].startswith(f"{mount['mountPath']}/")
        assert [volume["name"] for volume in pod["volumes"]] == [mount["name"]]


def test_its_command_is_one_of_ours(manifest: dict[str, Any]) -> None:
    from typer.main import get_command

    from search.cli import app

    words = manifest["spec"]["entrypoint"].split()
    assert words[:3] == ["python", "-m", "search"]
    commands = get_command(app)
    command = commands.commands[words[3]]  # type: ignore[attr-defined]
    assert set(command.make_context("", words[4:], resilient_parsing=False).params) >= {"runs"}
