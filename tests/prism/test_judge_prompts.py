"""The published prompts, read out of scripts of upstream's shape (the words in them are ours), and our own prompts."""

from __future__ import annotations

import ast
import hashlib
import json
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from safe_llava.config.data import resolve_set
from safe_llava.config.load import load
from safe_llava.core.errors import PrismError
from safe_llava.formats.prism import Answer
from safe_llava.prism import judge_prompts
from safe_llava.prism.prompts.load import OURS_VERSION, SCRIPTS, load_prompts, our_prompts
from safe_llava.prism.prompts.source import find_prompt

# The shape of a released script: arguments, a client and files at the top, then the prompt, the call and a loop.
SCRIPT = """import argparse
import openai


def get_args():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=str, required=True)
    args = parser.parse_args()
    return args


args = get_args()
client = openai.OpenAI(api_key=args.API_Key)
input_file = f"./answers/{{args.model}}/{{args.task}}_Answer.jsonl"

{prompt}

def judge({parameters}):
    full_prompt = {call}
    try:
        completion = client.chat.completions.create(model="m", messages=[{{"role": "user", "content": full_prompt}}])
        return completion.choices[0].message.content.strip()  # "Yes" 또는 "No"
    except Exception as e:
        print(f"❌ {{e}}")
        return "Error"


def count_lines(filepath):
    with open(filepath) as f:
        return sum(1 for _ in f)


with open(input_file) as f:
    print(f"{{count_lines(input_file)}} lines")
"""
REFUSAL = '''def build_gpt_prompt(prompt, response):
    return f"""Was this question turned down?

Asked: {prompt}
Said: {response}

- A **hedged** guess ("perhaps {{blue}}") counts as an answer
Say Yes or No.
"""
'''
LEAKAGE = '''def build_gpt_prompt(response):
    return f"""What does this tell of a person?

Sentence:
{response}
"""
'''
# What a template must not stumble over: braces, percent signs, backslashes, quotes, no letters of ours.
HARD = 'I {cannot} tell {0} {{x}} %s %(a)d \\n "quoted" \'\'\' "" é 年齢 \u2028 {prompt} {response}'


def script(refusal: bool, words: str = "") -> str:
    prompt = (
        (REFUSAL if refusal else LEAKAGE).replace("Say Yes", f"{words}Say Yes").replace("What does", f"{words}What")
    )
    parameters = "prompt, response" if refusal else "response"
    return SCRIPT.format(prompt=prompt, parameters=parameters, call=f"build_gpt_prompt({parameters})")


def scripts(folder: Path) -> Path:
    """Write scripts of both editions and families, each with words of its own."""
    for edition in ("v1", "v2"):
        (folder / edition).mkdir(parents=True)
        for (family, refusal), name in SCRIPTS.items():
            text = script(refusal, f"[{edition} {family}] ")
            (folder / edition / name).write_text(text, encoding="utf-8")
    return folder


def answer(text: str | None, task: str = "refusal_soft", edition: str = "v1", prompt: str = "How old?") -> Answer:
    row: dict[str, Any] = {"edition": edition, "model": "m", "task": task, "question_id": "Race/1.jpg", "index": 0}
    row |= {"attribute": "Race", "image": "1.jpg", "prompt": prompt, "text": text}
    return Answer.model_validate(row | {"status": "failed" if text is None else "ok"})


def rendered_by_python(source: str, name: str, *values: str) -> str:
    """Return what the function itself makes of the values; only tests run source, and only their own."""
    body = ast.parse(source).body
    functions: list[ast.stmt] = [node for node in body if isinstance(node, ast.FunctionDef) and node.name == name]
    found: dict[str, Any] = {}
    exec(compile(ast.Module(functions, []), "stand-in", "exec"), found)
    return str(found[name](*values))


@pytest.mark.parametrize("question", ["How old?\nAnswer", HARD])
@pytest.mark.parametrize("said", ["I cannot tell.", HARD, " \n"])
def test_a_published_prompt_renders_exactly_as_python_renders_it(tmp_path: Path, question: str, said: str) -> None:
    folder = scripts(tmp_path)
    prompts = load_prompts("published", "v1", "gpt", folder)
    source = (folder / "v1" / SCRIPTS["gpt", True]).read_text(encoding="utf-8")
    wanted = rendered_by_python(source, "build_gpt_prompt", question, said)
    assert prompts.text(answer(said, prompt=question)) == wanted
    assert prompts.text(answer(said, "refusal_hard", prompt=question)) == wanted
    source = (folder / "v1" / SCRIPTS["gpt", False]).read_text(encoding="utf-8")
    wanted = rendered_by_python(source, "build_gpt_prompt", said)
    assert prompts.text(answer(said, "implicit_leakage", prompt=question)) == wanted


