"""Fetch one repository of the Hugging Face hub as a folder.

Mirrors are asked in order, then the hub (or the endpoint that HF_ENDPOINT names). The hub's own client says what a
commit holds; the bytes come as those of any file, so that they are resumed after a kill, and kept below a rate.
They are gathered in a folder beside the target, which is renamed when every one of them is there and verified.
"""

from __future__ import annotations

import fnmatch
import json
import logging
import re
import shutil
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx2  # what the hub's client raises
from huggingface_hub import HfApi, RepoFile, constants
from huggingface_hub.errors import HfHubHTTPError

from safe_llava.checkpoints.whole import BESIDE, PICKLES, check_folder, file_fault, other_kind
from safe_llava.config.data import ResolvedSnapshot
from safe_llava.core.errors import CheckpointError, DataError
from safe_llava.core.files import read_json, write_json, write_text
from safe_llava.core.locks import only_one
from safe_llava.data.download import hub, receipts, sources, transfer
from safe_llava.data.download.files import lock_path
from safe_llava.data.download.retries import RetryPolicy, retried
from safe_llava.data.download.room import explain_disk
from safe_llava.data.download.sources import Mirror, SourceError
from safe_llava.data.download.web import TRANSIENT_STATUSES

logger = logging.getLogger(__name__)
SNAPSHOT_SUFFIX = ".snapshot.json"
COMMIT_STAMP = ".commit"
COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Listed:
    """A file as its source lists it; what the source does not say is `unknown`.

    Large files have a sha256, small ones the name of their blob in git.
    """

    path: str
    size: int | str = "unknown"
    sha256: str = "unknown"
    git_id: str = "unknown"


def fetch_repository(
    row: ResolvedSnapshot, target: Path, mirrors: Sequence[Mirror], policy: RetryPolicy, origin: bool = True
) -> dict[str, Any]:
    """Make sure that ``target`` holds the repository that ``row`` describes, and return its receipt.

    Raises:
        DataError: no source gave it whole, or the folder is somebody else's.
    """
    with explain_disk(target):
        target.parent.mkdir(parents=True, exist_ok=True)
    note = target.with_name(target.name + SNAPSHOT_SUFFIX)
    staging = target.with_name(f".{target.name}.part")
    with explain_disk(target), only_one(lock_path(target), DataError):
        receipt = standing(target, row)
        if receipt:
            logger.info("%s: already here", target)
            return receipt
        if target.exists() and not note.exists():
            raise DataError(
                f"{target} is there and was not fetched by this workflow",
                "move it away, or put its files into a mirror folder as "
                f"`huggingface.co/{row.prefix}/resolve/{row.revision}/`",
            )
        tried: list[tuple[str, SourceError]] = []
        for source in [*mirrors, *([None] if origin else [])]:
            try:
                commit, listed = _gather(source, row, staging, policy)
                receipt = _receipt(row, commit, sources.shown(_name(source)), _verify(row, listed, staging))
            except SourceError as error:
                logger.warning("%s: %s", sources.shown(_name(source)), error.reason)
                tried.append((sources.shown(_name(source)), error))
                continue
            _put_in_place(staging, target, note, receipt)
            return receipt
    raise sources.all_failed(f"{row.repo} (set {row.set})", tried)


def _name(source: Mirror | None) -> str:
    return source.root if source else hub.endpoint()


def _gather(
    source: Mirror | None, row: ResolvedSnapshot, staging: Path, policy: RetryPolicy
) -> tuple[str, list[Listed]]:
    """Bring the wanted files into ``staging``; return the commit and what the source says of each file."""
    if source is not None and source.folder is not None:
        return _copy(source.folder, row, staging)
    commit, listed = list_repository(source, row, policy)
    _begin(staging, commit)
    base = _endpoint(source) or hub.endpoint()
    for one in listed:
        target = staging / one.path
        if target.is_file() and target.stat().st_size == one.size:
            continue  # its bytes are looked at when all are there
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(target.name + ".part")
        url = f"{base}/{row.prefix}/resolve/{commit}/{quote(one.path)}"
        transfer.download(url, part, policy, verified_later=one.sha256 != "unknown")
        part.replace(target)
        transfer.discard(part)
    return commit, listed


def list_repository(source: Mirror | None, row: ResolvedSnapshot, policy: RetryPolicy) -> tuple[str, list[Listed]]:
    """Return the commit that the revision is, and what the hub, or an address that stands for it, says of each file.

    Raises:
        SourceError: it cannot be asked, or has nothing that is wanted.
    """
    return retried(lambda: _list(_endpoint(source), row, policy), policy, row.repo)


