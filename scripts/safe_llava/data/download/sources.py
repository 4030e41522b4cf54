"""Where a file may be had from: mirrors in the order given, then its origin."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from safe_llava.core.errors import DataError

DRIVE = "drive.google.com"
MIRRORS_VARIABLE = "SAFE_LLAVA_MIRRORS"
USE_A_MIRROR = (
    f"name a folder or address laid out as `<host>/<path>` in `mirrors:` of the configuration or in {MIRRORS_VARIABLE}"
)


class SourceError(Exception):
    """One source could not give the file.

    Args:
        reason: why, for the list of sources that were tried.
        remedy: what the user can do about it, besides naming a mirror.
        again: whether another try of the same source may help.
        unreachable: whether nothing answered at all; such a source is given up early.
        retry_after: seconds that the server asked to wait.
    """

    def __init__(
        self, reason: str, remedy: str = "", *, again: bool = False, unreachable: bool = False, retry_after: float = 0.0
    ) -> None:
        super().__init__(reason)
        self.reason, self.remedy = reason, remedy
        self.again, self.unreachable, self.retry_after = again, unreachable, retry_after


def is_drive(url: str) -> bool:
    """Tell whether an address is one of Google Drive."""
    return urlsplit(url).hostname == DRIVE


@dataclass(frozen=True)
class Mirror:
    """A folder or an address under which files lie as `<host>/<path of the URL>`."""

    root: str

    @property
    def folder(self) -> Path | None:
        """The folder, or None for an address."""
        if self.root.startswith(("http://", "https://")):
            return None
        return Path(self.root.removeprefix("file://"))

    def locate(self, url: str) -> Path | str:
        """Return where this mirror has what `url` gives: a path, or an address."""
        parts = urlsplit(url)
        if self.folder is None:
            query = f"?{parts.query}" if parts.query else ""
            return f"{self.root.rstrip('/')}/{parts.netloc}{parts.path}{query}"
        path = unquote(parts.path)
        if ".." in path.split("/"):
            raise SourceError(f"{url}: its path has `..`")
        return self.folder / parts.netloc / path.lstrip("/")


def mirrors(flags: Iterable[str], environment: Mapping[str, str] = os.environ) -> list[Mirror]:
    """Return the mirrors of the command line, then those of the environment.

    The variable holds folders and addresses separated by commas or white space (addresses contain
    colons, so the usual separator of paths cannot be used); a folder with a blank in its name can
    only be given on the command line or in the configuration.

    Raises:
        DataError: a mirror is a folder that does not exist; falling back on the origin would hide it.
    """
    found = [(root, "the mirrors of the configuration") for root in flags]
    found += [(root, MIRRORS_VARIABLE) for root in re.split(r"[,\s]+", environment.get(MIRRORS_VARIABLE, "")) if root]
    result = []
    for root, origin in found:
        mirror = Mirror(root)
        if mirror.folder is not None and not mirror.folder.is_dir():
            raise DataError(
                f"{root}: {origin} names this folder as a mirror, and it does not exist",
                "correct its path (relative ones start at the working directory), mount it, or take it off the list",
            )
        if mirror not in result:
            result.append(mirror)
    return result


def candidates(url: str, copies: Iterable[str], roots: Iterable[Mirror], origin: bool = True) -> Iterator[Path | str]:
    """Yield where to ask for a file: each mirror, then, unless only mirrors may be asked, its copies and its origin."""
    for root in roots:
        yield root.locate(url)
    if origin:
        yield from copies
        yield url


def shown(source: Path | str) -> str:
    """Return a source for logs and receipts, without the name and password that an address may carry."""
    return re.sub(r"(^|(?<=://))[^/@\s]*@", "", str(source))


def all_failed(what: str, tried: list[tuple[str, SourceError]]) -> DataError:
    """Return the one error that names every source tried, why it failed, and the remedies."""
    lines = "".join(f"\n  - {source}: {error.reason}" for source, error in tried)
    remedies = dict.fromkeys(error.remedy for _, error in tried if error.remedy) | {USE_A_MIRROR: None}
    return DataError(f"{what} could not be fetched; tried in order:{lines}", "\n    or ".join(remedies))
