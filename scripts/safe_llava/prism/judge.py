"""Judge an answers file: did it refuse, or what did it leak?

The judge is a row of ``prism.judges`` as JSON: kind ``rules``, or a kind that is asked over HTTP. What an asked judge
said is kept at once, with its raw reply, in the store: a run that was stopped, or that left failures, resumes
there, and equal questions about equal answers are asked once, whichever file they are in. A call that fails after its
retries gives a ``failed`` verdict, never a score.

From Python: ``from safe_llava.prism import judge``, then ``verdicts = judge("answers.jsonl")`` (see ``judge``).
Run it: ``python -m safe_llava.prism.judge --answers F --judge-config ROW.json --judge NAME --store DIR --out F``.
"""

from __future__ import annotations

import argparse
import logging
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safe_llava.config.prism import Judge
from safe_llava.config.secrets import read_key
from safe_llava.core import cli, provenance
from safe_llava.core.errors import PrismError
from safe_llava.core.files import write_json, write_jsonl
from safe_llava.core.imports import make_callable
from safe_llava.core.retry import outcome as outcome_for_retry
from safe_llava.core.rows import read_row
from safe_llava.formats.answer_files import read_any_answers
from safe_llava.formats.prism import HAIR, Answer, Attribute, Task, Verdict, read_answers
from safe_llava.judges.calls import Asked, Call, Outcome, Stopped, Usage, is_another_model
from safe_llava.judges.cost import cost_of, estimated_usage
from safe_llava.judges.store import VerdictStore
from safe_llava.judges.store_index import Spent
from safe_llava.lexicon.language import is_english
from safe_llava.lexicon.rules import (
    in_protocol_order,
    is_description_refused,
    judge_leakage,
    judge_refusal,
    rules_version,
)
from safe_llava.prism.prompts.load import load_prompts
from safe_llava.prism.prompts.protocol import Finding, PrismReading, make_call

log = logging.getLogger(__name__)
NOT_ENGLISH = "not English"
RULES_JUDGE = Judge(description="The lexicon and rules of this project.", kind="rules")
DIGEST_SHOWN = 12  # hexadecimal digits of a prompt's digest in a verdict


@dataclass
class JudgedAnswers:
    """The verdicts of an answers file, and what it took to get them."""

    verdicts: list[Verdict]
    facts: dict[str, Any] = field(default_factory=dict)


def judge(
    answers: Path | str | Sequence[Path | str] | Iterable[Answer],
    config: Judge = RULES_JUDGE,
    name: str = "rules",
    *,
    model: str | None = None,
    task: Task | str | None = None,
    edition: str | None = None,
    store: Path | str | None = None,
) -> list[Verdict]:
    """Judge answers, one verdict each and in their order; the rule-based judge needs no network and no key.

    Args:
        answers: an answer file (JSON lines of upstream's scripts or of this project, or a CSV file with the columns
            question_id and answer), a folder of a model's files, several of these, or rows.
        config: the judge; by default the rules, which are the same every time.
        name: the judge's name in the tables.
        model, task, edition: what the files do not say (``safe_llava.formats.answer_files``).
        store: folder of the replies of a judge that is asked; equal questions are asked once.

    Returns:
        ``refused`` is True or False for a direct question, ``leaked`` the attributes of a description; both are None
        where ``status`` is ``failed``: a failure is no score. Source of the protocol: Safe-LLaVA, arXiv 2509.00192.

    Raises:
        SafeLlavaError: a file or row is no answer, or the judge cannot be asked.
    """
    given = [answers] if isinstance(answers, Path | str) else list(answers)
    rows = [one for one in given if isinstance(one, Answer)]
    if paths := [one for one in given if not isinstance(one, Answer)]:
        rows += read_any_answers(paths, model, Task(task) if task else None, edition)
    return judge_answers(rows, config, name, Path(store) if store else None).verdicts


def judge_by_rules(answer: Answer) -> Outcome[Finding]:
    """Return what the lexicon and rules find in one answer; nothing in one that is not English."""
    text = answer.text or ""
    if not is_english(text):
        return Outcome("", reason=NOT_ENGLISH)
    if answer.task.is_refusal:
        return Outcome("", Finding(refused=judge_refusal(text, Attribute(answer.attribute))))
    return Outcome("", Finding(leaked=in_protocol_order(judge_leakage(text))))


def to_verdict(
    answer: Answer, judge: str, outcome: Outcome[Finding], version: str | None = None, prompts: str | None = None
) -> Verdict:
    """Return the verdicts row of an answer and how judging it ended.

    Whether a description is refused at all is decided by the rules, with every judge.

    Args:
        answer: what was judged.
        judge: the judge's name in the tables.
        outcome: a finding, or the reason why there is none.
        version: that of the rules, where they had a say.
        prompts: name and digest of the prompts, where the judge was asked.
    """
    finding = outcome.found
    described = finding is not None and not answer.task.is_refusal
    return Verdict(
        edition=answer.edition,
        model=answer.model,
        task=answer.task,
        question_id=answer.question_id,
        index=answer.index,
        attribute=answer.attribute,
        judge=judge,
        status="judged" if finding else "failed",
        refused=finding.refused if finding else None,
        leaked=finding.leaked if finding else None,
        description_refused=is_description_refused(answer.text or "") if described else None,
        rules_version=version if finding else None,
        judge_model=outcome.model,
        prompts=prompts if finding else None,
        image=answer.image,
        truncated=answer.truncated,
        unanswered=unanswered(answer) is not None,
        reason=outcome.reason,
    )


