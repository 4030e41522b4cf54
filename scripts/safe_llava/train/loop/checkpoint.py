"""Checkpoints of a running stage: written beside and renamed, verified before they are trusted.

``step-00000200/`` holds one ``rank-00000.pt`` a process (tensors and plain values only, read back with
``weights_only``) and ``manifest.json`` with the step, the fingerprint of the run and the sha256 of every share.
``finished/`` holds the results of a run that came to its end, under a manifest of its own.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TextIO

import torch

from safe_llava.core.errors import TrainError
from safe_llava.core.files import file_digest, write_json
from safe_llava.train.loop.deepspeed import Processes

LOG = logging.getLogger(__name__)
MANIFEST = "manifest.json"
FINISHED = "finished"
METRICS = "metrics.csv"
LOCK = ".lock"
LOCK_SECONDS = 10.0


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


def computed_before(folder: Path, identity: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the newest fingerprint in a folder says beside ``identity``; nothing where that is another run's."""
    for manifest in (folder / FINISHED / MANIFEST, *sorted(folder.glob(f"step-*/{MANIFEST}"), reverse=True)):
        try:
            saved: dict[str, Any] = json.loads(manifest.read_text(encoding="utf-8"))["fingerprint"]
            same = all(saved.get(key) == value for key, value in identity.items())
        except (OSError, ValueError, KeyError, AttributeError, TypeError):
            continue
        return {key: value for key, value in saved.items() if key not in identity} if same else {}
    return {}


def _take(lock: TextIO, folder: Path) -> None:
    """Take the lock; a run that was killed a moment ago may still be on its way out."""
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except OSError as error:
            if time.monotonic() > deadline:
                remedy = "wait for it or stop it, then start again"
                raise TrainError(f"{folder}: another process trains here", remedy) from error
            time.sleep(0.1)


