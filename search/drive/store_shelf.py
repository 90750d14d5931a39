"""Checkpoints in an object store: s3://bucket/prefix/STUDY/trials/t0007/e0003.safetensors, or gs://.

Through pyarrow's file systems. One object is written by one request or one completed upload: a
reader finds the old one or the new one, never half of it. Who may enter is known from the
environment alone (AWS_ACCESS_KEY_ID and its like, ~/.aws, the machine's role), and where the store
is from the address, AWS_ENDPOINT_URL or the region; neither is written anywhere.
"""

from __future__ import annotations

import re
import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from data.one_line import one_line
from search.config.store_url import parse_store_url
from search.drive.checkpoints import NEWEST
from search.drive.file_system import ATTEMPTS, open_file_system
from search.drive.shelf import Shelf, ShelfError, Sizes, scratch

_CHECK_SECONDS, _CHECK_ATTEMPTS = 30.0, 2
_KEY = re.compile(r"t(\d{4,})/e(\d{4,})\.safetensors")
_SAID: tuple[tuple[str, str], ...] = (
    (
        r"NO_SUCH_BUCKET|specified bucket does not exist|bucket was not found",
        "there is no such bucket: make it, or mend `url`",
    ),
    (
        r"ACCESS_DENIED|INVALID_ACCESS_KEY|SIGNATURE|INVALID_CLIENT_TOKEN|HTTP status 40[13]"
        r"|Permanent error.*(40[13]|permission|credential)",
        "it refuses to let us in: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or ~/.aws, or"
        " what gs:// needs) on every node",
    ),
    (
        r"NETWORK_CONNECTION|SERVICE_UNAVAILABLE|SLOW_DOWN|timed? ?out|Could not (connect|resolve)",
        "it does not answer: see the network, `url` and AWS_ENDPOINT_URL",
    ),
)


