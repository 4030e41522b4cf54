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