class CheckpointFolder:
    """The checkpoints of one run, shared by its processes.

    Args:
        folder: made if absent; one run at a time may use it.
        fingerprint: JSON values that must be the same when the run goes on.
        keep: how many checkpoints to keep.

    Raises:
        TrainError: another process trains here.
    """

    def __init__(self, folder: Path, fingerprint: Mapping[str, Any], processes: Processes, keep: int) -> None:
        self.folder, self._fingerprint, self._processes, self._keep = folder, fingerprint, processes, keep
        self._lock: TextIO | None = None
        if processes.first:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = (folder / LOCK).open("w")
            _take(self._lock, folder)
            for left_over in (*folder.glob(".step-*"), *folder.glob(f".{FINISHED}")):
                shutil.rmtree(left_over)
        torch.distributed.barrier()

    @property
    def metrics(self) -> Path:
        """Where the run writes its metrics as it goes."""
        return self.folder / METRICS

    def save(self, step: int, share: dict[str, Any], facts: Mapping[str, Any]) -> None:
        """Save the state after ``step`` steps; all processes call it, each with its own share.

        Args:
            facts: JSON values of the whole run that ``load`` gives back.

        Raises:
            TrainError: the disk does not take it; the same error in every process, and the older ones stay.
        """
        partial, target = self.folder / f".step-{step:08d}", self.folder / f"step-{step:08d}"
        try:
            first = self._processes.first
            self._together(partial, lambda: self._begin(partial) if first else None)
            digests = self._together(partial, lambda: self._write_share(partial, share))
            manifest = {"step": step, "fingerprint": self._fingerprint, "facts": facts, "files": dict(digests)}
            self._together(partial, lambda: self._finish(partial, target, manifest) if first else None)
        except TrainError:
            if self._processes.first:
                shutil.rmtree(partial, ignore_errors=True)
            raise

    @staticmethod
    def _begin(partial: Path) -> None:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()

    def _write_share(self, partial: Path, share: dict[str, Any]) -> tuple[str, str]:
        file = partial / self._share_name()
        with file.open("wb") as stream:
            torch.save(share, stream)
            stream.flush()
            os.fsync(stream.fileno())
        return file.name, file_digest(file)

    def _finish(self, partial: Path, target: Path, manifest: dict[str, Any]) -> None:
        write_json(partial / MANIFEST, manifest)
        if target.exists():
            shutil.rmtree(target)
        partial.replace(target)
        for old in self._found()[self._keep :]:
            shutil.rmtree(old)

    def _together(self, partial: Path, work: Callable[[], Any]) -> list[Any]:
        """Let every process do its part, and all of them fail where one does; return what each gave.

        Raises:
            TrainError: a part could not be written; the checkpoints of before are as they were.
        """
        result, fault = None, None
        try:
            result = work()
        except (OSError, RuntimeError) as error:  # torch's writer turns a full disk into a RuntimeError
            free = shutil.disk_usage(self.folder).free >> 20
            fault = f"process {self._processes.rank}: {str(error).splitlines()[0]} ({free} MiB are free there)"
        everyone: list[Any] = [None] * self._processes.world_size
        torch.distributed.all_gather_object(everyone, (result, fault))
        if faults := [fault for _, fault in everyone if fault]:
            raise TrainError(
                f"{partial}: the checkpoint cannot be written: {'; '.join(faults)}",
                "free space (or ask for a larger quota) and run the same command again: it goes on from the "
                "checkpoint before, which is whole",
            )
        return [result for result, _ in everyone]

    def load(self) -> tuple[int, dict[str, Any], dict[str, Any]] | None:
        """Return step, this process's share and the facts of the newest whole checkpoint, or None.

        A broken checkpoint is passed over with a warning for the one before it.

        Raises:
            TrainError: the run that wrote the checkpoint differs from this one.
        """
        for candidate in self._found():
            manifest = self._verify(candidate)
            sound: list[bool] = [False] * self._processes.world_size
            torch.distributed.all_gather_object(sound, manifest is not None)
            if manifest is None or not all(sound):
                LOG.warning("%s is broken; going on from the checkpoint before it", candidate)
                continue
            self._check_fingerprint(candidate, manifest)
            share = torch.load(candidate / self._share_name(), map_location="cpu", weights_only=True)
            return int(manifest["step"]), share, manifest["facts"]
        return None

    def finish(self, write: Callable[[Path], None], made_with: Mapping[str, Any]) -> None:
        """Keep the results that ``write`` puts into a folder, whole or not at all; the first process calls it."""
        partial, target = self.folder / f".{FINISHED}", self.folder / FINISHED
        partial.mkdir()
        write(partial)
        write_json(partial / MANIFEST, {"fingerprint": self._fingerprint, "made_with": made_with})
        partial.replace(target)

    def finished(self, made_with: Mapping[str, Any]) -> Path | None:
        """Return the folder of this run's results if it came to its end before, None otherwise; all processes call it.

        Results of another run, or of one with other code, are removed: who starts it wants it anew.
        """
        kept, same = self.folder / FINISHED, [False]
        if self._processes.first and kept.is_dir():
            try:
                found = json.loads((kept / MANIFEST).read_text(encoding="utf-8"))
            except (OSError, ValueError):
                found = None
            same = [found == {"fingerprint": self._fingerprint, "made_with": made_with}]
            if not same[0]:
                LOG.info("%s: results of another run, or of other code: removed", kept)
                shutil.rmtree(kept)
        torch.distributed.broadcast_object_list(same)
        return kept if same[0] else None

    def release(self) -> None:
        """Let another run use the folder."""
        if self._lock is not None:
            self._lock.close()

    def remove(self) -> None:
        """Remove the checkpoints, and the folder if nothing else is in it; the first process calls it."""
        for checkpoint in self._found():
            shutil.rmtree(checkpoint)
        for name in (METRICS, LOCK):
            (self.folder / name).unlink(missing_ok=True)
        if not any(self.folder.iterdir()):
            self.folder.rmdir()

    def _found(self) -> list[Path]:
        """Checkpoints, newest first."""
        return sorted(self.folder.glob("step-*"), reverse=True)

    def _share_name(self) -> str:
        return f"rank-{self._processes.rank:05d}.pt"

    def _verify(self, checkpoint: Path) -> dict[str, Any] | None:
        """Return the manifest if it can be read and this process's share is what it says."""
        try:
            manifest: dict[str, Any] = json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8"))
            differs = differences(manifest["fingerprint"], self._fingerprint)
            digest = manifest["files"].get(self._share_name())
            # A run with other processes has no share for this one: that is a difference, not a fault.
            whole = bool(differs) or digest == file_digest(checkpoint / self._share_name())
        except (OSError, ValueError, KeyError, AttributeError, TypeError):
            return None
        return manifest if whole else None

    def _check_fingerprint(self, checkpoint: Path, manifest: Mapping[str, Any]) -> None:
        if differs := differences(manifest["fingerprint"], self._fingerprint):
            remedy = f"restore what differs, or delete {self.folder} to train from the beginning"
            before = manifest["fingerprint"].get("world_size")
            if before not in (None, self._fingerprint.get("world_size")):
                # Sums over another number of processes are other sums: the curve would not be the same run's.
                remedy = f"start it with {before} processes as before (`processes` of the row), or {remedy}"
            raise TrainError(f"{checkpoint} was written by another run: " + "; ".join(differs), remedy)
