"""Judge an answers file: did it refuse, or what did it leak?

The judge is a row of ``prism.judges`` as JSON: kind ``rules``, or kind ``openai`` with its model and endpoint. What a
paid judge said is kept at once, with its raw replies, in ``<out>.replies.jsonl``: a run that was stopped, or that left
failures, goes on from there. A call that fails after its retries gives a ``failed`` verdict, never a score.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from safe_llava.config.prism import Judge
from safe_llava.core import cli
from safe_llava.core.errors import PrismError
from safe_llava.core.files import write_jsonl
from safe_llava.core.progress import Progress
from safe_llava.core.rows import read_row
from safe_llava.prism.judge_openai import PROMPT_VERSION, Endpoint, Reply, prompt_for
from safe_llava.prism.judge_rules import (
    is_description_refused,
    judge_leakage,
    judge_refusal,
    leaked_names,
    rules_version,
)
from safe_llava.prism.protocol import HAIR, Answer, Attribute, Verdict, read_answers

log = logging.getLogger(__name__)


def endpoint_of(judge: Judge) -> Endpoint:
    """Return where a judge of kind ``openai`` is asked."""
    return Endpoint(
        model=str(judge.model),
        leakage_model=judge.leakage_model,
        base_url=judge.base_url,
        temperature=judge.temperature,
        key_env=judge.key_env,
        retries=judge.retries,
        timeout_s=judge.timeout_s,
    )


def judge_by_rules(answer: Answer) -> Reply:
    """Return the finding of the lexicon and rules for one answer."""
    text = answer.text or ""
    if answer.task.is_refusal:
        return Reply(refused=judge_refusal(text, Attribute(answer.attribute)))
    return Reply(leaked=leaked_names(judge_leakage(text)))


def to_verdict(answer: Answer, judge: str, reply: Reply, version: str | None = None) -> Verdict:
    """Return the verdicts row of an answer and what the judge found in it.

    Whether a description is refused at all is told by the rules, whoever the judge is. ``version`` is that of the
    rules, where they are the judge.
    """
    judged = reply.reason is None
    described = judged and not answer.task.is_refusal
    return Verdict(
        edition=answer.edition,
        model=answer.model,
        task=answer.task,
        question_id=answer.question_id,
        index=answer.index,
        attribute=answer.attribute,
        judge=judge,
        status="judged" if judged else "failed",
        refused=reply.refused if judged else None,
        leaked=reply.leaked if judged else None,
        description_refused=is_description_refused(answer.text or "") if described else None,
        rules_version=version if judged else None,
        reason=reply.reason,
    )


def unanswered(answer: Answer) -> Reply | None:
    """Return why there is nothing to judge in an answer, or None where there is."""
    if answer.status == "failed":
        return Reply(reason=f"no answer: {answer.reason or 'no reason given'}")
    if not (answer.text or "").strip():
        return Reply(reason="no answer: the text is empty")
    return None


def call_key(endpoint: Endpoint, answer: Answer) -> str:
    """Return the digest by which a stored reply is known: endpoint, model, settings and all of the prompt."""
    identity = [PROMPT_VERSION, endpoint.base_url, endpoint.model_for(answer.task), endpoint.temperature]
    return hashlib.sha256(json.dumps([*identity, prompt_for(answer)]).encode()).hexdigest()


class ReplyStore:
    """The replies of a judge, one JSON object a line, written as they come; only findings are kept."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.replies: dict[str, Reply] = {}
        text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
        for line in text.split("\n"):
            try:
                row = json.loads(line)
                leaked = None if row["leaked"] is None else tuple(Attribute(name) for name in row["leaked"])
                self.replies[row["key"]] = Reply(row["raw"], row["refused"], leaked)
            except (ValueError, KeyError, TypeError):
                if line.strip():  # a line that a killed run left unfinished: its answer is asked about again
                    log.warning("%s: a broken line is passed over", path)
        if text and not text.endswith("\n"):
            path.write_text(text + "\n", encoding="utf-8")

    def add(self, key: str, reply: Reply) -> None:
        """Keep a finding, on disk before anything else happens."""
        self.replies[key] = reply
        row = {"key": key, "raw": reply.raw, "refused": reply.refused, "leaked": reply.leaked}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(row, ensure_ascii=False) + "\n")


