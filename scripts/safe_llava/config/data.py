"""The ``data`` section: every data set and checkpoint, where it comes from and where it goes.

``resolve`` turns a row and the pins into what the steps of the data stage are given; it is cheap,
so that the workflow can call it for every row while it is parsed.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from safe_llava.config.audit import AuditConfig
from safe_llava.config.base import Address, Name, Place, Row, Unknown

HUB = "https://huggingface.co"
NONE: Mapping[str, str] = {}
DEFAULT_REVISION = "main"  # what the hub serves where a row names no revision


def _below_root(path: str) -> str:
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or ".." in parts or "\\" in path or not path.isprintable():
        raise ValueError("a path below the data root: relative, without `..`")
    return str(PurePosixPath(path))


def _sha256(value: str) -> str:
    if value != "unknown" and not re.fullmatch(r"[0-9a-f]{64}", value):
        raise ValueError("64 hexadecimal digits in lower case, or `unknown`")
    return value


def _md5(value: str) -> str:
    if value != "unknown" and not re.fullmatch(r"[0-9a-f]{32}", value):
        raise ValueError("32 hexadecimal digits in lower case, or `unknown`")
    return value


KnownCount = Annotated[int, Field(ge=0)] | Unknown
BelowRoot = Annotated[str, AfterValidator(_below_root)]
Sha256 = Annotated[str, AfterValidator(_sha256)]
Md5 = Annotated[str, AfterValidator(_md5)]


Storage = Literal["extracted", "archive"]


class Unpack(Row):
    """What becomes of an archive. The folder `to` belongs to the archive alone."""

    to: BelowRoot = Field(description="Folder under data.root that receives the members.")
    strip: str = Field("", description="Folder inside the archive that becomes `to`; members outside it are left out.")
    creates: BelowRoot = Field(description="Path under data.root that must be there afterwards.")
    files: KnownCount = Field(
        "unknown", description="Published number of files; checked where the archive is not pinned."
    )
    normalise_images: bool = Field(
        False, description="Rewrite images of another format that bear the name `.jpg` as JPEG."
    )


class SourceFile(Row):
    """One file that is fetched, or several of a kind through `expand`."""

    path: BelowRoot = Field(description="Where the file goes, under data.root.")
    url: Address = Field(description="Its origin; `{revision}` and the keys of `expand` are replaced.")
    revision: str = Field("unknown", description="Commit that `{revision}` stands for; unknown: the newest.")
    mirrors: list[Address] = Field(default=[], description="Addresses of other copies of the same bytes, asked first.")
    md5: Md5 = Field("unknown", description="Checksum that the origin publishes.")
    reported_bytes: KnownCount = Field(
        "unknown", description="Size as others report it; shown in plans, never checked."
    )
    unpack: Unpack | None = Field(None, description="What becomes of it if it is an archive.")
    covers: BelowRoot | None = Field(
        None,
        description="Folder under data.root that receives the book covers that it names, each fetched from its own "
        "address: for the dataset.json of OCR-VQA.",
    )
    expand: dict[str, list[str]] = Field(
        default={}, description="Values of each placeholder; every combination is a file."
    )

    @model_validator(mode="after")
    def _one_use(self) -> Self:
        if self.unpack and self.covers:
            raise ValueError("a file is an archive (`unpack`) or a list of covers (`covers`), not both")
        return self


class Snapshot(Row):
    """A repository of the Hugging Face hub, fetched as a folder."""

    repo: str = Field(pattern=r"^[\w.-]+/[\w.-]+$", description="Repository as `organisation/name`.")
    repo_type: Literal["model", "dataset"] = Field(description="Kind of repository.")
    revision: str = Field("unknown", description="Commit; unknown: the newest, recorded in the receipt.")
    allow: list[str] = Field(default=[], description="Patterns of the files that are wanted; none: every file.")
    path: BelowRoot = Field(description="Folder under data.root that receives the files.")


class Annotations(Row):
    """A file of samples or questions that names images."""

    path: BelowRoot = Field(description="The file, under data.root.")
    images: str = Field(".", description="Folder that its image names are relative to, under data.root.")
    samples: KnownCount = Field(
        "unknown", description="Published number of rows; checked where the file is not pinned."
    )


class DataSet(Row):
    """A data set or checkpoint."""

    title: str = Field(description="What it is, for plans and error messages.")
    kind: Literal["images", "annotations", "prism", "answers", "prompts", "weights", "benchmark"] = Field(
        description="What it is used as."
    )
    licence: str = Field("unknown", description="Licence as its publisher names it.")
    homepage: str = Field("unknown", description="Page to read about it.")
    files: list[SourceFile] = Field(default=[], description="Files that it consists of.")
    snapshot: Snapshot | None = Field(None, description="Repository that it consists of.")
    annotations: list[Annotations] = Field(default=[], description="Its files that name images.")
    needs: list[Name] = Field(default=[], description="Sets whose images its rows name.")
    storage: Storage | None = Field(None, description="As data.storage, for this set alone.")

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if bool(self.files) == (self.snapshot is not None):
            raise ValueError("a set has `files` or a `snapshot`, one of the two")
        if (self.kind in ("annotations", "prism")) != bool(self.annotations):
            raise ValueError("`annotations` belongs to sets of the kinds annotations and prism, and they must have it")
        return self


class Pin(Row):
    """What a file was when it was first seen; it must stay so."""

    size: int = Field(ge=0, description="Bytes.")
    sha256: Sha256 = Field(description="Checksum of the bytes.")
    md5: Md5 = Field("unknown", description="Checksum of the bytes, where the origin publishes one.")
    files: KnownCount = Field("unknown", description="Files that it unpacks to, if it is an archive.")


class Tolerance(Row):
    """How many images may be wrong before a data set is refused."""

    missing: int = Field(0, ge=0, description="Images that annotations name and that are not there.")
    undecodable: int = Field(0, ge=0, description="Images that are empty or cannot be decoded.")


class ResolvedFile(Row):
    """One file with everything a step needs to know about it; what ``data.fetch`` and ``data.unpack`` read."""

    set: Name
    path: BelowRoot
    url: str
    mirrors: list[str] = Field(default=[])
    size: KnownCount = "unknown"
    sha256: Sha256 = "unknown"
    md5: Md5 = "unknown"
    reported_bytes: KnownCount = "unknown"
    unpack: Unpack | None = None
    covers: BelowRoot | None = None


class ResolvedSnapshot(Row):
    """One repository with everything a step needs to know about it; what ``data.snapshot`` reads."""

    set: Name
    repo: str
    repo_type: Literal["model", "dataset"]
    revision: str
    allow: list[str] = Field(default=[])
    path: BelowRoot
    pins: dict[str, Pin] = Field(default={})

    @property
    def prefix(self) -> str:
        """Path of the repository on the hub's host, as in mirrors."""
        return self.repo if self.repo_type == "model" else f"datasets/{self.repo}"

    def url(self, file: str) -> str:
        """Return the address of one file of the repository."""
        return f"{HUB}/{self.prefix}/resolve/{self.revision}/{file}"


