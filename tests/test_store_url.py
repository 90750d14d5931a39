"""Which object stores a study file may name, and that it never says a secret."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from conftest import SMALL

from search.config.config_file import ConfigError, load_config
from search.config.store_url import parse_store_url


@pytest.mark.parametrize(
    ("url", "path", "options"),
    [
        ("s3://bucket/prefix", "bucket/prefix", {}),
        ("s3://bucket", "bucket", {}),
        ("s3://my.bucket/a/b/", "my.bucket/a/b", {}),
        ("gs://bucket/prefix", "bucket/prefix", {}),
        (
            "s3://b1/p?region=eu-west-1&endpoint_override=localhost:9000&scheme=http",
            "b1/p",
            {"region": "eu-west-1", "endpoint_override": "localhost:9000", "scheme": "http"},
        ),
    ],
)
def test_a_store_is_taken_apart(url: str, path: str, options: dict[str, str]) -> None:
    where = parse_store_url(url)
    assert (where.path, where.options) == (path, options)
    assert str(where) == f"{where.scheme}://{path}"


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("", "'' is in no store known here; it must be s3://BUCKET[/PREFIX]"),
        ("/shared/runs", "is in no store known here; it must be"),
        ("file:///shared/runs", "is in no store known here"),
        ("http://host/bucket", "is in no store known here"),
        ("s3:///prefix", "names no bucket and prefix"),
        ("s3://b", "names no bucket and prefix"),
        ("s3://bucket/a//b", "names no bucket and prefix"),
        ("s3://bucket/../b", "names no bucket and prefix"),
        ("s3://bucket/a#b", "names no bucket and prefix"),
        ("s3://[::1/b", "is no address (Invalid IPv6 URL)"),
        ("s3://bucket/a?region", "has options that are not NAME=VALUE"),
        ("s3://bucket/a?colour=red", "has an unknown option 'colour'; known: region, scheme, "),
        ("gs://bucket/a?region=x", "has an unknown option 'region'; known: scheme, endpoint_over"),
    ],
)
def test_another_one_is_refused_with_what_is_allowed(url: str, message: str) -> None:
    with pytest.raises(ValueError) as refused:
        parse_store_url(url)
    assert message in str(refused.value)


@pytest.mark.parametrize(
    "url",
    [
        "s3://AKIAXYZ:h1dden@bucket/prefix",
        "s3://h1dden@bucket/prefix",
        "s3://bucket/prefix?secret_key=h1dden",
        "s3://bucket/prefix?access_key=h1dden&region=x",
        "s3://bucket/prefix?X-Amz-Signature=h1dden",
        "s3://bucket/prefix?session_token=h1dden",
        "file://user:h1dden@host/x?region=h1dden",
        "s3://user:h1dden@[::1/x",
        "s3://bucket/a?h1dden",
    ],
)
def test_a_secret_is_refused_and_not_repeated(url: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError) as refused:
        parse_store_url(url)
    assert "h1dden" not in str(refused.value)
    if url.startswith("s3://bucket/prefix?") or "@bucket" in url:
        assert "set it in the environment of every node (AWS_ACCESS_KEY_ID" in str(refused.value)
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(SMALL | {"checkpoints": {"url": url}}))
    with pytest.raises(ConfigError, match=r"checkpoints\.url") as told:
        load_config(file)
    assert "h1dden" not in str(told.value)
