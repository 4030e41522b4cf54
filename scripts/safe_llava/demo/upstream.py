"""Make the demo's upstream: a folder with everything a real run downloads, in miniature.

``python -m safe_llava.demo.upstream --out results/demo/upstream --seed 42``

The folder holds ``<host>/<path of the URL>`` for every file, with the names and shapes of the real ones,
so it can be used as a mirror folder or served by `safe_llava.demo.server`. Beside them lie ``pins.yaml``
(size and sha256 of every file, by URL), ``truth.jsonl`` (what the test images show) and ``upstream.json``.
The same seed gives the same bytes. A whole folder is left alone; a new one is written beside and renamed.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import io
import json
import logging
import shutil
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from safe_llava.config.data import DEFAULT_REVISION, hub_repository
from safe_llava.core import cli
from safe_llava.core.errors import DataError
from safe_llava.core.files import read_json, write_json, write_jsonl, write_text
from safe_llava.core.progress import track
from safe_llava.demo import annotations as texts
from safe_llava.demo import evaluation, training, weights
from safe_llava.demo.drawing import draw, encode_image
from safe_llava.demo.training import LLAVA_INSTRUCT, LLAVA_PRETRAIN, OCR, SAFE_LLAVA, DrawnSample, Sizes
from safe_llava.formats.prism import Task

log = logging.getLogger(__name__)
Served = tuple[str, bytes]

MAKERS = ("annotations.py", "drawing.py", "evaluation.py", "scenes.py", "training.py", "upstream.py", "weights.py")
ZIP_TIME = (1980, 1, 1, 0, 0, 0)
MIX_NAME = "llava_v1_5_mix665k.json"
CAPTIONS_NAME = "blip_laion_cc_sbu_558k.json"
POPE = "lmms-lab-encoder/POPE"
POPE_README = """---
configs:
- config_name: default
  data_files:
  - split: test
    path: data/test-*
---
# POPE in miniature

Questions about the presence of things in drawings, in POPE's format, made by the demo.
"""


def zip_bytes(members: Iterable[Served]) -> bytes:
    """Return an archive of ``members`` (name, content) whose bytes depend on nothing else."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        for name, content in members:
            info = zipfile.ZipInfo(name, ZIP_TIME)
            info.create_system = 3  # Unix, wherever this runs
            info.external_attr = 0o644 << 16
            archive.writestr(info, content)
    return stream.getvalue()


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()