class ResolvedSet(Row):
    """One data set, expanded and pinned; what ``data.plan`` reads."""

    set: Name
    title: str
    kind: str
    licence: str
    files: list[ResolvedFile] = Field(default=[])
    snapshot: ResolvedSnapshot | None = None


class DataConfig(Row):
    """The data stage."""

    root: Place = Field("data", description="Folder of all data; may be absolute, and outside the clone.")
    storage: Storage = Field(
        "extracted",
        description="What becomes of image archives. extracted: unpacked into the tree of the original code. archive: "
        "nothing is unpacked; images are read by name from the archive, through an index beside it: two files a set "
        "instead of up to 558,128. It may be changed at any time; nothing is trained or asked again for it.",
    )
    sets: dict[Name, DataSet] = Field(description="Data sets and checkpoints by name.")
    pins: dict[str, Pin] = Field(
        default={}, description="Size and checksum of each file, by its address without the scheme."
    )
    mirrors_only: bool = Field(False, description="Never ask a file's origin, only the mirrors: for closed networks.")
    decode: Literal["all", "sample", "none"] = Field(
        "sample", description="Which images the layout check decodes: all, a fixed draw of them, or none."
    )
    tolerance: Tolerance = Field(Tolerance(), description="How many images may be wrong.")
    connect_timeout_s: float = Field(10.0, gt=0, description="Seconds to wait for a server to take a connection.")
    retries: int = Field(4, ge=0, description="Further tries of a download that brought no new bytes.")
    connections: int = Field(4, ge=1, le=16, description="Connections over which one large file is fetched.")
    bandwidth_mb_s: float | None = Field(
        None, gt=0, description="Megabytes a second that all downloads of a machine may take together; null: no bound."
    )
    ignore_space: bool = Field(False, description="Start although disk or inodes seem not to suffice.")
    revisions: dict[str, str] = Field(
        default={},
        description="Commit of each repository of the hub whose row names none, by `organisation/name` or "
        "`datasets/organisation/name`; `python -m safe_llava.data.pin` fills it.",
    )

    audit: AuditConfig = Field(
        AuditConfig(), description="Sets of annotations that are compared, and counted for what they mention of people."
    )

    def storage_of(self, name: str) -> Storage:
        """Return how the archives of a set are stored: as its row says, else as all."""
        return self.sets[name].storage or self.storage

    @model_validator(mode="after")
    def _targets_apart(self) -> Self:
        owners: dict[str, str] = {}
        folders: dict[str, str] = {}
        for name, dataset in self.sets.items():
            resolved = resolve_set(name, dataset, {})
            for file in resolved.files:
                _claim(owners, file.path, name)
                if folder := file.unpack.to if file.unpack else file.covers:
                    _claim(folders, folder, name)
            if resolved.snapshot:
                _claim(folders, resolved.snapshot.path, name)
            _require_own(dataset.annotations, resolved)
        owned = {PurePosixPath(folder): name for folder, name in folders.items()}
        for inner, name in folders.items():
            for outer in PurePosixPath(inner).parents:
                if outer in owned:
                    raise ValueError(f"sets.{name}: {inner} lies in {outer}, which belongs to {owned[outer]}")
        return self


