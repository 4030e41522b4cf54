"""Measure the layout check and the reading of images, in both ways to store them.

``python -m safe_llava.speed.data layout --work /tmp/bench --out layout.json`` checks 1.2 million synthetic entries
against as many files and against archives; ``… decode …`` decodes the same photographs from files, from stored and from
deflated members. Rounds alternate, so that whatever else a machine does falls on all alike.
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing
import os
import platform
import random
import shutil
import statistics
import sys
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from safe_llava.config.data import ResolvedFile, Unpack
from safe_llava.core import cli
from safe_llava.core.files import write_json, write_text
from safe_llava.data.archives.indexing import index_archive
from safe_llava.images.reader import read_rgb
from safe_llava.speed.synthetic import MIXTURE, make_samples

# Where the samples of each source of the mixture have their images; Visual Genome's are in two folders.
FOLDERS = {"gqa": ["gqa/images"], "ocrvqa": ["ocr_vqa/images"], "textcaps": ["textvqa/train_images"]}
FOLDERS["vg"] = ["vg/VG_100K", "vg/VG_100K_2"]
COCO = ["coco/train2017"]
CAPTIONS, CAPTION_IMAGES, IN_A_FOLDER = 558_128, "LLaVA-Pretrain/images", 1000
CONVERSATIONS = 20_000  # different ones; they are repeated under other names
DECODED = ("extracted", "stored", "deflated")
AT_A_TIME = 5


def photograph(seed: int, width: int = 640, height: int = 480) -> bytes:
    """Return a JPEG with edges, smooth parts and noise, of about the size that a photograph has."""
    generator = np.random.default_rng(seed)
    small = generator.integers(0, 255, (height // 20, width // 20, 3), dtype=np.uint8)
    pixels = np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)).astype(np.int16)
    noisy = pixels + generator.normal(0, 6, pixels.shape)
    stream = io.BytesIO()
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(stream, format="JPEG", quality=90)
    return stream.getvalue()


def mixture_images(scale: float) -> Iterator[tuple[str, str | None]]:
    """Yield the source of every sample of the mixture and its image, each sample with one of its own."""
    for name, source in MIXTURE.items():
        folders = FOLDERS.get(name, COCO)
        for number in range(round(source.samples * scale)):
            folder = folders[number * len(folders) // round(source.samples * scale)]
            yield name, f"{folder}/{name}_{number:012d}.jpg" if source.image else None


def write_annotations(root: Path, scale: float) -> dict[str, list[str]]:
    """Write both files of annotations; return the images that they name, by the folder of their archive."""
    images: dict[str, list[str]] = {}
    captions = make_samples("pretrain", CONVERSATIONS, 1, seed=0)
    with _listed(root / "pretrain.json") as write:
        for number in range(round(CAPTIONS * scale)):
            name = f"{number // IN_A_FOLDER:05d}/{number:09d}.jpg"
            images.setdefault(CAPTION_IMAGES, []).append(name)
            write({**captions[number % CONVERSATIONS], "id": str(number), "image": name})
    talks: dict[str, list[dict[str, Any]]] = {}
    for talk in make_samples("finetune", CONVERSATIONS, 1, seed=0):
        talks.setdefault(talk["id"].rpartition("_")[0], []).append(talk)
    with _listed(root / "finetune.json") as write:
        for number, (source, image) in enumerate(mixture_images(scale)):
            row = {**talks[source][number % len(talks[source])], "id": f"{source}_{number}"}
            if image is not None:
                folder, _, name = image.rpartition("/")
                images.setdefault(folder, []).append(name)
                row["image"] = image
            write(row)
    return images


class _listed:  # noqa: N801
    """Write rows into a JSON list one by one."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._stream, self._first = path.open("w", encoding="utf-8"), True

    def __enter__(self) -> Callable[[dict[str, Any]], None]:
        self._stream.write("[")
        return self._write

    def __exit__(self, *_: object) -> None:
        self._stream.write("]\n")
        self._stream.close()

    def _write(self, row: dict[str, Any]) -> None:
        self._stream.write(("" if self._first else ", ") + json.dumps(row))
        self._first = False


def write_tree(folder: Path, members: dict[str, bytes]) -> None:
    """Write files."""
    for parent in {(folder / name).parent for name in members}:
        parent.mkdir(parents=True, exist_ok=True)
    for name, content in members.items():
        (folder / name).write_bytes(content)