def _jsonl(rows: Iterable[Mapping[str, Any]]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def _image_file(sample: DrawnSample) -> bytes:
    """Draw a training image; some book covers are not what their suffix says, as in the real set."""
    assert sample.scene is not None
    drawn = draw(sample.scene)
    if sample.source is OCR:
        drawn = drawn.crop((14, 0, 98, 112))  # covers are upright
        disguise = {3: "gif", 7: "png"}.get(sample.number % 10)
        if disguise:
            return encode_image(drawn, disguise)
    return encode_image(drawn, "jpg")


def training_files(sizes: Sizes, seed: int) -> Iterator[Served]:
    """Yield the image archives and both sets of annotations."""
    captions, mix = training.captions(sizes, seed), training.mix(sizes, seed)
    archives: dict[str, list[Served]] = {}
    for sample in track([*captions, *mix], "training images", unit="images"):
        if sample.source is not None:
            content = _image_file(sample)
            archives.setdefault(sample.source.archive, []).append((sample.source.member(sample.number), content))
    for url, members in archives.items():
        yield url, zip_bytes(sorted(members))
    for name, host, samples in ((CAPTIONS_NAME, LLAVA_PRETRAIN, captions), (MIX_NAME, LLAVA_INSTRUCT, mix)):
        yield f"{host}/{name}", _json([sample.row("original", seed) for sample in samples])
        yield f"{SAFE_LLAVA}/Safe_{name}", _json([sample.row("safe", seed) for sample in samples])


def prism_files(sizes: Sizes, seed: int) -> Iterator[Served]:
    """Yield the question files and image archives of both editions."""
    images = [*evaluation.prism_v1(sizes, seed), *evaluation.prism_v2(sizes, seed)]
    for part, prefix, folder in (("v1", "", "biometric"), ("small", "small_", "small"), ("large", "large_", "large")):
        chosen = [image for image in images if image.part == part]
        for task in Task:
            yield f"{SAFE_LLAVA}/{prefix}PRISM_{task}.jsonl", _jsonl(evaluation.question_rows(chosen, task))
        members = [
            (f"{folder}_images/{image.image}", encode_image(draw(image.scene), image.suffix)) for image in chosen
        ]
        yield f"{SAFE_LLAVA}/{folder}_images.zip", zip_bytes(members)


def git_blob_id(content: bytes) -> str:
    """Return the name that git gives these bytes, as the hub lists it."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def snapshot_files(repo: str, kind: str, files: Mapping[str, bytes]) -> Iterator[Served]:
    """Yield a hub repository: its files under ``resolve/main``, and what the hub's API says about it."""
    digest = hashlib.sha1(usedforsecurity=False)
    for name in sorted(files):
        digest.update(name.encode() + b"\0" + hashlib.sha256(files[name]).digest())
    prefix = "datasets/" if kind == "dataset" else ""
    for name, content in sorted(files.items()):
        yield f"huggingface.co/{prefix}{repo}/resolve/main/{name}", content
    listing = {"id": repo, "sha": digest.hexdigest(), "siblings": [{"rfilename": name} for name in sorted(files)]}
    tree = [
        {"type": "file", "path": name, "size": len(content), "oid": git_blob_id(content)}
        for name, content in sorted(files.items())
    ]
    yield f"huggingface.co/api/{kind}s/{repo}/revision/main", _json(listing)
    yield f"huggingface.co/api/{kind}s/{repo}/tree/main", _json(tree)


def hub_files(sizes: Sizes, seed: int, corpus: Sequence[str]) -> Iterator[Served]:
    """Yield the hub repositories: language model, vision tower, POPE."""
    tokenizer = weights.train_tokenizer(corpus, texts.content_words())
    vocabulary = tokenizer.get_vocab_size()
    llama = weights.checkpoint_files(
        weights.LANGUAGE_MODEL | {"vocab_size": vocabulary}, weights.language_model(seed, vocabulary)
    )
    yield from snapshot_files("demo/tiny-llama", "model", llama | weights.tokenizer_files(tokenizer))
    clip = weights.checkpoint_files(weights.VISION_TOWER, weights.vision_tower(seed))
    yield from snapshot_files("demo/tiny-clip", "model", clip | weights.preprocessor_files())
    rows = evaluation.pope_rows(evaluation.pope_scenes(sizes, seed))
    pope = {"README.md": POPE_README.encode(), "data/test-00000-of-00001.parquet": evaluation.pope_parquet(rows)}
    yield from snapshot_files(POPE, "dataset", pope)


def check_disjoint(sizes: Sizes, seed: int) -> None:
    """Make sure that no test scene is a training scene.

    Raises:
        DataError: two scenes have one key, or show exactly the same.
    """
    train = [sample.scene for sample in (*training.captions(sizes, seed), *training.mix(sizes, seed))]
    test = [image.scene for image in (*evaluation.prism_v1(sizes, seed), *evaluation.prism_v2(sizes, seed))]
    test += evaluation.pope_scenes(sizes, seed)
    seen = {
        key for scene in train if scene is not None for key in (scene.key, repr(dataclasses.replace(scene, key="")))
    }
    for scene in test:
        if scene.key in seen or repr(dataclasses.replace(scene, key="")) in seen:
            raise DataError(f"test scene {scene.key} is a training scene too", "make the demo with another --seed")


def served_files(sizes: Sizes, seed: int) -> Iterator[Served]:
    """Yield every file of the demo's upstream: URL without its scheme, content."""
    check_disjoint(sizes, seed)
    yield from training_files(sizes, seed)
    yield from prism_files(sizes, seed)
    yield from hub_files(sizes, seed, [*training.tokenizer_corpus(sizes, seed), *texts.corpus()])


def recipe(sizes: Sizes, seed: int) -> dict[str, Any]:
    """Return what the bytes depend on: seed, sizes, and the code that makes them."""
    digest = hashlib.sha256()
    for name in MAKERS:
        digest.update(name.encode() + (Path(__file__).parent / name).read_bytes())
    return {"seed": seed, "sizes": dataclasses.asdict(sizes), "code": digest.hexdigest()}


def is_whole(folder: Path, wanted: Mapping[str, Any]) -> bool:
    """Tell whether ``folder`` is an upstream of that recipe with every file at its size."""
    stamp = folder / "upstream.json"
    if not stamp.is_file() or read_json(stamp) != wanted:
        return False
    pins = yaml.safe_load((folder / "pins.yaml").read_text(encoding="utf-8"))["data"]["pins"]
    paths = {folder / url: pin["size"] for url, pin in pins.items()}
    return all(path.is_file() and path.stat().st_size == size for path, size in paths.items())


def build_upstream(folder: Path, sizes: Sizes, seed: int) -> None:
    """Write an upstream into an empty folder."""
    pins = {}
    for url, content in served_files(sizes, seed):
        path = folder / url
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        if not url.startswith("huggingface.co/api/"):
            pins[url] = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    images = [*evaluation.prism_v1(sizes, seed), *evaluation.prism_v2(sizes, seed)]
    write_jsonl(folder / "truth.jsonl", evaluation.truth_rows(images))
    # Whatever commits of the real repositories are pinned: this upstream has the branch alone.
    found = sorted({repository for url in pins if (repository := hub_repository(f"https://{url}"))})
    lock = {"pins": pins, "revisions": dict.fromkeys(found, DEFAULT_REVISION)}
    write_text(folder / "pins.yaml", yaml.safe_dump({"data": lock}, sort_keys=True))
    write_json(folder / "upstream.json", recipe(sizes, seed))


def make(out: Path, sizes: Sizes, seed: int) -> bool:
    """Make the upstream at ``out`` unless it is there, and tell whether it had to be made.

    Raises:
        DataError: ``out`` holds something else, which is not ours to delete.
    """
    wanted = recipe(sizes, seed)
    if is_whole(out, wanted):
        log.info("%s is whole already", out)
        return False
    if out.exists() and not (out / "upstream.json").is_file() and any(out.iterdir()):
        raise DataError(f"{out}: a folder that is not an upstream of the demo", "name another folder with --out")
    out.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".part", dir=out.parent))
    try:
        build_upstream(beside, sizes, seed)
        beside.chmod(0o755)
        if out.exists():
            shutil.rmtree(out)
        beside.replace(out)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    log.info("%s: %d files served", out, sum(path.is_file() for path in out.rglob("*")) - 3)
    return True


def main(argv: Sequence[str] | None = None) -> int | None:
    """Make the demo's upstream."""
    parser = argparse.ArgumentParser(prog="python -m safe_llava.demo.upstream", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder to make")
    parser.add_argument("--seed", type=int, default=42, help="seed of every scene, sentence and weight")
    arguments = parser.parse_args(argv)
    make(arguments.out, Sizes(), arguments.seed)
    return None


if __name__ == "__main__":
    cli.run(main)
