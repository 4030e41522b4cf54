"""Unpack one archive: `python -m safe_llava.data.unpack --archive FILE --row ROW.json --root DIR --out FILE`."""

from __future__ import annotations

from collections.abc import Sequence

from safe_llava.core import cli
from safe_llava.data.archives.place import place
from safe_llava.data.archives.unpacking import unpack_archive


def main(argv: Sequence[str] | None = None) -> None:
    """Unpack one archive."""
    place("Unpack one archive into its folder under the data root.", unpack_archive, argv)


if __name__ == "__main__":
    cli.run(main)
