"""The lock file, and the plan."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from data.conftest import PAYLOAD, Upstream
from safe_llava.config.data import Pin, ResolvedFile, ResolvedSet, pin_key
from safe_llava.core.errors import DataError
from safe_llava.data import fetch, pin, plan
from safe_llava.data.transfer import Patience

ONE, TWO = Pin(size=1, sha256="1" * 64), Pin(size=2, sha256="2" * 64)


def run(root: Path, lock: Path, *more: str) -> dict[str, Any]:
    pin.main(["--root", str(root), "--lock", str(lock), *more])
    tree: dict[str, Any] = yaml.safe_load(lock.read_text())
    return tree["data"]["pins"]


def test_a_fetched_file_is_pinned_and_the_pin_verifies_it(upstream: Upstream, tmp_path: Path) -> None:
    root, lock = tmp_path / "data", tmp_path / "lock.yaml"
    row = upstream.row()
    receipt = fetch.fetch(row, root / row.path, [], Patience())
    pins = run(root, lock)
    assert pins == {pin_key(row.url): {"size": len(PAYLOAD), "sha256": receipt.sha256}}
    first = lock.read_bytes()
    run(root, lock)
    assert lock.read_bytes() == first
    assert str(tmp_path) not in first.decode()


def test_a_pin_changes_only_where_it_was_asked_for(upstream: Upstream, tmp_path: Path) -> None:
    root, lock = tmp_path / "data", tmp_path / "lock.yaml"
    row = upstream.row()
    lock.write_text(pin.lock_text({pin_key(row.url): ONE, "data.example/kept": TWO}))
    receipt = fetch.fetch(row, root / row.path, [], Patience())
    with pytest.raises(DataError, match=f"pinned as sha256 {'1' * 64}") as caught:
        run(root, lock)
    assert "--update demo" in caught.value.remedy
    with pytest.raises(DataError, match="--update other: no file of this set"):
        run(root, lock, "--update", "other")
    pins = run(root, lock, "--update", "demo")
    assert pins[pin_key(row.url)]["sha256"] == receipt.sha256
    assert pins["data.example/kept"] == TWO.model_dump(exclude_defaults=True)


def test_receipts_are_not_looked_for_among_unpacked_images(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images.unpacked.json").write_text("{}")
    (tmp_path / "images" / "x.receipt.json").write_text("not ours")
    assert pin.collect(tmp_path) == {}
    (tmp_path / "x.receipt.json").write_text("not ours")
    with pytest.raises(DataError, match=r"x\.receipt\.json: not a receipt"):
        pin.collect(tmp_path)


def test_an_empty_lock_reads_back(tmp_path: Path) -> None:
    lock = tmp_path / "lock.yaml"
    lock.write_text(pin.lock_text({}))
    assert pin.read_lock(lock) == {}
    lock.write_text("data: {pins: {a: {size: many}}}")
    with pytest.raises(DataError, match="not a lock file"):
        pin.read_lock(lock)


def test_the_plan_says_what_is_missing(upstream: Upstream, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    here = upstream.row()
    fetch.fetch(here, tmp_path / "data" / here.path, [], Patience())
    large = ResolvedFile(set="large", path="l.zip", url="https://data.example/l.zip", reported_bytes=27_400_000_000)
    dark = ResolvedFile(set="dark", path="d.zip", url="https://data.example/d.zip")
    files = []
    for row in (here, large, dark):
        dataset = ResolvedSet(set=row.set, title="A set", kind="images", licence="unknown", files=[row])
        files.append(tmp_path / f"{row.set}.json")
        files[-1].write_text(dataset.model_dump_json())
    plan.main(["--root", str(tmp_path / "data"), "--row-file", *map(str, files)])
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[1] == ["demo", "images", "1", "524.3", "kB", "nothing", "unknown"]
    assert lines[2] == ["large", "images", "1", "27.4", "GB", "27.4", "GB", "unknown"]
    assert lines[3] == ["dark", "images", "1", "unknown", "unknown", "unknown"]
    assert lines[4] == ["to", "fetch:", "27.4", "GB,", "and", "1", "sets", "of", "unknown", "size"]


@pytest.mark.parametrize(("size", "text"), [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (None, "unknown")])
def test_sizes_are_decimal(size: int | None, text: str) -> None:
    assert plan.shown(size) == text
