"""Fetch the covers of OCR-VQA: `python -m safe_llava.data.ocr_vqa --dataset dataset.json --root DIR --to ocr_vqa/images
--out RECEIPT.json`.

The data set itself is a list that names an address for each book cover. Covers are fetched many at once; a run that was
stopped is resumed: it asks for those that are not here. Whatever format a cover has, it becomes the JPEG
`<number>.jpg` that the annotations name. What is gone for good is listed in a CSV beside the folder, and not asked for
again.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import re
import warnings
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import httpx2

from safe_llava.core import cli
from safe_llava.core.errors import DataError
from safe_llava.core.files import atomic_path, file_digest, read_json, write_json
from safe_llava.core.locks import only_one
from safe_llava.core.progress import Progress
from safe_llava.data.download import sources
from safe_llava.data.download.files import lock_path
from safe_llava.data.download.flags import add_source_flags, sources_of
from safe_llava.data.download.retries import RetryPolicy, retried
from safe_llava.data.download.room import explain_disk
from safe_llava.data.download.sources import Mirror, SourceError
from safe_llava.data.download.web import check_body, client_for, explain_broken, headers_for
from safe_llava.formats.tables import read_table, write_table
from safe_llava.images.jpeg import as_jpeg, needs_jpeg
from safe_llava.images.pixels import UndecodableError
from safe_llava.images.reader import read_rgb

logger = logging.getLogger(__name__)
GONE_SUFFIX = ".gone.csv"
GONE_STATUSES = frozenset({400, 401, 403, 404, 410})
LARGEST_COVER = 50_000_000
# Fetched and not yet written, for each connection.
WAITING = 4
# A network that lets nothing through must not be written down as covers that are gone.
ENOUGH_TO_JUDGE = 100
MOST_GONE = 0.5
NAMED = 3


@dataclass(frozen=True)
class Cover:
    """A cover and what became of it: its bytes as JPEG, or why it is gone, or why it may come later."""

    number: str
    url: str
    content: bytes = b""
    gone: str = ""
    later: str = ""


@dataclass(frozen=True)
class GoneCover:
    """A row of the list of covers that are gone for good."""

    number: str
    url: str
    reason: str


@dataclass
class CoverSources:
    """Where covers are asked for, and how."""

    mirrors: Sequence[Mirror]
    policy: RetryPolicy
    origin: bool

    @cached_property
    def client(self) -> httpx2.Client:
        """The client that asks for all of them; none is made where only folders are read."""
        return client_for(self.policy, limits=httpx2.Limits(max_connections=self.policy.connections))


def read_list(path: Path) -> dict[str, str]:
    """Return the address of each cover by its number.

    Raises:
        DataError: the file is not the list of OCR-VQA, or a number could not be a file's name.
    """
    tree = read_json(path, "fetch it again")
    remedy = "fetch the dataset.json of OCR-VQA again"
    if not isinstance(tree, dict) or not tree:
        raise DataError(f"{path}: not an object of covers by number", remedy)
    for number, row in tree.items():
        if not re.fullmatch(r"\w+", number):
            raise DataError(f"{path}: row {number!r}: not a number that can name a file", remedy)
        url = row.get("imageURL") if isinstance(row, dict) else None
        if not isinstance(url, str) or not url.startswith(("http://", "https://")):
            raise DataError(f"{path}: row {number}: no web address in `imageURL`", remedy)
    return {number: row["imageURL"] for number, row in tree.items()}


def fetch_covers(dataset: Path, target: Path, where: CoverSources) -> dict[str, object]:
    """Make sure that every cover that can be had is in the folder, and return the receipt.

    Raises:
        DataError: some may come later (run it again), or so many are gone that the network must be at fault.
    """
    covers = read_list(dataset)
    target.mkdir(parents=True, exist_ok=True)
    with only_one(lock_path(target), DataError):
        for stale in target.glob(".*.part"):  # of a run that was killed; nobody else is at it
            stale.unlink()
        gone = read_gone(target)
        wanted = [(n, url) for n, url in covers.items() if n not in gone and not cover_path(target, n).exists()]
        later = _fetch_all(wanted, target, where, gone) if wanted else []
        write_table(gone_path(target), GoneCover, (gone[number] for number in covers if number in gone))
    if later:
        names = "; ".join(f"{cover.number}: {cover.later}" for cover in later[:NAMED])
        raise DataError(
            f"{target}: {len(later):,} covers could not be fetched now ({names})",
            "run the same command later: it asks only for those",
        )
    missing = [number for number in covers if number in gone]
    if missing:
        logger.warning("%d covers are gone; %s lists them", len(missing), gone_path(target))
    return {
        "to": target.name,
        "dataset": file_digest(dataset),
        "covers": len(covers),
        "files": len(covers) - len(missing),
        "gone": len(missing),
    }


def cover_path(target: Path, number: str) -> Path:
    """Return the place of a cover: annotations name every one `.jpg`."""
    return target / f"{number}.jpg"


def _fetch_all(
    wanted: Sequence[tuple[str, str]], target: Path, where: CoverSources, gone: dict[str, GoneCover]
) -> list[Cover]:
    """Fetch and write covers; note what is gone in ``gone`` and return what may come later."""
    later: list[Cover] = []
    progress = Progress(len(wanted), "covers", "covers")
    fresh = 0
    try:
        for done, cover in enumerate(_stream(wanted, where), start=1):
            if cover.content:
                with explain_disk(target), atomic_path(cover_path(target, cover.number)) as path:
                    path.write_bytes(cover.content)
            elif cover.gone:
                gone[cover.number] = GoneCover(cover.number, cover.url, cover.gone)
                fresh += 1
            else:
                later.append(cover)
            progress.update()
            _judge(cover, done, fresh, len(later))
    finally:
        progress.close()
    return later


def _judge(cover: Cover, done: int, gone: int, later: int) -> None:
    if done >= ENOUGH_TO_JUDGE and gone + later > MOST_GONE * done:
        raise DataError(
            f"{gone + later:,} of {done:,} covers could not be had, the last because of: {cover.gone or cover.later}",
            "a proxy or the host refuses this machine: use the archive of the committed row, or another network",
        )


def _stream(wanted: Sequence[tuple[str, str]], where: CoverSources) -> Iterator[Cover]:
    """Fetch several at once and yield them in order; no more are held than a few for each connection."""
    jobs = where.policy.connections
    queue: deque[Future[Cover]] = deque()
    with ThreadPoolExecutor(jobs) as pool:
        try:
            rows = iter(wanted)
            for number, url in itertools.islice(rows, jobs * WAITING):
                queue.append(pool.submit(one, number, url, where))
            while queue:
                yield queue.popleft().result()
                for number, url in itertools.islice(rows, 1):
                    queue.append(pool.submit(one, number, url, where))
        finally:
            for future in queue:
                future.cancel()


def one(number: str, url: str, where: CoverSources) -> Cover:
    """Fetch one cover from the first source that has it."""
    reasons = []
    for source in sources.candidates(url, [], where.mirrors, where.origin):
        try:
            content = _read(source, where) if isinstance(source, Path) else _ask(source, where)
            return Cover(number, url, content=as_cover(content))
        except SourceError as error:
            reasons.append(error)
    if any(error.again or error.unreachable for error in reasons):
        return Cover(number, url, later="; ".join(error.reason for error in reasons))
    return Cover(number, url, gone="; ".join(error.reason for error in reasons))


def _read(path: Path, where: CoverSources) -> bytes:
    if not path.is_file():
        # What only mirrors may give is gone when they do not have it; else the origin is asked next.
        raise SourceError("not in the mirror", again=False)
    return path.read_bytes()


def _ask(url: str, where: CoverSources) -> bytes:
    return retried(lambda: _get(url, where), where.policy, url)


def _get(url: str, where: CoverSources) -> bytes:
    body = b""
    try:
        with where.client.stream("GET", url, headers=headers_for(url)) as response:
            if response.status_code in GONE_STATUSES:
                raise SourceError(f"HTTP {response.status_code} {response.reason_phrase}".strip())
            check_body(response)
            for chunk in response.iter_raw():
                body += chunk
                if len(body) > LARGEST_COVER:
                    raise SourceError("larger than any cover")
                if where.policy.limiter:
                    where.policy.limiter.take(len(chunk))
    except httpx2.HTTPError as error:
        raise explain_broken(error, url, len(body), None) from error
    except (httpx2.InvalidURL, httpx2.StreamError) as error:
        raise SourceError(f"{type(error).__name__}: {error}") from error
    return body


def as_cover(content: bytes) -> bytes:
    """Return a cover as JPEG: as it is if it is one, else the first frame on white.

    Raises:
        SourceError: it cannot be decoded, or is the single pixel that shops send for what they no longer have.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            size = read_rgb(content).size
    except UndecodableError as error:
        raise SourceError(f"not an image that can be decoded ({error})") from error
    if size == (1, 1):
        raise SourceError("a single pixel in place of the cover")
    return (as_jpeg(content) or b"") if needs_jpeg("cover.jpg", content) else content