def _endpoint(source: Mirror | None) -> str | None:
    return None if source is None else f"{source.root.rstrip('/')}/huggingface.co"


def _begin(staging: Path, commit: str) -> None:
    """Empty the folder unless what it holds is of this commit."""
    stamp = staging / COMMIT_STAMP
    if not stamp.is_file() or stamp.read_text(encoding="utf-8") != commit:
        shutil.rmtree(staging, ignore_errors=True)
        write_text(stamp, commit)


def _copy(mirror: Path, row: ResolvedSnapshot, staging: Path) -> tuple[str, list[Listed]]:
    base = mirror / hub.HUB_HOST
    folder = base / row.prefix / "resolve" / row.revision
    if not folder.is_dir():
        raise SourceError(f"not in the mirror ({folder} is missing)")
    listing = base / "api" / f"{row.repo_type}s" / row.repo / "revision" / row.revision
    there = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    commit, files = row.revision if COMMIT.fullmatch(row.revision) else "unknown", there
    if listing.is_file():
        try:
            info = json.loads(listing.read_text(encoding="utf-8"))
            commit, files = info["sha"], [one["rfilename"] for one in info["siblings"]]
        except (ValueError, KeyError, TypeError) as error:
            raise SourceError(f"{listing} is not a listing of the hub's form", "correct or delete it") from error
    wanted = _wanted(files, row)
    if absent := sorted(set(wanted) - set(there)):
        raise SourceError(f"{len(absent)} files are missing in the mirror ({absent[0]})", "fill the mirror")
    shutil.rmtree(staging, ignore_errors=True)
    for name in wanted:
        part = staging / name
        part.parent.mkdir(parents=True, exist_ok=True)
        transfer.copy_file(folder / name, part)
    said = _tree(base / "api" / f"{row.repo_type}s" / row.repo / "tree" / row.revision)
    return commit, [said.get(name) or Listed(name, (folder / name).stat().st_size) for name in wanted]


def _tree(path: Path) -> dict[str, Listed]:
    """Read what the hub said of each file, where the mirror keeps it."""
    if not path.is_file():
        return {}
    try:
        rows = [row for row in json.loads(path.read_text(encoding="utf-8")) if row["type"] == "file"]
        return {
            row["path"]: Listed(row["path"], row["size"], row["lfs"]["oid"])
            if row.get("lfs")
            else Listed(row["path"], row["size"], git_id=row["oid"])
            for row in rows
        }
    except (ValueError, KeyError, TypeError) as error:
        raise SourceError(f"{path} is not a listing of the hub's form", "correct or delete it") from error


def _list(endpoint: str | None, row: ResolvedSnapshot, policy: RetryPolicy) -> tuple[str, list[Listed]]:
    """Ask which commit the revision is, and what of it is wanted."""
    if constants.is_offline_mode():
        raise SourceError("the hub is not to be asked (HF_HUB_OFFLINE)", "unset HF_HUB_OFFLINE, or name a mirror")
    hub.prepare_client()
    # A token belongs to the hub: a mirror never sees it.
    api = HfApi(endpoint=endpoint, token=None if endpoint is None else False)
    try:
        commit = api.repo_info(
            row.repo, repo_type=row.repo_type, revision=row.revision, timeout=policy.connect_timeout_s
        ).sha
        tree = api.list_repo_tree(row.repo, recursive=True, revision=commit, repo_type=row.repo_type)
        files = {one.path: one for one in tree if isinstance(one, RepoFile)}
    except (HfHubHTTPError, httpx2.HTTPError, ValueError, OSError) as error:
        raise _explain(error) from error
    wanted = [files[name] for name in _wanted(files, row)]
    return str(commit), [
        Listed(one.path, one.size, one.lfs.sha256)
        if one.lfs
        else Listed(one.path, one.size, git_id=one.blob_id or "unknown")
        for one in wanted
    ]


def _explain(error: Exception) -> SourceError:
    first = sources.shown(str(error).strip().split("\n")[0])
    response = error.response if isinstance(error, HfHubHTTPError) else None
    status = response.status_code if response is not None else 0
    with_token = response is not None and "authorization" in response.request.headers
    remedy = hub.refusal_remedy(status, with_token)
    unreachable = isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout)
    broken = isinstance(error, httpx2.TransportError) or status in TRANSIENT_STATUSES
    return SourceError(f"{type(error).__name__}: {first}", remedy, again=broken, unreachable=unreachable)