def ask_all(config: Judge, answers: Sequence[Answer], store: ReplyStore) -> Iterator[tuple[Answer, Reply]]:
    """Yield every answer with the judge's reply to it; equal prompts are asked once.

    Raises:
        PrismError: the key is missing or turned down, or every single call failed.
    """
    endpoint = endpoint_of(config)
    by_key: dict[str, list[Answer]] = defaultdict(list)
    for answer in answers:
        by_key[call_key(endpoint, answer)].append(answer)
    missing = [key for key in by_key if key not in store.replies]
    log.info("%d different prompts, %d of them answered before", len(by_key), len(by_key) - len(missing))
    failures = _ask_missing(config, endpoint, {key: by_key[key][0] for key in missing}, store) if missing else {}
    if failures and len(failures) == len(by_key):
        reason = next(iter(failures.values())).reason
        raise PrismError(f"the judge answered none of {len(failures)} calls; {reason}", "see that its endpoint is up")
    for key, same in by_key.items():
        for answer in same:
            yield answer, store.replies.get(key) or failures[key]


def _ask_missing(config: Judge, endpoint: Endpoint, asked: dict[str, Answer], store: ReplyStore) -> dict[str, Reply]:
    """Ask about the answers, store the findings, and return the replies that hold none, by key."""
    client = endpoint.connect()
    progress = Progress(len(asked), "judge", "calls")
    failures: dict[str, Reply] = {}
    with ThreadPoolExecutor(config.max_concurrency) as pool:
        futures = {pool.submit(endpoint.ask, client, answer): key for key, answer in asked.items()}
        try:
            for future in as_completed(futures):
                reply = future.result()
                if reply.reason is None:
                    store.add(futures[future], reply)
                else:
                    failures[futures[future]] = reply
                progress.update(note=f"{len(failures)} failed" if failures else "")
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
        finally:
            progress.close()
    return failures


def judge_answers(answers: Sequence[Answer], config: Judge, name: str, store_path: Path) -> list[Verdict]:
    """Return a verdict for every answer, in the answers' order; ``Hair`` rows are left out."""
    scored = [answer for answer in answers if answer.attribute != HAIR]
    replies: dict[tuple[Any, ...], Reply] = {}
    open_answers = []
    for answer in scored:
        reply = unanswered(answer)
        if reply is None and config.kind == "rules":
            reply = judge_by_rules(answer)
        if reply is None:
            open_answers.append(answer)
        else:
            replies[answer.key] = reply
    if open_answers:
        replies |= {answer.key: reply for answer, reply in ask_all(config, open_answers, ReplyStore(store_path))}
    version = rules_version() if config.kind == "rules" else None
    return [to_verdict(answer, name, replies[answer.key], version) for answer in scored]


def main(argv: Sequence[str] | None = None) -> int | None:
    """Read answers, judge them, write verdicts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--answers", type=Path, required=True)
    parser.add_argument("--judge-config", type=Path, required=True, help="JSON file with the judge's row")
    parser.add_argument("--judge", required=True, help="the judge's name in the tables")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(argv)
    config = read_row(options.judge_config, Judge, PrismError)
    store_path = options.out.with_name(f"{options.out.name}.replies.jsonl")
    verdicts = judge_answers(read_answers(options.answers), config, options.judge, store_path)
    write_jsonl(options.out, (verdict.model_dump(mode="json") for verdict in verdicts))
    failed = sum(verdict.status == "failed" for verdict in verdicts)
    log.info("%s: %d verdicts, %d failed", options.out, len(verdicts), failed)
    return None


if __name__ == "__main__":
    cli.run(main)
