"""Files of Google Drive, which gives large ones behind a page that asks whether one is sure.

A file is `https://drive.google.com/file/d/<id>/view`. One in a public folder may also be named by the folder's address
and its name, `https://drive.google.com/drive/folders/<id>/<name>`: its own number is then read off the folder's page.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from html.parser import HTMLParser
from urllib.parse import unquote, urlencode, urljoin, urlsplit

import httpx

from safe_llava.data.download.sources import SourceError
from safe_llava.data.download.web import headers_for, refusal

HOST = "drive.google.com"
DOWNLOAD = "https://drive.usercontent.google.com/download"
FOLDER = "https://drive.google.com/embeddedfolderview"
FILE_PATH = re.compile(r"^/file/d/(?P<id>[\w-]+)(/.*)?$")
FOLDER_PATH = re.compile(r"^/drive/folders/(?P<id>[\w-]+)/(?P<name>[^/]+)$")
PAGE_BYTES = 4_000_000
USE_ANOTHER = "wait a day (Drive lifts it by itself), or put the file into a mirror"


def is_drive(url: str) -> bool:
    """Tell whether an address is one of Drive."""
    return urlsplit(url).hostname == HOST


def locate(url: str, client: httpx.Client) -> str:
    """Return the address that gives a file's bytes now; it may be another the next time.

    Raises:
        SourceError: Drive refuses the file, has none of that name, or its quota is used up.
    """
    path = urlsplit(url).path
    if match := FILE_PATH.match(path):
        number = match["id"]
    elif match := FOLDER_PATH.match(path):
        number = in_folder(match["id"], unquote(match["name"]), client)
    else:
        raise SourceError(
            f"{url}: neither a file nor a folder and a name",
            "write it as https://drive.google.com/file/d/<id>/view or https://drive.google.com/drive/folders/<id>/<name>",
        )
    first = f"{DOWNLOAD}?{urlencode({'id': number, 'export': 'download'})}"
    page = _page(first, client)
    return first if page is None else _confirmed(page, first)


def in_folder(folder: str, name: str, client: httpx.Client) -> str:
    """Return the number of a file in a public folder.

    Raises:
        SourceError: the folder cannot be seen, or has no such file.
    """
    page = _page(f"{FOLDER}?{urlencode({'id': folder})}", client)
    listing = _Listing()
    listing.feed(page or "")
    if name not in listing.files:
        there = ", ".join(sorted(listing.files)) or "none"
        raise SourceError(f"the folder {folder} has no file {name!r} (it has: {there})", "correct the row's `url`")
    return listing.files[name]


def _page(url: str, client: httpx.Client) -> str | None:
    """Return the page that an address gives, or None where it gives a file."""
    try:
        with client.stream("GET", url, headers=headers_for(url)) as response:
            if "text/html" not in response.headers.get("content-type", ""):
                if response.status_code != 200:
                    raise refusal(response)
                return None
            page = _text(response)
    except httpx.HTTPError as error:
        raise SourceError(f"{urlsplit(url).netloc}: {type(error).__name__}: {error}", again=True) from error
    if "quota" in page.lower() or "too many users have viewed or downloaded" in page.lower():
        raise SourceError("Drive's quota for this file is used up: too many people fetched it", USE_ANOTHER)
    if response.status_code != 200:
        raise refusal(response)
    return page


def _text(response: httpx.Response) -> str:
    body = b""
    for chunk in response.iter_bytes():
        body += chunk
        if len(body) > PAGE_BYTES:
            raise SourceError("a page that does not end")
    return body.decode("utf-8", "replace")


def _confirmed(page: str, base: str) -> str:
    """Return the address that the page's form leads to."""
    form = _Form()
    form.feed(page)
    if form.action is None or "id" not in form.fields:
        raise SourceError(
            "an HTML page instead of the file, without the form that leads to it (a login or error page)",
            "open the address in a browser to see what it asks for",
        )
    return f"{urljoin(base, form.action)}?{urlencode(form.fields)}"


class _Form(HTMLParser):
    """The fields of the form that starts a download."""

    def __init__(self) -> None:
        super().__init__()
        self.action: str | None = None
        self.fields: dict[str, str] = {}
        self._inside = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note the form and what is in it."""
        given: Mapping[str, str] = {key: value or "" for key, value in attrs}
        if tag == "form" and given.get("id") == "download-form":
            self.action, self._inside = given.get("action", ""), True
        elif tag == "input" and self._inside and "name" in given:
            self.fields[given["name"]] = given.get("value", "")

    def handle_endtag(self, tag: str) -> None:
        """Leave the form."""
        if tag == "form":
            self._inside = False


class _Listing(HTMLParser):
    """Names and numbers of the files of a folder: each entry is a link, and a title within it."""

    def __init__(self) -> None:
        super().__init__()
        self.files: dict[str, str] = {}
        self._number: str | None = None
        self._title = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note the link of an entry, and where its title begins."""
        given = {key: value or "" for key, value in attrs}
        if tag == "a" and (match := FILE_PATH.match(urlsplit(given.get("href", "")).path)):
            self._number = match["id"]
        self._title = self._title or "flip-entry-title" in given.get("class", "").split()

    def handle_data(self, data: str) -> None:
        """Note the title of the entry."""
        if self._title and self._number and data.strip():
            self.files[data.strip()] = self._number
            self._number, self._title = None, False