def _wanted(files: Collection[str], row: ResolvedSnapshot) -> list[str]:
    names = [name for name in files if not row.allow or any(fnmatch.fnmatch(name, one) for one in row.allow)]
    for name in names:
        if name.startswith("/") or ".." in name.split("/"):
            raise SourceError(f"lists a file outside its folder: {name!r}", "do not use this source")
    if not names:
        raise SourceError("it has no file that the row allows", "correct the row's `allow`")
    pickles = sorted(name for name in files if name.endswith(PICKLES) and name not in BESIDE)
    if pickles and not fnmatch.filter(files, "*.safetensors") and not set(pickles) & set(names):
        raise SourceError(
            f"its weights are pickles ({pickles[0]}), which the row does not allow, and it has no safetensors",
            "name a revision or a repository with safetensors, or convert it (docs/models.md) and name its `folder`",
        )
    if row.repo_type == "model" and (kind := other_kind(names)):
        raise SourceError(kind[0], f"name the repository of the whole model; or {kind[1]}")
    return sorted(names)


def _verify(row: ResolvedSnapshot, listed: Sequence[Listed], staging: Path) -> dict[str, dict[str, Any]]:
    """Check every file against the listing and its pin; return size and sha256 by name.

    Raises:
        SourceError: a file is absent or another one; it is removed so that the next run fetches it again.
    """
    seen = {}
    repin = (
        f"set `revision` of the set {row.set} to the commit that was pinned; or, if the newer files are wanted, take "
        "their pins out of `data.pins` (config/data.lock.yaml), fetch them again and pin them"
    )
    pinned = _wanted(row.pins, row) if row.pins else []
    if absent := sorted(set(pinned) - {one.path for one in listed}):
        raise SourceError(f"lacks pinned files ({', '.join(absent[:3])})", repin)
    for one in listed:
        path = staging / one.path
        if not path.is_file():
            raise SourceError(f"{one.path} did not come")
        size, sha256 = path.stat().st_size, receipts.digests(path, ["sha256"])["sha256"]
        expected = [(one.size, one.sha256)]
        if pin := row.pins.get(one.path):
            expected.append((pin.size, pin.sha256))
        for want_size, want_sha256 in expected:
            if want_size not in ("unknown", size) or want_sha256 not in ("unknown", sha256):
                path.unlink()
                raise SourceError(
                    f"{one.path}: expected {want_size} bytes, sha256 {want_sha256}; got {size} bytes, sha256 {sha256}",
                    repin,
                )
        if one.git_id not in ("unknown", hub.git_id(path)):
            path.unlink()
            raise SourceError(
                f"{one.path}: not the bytes that the hub lists ({one.git_id})", "run the same command again"
            )
        if fault := file_fault(path):
            path.unlink()
            raise SourceError(f"{one.path}: {fault}", "name a source that holds the file itself")
        seen[one.path] = {"size": size, "sha256": sha256, "pinned": pin is not None}
    if row.repo_type == "model" and "config.json" in seen:
        try:
            check_folder(staging)
        except CheckpointError as error:
            fault = error.message.replace(f"{staging}/", "")
            raise SourceError(fault, "name a source or a revision that holds the whole checkpoint") from error
    return seen


def _receipt(row: ResolvedSnapshot, commit: str, source: str, files: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return {
        "set": row.set,
        "repo": row.repo,
        "repo_type": row.repo_type,
        "revision": row.revision,
        "allow": row.allow,
        "url": row.url(""),
        "commit": commit,
        "source": source,
        "files": files,
        "fetched": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _put_in_place(staging: Path, target: Path, note: Path, receipt: dict[str, Any]) -> None:
    """Swap the folders; the note is never beside another folder than its own."""
    for path in [path for path in staging.rglob("*") if path.is_file()]:
        if str(path.relative_to(staging)) not in receipt["files"]:  # of an earlier commit, or a state file
            path.unlink()
    if target.exists():
        shutil.rmtree(target)
    write_json(note, receipt)
    staging.rename(target)


def standing(target: Path, row: ResolvedSnapshot) -> dict[str, Any] | None:
    """Return the receipt of a folder that is there, whole, and the one that the row wants; else None."""
    note = target.with_name(target.name + SNAPSHOT_SUFFIX)
    if not note.exists() or not target.is_dir():
        return None
    try:
        receipt: dict[str, Any] = read_json(note)
        same = all(receipt[key] == getattr(row, key) for key in ("repo", "repo_type", "allow"))
        # A revision that was pinned since is the commit that was fetched.
        same = same and row.revision in (receipt["revision"], receipt["commit"])
        whole = all((target / name).stat().st_size == one["size"] for name, one in receipt["files"].items())
        files = receipt["files"]
        pinned = all(
            pin.sha256 in ("unknown", files[name]["sha256"]) for name, pin in row.pins.items() if name in files
        )
    except (DataError, OSError, KeyError, TypeError):
        return None
    return receipt if same and whole and pinned else None