def write_archive(root: Path, to: str, members: dict[str, bytes], method: int) -> ResolvedFile:
    """Write an archive; return the row that it is indexed by."""
    path = f"downloads/{to.replace('/', '_')}.zip"
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(root / path, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    unpack = Unpack(to=to, creates=to)
    return ResolvedFile(set="bench", path=path, url=f"https://bench.example/{path}", unpack=unpack)


def run_measured(arguments: Sequence[str]) -> dict[str, float]:
    """Run a module of this package; return its wall time, its processor time and the most memory that it had."""
    start = time.perf_counter()
    pid = os.posix_spawn(sys.executable, [sys.executable, "-m", *arguments], os.environ)
    _, status, usage = os.wait4(pid, 0)
    if status:
        raise SystemExit(f"{arguments[0]} ended with {os.waitstatus_to_exitcode(status)}")
    seconds = time.perf_counter() - start
    return {
        "seconds": round(seconds, 2),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 2),
        "peak_gb": round(usage.ru_maxrss * 1024 / 1e9, 3),
    }


def prepare_layout(work: Path, scale: float) -> None:
    """Write annotations, and what they name as files and into archives; list the archives in ``rows.json``."""
    content, rows = photograph(0, 16, 12), []
    for to, names in write_annotations(work / "extracted", scale).items():
        members = dict.fromkeys(names, content)
        write_tree(work / "extracted" / to, members)
        row = write_archive(work / "archive", to, members, zipfile.ZIP_STORED)
        rows.append({"members": len(names), "row": row.model_dump()})
    write_json(work / "rows.json", rows)


def bench_layout(work: Path, rounds: int, scale: float) -> dict[str, Any]:
    """Measure indexing, and the check of both files of annotations against files and against archives."""
    # In a process of its own: a process that is started counts what its starter had as its own peak of memory.
    maker = multiprocessing.get_context("fork").Process(target=prepare_layout, args=(work, scale))
    maker.start()
    maker.join()
    extracted, archived = work / "extracted", work / "archive"
    indexing, rows = [], json.loads((work / "rows.json").read_text())
    for one in rows:
        write_text(work / "row.json", json.dumps(one["row"]))
        flags = ["--archive", str(archived / one["row"]["path"]), "--row", str(work / "row.json")]
        flags += ["--root", str(archived), "--out", str(work / "receipt.json")]
        used = run_measured(["safe_llava.data.index", *flags])
        indexing.append({"to": one["row"]["unpack"]["to"], "members": one["members"], **used})
    sizes = {stage: (extracted / f"{stage}.json").stat().st_size for stage in ("pretrain", "finetune")}
    samples = round(CAPTIONS * scale) + sum(round(source.samples * scale) for source in MIXTURE.values())
    return {
        "samples": samples,
        "images": sum(one["members"] for one in rows),
        "annotation_bytes": sizes,
        "indexing": indexing,
        "rounds": [line for number in range(rounds) for line in _layout_round(work, number)],
    }


def _layout_round(work: Path, number: int) -> Iterator[dict[str, Any]]:
    for decode in ("none", "sample"):
        for storage in ("extracted", "archive"):
            for stage, folder in (("pretrain", CAPTION_IMAGES), ("finetune", ".")):
                flags = ["--annotations", str(work / "extracted" / f"{stage}.json"), "--images", folder]
                flags += ["--root", str(work / storage), "--kind", "train", "--decode", decode, "--threads", "2"]
                flags += ["--out", str(work / "wrong.csv"), "--summary", str(work / "summary.json")]
                used = run_measured(["safe_llava.data.layout", *flags])
                yield {"round": number, "storage": storage, "decode": decode, "stage": stage, **used}


def bench_decode(work: Path, rounds: int, count: int, workers: Sequence[int]) -> dict[str, Any]:
    """Measure images a second from files and from archives, by several numbers of worker processes."""
    members = {f"{number % 16:02d}/{number:06d}.jpg": photograph(number) for number in range(count)}
    write_tree(work / "extracted", members)
    for name, method in (("stored", zipfile.ZIP_STORED), ("deflated", zipfile.ZIP_DEFLATED)):
        row = write_archive(work, name, members, method)
        index_archive(work / row.path, row, work)
    lines = []
    for number in range(-1, rounds):  # the first only fills the page cache
        for processes in workers:
            found = _rates(work, list(members), processes, number)
            if number >= 0:
                lines += [{"round": number, "workers": processes, **one} for one in found]
    sizes = {name: (work / f"downloads/{name}.zip").stat().st_size for name in DECODED[1:]}
    return {"images": count, "bytes": sum(map(len, members.values())), "archive_bytes": sizes, "rounds": lines}