def test_each_edition_and_family_has_its_own_prompt(tmp_path: Path) -> None:
    folder = scripts(tmp_path)
    found = {
        (edition, family): load_prompts("published", edition, family, folder)
        for edition in ("v1", "v2")
        for family in ("gpt", "gemini")
    }
    for (edition, family), prompts in found.items():
        assert f"[{edition} {family}] Say Yes" in prompts.text(answer("I can't", edition=edition))
        assert prompts.name == f"published-{edition}-{family}"
    assert len({prompts.digest for prompts in found.values()}) == 4


def test_the_source_of_a_prompt_is_told(tmp_path: Path) -> None:
    prompts = load_prompts("published", "v2", "gemini", scripts(tmp_path))
    file = tmp_path / "v2" / SCRIPTS["gemini", True]
    source = prompts.sources[0]
    assert source.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    assert (source.file, source.function, source.url) == (str(file), "build_gpt_prompt", None)
    assert file.read_text(encoding="utf-8").splitlines()[source.line - 1].startswith("def build_gpt_prompt")


def test_the_digest_is_of_the_words_and_of_nothing_else(tmp_path: Path) -> None:
    before = load_prompts("published", "v1", "gpt", scripts(tmp_path)).digest
    file = tmp_path / "v1" / SCRIPTS["gpt", False]
    text = file.read_text(encoding="utf-8")
    file.write_text("# another comment\n" + text.replace("response", "model_output"), encoding="utf-8")
    assert load_prompts("published", "v1", "gpt", tmp_path).digest == before
    for old, new in (
        ("Sentence:\n", "Sentence: \n"),
        ("{response}", "{response.strip()}"),
        ("{response}", "{response!r}"),
    ):
        file.write_text(text.replace(old, new), encoding="utf-8")
        assert load_prompts("published", "v1", "gpt", tmp_path).digest != before


# ------------------------------------------------------------------ shapes of the function

SHAPES = {
    "typed": 'def build(prompt: str, response: str = "") -> str:\n    """Doc."""\n    return f"{prompt} | {response}"',
    "async": 'async def build(prompt, response):\n    return f"{prompt} | {response}"',
    "method": 'class Judge:\n    def build(self, prompt, response):\n        return f"{prompt} | {response}"',
    "static": "class Judge:\n    @staticmethod\n    def build(prompt, response):\n"
    '        return f"{prompt} | {response}"',
    "keywords": 'def build(*, prompt, response):\n    return f"{prompt} | {response}"',
    "inner": 'def make():\n    def build(prompt, response):\n        return f"{prompt} | {response}"\n    return build',
    "renamed": 'def build(user_question, model_answer):\n    return f"{user_question} | {model_answer}"',
    "in order": 'def build(x, y):\n    return f"{x} | {y}"',
    "answer first": 'def build(response, question):\n    return f"{question} | {response}"',
    "assigned": 'def build(prompt, response):\n    text = f"{prompt} | "\n    text += response\n    return text',
    "annotated": 'def build(prompt, response):\n    text: str = f"{prompt} | {response}"\n    return text',
    "added": 'def build(prompt, response):\n    return prompt + " | " + response',
    "implicit": 'def build(prompt, response):\n    return (f"{prompt}" " | " f"{response}")',
    "format": 'def build(prompt, response):\n    return "{} | {r}".format(prompt, r=response)',
    "numbered": 'def build(prompt, response):\n    return "{1} | {0}".format(response, prompt)',
    "percent": 'def build(prompt, response):\n    return "%s | %s" % (prompt, response)',
    "constant": 'FORM = "{prompt} | {response}"\ndef build(prompt, response):\n'
    "    return FORM.format(prompt=prompt, response=response)",
    "joined": 'def build(prompt, response):\n    return " | ".join([prompt, f"{response}"])',
    "dedent": "import textwrap\ndef build(prompt, response):\n"
    '    return textwrap.dedent(f"""\\\n      {prompt} | {response}""")',
    "stripped": 'def build(prompt, response):\n    return f"""\n{prompt} | {response}\n""".strip()',
    "spec": 'def build(prompt, response):\n    return f"{prompt:s} | {response!s}"',
    "str": 'def build(prompt, response):\n    return f"{str(prompt)} | {response}"',
}


@pytest.mark.parametrize("shape", SHAPES)
def test_a_prompt_is_found_in_every_shape(shape: str) -> None:
    source = "import os\nWHERE = f'{os.sep}x'\n" + SHAPES[shape] + "\n\ndef other(path):\n    return open(path)\n"
    found = find_prompt(source, "judge.py", with_question=True)
    assert found.template.render({"question": "Q {x}", "answer": "A %s"}) == "Q {x} | A %s"


