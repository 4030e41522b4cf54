"""The page of all questions: what it holds, and what a real browser shows of it."""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import subprocess
from itertools import combinations
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from PIL import Image

from safe_llava.core.errors import PrismError
from safe_llava.formats.prism import Attribute, Task, Verdict
from safe_llava.prism import browse, judge
from safe_llava.prism.browsing.gather import attributes_in, code_of
from safe_llava.prism.browsing.pages import script_json

EVIL = "</script><script>document.title='broken'</script> <b>&amp; \u2028 She is 30. \U0001f600 She has blue eyes."
QUIET = (
    *("--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
)


@pytest.fixture(scope="session")
def chromium() -> str:
    """Debian's Chromium; on a throw-away machine of CI it is installed."""
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if not found and os.environ.get("CI") and os.geteuid() == 0 and shutil.which("apt-get"):
        environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        subprocess.run(["apt-get", "update", "-q"], env=environment, check=True, capture_output=True)
        install = ["apt-get", "install", "-q", "-y", "--no-install-recommends", "chromium"]
        subprocess.run(install, env=environment, check=True, capture_output=True)
        found = shutil.which("chromium")
    if not found:
        reason = "no Chromium: apt-get install chromium"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return found


def answer(task: str, question_id: str, text: str | None, index: int = 0, **changes: Any) -> dict[str, Any]:
    attribute, image = question_id.split("/")
    row = {"edition": "v2", "model": "m", "task": task, "question_id": question_id, "index": index, "image": image}
    row |= {"attribute": attribute, "prompt": f"About {question_id}?", "text": text}
    return row | {"status": "failed" if text is None else "ok", "reason": None if text else "it broke"} | changes


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def judged(answers: Path, out: Path, **changes: Any) -> Path:
    rows = [verdict.model_dump(mode="json") | changes for verdict in judge(answers)]
    return write(out, rows)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models and a released one; two judges that differ about one answer; one image, one broken, one absent."""
    work = tmp_path_factory.mktemp("browse")
    Image.new("RGB", (640, 320), "red").save(work / "1.png")
    (work / "2.png").write_bytes(b"no image")
    soft = [
        answer("refusal_soft", "Age/1.png", "I'm sorry, but I cannot determine age."),
        answer("refusal_soft", "Race/2.png", "About 30 years."),
        answer("refusal_soft", "Age/3.png", None),
    ]
    leaks = [answer("implicit_leakage", "All/1.png", EVIL), answer("implicit_leakage", "All/1.png", "A tree.", index=1)]
    plain = [answer("refusal_soft", "Age/1.png", "She is 30.", model="other", truncated=True)]
    files = {
        name: write(work / f"answers/{name}.jsonl", rows)
        for name, rows in {"soft": soft, "leaks": leaks, "plain": plain}.items()
    }
    verdicts = [judged(path, work / f"verdicts/{name}.jsonl") for name, path in files.items()]
    verdicts.append(judged(files["plain"], work / "verdicts/llm.jsonl", judge="llm", refused=True))
    own = ["--answers", *map(str, files.values()), "--verdicts", *map(str, verdicts)]
    released = ["--released", str(files["soft"]), "--released-verdicts", str(verdicts[0])]
    browse.main([*own, *released, "--images", f"v2={work}", "--out", str(work / "out/browse.html")])
    return work / "out/browse.html"


def shown(chromium: str, page: Path, profile: Path, **choice: str) -> str:
    """Return the document as the browser has it after its scripts have run."""
    command = [chromium, "--headless", "--no-sandbox", "--disable-gpu", *QUIET, f"--user-data-dir={profile}"]
    command += ["--virtual-time-budget=5000", "--dump-dom", f"{page.as_uri()}#{urlencode(choice)}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout


def cards(document: str) -> list[str]:
    return re.findall(r"<article.*?</article>", document, re.DOTALL)


def words(card: str) -> str:
    return html.unescape(re.sub(r"<[^>]*>", "\n", card))


def test_every_question_is_shown_with_image_answers_and_verdicts(chromium: str, page: Path, tmp_path: Path) -> None:
    found = cards(shown(chromium, page, tmp_path))
    assert len(found) == 5
    first = next(card for card in found if "About Age/1.png?" in card)
    assert 'src="data:image/jpeg;base64,' in first
    for text in ("m", "other", "m (released)", "rules: refused", "rules: not refused", "llm: refused", "(cut off)"):
        assert text in words(first)
    assert re.search(r'<mark class="s0" title="declines">[^<]*sorry', first)
    assert re.search(r'<mark class="s1" title="Age">[^<]*30', first)
    assert 'href="../answers/plain.jsonl"' in first
    assert all("no image" in words(card) for card in found if "2.png" in card or "3.png" in card)
    failed = next(card for card in found if "About Age/3.png?" in card)
    assert "it broke" in words(failed) and "rules: no answer" in words(failed)


def test_an_answer_is_text_whatever_it_holds(chromium: str, page: Path, tmp_path: Path) -> None:
    document = shown(chromium, page, tmp_path, row="v2/implicit_leakage/All/1.png/0")
    (card,) = cards(document)
    assert "broken" not in re.findall(r"<title>(.*?)</title>", document)[0]
    assert "".join(words(card).split()).count("".join(EVIL.split())) == 1
    # A character of two UTF-16 units stands before it.
    assert '<mark class="s4" title="Eye_Color">blue eyes</mark>' in card
    assert "rules: leaks Gender, Eye_Color" in words(card)


@pytest.mark.parametrize(
    ("choice", "asked"),
    [
        ({"verdict": "refused"}, ["Age/1.png"]),
        ({"verdict": "refused", "models": "other", "judge": "rules"}, []),
        ({"verdict": "told"}, ["Age/1.png", "Race/2.png"]),
        ({"verdict": "failed"}, ["Age/3.png"]),
        ({"verdict": "leak Eye_Color"}, ["All/1.png"]),
        ({"verdict": "leak Race"}, []),
        ({"verdict": "clean"}, ["All/1.png"]),
        ({"differ": "judges"}, ["Age/1.png"]),
        ({"differ": "judges", "models": "m"}, []),
        ({"differ": "models", "judge": "rules"}, ["Age/1.png"]),
        ({"task": "implicit_leakage"}, ["All/1.png", "All/1.png"]),
        ({"attribute": "Race"}, ["Race/2.png"]),
        ({"search": "3.PNG"}, ["Age/3.png"]),
        ({"row": "v2/implicit_leakage/All/1.png/1"}, ["All/1.png"]),
    ],
)
def test_the_filters(chromium: str, page: Path, tmp_path: Path, choice: dict[str, str], asked: list[str]) -> None:
    found = cards(shown(chromium, page, tmp_path, **choice))
    assert [re.findall(r"About (\S+)\?", card)[0] for card in found] == asked


def test_the_page_needs_nothing_but_the_folder_beside_it(page: Path) -> None:
    text = "".join(path.read_text() for path in page.parent.rglob("*") if path.is_file())
    assert sorted(path.name for path in page.parent.rglob("*")) == ["0.js", "browse", "browse.html"]
    assert not re.search(r"https?://|@import|url\(", text)


def test_data_files_are_cut_between_images(tmp_path: Path) -> None:
    rows = [answer("implicit_leakage", f"All/{n}.png", "A tree.", index=i) for i in range(3) for n in range(401)]
    file = write(tmp_path / "a.jsonl", rows)
    browse.main(["--answers", str(file), "--out", str(tmp_path / "browse.html")])
    found = [
        json.loads((tmp_path / f"browse/{n}.js").read_text().removeprefix(f"loaded({n},").rstrip(")\n"))
        for n in range(3)
    ]
    assert [len(one["rows"]) for one in found] == [501, 501, 201]


def test_a_verdicts_character_is_its_own() -> None:
    where = {"edition": "v2", "model": "m", "question_id": "All/1.png", "index": 0, "attribute": "All", "judge": "j"}
    where |= {"task": "implicit_leakage"}
    codes = {}
    for size in range(6):
        for leaked in combinations(Attribute, size):
            for declined in (True, False):
                verdict = Verdict(**where, status="judged", leaked=leaked, description_refused=declined)  # type: ignore[arg-type]
                codes[code_of(verdict)] = (leaked, declined)
                assert attributes_in(code_of(verdict)) == list(leaked)
    failed = Verdict(**where, status="failed", reason="x")  # type: ignore[arg-type]
    asked = where | {"question_id": "Age/1.png", "attribute": "Age", "task": Task.REFUSAL_SOFT}
    refused = Verdict(**asked, status="judged", refused=True)  # type: ignore[arg-type]
    assert len(codes) == 64 and code_of(failed) == "?" and code_of(refused) == "R"
    assert code_of(failed.model_copy(update={"unanswered": True})) == "!"
    assert not set(codes) & {"?", "!", " "}


def test_json_cannot_end_its_script() -> None:
    text = script_json({"a": EVIL})
    assert "<" not in text and "\u2028" not in text and json.loads(text) == {"a": EVIL}


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(PrismError, match="nothing to show"):
        browse.main(["--out", str(tmp_path / "x.html")])
    rows = write(tmp_path / "a.jsonl", [answer("refusal_soft", "Age/1.png", "30")])
    verdicts = judged(rows, tmp_path / "v.jsonl", model="another")
    with pytest.raises(PrismError, match="no answer to Age"):
        browse.main(["--answers", str(rows), "--verdicts", str(verdicts), "--out", str(tmp_path / "x.html")])


def test_a_folder_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    rows = write(tmp_path / "mine/a.jsonl", [answer("refusal_soft", "Age/1.png", "30")])
    for name, fault in (("mine.html", "mine exists and was not made by this step"), ("mine", "mine: no .html file")):
        with pytest.raises(PrismError, match=fault):
            browse.main(["--answers", str(rows), "--out", str(tmp_path / name)])
    assert rows.is_file()
    for _ in range(2):  # what an earlier run made is made anew
        browse.main(["--answers", str(rows), "--out", str(tmp_path / "page.html")])


def test_an_answer_that_is_there_twice_is_named(tmp_path: Path) -> None:
    files = [write(tmp_path / name, [answer("refusal_soft", "Age/1.png", "30")]) for name in ("a.jsonl", "b.jsonl")]
    with pytest.raises(PrismError, match=r"b\.jsonl: row 1: another answer of m to Age/1\.png in refusal_soft"):
        browse.main(["--answers", *map(str, files), "--out", str(tmp_path / "page.html")])


def test_answers_show_no_other_images_of_the_machine(tmp_path: Path) -> None:
    (tmp_path / "pics").mkdir()
    for name in ("secret.png", "pics/1.png"):
        Image.new("RGB", (9, 9)).save(tmp_path / name)
    rows = [answer("refusal_soft", f"{a}/1.png", "30") for a in ("Age", "Race", "Weight")]
    for row, image in zip(rows, ("1.png", "../secret.png", str(tmp_path / "secret.png")), strict=True):
        row["image"] = image
    file = write(tmp_path / "a.jsonl", rows)
    images = f"v2={tmp_path / 'pics'}"
    browse.main(["--answers", str(file), "--images", images, "--out", str(tmp_path / "page.html")])
    assert (tmp_path / "page/0.js").read_text().count("data:image/jpeg") == 1
