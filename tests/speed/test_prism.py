"""The benchmark of the transformers back end: what it asks, what it computes, and that it runs on a CPU."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from safe_llava.core.errors import EngineError
from safe_llava.speed import prism as bench
from safe_llava.speed import prism_set as bench_set


def test_lengths_are_the_published_ones() -> None:
    """Means in tokens as in the facts about the released answers of LLaVA; any number of draws keeps them."""
    for task, mean, longest in (("refusal_soft", 7.9, 53), ("refusal_hard", 4.3, 49), ("implicit_leakage", 85.6, 161)):
        for count in (744, 11_000):
            lengths = bench_set.published_lengths(task, count)
            assert len(lengths) == count
            assert round(sum(lengths) / count, 1) == pytest.approx(mean, abs=0.11)
            assert max(lengths) == longest
        assert lengths != sorted(lengths)


def test_lengths_are_those_of_the_released_answers(shared: Path) -> None:
    import mistral_common
    import sentencepiece

    model = Path(mistral_common.__file__).parent / "data" / "tokenizer.model.v1"
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(model))
    (folder,) = shared.glob("mirror/*/Kimyounggun99/Safe-LLaVA/*/PRISM_evaluation/answers/LLaVA")
    tokens = json.loads(bench_set.LENGTHS.read_text(encoding="utf-8"))["tokens"]
    for task in bench_set.QUESTIONS:
        lines = (folder / f"{task}_Answer.jsonl").read_text(encoding="utf-8").splitlines()
        counted = Counter(len(pieces.encode(json.loads(line)["text"])) for line in lines)
        assert tokens[task] == {str(length): count for length, count in sorted(counted.items())}


def test_an_edition_has_thirteen_questions_a_picture(tmp_path: Path) -> None:
    images = bench_set.write_images(tmp_path, 3)
    asked = bench_set.edition(images)
    assert len(asked.requests) == len(asked.lengths) == 39
    assert {request.max_new_tokens for request in asked.requests} == {200}, "no plan may know a length"
    first = [request for request in asked.requests if request.images == (images[0],)]
    assert len({request.text for request in first}) == 13
    assert [asked.tasks[request.key] for request in first].count("implicit_leakage") == 3


def test_it_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "log.jsonl"
    bench.main(["--size", "tiny", "--pictures", "2", "--loop", "1", "--work", str(tmp_path), "--out", str(out)])
    lines = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert [line["kind"] for line in lines] == ["conditions", "edition", "loop", "loop", "loop", "ratio"]
    edition, loop, last = lines[1], lines[2:5], lines[5]
    assert edition["answers"] == 26
    assert edition["tokens"]["decode"] + 26 == edition["answer_tokens"], "every token but the first is decoded"
    assert edition["tokens"]["prefix"] == 2 * 19, "each image is read once: 16 positions behind three tokens"
    assert [line["task"] for line in loop] == list(bench_set.QUESTIONS)
    assert [line["answers"] for line in loop] == [5, 5, 3]
    assert bench.ratio(edition, loop) == last
    assert len(capsys.readouterr().out.splitlines()) == 5


def test_the_ratio_weighs_tasks_as_an_edition_has_them() -> None:
    loop = [
        {"task": "refusal_soft", "answers": 10, "seconds": 2.0},
        {"task": "refusal_hard", "answers": 5, "seconds": 0.5},
        {"task": "implicit_leakage", "answers": 2, "seconds": 5.0},
    ]
    # 5 × 0.2 s + 5 × 0.1 s + 3 × 2.5 s are 9 s for 13 answers.
    line = bench.ratio({"answers": 26_000, "seconds": 1000.0}, loop)
    assert line == {"kind": "ratio", "loop_answers_per_s": 1.444, "loop_hours": 5.0, "times_the_loop": 18.0}


def test_an_answer_of_another_length_stops_it(tmp_path: Path) -> None:
    bench_set.write_folder(tmp_path, "tiny", None)
    asked = bench_set.edition(bench_set.write_images(tmp_path / "pictures", 1))
    engine = bench.BenchEngine(tmp_path, bench_set.bench_row(), "cpu", asked.lengths)
    wrong = {**asked.lengths, asked.requests[0].key: 199}
    with pytest.raises(EngineError, match="an answer of another length"):
        bench.measure_edition(engine, bench_set.BenchEdition(asked.requests, wrong, asked.tasks))