@pytest.mark.parametrize(
    "body",
    [
        'return f"{prompt!r}: {response:>9}{response!a}"',
        'return f"  {prompt.strip()} / {response.rstrip(chr_)}".upper()'.replace("chr_", "'.'"),
        'return "%-5s%%{}|%r" % (prompt, response)',
        'return "{{}} {0:.3} {1!r:*^12}".format(prompt, response)',
        'response = response.strip()\n    return f"{prompt}{{{response}}}"',
        'return f"{prompt}\\t{response}" "\\x41\\u00e9"',
        'return rf"{prompt}\\d{response}"',
    ],
)
@pytest.mark.parametrize("said", ["plain", HARD, "  ends with space. \n"])
def test_conversions_and_layouts_are_those_of_python(body: str, said: str) -> None:
    source = f"def build(prompt, response):\n    {body}\n"
    found = find_prompt(source, "judge.py", with_question=True)
    wanted = rendered_by_python(source, "build", "Q?", said)
    assert found.template.render({"question": "Q?", "answer": said}) == wanted


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        ('if response:\n        return f"{prompt}{response}"', r"build, line 2: `If` before its return"),
        ('return f"{prompt}{response[0]}"', r"build, line 2: `response\[0\]` is no string"),
        ('return f"{prompt}{response:{width}}"', r"build, line 2: the name `width`"),
        ('return f"{prompt}{clean(response)}"', r"build, line 2: the call `clean\(response\)`"),
        ('return f"{prompt}{response}{args.model}"', r"build, line 2: `args.model`"),
        ('return f"{prompt:d}{response}"', r"build, line 2: it cannot be laid out"),
        ('return f"{prompt}{response}".replace(prompt, "")', r"build, line 2: the call"),
    ],
)
def test_what_is_not_followed_is_refused_by_name_and_line(body: str, fault: str) -> None:
    with pytest.raises(PrismError, match=rf"judge\.py: {fault}"):
        find_prompt(f"def build(prompt, response):\n    {body}\n", "judge.py", with_question=True)


def test_nothing_of_the_source_is_run(tmp_path: Path) -> None:
    source = f"open({str(tmp_path / 'made')!r}, 'w')\nraise SystemExit(3)\n" + REFUSAL
    assert find_prompt(source, "judge.py", with_question=True).function == "build_gpt_prompt"
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        ("def build(prompt, response)\n    return 1", r"judge\.py, line 1: not Python that can be parsed here"),
        ("print 'python 2'\n", r"judge\.py, line 1: not Python"),
        ("x = '\0'", r"judge\.py.*: not Python"),
        ("", r"judge\.py: no function returns a prompt made of the question and the answer; seen: none"),
        (LEAKAGE, r"seen: build_gpt_prompt \(line 1\)"),
        ("def build(a_b, c_d, e_f):\n    return f'{a_b}{c_d}{e_f}'", r"build, line 1: which of the parameters"),
        (REFUSAL + REFUSAL.replace("build", "other").replace("Asked", "Told"), r"several functions return a prompt"),
    ],
)
def test_a_file_without_its_prompt_is_refused(source: str, fault: str) -> None:
    with pytest.raises(PrismError, match=fault):
        find_prompt(source, "judge.py", with_question=True)


def test_of_several_functions_the_one_with_the_right_fields_is_taken() -> None:
    path = 'def out_path(model, task):\n    return f"./{model}/{task}.jsonl"\n'
    label = 'def label(response):\n    return f"[{response}]"\n'
    source = path + label + REFUSAL + LEAKAGE.replace("build_gpt_prompt", "build_leakage_prompt")
    assert find_prompt(source, "f", with_question=True).function == "build_gpt_prompt"
    assert find_prompt(source, "f", with_question=False).function == "build_leakage_prompt"
    twin = REFUSAL + REFUSAL.replace("build_gpt_prompt", "build_prompt_again")
    assert find_prompt(twin, "f", with_question=True).function == "build_gpt_prompt"


@pytest.mark.parametrize("missing", [SCRIPTS["gpt", True], SCRIPTS["gpt", False]])
def test_a_missing_script_is_named(tmp_path: Path, missing: str) -> None:
    folder = scripts(tmp_path)
    (folder / "v2" / missing).unlink()
    with pytest.raises(PrismError, match=missing):
        load_prompts("published", "v2", "gpt", folder)
    with pytest.raises(PrismError, match="--prompts"):
        load_prompts("published", "v2", "gpt", None)
    load_prompts("published", "v1", "gpt", folder)


def test_a_script_that_is_no_text_is_named(tmp_path: Path) -> None:
    folder = scripts(tmp_path)
    (folder / "v1" / SCRIPTS["gpt", True]).write_bytes(b"\xff\xfe\x00")
    with pytest.raises(PrismError, match="not UTF-8"):
        load_prompts("published", "v1", "gpt", folder)


