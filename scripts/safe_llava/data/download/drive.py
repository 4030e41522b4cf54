"""Files of Google Drive, through gdown, which knows the pages that stand before large ones.

A file is `https://drive.google.com/file/d/<id>/view`. One in a public folder may also be named by the folder's address
and its name, `https://drive.google.com/drive/folders/<id>/<name>`: its own number is then read off the folder's page.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote, urlsplit

import gdown
import requests
from gdown.exceptions import DownloadError, FileURLRetrievalError

from safe_llava.core.errors import DataError, SafeLlavaError
from safe_llava.core.http import check_proxies
from safe_llava.data.download.meter import metered
from safe_llava.data.download.retries import RetryPolicy
from safe_llava.data.download.room import explain_disk
from safe_llava.data.download.sources import SourceError

FILE_PATH = re.compile(r"^/file/d/(?P<id>[\w-]+)(/.*)?$")
FOLDER_PATH = re.compile(r"^/drive/folders/(?P<id>[\w-]+)/(?P<name>[^/]+)$")
USE_ANOTHER = (
    "open the address in a browser to see what it asks for; where its quota is used up, wait a day (Drive lifts it by "
    "itself), or put the file into a mirror"
)


def download_from_drive(url: str, part: Path, policy: RetryPolicy) -> None:
    """Fetch a file into ``part``; a run that was killed goes on where it stopped.

    Raises:
        SourceError: Drive refuses the file, has none of that name, its quota is used up, or the connection broke.
        DataError: the disk takes no more, or the environment names a proxy that cannot be used.
    """
    check_proxies(DataError)
    path, timeout = urlsplit(url).path, (policy.connect_timeout_s, policy.read_timeout_s)
    if match := FILE_PATH.match(path):
        number = match["id"]
    elif match := FOLDER_PATH.match(path):
        number = _in_folder(match["id"], unquote(match["name"]), timeout)
    else:
        raise SourceError(
            f"{url}: neither a file nor a folder and a name",
            "write it as https://drive.google.com/file/d/<id>/view or https://drive.google.com/drive/folders/<id>/<name>",
        )
    with _explained(), explain_disk(part), metered(None, f"fetch {part.name.removesuffix('.part')}") as count:
        seen = 0

        def received(so_far: int, total: int | None) -> None:
            nonlocal seen
            fresh, seen = max(0, so_far - seen), so_far
            count(fresh)
            if policy.limiter:
                policy.limiter.take(fresh)

        gdown.download(
            id=number,
            output=str(part),
            quiet=True,
            use_cookies=False,
            resume=True,
            timeout=timeout,
            progress=received,
        )


def _in_folder(folder: str, name: str, timeout: tuple[float, float]) -> str:
    with _explained():
        listed = gdown.download_folder(id=folder, quiet=True, use_cookies=False, skip_download=True, timeout=timeout)
    files = {str(one.path): str(one.id) for one in listed or [] if not isinstance(one, str)}
    if name not in files:
        there = ", ".join(sorted(files)) or "none"
        raise SourceError(f"the folder {folder} has no file {name!r} (it has: {there})", "correct the row's `url`")
    return files[name]


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except FileURLRetrievalError as error:
        reason = " ".join(str(error).split())
        raise SourceError(f"Drive does not give the file: {reason}", USE_ANOTHER) from error
    except SafeLlavaError:
        raise
    except (requests.RequestException, DownloadError) as error:
        status = getattr(getattr(error, "response", None), "status_code", 0)
        reason = f"HTTP {status}" if status else f"the connection broke ({type(error).__name__}: {error})"
        raise SourceError(reason, USE_ANOTHER, again=status not in (401, 403, 404, 410)) from error
    except (KeyError, AssertionError, ValueError) as error:  # a page that it does not expect
        raise SourceError(f"Drive's pages are not as gdown knows them ({error!r})", USE_ANOTHER) from error
