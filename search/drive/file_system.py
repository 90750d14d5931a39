"""pyarrow's file system of an object store, by an address and the environment."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

from search.config.store_url import StoreUrl

_CONNECT_SECONDS = 5.0
ATTEMPTS = 6
"""Of a request, with pauses that double: half a minute of trouble is sat out."""
_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
_REGIONS = ("AWS_REGION", "AWS_DEFAULT_REGION")


def open_file_system(where: StoreUrl, attempts: int) -> Any:
    """Return the file system that an address is in, which tries a request so many times.

    As `pyarrow.fs.FileSystem.from_uri` would, but with an end to its retries.
    """
    from pyarrow import fs

    options = where.options
    if where.scheme == "gs":
        return fs.GcsFileSystem(retry_time_limit=timedelta(seconds=5 * attempts), **options)
    endpoint = options.get("endpoint_override") or _first(_ENDPOINTS)
    scheme = options.get("scheme", "https")
    if "://" in endpoint:
        given = urlsplit(endpoint)
        scheme, endpoint = given.scheme, f"{given.netloc}{given.path}".rstrip("/")
    region = options.get("region") or _first(_REGIONS)
    if not region:
        # A bucket of Amazon's is asked for its region; other stores have none that matters.
        region = "us-east-1" if endpoint else fs.resolve_s3_region(where.bucket)
    return fs.S3FileSystem(
        region=region,
        scheme=scheme,
        endpoint_override=endpoint or None,
        connect_timeout=_CONNECT_SECONDS,
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=attempts),
        allow_delayed_open=True,  # a small object is one request, not three
    )


def _first(names: tuple[str, ...]) -> str:
    return next((value for name in names if (value := os.environ.get(name))), "")
