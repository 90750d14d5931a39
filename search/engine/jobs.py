"""Commands of ours on a cluster from any machine: as jobs of Ray, with the cluster's token.

What is sent is our code and, for a new study, its study file. The command runs on the head, next to
its studies; this machine may be switched off meanwhile. Source: Ray Jobs API, REST, version 2.60.
"""

from __future__ import annotations

import logging
import os
import secrets
import shlex
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import requests
from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

from data.one_line import one_line
from search.engine.cluster import BEGINS, PACKAGES, worker_variables
from search.machine.slots import CHECKOUT
from search.study_error import StudyError

RUNS = "FASHION_SEARCH_RUNS"
"""Environment variable of the head: its folder of studies, where a command names none."""
_HOME = "fashion-search"  # that folder, in the home folder, where neither names one
_STUDY = "fashion_search_study"  # metadata of a job
_REQUEST_SECONDS = 30.0
_POLL_SECONDS = 0.5
_FIRST = "fashion-search begins"  # Ray's own lines come before
_RAYS = "Running entrypoint for job"  # but this one
_OVER = {JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.STOPPED}


class _Client(JobSubmissionClient):
    """Ray's client, that does not wait for ever on a machine that is gone."""

    def _do_request(self, method: str, endpoint: str, **options: Any) -> requests.Response:
        options.setdefault("timeout", _REQUEST_SECONDS)
        return super()._do_request(method, endpoint, **options)