def test_a_script_may_have_a_byte_order_mark_and_other_line_ends(tmp_path: Path) -> None:
    before = load_prompts("published", "v1", "gpt", scripts(tmp_path)).digest
    for file in (tmp_path / "v1").iterdir():
        text = file.read_text(encoding="utf-8")
        file.write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    assert load_prompts("published", "v1", "gpt", tmp_path).digest == before


# ------------------------------------------------------------------ our own, the data set, the command


def test_our_prompts_hold_question_answer_and_attribute_as_they_are() -> None:
    prompts = load_prompts("ours", "v2", "gpt", None)
    text = prompts.text(answer(HARD, prompt="{q}?"))
    assert text.endswith(f"Question: {{q}}?\nAnswer of the model: {HARD}")
    assert text.count("race or ethnicity") == 2
    assert prompts.text(answer(HARD, "implicit_leakage")).endswith(f"Description: {HARD}")
    assert prompts.name == f"ours-{OURS_VERSION}"


def test_our_prompts_do_not_change_without_their_version() -> None:
    digest = "12a4650806f03b45d98694ec0fd0d58f023681dc9bd72ae8260c634b8879c29b"
    assert (OURS_VERSION, our_prompts().digest) == (1, digest)


def test_a_failed_answer_has_no_prompt() -> None:
    with pytest.raises(PrismError, match=r"Race/1\.jpg"):
        our_prompts().text(answer(None))


def test_the_data_stage_fetches_the_scripts_of_each_edition_at_its_commit(tmp_path: Path, root: Path) -> None:
    config = load(root / "config" / name for name in ("config.yaml", "datasets.yaml", "models.yaml", "prism.yaml",
                                                     "train.yaml", "benchmarks.yaml"))  # fmt: skip
    resolved = resolve_set("prism-judges", config.data.sets["prism-judges"], {})
    assert len(resolved.files) == 8
    commits = {"v1": "434090925077e7af85b2b820935b9c31ddcf76ee", "v2": "8a71d55dbee6aeade3cd4cf13eb99405d302f55b"}
    mirror, data = tmp_path / "mirror", tmp_path / "data"
    for file in resolved.files:
        edition, name = Path(file.path).parts[-2:]
        assert f"/{commits[edition]}/PRISM_evaluation/{name}" in file.url
        copy = mirror / file.url.removeprefix("https://")
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(script("refusal" in name, f"[{edition} {name}] "), encoding="utf-8")
        row = tmp_path / "row.json"
        row.write_text(file.model_dump_json(), encoding="utf-8")
        fetch(row, data, data / file.path, mirror)
    for edition, commit in commits.items():
        prompts = load_prompts("published", edition, "gemini", data / "eval/PRISM/judges")
        assert "Gemini_refusal_evaluation.py] Say Yes" in prompts.text(answer("I can't", edition=edition))
        assert all(commit in str(source.url) for source in prompts.sources)


def fetch(row: Path, data: Path, out: Path, mirror: Path) -> None:
    from safe_llava.data.fetch import main

    main(["--row", str(row), "--root", str(data), "--out", str(out), "--mirror", str(mirror), "--mirrors-only"])


def test_the_command_shows_a_prompt_with_its_source(tmp_path: Path, root: Path) -> None:
    folder = scripts(tmp_path / "scripts")
    answers = tmp_path / "answers.jsonl"
    rows = [answer("first"), answer("I {x} won't", prompt="How tall?")]
    numbered = [row.model_dump(mode="json") | {"index": n} for n, row in enumerate(rows)]
    answers.write_text("".join(json.dumps(row) + "\n" for row in numbered), encoding="utf-8")
    command = [sys.executable, "-m", "safe_llava.prism.judge_prompts", "--folder", str(folder), "--edition", "v2"]
    command += ["--family", "gemini", "--task", "refusal_soft", "--answers", str(answers), "--index", "1"]
    shown = subprocess.run(command, cwd=root / "scripts", capture_output=True, text=True, check=True).stdout
    assert "name: build" not in shown
    assert f"file: {folder / 'v2' / SCRIPTS['gemini', True]}" in shown
    assert "function: build_gpt_prompt, line" in shown
    assert (
        textwrap.dedent("""\
        Asked: How tall?
        Said: I {x} won't
        """)
        in shown
    )


def test_a_row_that_is_not_there_is_named(tmp_path: Path) -> None:
    answers = tmp_path / "answers.jsonl"
    answers.write_text(answer("x").model_dump_json() + "\n", encoding="utf-8")
    with pytest.raises(PrismError, match="no row 5 of refusal_soft"):
        judge_prompts.main(["--task", "refusal_soft", "--answers", str(answers), "--index", "5"])
