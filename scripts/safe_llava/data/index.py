"""Index one archive: `python -m safe_llava.data.index --archive FILE --row ROW.json --root DIR --out FILE`."""

from __future__ import annotations

from collections.abc import Sequence

from safe_llava.core import cli
from safe_llava.data.archives.indexing import index_archive
from safe_llava.data.archives.place import place


def main(argv: Sequence[str] | None = None) -> None:
    """Index one archive."""
    place("Index one archive, so that its files are read without unpacking it.", index_archive, argv)


if __name__ == "__main__":
    cli.run(main)