def _claim(owners: dict[str, str], path: str, name: str) -> None:
    if path in owners:
        raise ValueError(f"sets.{name}: {path} is already made by the set {owners[path]}")
    owners[path] = name


def _require_own(annotations: Sequence[Annotations], made: ResolvedSet) -> None:
    files = {file.path for file in made.files}
    folders = {file.unpack.to for file in made.files if file.unpack} | (
        {made.snapshot.path} if made.snapshot else set()
    )
    for row in annotations:
        if row.path not in files and folders.isdisjoint(map(str, PurePosixPath(row.path).parents)):
            known = ", ".join(sorted(files | {f"{folder}/…" for folder in folders}))
            raise ValueError(f"sets.{made.set}.annotations: {row.path} is none of the set's files: {known}")


def pin_key(url: str) -> str:
    """Return the key of an address in the pins: the address without its scheme."""
    return url.split("://", 1)[-1]


def resolve_files(
    name: str, dataset: DataSet, pins: Mapping[str, Pin], revisions: Mapping[str, str] = NONE
) -> list[ResolvedFile]:
    """Expand a set's files and lay the pins on them.

    A pinned archive has the count of its pin, if any: its digest says more than a published count. So a cut-down copy
    with pins of its own passes where the published count is another.

    Raises:
        ValueError: a placeholder is left over.
    """
    return [file for source in dataset.files for file in _expand(name, source, pins, revisions)]


def resolve_snapshot(
    name: str, dataset: DataSet, pins: Mapping[str, Pin], revisions: Mapping[str, str] = NONE
) -> ResolvedSnapshot | None:
    """Return a set's repository with the pins of its files, or None where it has none."""
    if dataset.snapshot is None:
        return None
    snapshot = ResolvedSnapshot(set=name, **dataset.snapshot.model_dump())
    if snapshot.revision == "unknown":
        snapshot = snapshot.model_copy(update={"revision": revisions.get(snapshot.prefix, DEFAULT_REVISION)})
    prefix = pin_key(snapshot.url(""))
    mine = {key.removeprefix(prefix): pin for key, pin in pins.items() if key.startswith(prefix)}
    return snapshot.model_copy(update={"pins": mine})


def resolve_set(
    name: str, dataset: DataSet, pins: Mapping[str, Pin], revisions: Mapping[str, str] = NONE
) -> ResolvedSet:
    """Return a set with its files and its repository resolved."""
    return ResolvedSet(
        set=name,
        title=dataset.title,
        kind=dataset.kind,
        licence=dataset.licence,
        files=resolve_files(name, dataset, pins, revisions),
        snapshot=resolve_snapshot(name, dataset, pins, revisions),
    )


def hub_repository(url: str) -> str | None:
    """Return the repository of an address of the hub, as `data.revisions` names it; None for other addresses."""
    match = re.match(rf"{HUB}/((?:datasets/)?[^/]+/[^/]+)/resolve/", url)
    return match.group(1) if match else None


def _expand(
    name: str, source: SourceFile, pins: Mapping[str, Pin], revisions: Mapping[str, str]
) -> Iterator[ResolvedFile]:
    revision = source.revision
    if revision == "unknown":
        revision = revisions.get(hub_repository(source.url) or "", DEFAULT_REVISION)
    template = source.model_dump(include={"path", "url", "mirrors", "unpack", "covers"})
    for values in itertools.product(*source.expand.values()):
        replace = dict(zip(source.expand, values, strict=True)) | {"revision": revision}
        fields = _substitute(template, replace, f"data.sets.{name}.files")
        pin = pins.get(pin_key(fields["url"]))
        if pin is not None and fields["unpack"]:
            fields["unpack"]["files"] = pin.files
        yield ResolvedFile(
            set=name,
            size=pin.size if pin else "unknown",
            sha256=pin.sha256 if pin else "unknown",
            # A pin stands for the file that is wanted: the origin's checksum counts where there is none.
            md5=source.md5 if pin is None or pin.sha256 == "unknown" else pin.md5,
            reported_bytes=source.reported_bytes,
            **fields,
        )


def _substitute(value: Any, replace: Mapping[str, str], where: str) -> Any:
    if isinstance(value, dict):
        return {key: _substitute(item, replace, where) for key, item in value.items()}
    if isinstance(value, list):
        return [_substitute(item, replace, where) for item in value]
    if not isinstance(value, str):
        return value
    for key, text in replace.items():
        value = value.replace(f"{{{key}}}", text)
    if left := re.search(r"\{(\w+)\}", value):
        raise ValueError(f"{where}: `{value}` has the placeholder {left.group(0)}, which `expand` does not name")
    return value