def _rates(work: Path, names: list[str], processes: int, seed: int) -> Iterator[dict[str, Any]]:
    """Decode every image once from each storage, in worker processes at once; yield images a second.

    Each worker goes from storage to storage every few images, in an order by chance, so that whoever else uses the
    machine slows all of them alike.
    """
    names = random.Random(seed).sample(names, len(names))
    # New processes: where their memory happens to lie makes either way up to a tenth faster, and forks inherit it.
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    pool = [
        context.Process(target=_decode, args=(work, names[part::processes], f"{seed}/{part}", results))
        for part in range(processes)
    ]
    for process in pool:
        process.start()
    spent = [results.get() for _ in pool]
    for process in pool:
        process.join()
    for storage in DECODED:
        done = [(count, *seconds[storage]) for count, seconds in spent]
        yield {
            "storage": storage,
            "images_per_s": round(sum(count / wall for count, wall, _ in done), 1),
            "images_per_cpu_s": round(sum(count for count, _, _ in done) / sum(cpu for _, _, cpu in done), 1),
        }


def _decode(work: Path, names: Sequence[str], seed: str, results: Any) -> None:
    chance = random.Random(seed)
    spent = dict.fromkeys(DECODED, (0.0, 0.0))
    for start in range(0, len(names), AT_A_TIME):
        for storage in chance.sample(DECODED, len(DECODED)):
            wall, cpu = time.perf_counter(), time.process_time()
            for name in names[start : start + AT_A_TIME]:
                read_rgb(work / storage / name)
            before = spent[storage]
            spent[storage] = before[0] + time.perf_counter() - wall, before[1] + time.process_time() - cpu
    results.put((len(names), spent))


def decode_medians(result: dict[str, Any]) -> list[dict[str, Any]]:
    """Return by number of workers and storage the median rates, and their median share of the files' in a round."""
    lines = {(line["workers"], line["storage"], line["round"]): line for line in result["rounds"]}
    rounds = sorted({number for _, _, number in lines})
    medians = []
    for workers in sorted({one for one, _, _ in lines}):
        for storage in DECODED:
            found: dict[str, Any] = {"workers": workers, "storage": storage}
            for key, share in (("images_per_s", "share"), ("images_per_cpu_s", "cpu_share")):
                own = [lines[workers, storage, number][key] for number in rounds]
                files = [lines[workers, "extracted", number][key] for number in rounds]
                found[key] = round(statistics.median(own), 1)
                found[share] = round(statistics.median(a / b for a, b in zip(own, files, strict=True)), 3)
            medians.append(found)
    return medians


def layout_medians(result: dict[str, Any]) -> list[dict[str, Any]]:
    """Return for each storage and decoding the median times of both files together, and the most memory of any run."""
    medians = []
    for decode in ("none", "sample"):
        for storage in ("extracted", "archive"):
            lines = [line for line in result["rounds"] if (line["decode"], line["storage"]) == (decode, storage)]
            numbers = sorted({line["round"] for line in lines})
            found: dict[str, Any] = {"storage": storage, "decode": decode}
            for key in ("seconds", "cpu_seconds"):
                both = [sum(line[key] for line in lines if line["round"] == number) for number in numbers]
                found[key] = round(statistics.median(both), 1)
                found[f"fastest_{key}"] = round(min(both), 1)
            medians.append(found | {"peak_gb": round(max(line["peak_gb"] for line in lines), 2)})
    return medians


def main(argv: Sequence[str] | None = None) -> int | None:
    """Measure one of the two."""
    parser = argparse.ArgumentParser(description="Measure the layout check, or the reading of images.")
    parser.add_argument("what", choices=("layout", "decode"))
    parser.add_argument(
        "--work", type=Path, required=True, help="folder for the data; it must not exist, and is removed"
    )
    parser.add_argument("--out", type=Path, required=True, help="JSON to write")
    parser.add_argument("--rounds", type=int, default=5, help="how often each is measured")
    parser.add_argument("--scale", type=float, default=1.0, help="layout: part of the 1.2 million entries")
    parser.add_argument("--images", type=int, default=1500, help="decode: how many")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4], help="decode: worker processes")
    args = parser.parse_args(argv)
    args.work.mkdir(parents=True)
    conditions = {
        "what": args.what,
        "date": time.strftime("%Y-%m-%d"),
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "arguments": {"rounds": args.rounds, "scale": args.scale, "images": args.images, "workers": args.workers},
    }
    try:
        if args.what == "layout":
            result = bench_layout(args.work, args.rounds, args.scale)
            medians = layout_medians(result)
        else:
            result = bench_decode(args.work, args.rounds, args.images, args.workers)
            medians = decode_medians(result)
        write_json(args.out, conditions | result | {"medians": medians})
    finally:
        shutil.rmtree(args.work)
    for line in medians:
        print(json.dumps(line))
    return None


if __name__ == "__main__":
    cli.run(main)