class StoreShelf(Shelf):
    """The checkpoints of one study below an address in an object store."""

    far = True

    def __init__(self, url: str, study: str, *, owner: str = "", attempts: int = ATTEMPTS) -> None:
        """Use what lies below `url`/`study`.

        Args:
            url: `checkpoints.url`; checked.
            study: The study's name.
            owner: What the store says whose checkpoints these are (`claim`); empty while nobody has
                written any.
            attempts: Of a request, before it is given up.
        """
        self._attempts = attempts
        self._url, self._study, self._owner = url, study, owner
        where = parse_store_url(url)
        self._root, self._place = f"{where.path}/{study}", f"{where}/{study}"
        self._opened: Any = None
        self._known: dict[int, Sizes] = {}

    def __getstate__(self) -> dict[str, Any]:
        # A file system stays in its process: it may hold what lets that one in.
        return self.__dict__ | {"_opened": None, "_known": {}}

    @property
    def place(self) -> str:
        return f"{self._place}/trials"

    @property
    def way(self) -> str:
        return f"checkpoints are written to {self.place}"

    def sizes(self, trial: int) -> Sizes:
        self._known[trial] = self._listed(f"trials/t{trial:04d}").get(trial, {})
        return dict(self._known[trial])

    def all_sizes(self) -> dict[int, Sizes]:
        if not self._owner:
            return {}
        listed = self._listed("trials")
        if listed and self._read_owner() != self._owner:
            raise ShelfError(self._foreign())
        return listed

    @contextmanager
    def writing(self, trial: int, epoch: int) -> Iterator[Path]:
        with scratch() as path:
            yield path
            content = path.read_bytes()
            self._put(self._key(trial, epoch), content)
            known = self._known.get(trial, {}) | {epoch: len(content)}
            self._known[trial] = dict(sorted(known.items(), reverse=True))

    @contextmanager
    def reading(self, trial: int, epoch: int) -> Iterator[Path]:
        with scratch() as path:
            path.write_bytes(self._get(self._key(trial, epoch)))
            yield path

    def discard(self, trial: int, epoch: int) -> None:
        self._known.get(trial, {}).pop(epoch, None)
        with self._asked("cannot delete from"), suppress(FileNotFoundError):
            self._files.delete_file(self._key(trial, epoch))

    def tidy(self, trial: int, *, best_epoch: int | None) -> None:
        # By what this process knows: it alone writes to this trial, and listing is a request more.
        for epoch in [e for e in list(self._known.get(trial, {}))[NEWEST:] if e != best_epoch]:
            self.discard(trial, epoch)

    def check(self) -> None:
        """Write a small object, read it back and delete it.

        Raises:
            ShelfError: That fails, or takes more than half a minute.
        """
        # A request that nobody answers takes 13 seconds, and this process cannot end before it.
        quick = StoreShelf(self._url, self._study, attempts=_CHECK_ATTEMPTS)
        _within(quick._try_out, _CHECK_SECONDS, f"{self._place} does not answer within")

    def refuse_taken(self) -> None:
        """Refuse a place that is taken.

        Raises:
            ShelfError: It holds checkpoints of another study.
        """
        if self._read_owner() or self._listed("trials"):
            raise ShelfError(self._foreign())

    def claim(self) -> None:
        """Take the place for this study: for its owner, as given.

        Raises:
            ShelfError: It holds checkpoints of another study.
        """
        if self._read_owner() != self._owner:
            self.refuse_taken()
            self._put(f"{self._root}/owner", self._owner.encode())

    @property
    def _files(self) -> Any:
        if self._opened is None:
            self._opened = open_file_system(parse_store_url(self._url), self._attempts)
        return self._opened

    def _key(self, trial: int, epoch: int) -> str:
        return f"{self._root}/trials/t{trial:04d}/e{epoch:04d}.safetensors"

    def _foreign(self) -> str:
        return (
            f"{self._place} holds checkpoints of another study of this name: give the study another"
            " --name or checkpoints.url, or delete them"
        )

    def _read_owner(self) -> str:
        try:
            return self._get(f"{self._root}/owner").decode(errors="replace")
        except FileNotFoundError:
            return ""

    def _try_out(self) -> None:
        key, content = f"{self._root}/.check-{secrets.token_hex(8)}", secrets.token_bytes(64)
        self._put(key, content)
        if self._get(key) != content:
            raise ShelfError(f"{self._place} gives back something else than was written there")
        with self._asked("cannot delete from"):
            self._files.delete_file(key)

    def _listed(self, below: str) -> dict[int, Sizes]:
        from pyarrow.fs import FileSelector, FileType

        base = f"{self._root}/trials/"
        where = FileSelector(f"{self._root}/{below}", recursive=True, allow_not_found=True)
        with self._asked("cannot list"):
            objects = self._files.get_file_info(where)
        sizes: dict[int, Sizes] = {}
        for one in objects:
            match = _KEY.fullmatch(one.path.removeprefix(base))
            if match and one.type == FileType.File:
                sizes.setdefault(int(match[1]), {})[int(match[2])] = one.size
        return {trial: dict(sorted(sizes[trial].items(), reverse=True)) for trial in sorted(sizes)}

    def _put(self, key: str, content: bytes) -> None:
        with self._asked("cannot write to"):
            # Not `with`: after an error that would complete an upload of half an object.
            stream = self._files.open_output_stream(key)
            stream.write(content)
            stream.close()

    def _get(self, key: str) -> bytes:
        with self._asked("cannot read from"), self._files.open_input_file(key) as stream:
            return bytes(stream.read())

    @contextmanager
    def _asked(self, what: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise
        except (OSError, ValueError) as error:  # pyarrow's own are of these
            raise ShelfError(f"{what} {self._place}: {_plainly(str(error))}") from error


def _plainly(said: str) -> str:
    for pattern, meaning in _SAID:
        if re.search(pattern, said, re.IGNORECASE):
            return meaning
    return one_line(said.partition("AWS Error ")[2] or said)


def _within(work: Callable[[], None], seconds: float, otherwise: str) -> None:
    """Do something for so long at most: a request that nobody answers has no end of its own."""
    raised: list[BaseException] = []

    def do() -> None:
        try:
            work()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=do, name="store", daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        raise ShelfError(f"{otherwise} {seconds:g} s: see the network, `url` and AWS_ENDPOINT_URL")
    if raised:
        raise raised[0]