def unanswered(answer: Answer) -> str | None:
    """Return why there is nothing to judge in an answer, or None where there is."""
    if answer.status == "failed":
        return f"no answer: {answer.reason or 'no reason given'}"
    if not (answer.text or "").strip():
        return "no answer: the text is empty"
    return None


def judge_answers(
    answers: Sequence[Answer], config: Judge, name: str, store: Path | None = None, prompts: Path | None = None
) -> JudgedAnswers:
    """Judge every answer, in the answers' order; ``Hair`` rows are left out, empty and failed answers never sent.

    Args:
        answers: what the models said.
        config: the judge's row.
        name: the judge's name in the tables.
        store: folder of the verdicts of an asked judge.
        prompts: folder of the published prompts, where the row chooses them.

    Raises:
        PrismError: there is no verdict at all, and none is to be had; or the store or the prompts are not there.
    """
    scored = [answer for answer in answers if answer.attribute != HAIR]
    asked = [answer for answer in scored if unanswered(answer) is None]
    facts: dict[str, Any] = {"answers": len(scored), "hair": len(answers) - len(scored)}
    facts["unanswered"] = len(scored) - len(asked)
    by_answer: dict[Any, tuple[Outcome[Finding], str | None]] = {}
    if config.kind == "rules":
        by_answer = {answer.key: (judge_by_rules(answer), None) for answer in asked}
    elif asked:
        by_answer = _ask(asked, config, name, store, prompts, facts)
    version = rules_version()
    verdicts = []
    for answer in scored:
        found, prompt = by_answer.get(answer.key) or (Outcome("", reason=unanswered(answer)), None)
        by_rules = config.kind == "rules" or not answer.task.is_refusal
        verdicts.append(to_verdict(answer, name, found, version if by_rules else None, prompt))
    facts["failed"] = sum(verdict.status == "failed" and not verdict.unanswered for verdict in verdicts)
    facts["not_english"] = sum(verdict.reason == NOT_ENGLISH for verdict in verdicts)
    if facts["not_english"]:
        log.warning("the rules judge English alone; answers in other languages: %d", facts["not_english"])
    return JudgedAnswers(verdicts, facts)


def _ask(
    answers: Sequence[Answer],
    config: Judge,
    name: str,
    folder: Path | None,
    prompts: Path | None,
    facts: dict[str, Any],
) -> dict[Any, tuple[Outcome[Finding], str | None]]:
    """Return the outcome of every answer by its key, asking what the store does not know."""
    if folder is None:
        raise PrismError(f"judge {name}: its replies have no folder to be kept in", "name one with --store")
    editions = sorted({answer.edition for answer in answers})
    of_edition = {one: load_prompts(config.prompts, one, config.prompts_of, prompts) for one in editions}
    named = {one: f"{its.name}:{its.digest}" for one, its in of_edition.items()}
    calls = {
        answer.key: make_call(config, answer.task, of_edition[answer.edition].text(answer), named[answer.edition])
        for answer in answers
    }
    different = {call.key: call for call in calls.values()}
    store = VerdictStore(folder, name, PrismReading())
    try:
        known = {key: found for key in different if (found := store.get(key))}
        missing = [call for key, call in different.items() if key not in known]
        asked = _ask_missing(config, missing, store, len(answers), len(different))
        store.refresh()
        # The store's verdict is the earliest of all processes.
        outcomes = {key: known.get(key) or store.get(key) or asked.outcomes[key] for key in different}
        total = store.total
    finally:
        store.close()
    _refuse_silence(outcomes, asked)
    models = sorted({outcome.model for outcome in outcomes.values() if outcome.model})
    facts |= {"calls": len(different), "asked": len(missing), "models": models}
    names = {(different[key].model, outcome.model) for key, outcome in outcomes.items()}
    facts["other_models"] = sorted(str(said) for asked_for, said in names if is_another_model(asked_for, said))
    facts["ended"] = str(asked.ended) if asked.ended else None
    facts |= {"prompts": {one: {"name": its.name, "digest": its.digest} for one, its in of_edition.items()}}
    facts |= {"this_run": _spent(store.own), "store": _spent(total)}
    return {key: (outcomes[call.key], _short(call.prompt)) for key, call in calls.items()}


def _short(prompt: str) -> str:
    name, _, digest = prompt.partition(":")
    return f"{name}:{digest[:DIGEST_SHOWN]}"


