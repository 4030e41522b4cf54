"""Checkpoints of a running stage: written beside and renamed, verified before they are trusted.

``step-00000200/`` holds the files of each process, ``rank-00000.bin``, ``rank-00000-1.bin`` … (see ``storage``), and
``manifest.json`` with the step, what the run is, how it was computed, and where each piece of the state lies with its
CRC-32. ``finished/`` holds the results of a run that came to its end, under a manifest of its own.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, wait
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.distributed import checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException

from safe_llava.core.errors import TrainError
from safe_llava.core.files import write_json
from safe_llava.core.locks import only_one
from safe_llava.core.memory import usable_memory
from safe_llava.train.loop.deepspeed import Processes, cpu_group
from safe_llava.train.loop.staging import Staging
from safe_llava.train.loop.state import Piece
from safe_llava.train.loop.storage import (
    ELEMENT,
    Index,
    ShardLoadPlanner,
    ShardReader,
    ShardSavePlanner,
    ShardWriter,
    by_name,
    verify,
)

LOG = logging.getLogger(__name__)
MANIFEST = "manifest.json"
FINISHED = "finished"
METRICS = "metrics.csv"
LOCK = ".lock"
LOCK_SECONDS = 10.0  # a run that was killed a moment ago may still be on its way out
RELEASE_SECONDS = 300.0  # for a run that fails while a checkpoint is being written
SPARE_MEMORY = 0.8  # of what is free may be taken for staging
CHECKPOINT, PARTIAL = re.compile(r"step-\d{8}"), re.compile(rf"\.step-\d{{8}}|\.{FINISHED}")


def differences(saved: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Return what differs between two fingerprints, as "key: old, now new"."""
    found = []
    for key in sorted(saved.keys() | now.keys()):
        old, new = saved.get(key, "absent"), now.get(key, "absent")
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            found += differences(old, new, f"{prefix}{key}.")
        elif old != new:
            found.append(f"{prefix}{key}: {old}, now {new}")
    return found


@dataclass(frozen=True)
class Saved:
    """A whole checkpoint.

    Attributes:
        computed: how it was computed, the number of processes included.
        facts: JSON values of the run, as ``save`` got them.
    """

    folder: Path
    step: int
    computed: Mapping[str, Any]
    facts: Mapping[str, Any]
    index: Index


