"""An object store as a shelf: what is wrong with it is told in one line, whose it is is known."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
import s3_server

from model.whole_file import write_whole
from search.drive.shelf import ShelfError
from search.drive.store_shelf import StoreShelf
from search.study_error import StudyError

URL = f"s3://{s3_server.BUCKET}/some/where"
pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def server() -> Iterator[s3_server.Server]:
    """Run an S3 server for the tests of this file."""
    with s3_server.running() as running:
        yield running


def refusal(shelf: StoreShelf) -> str:
    with pytest.raises(ShelfError) as refused:
        shelf.check()
    assert isinstance(refused.value, StudyError)  # the command prints its one line
    text = str(refused.value)
    assert "\n" not in text
    assert "s3cret" not in text
    return text


def test_a_store_in_order_is_tried_out_without_a_trace(server: s3_server.Server) -> None:
    StoreShelf(f"s3://{s3_server.BUCKET}/untouched", "small").check()
    assert b"untouched/small/." not in server.ask("GET", f"/{s3_server.BUCKET}?list-type=2")


def test_a_bucket_that_is_not_there_is_told(server: s3_server.Server) -> None:
    shelf = StoreShelf("s3://nowhere/prefix", "small")
    assert refusal(shelf) == (
        "cannot write to s3://nowhere/prefix/small: there is no such bucket: make it, or mend `url`"
    )


def test_a_store_that_lets_us_not_in_is_told(server: s3_server.Server) -> None:
    server.trust(everybody=False)
    try:
        said = refusal(StoreShelf(URL, "small"))
    finally:
        server.trust(everybody=True)
    assert said.startswith(f"cannot write to {URL}/small: it refuses to let us in: set AWS_ACCESS_")


def test_a_store_that_is_not_there_is_told(
    server: s3_server.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))  # taken, and nobody listens
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free.getsockname()[1]}")
        assert "does not answer: see the network" in refusal(StoreShelf(URL, "small"))


def test_a_store_that_never_answers_is_not_waited_for(
    server: s3_server.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("search.drive.store_shelf._CHECK_SECONDS", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        where = f"127.0.0.1:{silent.getsockname()[1]}"
        shelf = StoreShelf(f"{URL}?endpoint_override={where}&scheme=http", "small")
        assert refusal(shelf).startswith(f"{URL}/small does not answer within 1 s: ")


def test_the_address_may_say_where_the_store_is(
    server: s3_server.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    where = server.endpoint.removeprefix("http://")
    shelf = StoreShelf(f"{URL}?endpoint_override={where}&scheme=http", "small")
    shelf.check()
    assert shelf.place == f"{URL}/small/trials"


def test_a_place_of_another_study_is_not_used(server: s3_server.Server) -> None:
    first = StoreShelf(URL, "twice", owner="first")
    first.claim()
    with first.writing(7, 1) as path:
        write_whole(path, b"weights")
    StoreShelf(URL, "twice", owner="first").claim()  # it goes on
    other = StoreShelf(URL, "twice", owner="0123456789abcdef")
    for refuses in (other.claim, other.refuse_taken, StoreShelf(URL, "twice").refuse_taken):
        with pytest.raises(ShelfError, match="holds checkpoints of another study of this name"):
            refuses()
    with pytest.raises(ShelfError, match="of another study"):
        StoreShelf(URL, "twice", owner="0123456789abcdef").all_sizes()
    assert StoreShelf(URL, "twice").all_sizes() == {}  # of one that never wrote: nothing is its
    assert first.all_sizes() == {7: {1: 7}}
    StoreShelf(URL, "twic").refuse_taken()  # a prefix of its name is another name


def test_checkpoints_without_an_owner_are_not_taken(server: s3_server.Server) -> None:
    stray = StoreShelf(URL, "stray", owner="me")
    with stray.writing(7, 1) as path:
        write_whole(path, b"weights")
    with pytest.raises(ShelfError, match="of another study"):
        stray.claim()


def test_an_upload_that_fails_leaves_what_was_there() -> None:
    with s3_server.running() as server:
        shelf = StoreShelf(URL, "small", attempts=1)
        with shelf.writing(7, 1) as path:
            write_whole(path, b"old")
        server.trust(everybody=False)
        for size in (5, 20_000_000):  # in one request, and in parts
            with pytest.raises(ShelfError), shelf.writing(7, 1) as path:
                write_whole(path, b"x" * size)
        server.trust(everybody=True)
        assert shelf.sizes(7) == {1: 3}