def _ask_missing(
    config: Judge, missing: Sequence[Call], store: VerdictStore[Finding], n_answers: int, n_different: int
) -> Asked[Finding]:
    """Ask what the store does not know; what forbids it is returned beside the outcomes."""
    try:
        _announce(config, n_answers, n_different, missing, store)
        if not missing:
            return Asked({})
        secret = read_key(config, os.environ)
        store.prepare()
    except PrismError as error:
        return Asked({call.key: Outcome(call.key, reason=error.message) for call in missing}, error)
    try:
        from safe_llava.judges.run import ask_all  # what asks over a network is no part of the core
    except ModuleNotFoundError as error:
        remedy = 'pip install ".[judge]" in a clone of this project'
        raise PrismError(
            f"a judge that is asked needs packages that are not installed: {error.name}", remedy
        ) from error

    return ask_all(config, missing, store, secret)


def _announce(
    config: Judge, n_answers: int, n_different: int, missing: Sequence[Call], store: VerdictStore[Finding]
) -> None:
    """Report what is about to be asked and what it may cost, before the first call.

    Raises:
        PrismError: more than ``max_cost``, with what was spent before.
    """
    usage = sum((estimated_usage(config, call) for call in missing), Usage(0, 0))
    costs = [cost_of(config, call.model, estimated_usage(config, call), config.batch) for call in missing]
    known = [cost for cost in costs if cost is not None]
    cost, spent = sum(known), store.spent_at_most
    estimate = f"${cost:.4f}" if len(known) == len(costs) else "unknown (the row has no prices)"
    log.info(
        "judge %s: %d answers, %d different calls, %d there already, %d to ask%s; "
        "about %d tokens of prompts and %d of replies, estimated cost %s; spent before: $%.4f",
        *(store.judge, n_answers, n_different, n_different - len(missing), len(missing)),
        *(" in batches" if config.batch else "", usage.prompt_tokens, usage.completion_tokens, estimate, spent),
    )
    if config.max_cost is not None and missing and spent + cost > config.max_cost:
        raise PrismError(
            f"judge {store.judge}: {len(missing)} calls would cost about ${cost:.4f} beside the ${spent:.4f} spent "
            f"before, more than max_cost (${config.max_cost:.4f})",
            "raise prism.judges.NAME.max_cost, or judge less; nothing was asked",
        )


def _refuse_silence(outcomes: dict[str, Outcome[Finding]], asked: Asked[Finding]) -> None:
    """Report what ended the run; where there is not one verdict and not even a reply, that is an error.

    Raises:
        PrismError: nothing at all works.
    """
    if any(outcome.found for outcome in outcomes.values()) or (asked.ended is None and asked.replied):
        if asked.ended is not None:
            log.error("%s; what was not asked is failed in the verdicts, and is asked by the next run", asked.ended)
        return
    reason = next(iter(outcomes.values())).reason
    raise asked.ended or PrismError(
        f"the judge answered none of {len(outcomes)} calls; {reason}", "see that its endpoint is up"
    )


def _spent(spent: Spent) -> dict[str, Any]:
    tokens = {"prompt_tokens": spent.prompt_tokens, "completion_tokens": spent.completion_tokens}
    return {"calls": spent.calls, "cost": round(spent.cost, 6), **tokens}


def main(argv: Sequence[str] | None = None) -> int | None:
    """Read answers, judge them, write verdicts."""
    parser = argparse.ArgumentParser(
        prog="python -m safe_llava.prism.judge", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--answers", type=Path, required=True, help="answers file")
    parser.add_argument("--judge-config", type=Path, required=True, help="JSON file with the judge's row")
    parser.add_argument("--judge", required=True, help="the judge's name in the tables")
    parser.add_argument("--store", type=Path, help="folder of the verdicts; a judge that is asked needs one")
    parser.add_argument("--prompts", type=Path, help="folder of the published prompts, one folder for each edition")
    parser.add_argument("--retry-of", default="", help="stamp of the last run that left failures; kept in the record")
    parser.add_argument("--out", type=Path, required=True, help="where the verdicts go")
    parser.add_argument("--record", type=Path, help="where the facts about this run go")
    options = parser.parse_args(argv)
    config = read_row(options.judge_config, Judge, PrismError)
    try:
        judged = judge_answers(read_answers(options.answers), config, options.judge, options.store, options.prompts)
    except Stopped as stopped:
        log.warning("stopped by %s; every reply so far is kept, the same command resumes", stopped)
        return cli.EXIT_RUN_AGAIN
    write_jsonl(options.out, (verdict.model_dump(mode="json", exclude_none=True) for verdict in judged.verdicts))
    failed = judged.facts["failed"]
    if options.record:
        made = provenance.record({"answers": options.answers}, judge=config.model_dump(mode="json"), **judged.facts)
        # What the rules cannot judge they never can: there is nothing to ask again.
        again = 0 if config.kind == "rules" else failed
        write_json(options.record, made | outcome_for_retry(again, options.retry_of))
    log.info("%s: %d verdicts, %d failed", options.out, len(judged.verdicts), failed)
    return None


make_callable(__name__)
if __name__ == "__main__":
    cli.run(main)
