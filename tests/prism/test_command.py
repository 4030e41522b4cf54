"""The command `safe-llava prism`, beside the steps of the workflow."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from judges.judge_server import JudgeServer
from safe_llava.core.errors import PrismError
from safe_llava.formats.answer_files import read_any_answers
from safe_llava.formats.scores import read_scores
from safe_llava.prism import command, judge, released, score

MODELS = ("LLaVA", "LLaVA-Onevision", "Gemma", "InternVLC3", "Safe-LLaVA-0_5B")


def answers_folder(shared: Path) -> Path:
    (folder,) = shared.glob("mirror/*/Kimyounggun99/Safe-LLaVA/4340909*/PRISM_evaluation/answers")
    return folder


def test_the_modules_are_the_functions(shared: Path) -> None:
    file = answers_folder(shared) / "LLaVA/refusal_soft_Answer.jsonl"
    rows = judge(file, model="LLaVA")
    assert rows == judge.judge(read_any_answers([file], "LLaVA"))
    assert score(rows) == score.score_verdicts(rows)
    assert len(rows) == 248 and sum(bool(row.refused) for row in rows) == 2


def test_the_scores_are_those_of_the_workflows_steps(shared: Path, tmp_path: Path) -> None:
    model, task = "Safe-LLaVA-0_5B", "implicit_leakage"
    own = answers_folder(shared) / model / f"{task}_Answer.jsonl"
    steps = {name: tmp_path / name for name in ("answers.jsonl", "verdicts.jsonl", "scores.csv")}
    (tmp_path / "rules.json").write_text(json.dumps({"description": "r", "kind": "rules"}))
    named = ["--edition", "v1", "--model", model, "--task", task, "--out", str(steps["answers.jsonl"])]
    released.main(["--answers", str(own), "--reference-answers", str(own), *named])
    row = ["--judge-config", str(tmp_path / "rules.json"), "--judge", "rules"]
    judge.main(["--answers", str(steps["answers.jsonl"]), *row, "--out", str(steps["verdicts.jsonl"])])
    score.main(["--verdicts", str(steps["verdicts.jsonl"]), "--out", str(steps["scores.csv"])])
    command.main(["prism", "score", str(own), "--model", model, "--out", str(tmp_path / "own.csv")])
    assert (tmp_path / "own.csv").read_bytes() == steps["scores.csv"].read_bytes()


def test_the_released_answers_lie_where_the_readme_says(
    shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "released.csv"
    command.main(["prism", "released", "--answers", str(answers_folder(shared)), "--out", str(out)])
    shown = capsys.readouterr().out
    assert "refusal_soft: rules lie 0.40 points from Gemini, over 20 cells" in shown
    assert "refusal_hard: rules lie 2.27 points from Gemini, over 25 cells" in shown
    assert "implicit_leakage: rules lie 3.45 points from nearest, over 25 cells" in shown
    assert {row.model for row in read_scores(out) if row.source == "computed"} == set(MODELS)


def test_two_files_of_one_model_are_two_sides(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    for name, text in (("a", "I cannot tell."), ("b", "About 30.")):
        (tmp_path / name).mkdir()
        row = {"question_id": "Age/1.jpg", "text": text, "model_id": "m"}
        (tmp_path / name / "refusal_soft.jsonl").write_text(json.dumps(row))
    files = [str(tmp_path / name / "refusal_soft.jsonl") for name in "ab"]
    command.main(["prism", "compare", *files, "--out", str(tmp_path / "p.csv")])
    assert f"m ({files[0]}) minus m ({files[1]})" in capsys.readouterr().out
    assert (tmp_path / "p.csv").read_text().count("\n") == 7
    assert "refusal_soft, Age: 1 of 50" in caplog.text


def answers_of(path: Path, *ids: str) -> Path:
    path.write_text("".join(json.dumps({"question_id": one, "text": "I cannot tell."}) + "\n" for one in ids))
    return path


def test_verdicts_are_not_judged_and_count_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file = answers_of(tmp_path / "refusal_soft.jsonl", "Age/1.jpg")
    for name in ("v.csv", "v.jsonl"):
        command.main(["prism", "judge", str(file), "--out", name])
        command.main(["prism", "score", name])
        with pytest.raises(PrismError, match=f"{name} holds verdicts, not answers"):
            command.main(["prism", "judge", name])
        with pytest.raises(PrismError, match=r"2 rows for refusal_soft Age/1\.jpg"):
            command.main(["prism", "score", name, str(file)])


def test_verdicts_saved_by_a_spreadsheet_are_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    command.main(["prism", "judge", str(answers_of(tmp_path / "refusal_soft.jsonl", "Age/1.jpg"))])
    command.main(["prism", "score", "prism_verdicts.csv", "--out", "own.csv"])
    rows = Path("prism_verdicts.csv").read_text().splitlines()
    Path("mark.CSV").write_bytes(("\ufeff" + "\r\n".join(rows) + "\r\n").encode())
    command.main(["prism", "score", "mark.CSV", "--out", "mark_scores.csv"])
    assert Path("own.csv").read_bytes() == Path("mark_scores.csv").read_bytes()
    Path("short.csv").write_text("\n".join([rows[0], rows[1].rsplit(",", 4)[0]]))
    with pytest.raises(PrismError, match=r"short\.csv: line 2: 10 columns where 14 are needed"):
        command.main(["prism", "score", "short.csv"])
    for line in (rows[0].replace(",", ";"), rows[0].rpartition(",")[0], ",".join(rows[0].split(",")[::-1])):
        Path("other.csv").write_text("\n".join([line, *rows[1:]]))
        with pytest.raises(
            PrismError, match=r"(?s)other\.csv: line 1: the columns are not edition,model.*save it with"
        ):
            command.main(["prism", "score", "other.csv"])


def test_an_answer_that_speaks_of_a_judge_is_no_verdict(tmp_path: Path) -> None:
    file = tmp_path / "refusal_soft.csv"
    file.write_text('Age/1.jpg,"a ""judge"", said, is not one"\n')
    command.main(["prism", "judge", str(file), "--out", str(tmp_path / "verdicts.csv")])
    (verdict,) = csv.DictReader((tmp_path / "verdicts.csv").read_text().splitlines())
    assert (verdict["status"], verdict["text"]) == ("judged", 'a "judge", said, is not one')


def test_what_is_read_is_not_written_over(tmp_path: Path) -> None:
    file = answers_of(tmp_path / "refusal_soft.jsonl", "Age/1.jpg")
    text = file.read_text()
    for words in (["judge", str(file)], ["score", str(file)], ["compare", str(tmp_path), str(file)]):
        with pytest.raises(PrismError, match=r"refusal_soft\.jsonl is read and would be written over"):
            command.main(["prism", *words, "--out", f"{tmp_path}/../{tmp_path.name}/refusal_soft.jsonl"])
    assert file.read_text() == text


def test_a_model_is_not_compared_with_itself(tmp_path: Path) -> None:
    file = answers_of(tmp_path / "refusal_soft.jsonl", "Age/1.jpg")
    with pytest.raises(PrismError, match="is A and B"):
        command.main(["prism", "compare", str(file), f"{file.parent}/./{file.name}"])


def test_more_answers_than_questions_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = answers_of(tmp_path / "refusal_soft.jsonl", *(f"Age/{n}.jpg" for n in range(51)))
    command.main(["prism", "judge", str(file), "--out", str(tmp_path / "v.csv")])
    assert "more answers than the edition has questions: " in caplog.text and "Age: 51 of 50" in caplog.text


def test_a_judge_that_is_asked_says_what_it_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TEST_JUDGE_KEY", raising=False)
    file, row = answers_of(tmp_path / "refusal_soft.jsonl", "Age/1.jpg"), tmp_path / "mine.json"
    asked = ["prism", "judge", str(file), "--judge-config", str(row)]
    row.write_text('{"kind": "openai", "model": "m"}')
    with pytest.raises(PrismError, match="description") as caught:
        command.main(asked)
    assert "docs/scorer.md" in caught.value.remedy
    row.write_text('{"description": "d", "kind": "openai", "model": "m", "key_env": "TEST_JUDGE_KEY"}')
    with pytest.raises(PrismError, match="folder") as caught:
        command.main(asked)
    assert "--store" in caught.value.remedy
    with pytest.raises(PrismError, match="TEST_JUDGE_KEY is not set") as caught:
        command.main([*asked, "--store", str(tmp_path / "store")])
    assert "export TEST_JUDGE_KEY" in caught.value.remedy


def test_an_asked_judge_judges_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_JUDGE_KEY", "key")
    rows = [{"question_id": f"Age/{n}.jpg", "prompt": "?", "text": f"answer {n}"} for n in range(3)]
    (tmp_path / "refusal_soft.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with JudgeServer() as server:
        (tmp_path / "mine.json").write_text(json.dumps(server.row()))
        out, store = tmp_path / "v.jsonl", tmp_path / "store"
        arguments = ["--judge-config", str(tmp_path / "mine.json"), "--store", str(store), "--out", str(out)]
        command.main(["prism", "judge", str(tmp_path / "refusal_soft.jsonl"), *arguments])
    verdicts = [json.loads(line) for line in out.read_text().splitlines()]
    assert [(row["judge"], row["status"]) for row in verdicts] == [("mine", "judged")] * 3


def test_an_unknown_model_is_named_with_those_that_were_released(tmp_path: Path) -> None:
    with pytest.raises(PrismError, match="choose among"):
        command.main(["prism", "released", "Nobody", "--out", str(tmp_path / "x.csv")])


def test_a_wrong_folder_of_released_answers_is_named(tmp_path: Path) -> None:
    with pytest.raises(PrismError, match="no such folder"):
        command.main(["prism", "released", "--answers", str(tmp_path / "none")])
    with pytest.raises(PrismError, match="no folder of a model"):
        command.main(["prism", "released", "--answers", str(tmp_path)])


def test_a_reader_that_has_seen_enough_is_no_fault(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    words = [sys.executable, "-m", "safe_llava.prism.command", "prism", "released", "--out", f"{tmp_path}/x.csv"]
    done = subprocess.run(words, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    assert (tmp_path / "x.csv").is_file()
