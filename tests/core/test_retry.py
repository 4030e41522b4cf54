"""A step with failures is run again, one without is not."""

import os

from safe_llava.core.files import write_json
from safe_llava.core.retry import outcome, retry_stamp


def test_no_record_no_stamp(tmp_path):
    assert retry_stamp(tmp_path / "record.json") == ""


def test_a_record_that_does_not_read_is_none(tmp_path):
    (tmp_path / "record.json").write_text("{")
    assert retry_stamp(tmp_path / "record.json") == ""
    write_json(tmp_path / "record.json", {"counts": {}})
    assert retry_stamp(tmp_path / "record.json") == ""


def test_what_a_result_was_made_of_is_gone(tmp_path):
    record, verdicts = tmp_path / "record.json", tmp_path / "verdicts.jsonl"
    verdicts.touch()
    assert retry_stamp(record, [verdicts]) == ""  # nothing was made yet
    write_json(record, outcome(0, ""))
    assert retry_stamp(record, [verdicts]) == ""
    verdicts.unlink()
    gone = retry_stamp(record, [verdicts])
    assert gone.startswith("0 failed, 1 gone")
    write_json(record, outcome(0, gone))  # made again
    verdicts.touch()
    assert retry_stamp(record, [verdicts]) == gone
    write_json(record, {"version": "of an older step, without a stamp"})
    verdicts.unlink()
    assert "1 gone" in retry_stamp(record, [verdicts])


def test_without_failures_the_stamp_stays_what_it_was(tmp_path):
    write_json(tmp_path / "record.json", outcome(0, "3 failed, 17"))
    assert retry_stamp(tmp_path / "record.json") == "3 failed, 17"


def test_with_failures_the_stamp_changes_each_time(tmp_path):
    path = tmp_path / "record.json"
    write_json(path, outcome(3, ""))
    first = retry_stamp(path)
    assert first.startswith("3 failed")
    assert retry_stamp(path) == first  # a look changes nothing
    write_json(path, outcome(3, first))  # tried again, in vain
    os.utime(path, ns=(1, path.stat().st_mtime_ns + 1))
    assert retry_stamp(path) not in ("", first)
