"""The page's files: the page itself with an index of all verdicts, and beside it data files of some 500 questions each.

A data file is a script, since a page that is opened from a disk may load nothing else: ``loaded(NUMBER, DATA)``.
"""

from __future__ import annotations

import base64
import io
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path, PurePosixPath
from typing import Any

from PIL import Image

from safe_llava.core.errors import DataError, PrismError
from safe_llava.core.files import require_replaceable, write_text
from safe_llava.core.progress import Progress
from safe_llava.formats.prism import Attribute, Task
from safe_llava.images.pixels import UndecodableError
from safe_llava.images.reader import read_rgb
from safe_llava.lexicon.evidence import phrases_of, place_of
from safe_llava.prism.browsing.gather import NOT_ASKED, ModelColumn, ShownAnswer, ShownQuestion

QUESTIONS_A_FILE = 500
FIRST_FILE = "0.js"  # of the data files
THUMBNAIL = 160  # pixels of the longer side
SAYS = ("declines", *map(str, Attribute))


def write_pages(
    out: Path,
    questions: Sequence[ShownQuestion],
    columns: Sequence[ModelColumn],
    images: Mapping[str, Sequence[Path]],
    title: str,
) -> int:
    """Write the page and its data files, and return how many data files there are.

    Args:
        out: the page; its data files go into the folder of the same name without ``.html``, which is made anew.
        questions: those about one image side by side.
        columns: the models.
        images: folders of each edition's images; an image that is in none, or is broken, is not shown.
        title: of the page.

    Raises:
        PrismError: the page is no .html file, or the folder is somebody else's.
    """
    if out.suffix != ".html":
        raise PrismError(f"{out}: no .html file", "name the page with --out, such as browse.html")
    data = out.with_suffix("")
    require_replaceable(data, FIRST_FILE, PrismError)
    part = data.with_name(f".{data.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    progress = Progress(len(questions), "browse", "questions")
    leaked = [column.leaked for column in columns]
    starts = []
    for number, (start, chunk) in enumerate(_chunks(questions)):
        starts.append(start)
        found = {one.image: _thumbnail(one.image, images.get(one.edition, ())) for one in chunk}
        rows = [
            {
                "p": one.prompt,
                "a": [_answer(one, column, leaks) for column, leaks in zip(columns, leaked, strict=True)],
            }
            for one in chunk
        ]
        value = {"images": {name: uri for name, uri in found.items() if uri}, "rows": rows}
        write_text(part / f"{number}.js", f"loaded({number},{script_json(value)})\n")
        progress.update(len(chunk))
    progress.close()
    shutil.rmtree(data, ignore_errors=True)
    part.rename(data)
    template = (files("safe_llava.prism.browsing") / "page.html").read_text(encoding="utf-8")
    index = _index(questions, columns, starts) | {"title": title, "folder": data.name}
    write_text(out, template.replace("/*INDEX*/", f"const INDEX={script_json(index)};"))
    return len(starts)


def script_json(value: Any) -> str:
    """Return JSON that can stand inside a script element: nothing in it ends the element."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    for sign in ("<", "\u2028", "\u2029"):
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text


def _index(questions: Sequence[ShownQuestion], columns: Sequence[ModelColumn], starts: Sequence[int]) -> dict[str, Any]:
    """Return what the filters need of every question: its names, and a string of verdicts for each model and judge."""
    return {
        "tasks": list(Task),
        "attributes": list(Attribute),
        "says": SAYS,
        "starts": starts,
        "questions": [
            [one.edition, list(Task).index(one.task), one.question_id, one.index, one.attribute, one.image]
            for one in questions
        ],
        "models": [
            {
                "name": column.name,
                "files": column.files,
                "judges": {
                    judge: "".join(codes.get(one.key, NOT_ASKED) for one in questions)
                    for judge, codes in sorted(column.verdicts.items())
                },
            }
            for column in columns
        ],
    }


def _chunks(questions: Sequence[ShownQuestion]) -> Iterator[tuple[int, Sequence[ShownQuestion]]]:
    """Yield the questions of each data file with the number of the first; an image's questions stay together."""
    start = 0
    for place in range(1, len(questions) + 1):
        last = place == len(questions)
        if last or (place - start >= QUESTIONS_A_FILE and questions[place].image != questions[place - 1].image):
            yield start, questions[start:place]
            start = place


def _answer(one: ShownQuestion, column: ModelColumn, leaked: Mapping[Any, set[Attribute]]) -> list[Any] | None:
    """Return an answer as the page reads it: text, reason, cut off, file, line, marks (start, end, what it says)."""
    given = column.answers.get(one.key)
    if given is None:
        return None
    return [
        *(given.text, given.reason, int(given.truncated), given.file, given.line),
        _marks(one, given, leaked.get(one.key, set())),
    ]


def _marks(one: ShownQuestion, given: ShownAnswer, leaked: set[Attribute]) -> list[tuple[int, int, int]]:
    if not given.text:
        return []
    found: dict[tuple[int, int], int] = {}
    for phrase in phrases_of(given.text, one.task, one.attribute, leaked if not one.task.is_refusal else None):
        place = place_of(phrase, given.text)
        if place is not None:
            found.setdefault(place, SAYS.index(phrase.says))
    # JavaScript counts in UTF-16 units, of which a rare character takes two.
    wide = not given.text.isascii() and any(ord(sign) > 0xFFFF for sign in given.text)
    marks = sorted((start, end, says) for (start, end), says in found.items())
    return [(_units(given.text, a), _units(given.text, b), says) for a, b, says in marks] if wide else marks


def _units(text: str, place: int) -> int:
    return len(text[:place].encode("utf-16-le")) // 2


def _thumbnail(name: str, folders: Sequence[Path]) -> str | None:
    if name.startswith("/") or ".." in PurePosixPath(name).parts:  # answers of others show no images of this machine
        return None
    for folder in folders:
        try:
            image = read_rgb(folder / name)
        except (FileNotFoundError, UndecodableError, DataError):
            continue
        image.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
        stream = io.BytesIO()
        image.save(stream, "JPEG", quality=75)
        return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode()
    return None
