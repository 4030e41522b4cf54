"""What servers say of the files that a configuration needs, without fetching any: sizes, and the hub's checksums."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import httpx2

from safe_llava.config.data import (
    DEFAULT_REVISION,
    Pin,
    ResolvedFile,
    ResolvedSet,
    ResolvedSnapshot,
    hub_repository,
    pin_key,
)
from safe_llava.data.download import hub, sources
from safe_llava.data.download.repository import COMMIT, Listed, list_repository
from safe_llava.data.download.retries import RetryPolicy, retried
from safe_llava.data.download.sources import Mirror, SourceError
from safe_llava.data.download.web import check_body, client_for, explain_broken, headers_for

logger = logging.getLogger(__name__)


@dataclass
class Seen:
    """Files and commits that were seen, each with the set that it belongs to; files by their key in the pins.

    ``unanswered`` says for which sets nobody gave an answer, and why.
    """

    pins: dict[str, tuple[str, Pin]] = field(default_factory=dict)
    revisions: dict[str, tuple[str, str]] = field(default_factory=dict)
    unanswered: list[str] = field(default_factory=list)

    def add(self, name: str, url: str, pin: Pin, commit: str = "unknown") -> None:
        """Note a file.

        Where the hub said which commit it served, the file is noted under that commit's address, too: that is what
        the address becomes once the commit is pinned.
        """
        self.pins[pin_key(url)] = (name, pin)
        repository = hub_repository(url)
        moving = f"/resolve/{DEFAULT_REVISION}/"
        if repository is None or not COMMIT.fullmatch(commit) or moving not in url:
            return
        known = self.revisions.setdefault(repository, (name, commit))[1]
        if known != commit:
            logger.warning(
                "%s: files of two commits are here, %s and %s; the first is pinned", repository, known, commit
            )
            return
        self.pins[pin_key(url.replace(moving, f"/resolve/{commit}/", 1))] = (name, pin)


def ask(sets: Sequence[ResolvedSet], mirrors: Sequence[Mirror], policy: RetryPolicy, origin: bool = True) -> Seen:
    """Ask for every file of some sets; what nobody answers for is named and left out."""
    seen = Seen()
    sources_ = [*mirrors, *([None] if origin else [])]
    listings: dict[str, tuple[str, dict[str, Listed]]] = {}
    for dataset in sets:
        try:
            if dataset.snapshot:
                _snapshot(dataset.snapshot, sources_, policy, seen)
            for file in dataset.files:
                _file(file, sources_, policy, listings, seen)
        except SourceError as error:
            logger.warning("%s: %s: stays unknown", dataset.set, error.reason)
            seen.unanswered.append(f"{dataset.set}: nobody could be asked: {error.reason}")
    return seen


def _snapshot(row: ResolvedSnapshot, asked: Sequence[Mirror | None], policy: RetryPolicy, seen: Seen) -> None:
    commit, listed = _listing(row, asked, policy)
    for one in listed:
        if isinstance(one.size, int):
            seen.add(row.set, row.url(one.path), Pin(size=one.size, sha256=one.sha256), commit)


def _listing(row: ResolvedSnapshot, asked: Sequence[Mirror | None], policy: RetryPolicy) -> tuple[str, list[Listed]]:
    failed: list[SourceError] = []
    for source in asked:
        if source is not None and source.folder is not None:
            continue  # a folder says nothing that its files do not say better
        try:
            return list_repository(source, row, policy)
        except SourceError as error:
            failed.append(error)
    raise failed[-1] if failed else SourceError("nobody to ask")


def _file(
    file: ResolvedFile,
    asked: Sequence[Mirror | None],
    policy: RetryPolicy,
    listings: dict[str, tuple[str, dict[str, Listed]]],
    seen: Seen,
) -> None:
    repository = hub_repository(file.url)
    if repository is None:
        seen.add(file.set, file.url, Pin(size=_length(file, asked, policy), sha256="unknown"))
        return
    revision, _, path = file.url.split("/resolve/", 1)[1].partition("/")
    if f"{repository}@{revision}" not in listings:
        row = ResolvedSnapshot(
            set=file.set,
            repo=repository.removeprefix("datasets/"),
            repo_type="dataset" if repository.startswith("datasets/") else "model",
            revision=revision,
            path="x",
        )
        commit, listed = _listing(row, asked, policy)
        listings[f"{repository}@{revision}"] = commit, {one.path: one for one in listed}
    commit, files = listings[f"{repository}@{revision}"]
    if path not in files or not isinstance(files[path].size, int):
        raise SourceError(f"{repository} has no file {path}")
    seen.add(file.set, file.url, Pin(size=int(files[path].size), sha256=files[path].sha256), commit)


def _length(file: ResolvedFile, asked: Sequence[Mirror | None], policy: RetryPolicy) -> int:
    """Return the length that a server gives in answer to a request for the headers alone."""
    roots = [source for source in asked if source is not None]
    last = SourceError("nobody to ask")
    for source in sources.candidates(file.url, [], roots, None in asked):
        if isinstance(source, Path) or sources.is_drive(source):
            continue
        try:
            return retried(partial(_head, source, policy), policy, source)
        except SourceError as error:
            last = error
    raise last


def _head(url: str, policy: RetryPolicy) -> int:
    url = hub.at_endpoint(url)
    try:
        with client_for(policy) as client:
            response = client.head(url, headers=headers_for(url))
    except httpx2.HTTPError as error:
        raise explain_broken(error, url, 0, None) from error
    check_body(response)
    length = response.headers.get("content-length", "")
    if not length.isdigit():
        raise SourceError("the server does not say how long the file is")
    return int(length)