class CheckpointFolder:
    """The checkpoints of one run, shared by its processes; all of them call each method that says nothing else.

    Args:
        folder: made if absent; one run at a time may use it.
        identity: JSON values that must be the same when the run resumes: whatever changes a number.
        keep: how many checkpoints to keep.

    Attributes:
        computed: JSON values that say how the run is computed; ``agree`` sets them.

    Raises:
        TrainError: another process trains here.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any], processes: Processes, keep: int) -> None:
        self.folder, self._identity, self._processes, self._keep = folder, identity, processes, keep
        self.computed: Mapping[str, Any] = {}
        self._held = ExitStack()
        self._staging: Staging | None = None
        self._writing: tuple[Path, Future[Any]] | None = None
        self._saved: Saved | None = None
        if processes.first:
            folder.mkdir(parents=True, exist_ok=True)
            self._held.enter_context(only_one(folder / LOCK, TrainError, LOCK_SECONDS))
            for left_over in self._named(PARTIAL):
                shutil.rmtree(left_over)
        torch.distributed.barrier()

    @property
    def metrics(self) -> Path:
        """Where the run writes its metrics as it goes."""
        return self.folder / METRICS

    def find(self) -> Saved | None:
        """Return the newest whole checkpoint, verified by all processes together, or None.

        A broken checkpoint is passed over with a warning for the one before it. What is found says how the model is
        laid out, and whether the language model's own weights are read at all: so it is verified in a pass of its own,
        before ``load`` reads it into place.

        Raises:
            TrainError: the run that wrote the checkpoint differs from this one, or its version did.
        """
        rank, processes = self._processes.rank, self._processes.world_size
        for candidate in self._found():
            start = time.monotonic()
            saved = self._read_manifest(candidate)
            sound: list[bool] = [False] * processes
            whole = saved is not None and self._verified(saved, rank, processes)
            torch.distributed.all_gather_object(sound, whole)
            if self._processes.first:
                LOG.info("%s: verified in %.1f s", candidate, time.monotonic() - start)
            if saved is not None and all(sound):
                self._saved = saved
                return saved
            LOG.warning("%s is broken; resuming from the checkpoint before it", candidate)
        return None

    def agree(self, computed: Mapping[str, Any]) -> None:
        """Say how this run is computed; where it resumes with as many processes as before, that has to be the same.

        Raises:
            TrainError: it is not, so that the last bits of sums would differ.
        """
        self.computed = computed
        saved = self._saved
        if saved is None or saved.computed["world_size"] != computed["world_size"]:
            return
        if differs := differences(saved.computed, computed):
            raise self._other_run(saved.folder, differs)

    def load(self, pieces: Sequence[Piece]) -> Saved | None:
        """Read what ``find`` found into the pieces of this process; return it, or None where there was nothing.

        Raises:
            TrainError: it cannot be read any more.
        """
        if (saved := self._saved) is None:
            return None
        reader = ShardReader(saved.folder, saved.index)
        start = time.monotonic()
        try:
            dcp.load(
                dict(by_name(pieces)), storage_reader=reader, planner=ShardLoadPlanner(), process_group=cpu_group()
            )
        except CheckpointException as error:
            raise TrainError(
                f"{saved.folder}: cannot be read: {_faults(error)}",
                "run the same command again; if it fails again, delete this folder to resume from the one before",
            ) from error
        if self._processes.first:
            before, now = saved.computed["world_size"], self._processes.world_size
            others = f" on {now} processes (before: {before})" if before != now else ""
            size, took = ELEMENT * saved.index.elements / 1e9, time.monotonic() - start
            LOG.info("%s: %.1f GB read in %.1f s%s", saved.folder, size, took, others)
        return saved

    def reserve(self, pieces: Sequence[Piece]) -> None:
        """Take memory of the host for copies of the pieces where there is enough, to write them beside the steps."""
        gpu = self._processes.device.type == "cuda"
        elements = sum(len(piece.values) for piece in pieces)
        need = ELEMENT * elements * int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        free = usable_memory()
        offloaded = gpu and any(piece.values.device.type == "cpu" for piece in pieces)
        fits: list[bool] = [False] * self._processes.world_size
        torch.distributed.all_gather_object(fits, not offloaded and need <= SPARE_MEMORY * free)
        if all(fits):
            self._staging = Staging(elements, self._processes.device)
        if gpu and self._processes.first:
            how = "beside the steps, from" if all(fits) else "while the steps wait; beside them it would take"
            LOG.info(
                "checkpoints are written %s %.0f GB of this machine's memory (%.0f free)", how, need / 1e9, free / 1e9
            )

    def save(self, step: int, pieces: Sequence[Piece], facts: Mapping[str, Any]) -> None:
        """Begin to save the state after ``step`` steps; it may change from here on. ``settle`` waits for the end.

        Args:
            facts: JSON values of the whole run that ``load`` gives back.

        Raises:
            TrainError: the disk does not take this checkpoint or the one before it; the older ones stay.
        """
        self.settle()
        partial, start = self.folder / f".step-{step:08d}", time.monotonic()
        manifest = {"step": step, "identity": self._identity, "computed": self.computed, "facts": facts}

        def commit(index: Index) -> None:
            size, took = ELEMENT * index.elements / 1e9, time.monotonic() - start
            # The next job is told to save itself early enough for it (cluster.estimates.footprint).
            self._finish(partial, {**manifest, "seconds": round(took, 3), "state": index.to_json()})
            LOG.info("step %d: checkpoint of %.1f GB written in %.1f s", step, size, took)

        options: dict[str, Any] = {
            "storage_writer": ShardWriter(partial, self._processes.rank, commit),
            "planner": ShardSavePlanner(),
            "process_group": cpu_group(),
        }
        if self._processes.first:
            shutil.rmtree(partial, ignore_errors=True)
        if self._staging is None:
            try:
                dcp.save(dict(by_name(pieces)), **options)
            except CheckpointException as error:
                raise self._unwritten(partial, error) from error
        else:
            future = dcp.async_save(dict(by_name(pieces)), async_stager=self._staging, **options)
            assert isinstance(future, Future)
            self._writing = (partial, future)
        if self._processes.first:
            LOG.info("step %d: the checkpoint held the training up for %.2f s", step, time.monotonic() - start)

    @property
    def written(self) -> bool:
        """Whether this process's part in a checkpoint that is being written has ended; ``settle`` is due in all."""
        return self._writing is not None and self._writing[1].done()

    def settle(self) -> None:
        """Wait for a checkpoint that is being written.

        Raises:
            TrainError: the disk does not take it; the same error in every process, and the older ones stay.
        """
        if self._writing is None:
            return
        (partial, future), self._writing = self._writing, None
        try:
            future.result()
        except CheckpointException as error:
            raise self._unwritten(partial, error) from error

    def finish(self, write: Callable[[Path], None], made_with: Mapping[str, Any]) -> None:
        """Keep the results that ``write`` puts into a folder, whole or not at all; the first process calls it."""
        partial, target = self.folder / f".{FINISHED}", self.folder / FINISHED
        partial.mkdir()
        write(partial)
        write_json(partial / MANIFEST, {"identity": self._identity, "made_with": made_with})
        partial.replace(target)

    def finished(self, made_with: Mapping[str, Any]) -> Path | None:
        """Return the folder of this run's results if it came to its end before, None otherwise.

        Results of another run, or of one with other code, are removed: who starts it wants it anew.
        """
        kept, same = self.folder / FINISHED, [False]
        if self._processes.first and kept.is_dir():
            try:
                found = json.loads((kept / MANIFEST).read_text(encoding="utf-8"))
            except (OSError, ValueError):
                found = None
            same = [found == {"identity": self._identity, "made_with": made_with}]
            if not same[0]:
                LOG.info("%s: results of another run, or of other code: removed", kept)
                shutil.rmtree(kept)
        torch.distributed.broadcast_object_list(same)
        return kept if same[0] else None

    def release(self) -> None:
        """Let another run use the folder, when a checkpoint that is being written has come to its end."""
        if self._writing is not None:
            wait([self._writing[1]], RELEASE_SECONDS)
        self._staging = None  # pinned memory goes with the process: to give it back first takes seconds
        self._held.close()

    def remove(self) -> None:
        """Remove the checkpoints, and the folder if nothing else is in it; the first process calls it."""
        for checkpoint in self._found():
            shutil.rmtree(checkpoint)
        for name in (METRICS, LOCK):
            (self.folder / name).unlink(missing_ok=True)
        if not any(self.folder.iterdir()):
            self.folder.rmdir()

    def _named(self, names: re.Pattern[str]) -> list[Path]:
        """Folders of ours; a user's copy of one (``step-00000060.bak``) is none."""
        return [path for path in self.folder.iterdir() if names.fullmatch(path.name) and path.is_dir()]

    def _found(self) -> list[Path]:
        """Checkpoints, newest first."""
        return sorted(self._named(CHECKPOINT), reverse=True)

    def _finish(self, partial: Path, manifest: Mapping[str, Any]) -> None:
        write_json(partial / MANIFEST, manifest)
        target = partial.with_name(partial.name.removeprefix("."))
        if target.exists():
            shutil.rmtree(target)
        partial.replace(target)
        for old in self._found()[self._keep :]:
            shutil.rmtree(old)

    def _read_manifest(self, checkpoint: Path) -> Saved | None:
        """Return what a checkpoint says of itself; None where that cannot be read.

        Raises:
            TrainError: it says that another run, or an earlier version, wrote it.
        """
        try:
            manifest: dict[str, Any] = json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8"))
            earlier = "fingerprint" in manifest
            differs = [] if earlier else differences(manifest["identity"], self._identity)
            index = Index.from_json({} if earlier or differs else manifest["state"])
            said = {} if earlier else {key: manifest[key] for key in ("step", "computed", "facts")}
            saved = None if earlier or differs else Saved(checkpoint, index=index, **said)
        except (OSError, ValueError, KeyError, AttributeError, TypeError):
            return None
        if earlier:
            remedy = f"finish it with that version, or delete {self.folder} to train from the beginning"
            raise TrainError(f"{checkpoint} was written by an earlier version of the workflow", remedy)
        if differs:
            raise self._other_run(checkpoint, differs)
        return saved

    def _verified(self, saved: Saved, rank: int, processes: int) -> bool:
        try:
            return verify(saved.folder, saved.index, rank, processes)
        except OSError:
            return False

    def _other_run(self, checkpoint: Path, differs: Sequence[str]) -> TrainError:
        remedy = f"restore what differs, or delete {self.folder} to train from the beginning"
        return TrainError(f"{checkpoint} was written by another run: " + "; ".join(differs), remedy)

    def _unwritten(self, partial: Path, error: CheckpointException) -> TrainError:
        free = shutil.disk_usage(self.folder).free >> 20
        if self._processes.first:
            shutil.rmtree(partial, ignore_errors=True)
        return TrainError(
            f"{partial}: the checkpoint cannot be written: {_faults(error)} ({free} MiB are free there)",
            "free space (or ask for a larger quota) and run the same command again: it resumes from the "
            "checkpoint before, which is whole",
        )


def _faults(error: CheckpointException) -> str:
    """Return what went wrong in which process."""
    texts = {rank: str(fault[0]) or type(fault[0]).__name__ for rank, fault in error.failures.items()}
    return "; ".join(f"process {rank}: {text.splitlines()[0]}" for rank, text in sorted(texts.items()))