class Jobs:
    """The jobs of a cluster that are commands of ours."""

    def __init__(self, address: str) -> None:
        """Connect.

        Args:
            address: Of the head's dashboard, `http://HOST:8265`.

        Raises:
            StudyError: There is none, or it refuses.
        """
        if not address.startswith(("http://", "https://")):
            raise StudyError(
                f"--address {address} is not of the form http://HOST:8265, where the head's"
                " dashboard answers (`ray dashboard cluster.yaml` brings it to this machine)"
            )
        self.address = address.rstrip("/")
        logging.getLogger("ray").setLevel(logging.ERROR)  # how it packs is nobody's business
        if "RAY_AUTH_MODE" not in os.environ and _has_token():
            os.environ["RAY_AUTH_MODE"] = "token"
        with self._told("nothing was begun"):
            self._client = _Client(self.address)

    def begin(
        self,
        study: str,
        words: Sequence[str],
        runs: str | None,
        files: Mapping[str, str] | None = None,
    ) -> str:
        """Start a command that works on a study, and return the job's id.

        Args:
            study: Its name.
            words: Of the command, without --runs.
            runs: Folder of studies on the head.
            files: Texts that the command finds in its working folder, by name.

        Raises:
            StudyError: Another job works on the study, or the cluster fails; then nothing was
                begun.
        """
        with self._told("nothing was begun"):
            for job in self._of(study):
                if job.status not in _OVER:
                    raise StudyError(
                        f"{study} is being worked on by job {job.submission_id} of"
                        f" {self.address}; `stop {study} --address {self.address}` ends that"
                    )
        with self._told(f"whether {study} was begun is not known; ask `status {study}`"):
            return self._start(words, runs, files or {}, {_STUDY: study}, f"{study}-")

    def wait_until_begun(self, job: str, study: str, say: Callable[[str], None]) -> bool:
        """Show what a job says until its search has begun; return False if all is done by then.

        Raises:
            StudyError: It has failed before; the line that it gave.
        """
        known = f"whether {study} was begun is not known; ask `status {study}` when it is back"
        told = ""
        with self._told(known):
            for text in self._follow(job):
                for line in (told + text).splitlines(keepends=True):
                    if line.endswith("\n") and not line.startswith("error:"):
                        say(line.rstrip())
                if BEGINS in told + text:
                    return True
                told = (told + text).rpartition("\n")[2]
            self._raise_for(job)
            return False

    def said(self, words: Sequence[str], runs: str | None) -> Iterator[str]:
        """Run a command to its end and yield what it prints, as it comes.

        Raises:
            StudyError: It failed; the line that it gave.
        """
        with self._told("nothing was changed here"):
            job = self._start(words, runs, {}, {}, "fashion-search-")
            try:
                yield from self._follow(job)
            except BaseException:
                self._client.stop_job(job)
                raise
            self._raise_for(job)

    @contextmanager
    def running(self, words: Sequence[str], runs: str | None) -> Iterator[Iterator[str]]:
        """Run a command for the length of a block, which is given what it prints."""
        with self._told("nothing was changed here"):
            job = self._start(words, runs, {}, {}, "fashion-search-")
            try:
                yield self._follow(job, and_fail=True)
            finally:
                self._client.stop_job(job)

    def logs(self, study: str, *, follow: bool) -> Iterator[str]:
        """Yield what the last job of a study has printed; with `follow`, until it ends.

        Raises:
            StudyError: No job of this cluster has worked on the study.
        """
        with self._told("the study goes on without us"):
            jobs = self._of(study)
            if not jobs:
                raise StudyError(
                    f"no job of the cluster at {self.address} has worked on {study} since it was"
                    f" started; `status {study} --address {self.address}` reads its record"
                )
            job = str(jobs[-1].submission_id)
            if follow:
                yield from self._follow(job)
            else:
                yield _ours(self._client.get_job_logs(job))

    def download(self, node: str, name: str) -> Iterator[bytes]:
        """Yield the content of a file among the logs of a node.

        Raises:
            StudyError: It does not come.
        """
        with self._told("nothing was changed here"):
            query = {"node_id": node, "filename": name, "lines": "-1", "download_filename": name}
            answer = self._client._do_request("GET", "/api/v0/logs/file", params=query, stream=True)
            if answer.status_code != 200:
                raise StudyError(f"{self.address} does not give {name}: {one_line(answer.text)}")
            yield from answer.iter_content(1 << 20)

    def _of(self, study: str) -> list[JobDetails]:
        found = [j for j in self._client.list_jobs() if (j.metadata or {}).get(_STUDY) == study]
        return sorted(found, key=lambda job: job.start_time or 0)

    def _start(
        self,
        words: Sequence[str],
        runs: str | None,
        files: Mapping[str, str],
        metadata: dict[str, str],
        prefix: str,
    ) -> str:
        command = f"python -m search {shlex.join(words)} --runs {head_folder(runs)}"
        with TemporaryDirectory(prefix="fashion-search-job-") as place:
            for package in PACKAGES:
                skipped = shutil.ignore_patterns("__pycache__")
                shutil.copytree(CHECKOUT / package, Path(place) / package, ignore=skipped)
            for name, text in files.items():
                (Path(place) / name).write_text(text, encoding="utf-8")
            return self._client.submit_job(
                entrypoint=f"echo {shlex.quote(_FIRST)}; exec {command}",
                submission_id=f"{prefix}{secrets.token_hex(4)}",
                runtime_env={
                    "working_dir": place,
                    "env_vars": worker_variables() | {"PYTHONUNBUFFERED": "1"},
                },
                metadata=metadata,
            )

    def _follow(self, job: str, *, and_fail: bool = False) -> Iterator[str]:
        """Yield what a job prints as it comes, until it has ended."""
        seen = 0
        while True:
            over = self._client.get_job_status(job) in _OVER
            text = _ours(self._client.get_job_logs(job))
            if len(text) > seen:
                yield text[seen:]
                seen = len(text)
            if over:
                if and_fail:
                    self._raise_for(job)
                return
            time.sleep(_POLL_SECONDS)

    def _raise_for(self, job: str) -> None:
        info = self._client.get_job_info(job)
        if info.status == JobStatus.SUCCEEDED:
            return
        lines = _ours(self._client.get_job_logs(job)).splitlines()
        said = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
        if said:
            raise StudyError(said[-1])
        last = next((line for line in reversed(lines) if line.strip()), info.message or "")
        raise StudyError(f"the command failed on the cluster ({info.status}): {one_line(last)}")

    @contextmanager
    def _told(self, consequence: str) -> Iterator[None]:
        try:
            yield
        except AuthenticationError:
            given = "is not the cluster's" if _has_token() else "is missing"
            raise StudyError(
                f"{self.address} asks for a token, and this machine's {given}; put the head's"
                f" ~/.ray/auth_token into ~/.ray/auth_token here; {consequence}"
            ) from None
        except (requests.RequestException, ConnectionError) as error:
            raise StudyError(
                f"the cluster at {self.address} does not answer ({_short(error)}); {consequence}"
            ) from None
        except RuntimeError as error:
            raise StudyError(
                f"the cluster at {self.address} failed: {_short(error)}; {consequence}"
            ) from None


def _has_token() -> bool:
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    return bool(os.environ.get("RAY_AUTH_TOKEN")) or path.is_file()


def head_folder(runs: str | None) -> str:
    """Return a folder of the head, of studies, as its shell is to be given it.

    Raises:
        StudyError: It is no whole path.
    """
    if runs is None:
        return f'"${{{RUNS}:-$HOME/{_HOME}}}"'
    if runs.startswith("~/"):
        return f'"$HOME"/{shlex.quote(runs[2:])}'
    if not runs.startswith("/"):
        raise StudyError(f"--runs {runs} is a folder of the head: give its whole path, or ~/...")
    return shlex.quote(runs)


def _ours(text: str) -> str:
    """Return what the command itself has printed."""
    lines = text.partition(f"{_FIRST}\n")[2].splitlines(keepends=True)
    return "".join(line for line in lines if not line.startswith(_RAYS))


def _short(error: Exception) -> str:
    reason = one_line(str(error))
    return reason if len(reason) <= 160 else f"{reason[:157]}..."
