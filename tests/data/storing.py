"""The same images twice: in folders, and in archives that were indexed."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

from safe_llava.config.data import ResolvedFile, Unpack
from safe_llava.data.archives import indexing


def archive_folder(folder: Path, root: Path, to: str, method: int = zipfile.ZIP_STORED) -> Path:
    """Pack a folder's files, index the archive under another data root, and return where the folder would be there."""
    path = root / "downloads" / f"{to.replace('/', '_')}.zip"
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", method) as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                archive.write(file, str(file.relative_to(folder)))
    unpack = Unpack(to=to, creates=to)
    row = ResolvedFile(set="demo", path=str(path.relative_to(root)), url="https://data.example/x.zip", unpack=unpack)
    indexing.index_archive(path, row, root)
    assert not (root / to).exists()
    return root / to


def weights_of(size: int, fill: bytes = b"w") -> bytes:
    """Return a safetensors file of ``size`` bytes, its one tensor full of ``fill``."""
    count = size - 128
    header = json.dumps({"w": {"dtype": "U8", "shape": [count], "data_offsets": [0, count]}}).encode().ljust(120)
    return len(header).to_bytes(8, "little") + header + (fill * (count // len(fill) + 1))[:count]