def gone_path(target: Path) -> Path:
    """Return the list of what is gone: beside the folder."""
    return target.with_name(target.name + GONE_SUFFIX)


def read_gone(target: Path) -> dict[str, GoneCover]:
    """Return the covers that are gone, by their numbers."""
    path, remedy = gone_path(target), "delete it: they are asked for again"
    rows = read_table(path, GoneCover, DataError, remedy, may_be_empty=True) if path.is_file() else []
    return {row.number: row for row in rows}


def main(argv: Sequence[str] | None = None) -> int | None:
    """Fetch the covers."""
    parser = argparse.ArgumentParser(description="Fetch every cover that OCR-VQA's list names.")
    parser.add_argument("--dataset", type=Path, required=True, help="the list: OCR-VQA's dataset.json")
    parser.add_argument("--root", type=Path, required=True, help="folder of all data")
    parser.add_argument("--to", required=True, help="folder under --root that receives the covers")
    parser.add_argument("--out", type=Path, required=True, help="where to write the receipt")
    parser.add_argument("--ask-again", action="store_true", help="ask for covers that are listed as gone, too")
    add_source_flags(parser)
    args = parser.parse_args(argv)
    target, where = args.root / args.to, CoverSources(*sources_of(args, args.root), origin=not args.mirrors_only)
    if args.ask_again:
        gone_path(target).unlink(missing_ok=True)
    write_json(args.out, fetch_covers(args.dataset, target, where) | {"to": args.to})
    return None


if __name__ == "__main__":
    cli.run(main)
