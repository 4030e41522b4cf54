"""Print what a judge is asked, and where the prompt was read.

``python -m safe_llava.prism.judge_prompts --folder DIR --edition v1 --family gpt --task refusal_soft
[--answers F --index N]`` prints it with its source, and with an answer of a file laid in it.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from safe_llava.core import cli
from safe_llava.core.errors import PrismError
from safe_llava.formats.prism import Answer, Task, read_answers
from safe_llava.prism.prompts.load import MARKS, Prompts, WhichPrompts, load_prompts


def _shown(prompts: Prompts, task: Task, answer: Answer | None) -> str:
    """Return a prompt with its source above it, for reading."""
    lines = [f"prompts: {prompts.name}", f"digest: {prompts.digest}"]
    if prompts.sources:
        source = prompts.sources[0 if task.is_refusal else 1]
        lines += [f"file: {source.file}", f"function: {source.function}, line {source.line}"]
        lines += [f"sha256: {source.sha256}", f"url: {source.url or 'unknown: the file has no receipt'}"]
    node = prompts.refusal if task.is_refusal else prompts.leakage
    text = node.render({name: f"<{name}>" for name in MARKS}) if answer is None else prompts.text(answer)
    return "\n".join([*lines, "", text])


def main(argv: Sequence[str] | None = None) -> int | None:
    """Print a prompt and where it comes from."""
    parser = argparse.ArgumentParser(
        prog="python -m safe_llava.prism.judge_prompts", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--folder", type=Path, help="folder of the fetched scripts; without it: the prompts of our own")
    parser.add_argument("--edition", default="v1", help="the edition whose prompt it is")
    parser.add_argument("--family", choices=("gpt", "gemini"), default="gpt", help="the judge whose prompt it is")
    parser.add_argument("--task", type=Task, choices=list(Task), required=True)
    parser.add_argument("--answers", type=Path, help="answers file; one of its answers is laid into the prompt")
    parser.add_argument("--index", type=int, default=0, help="row of the answers file, from 0")
    options = parser.parse_args(argv)
    choice: WhichPrompts = "published" if options.folder else "ours"
    answer = None
    if options.answers:
        answers = [one for one in read_answers(options.answers) if one.task is options.task]
        if not 0 <= options.index < len(answers):
            raise PrismError(
                f"{options.answers}: no row {options.index} of {options.task}", f"rows go from 0 to {len(answers) - 1}"
            )
        answer = answers[options.index]
    print(_shown(load_prompts(choice, options.edition, options.family, options.folder), options.task, answer))
    return None


if __name__ == "__main__":
    cli.run(main)
