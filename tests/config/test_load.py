"""The configuration: what is accepted, what is refused, and how clearly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from safe_llava.config.load import BASE_PREFIX, load, merge, parse, read_yaml, resolve_inheritance, spelled_out
from safe_llava.config.selection import config_files
from safe_llava.core.errors import ConfigError


@pytest.fixture(scope="module")
def files(root: Path) -> list[Path]:
    return config_files(root=root)


@pytest.fixture()
def raw(files: list[Path]) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for path in files:
        merged = merge(merged, read_yaml(path))
    return merged


def test_paper_configuration_is_valid(files: list[Path]) -> None:
    config = load(files)
    assert {
        "safe-llava-v1.5-7b",
        "llava-v1.5-7b",
        "llava-v1.5-13b",
        "llava-v1.5-0.5b",
        "safe-llava-v1.5-7b-lora",
    } <= set(config.train.models)
    assert len(config.prism.released_models) == 9


def test_every_trained_row_differs_from_the_base_in_few_fields(raw: dict[str, Any]) -> None:
    for name, row in raw["train"]["models"].items():
        if name.startswith(BASE_PREFIX):
            continue
        assert "inherits" in row, name
        changed = [key for key in row if key not in ("inherits", "description")]
        assert len(changed) <= 5, (name, changed)


def test_rows_keep_the_recipe_of_the_paper(files: list[Path]) -> None:
    safe = load(files).train.models["safe-llava-v1.5-7b"]
    assert (safe.pretrain.global_batch, safe.pretrain.reference_group, safe.pretrain.learning_rate) == (256, 32, 1e-3)
    assert (safe.finetune.global_batch, safe.finetune.reference_group, safe.finetune.learning_rate) == (128, 16, 2e-5)
    assert (safe.pretrain.image_geometry, safe.finetune.image_geometry) == ("crop", "pad")
    assert (safe.pretrain.annotations, safe.finetune.annotations) == ("safe-pretrain", "safe-finetune")


def test_unknown_key_is_refused_with_file_and_suggestion(raw: dict[str, Any], tmp_path: Path) -> None:
    raw["train"]["models"]["base-llava-v1.5"]["pretrain"]["learning_rte"] = 1e-3
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump({"train": {"models": {"base-llava-v1.5": {"pretrain": {"learning_rte": 1e-3}}}}}))
    with pytest.raises(ConfigError) as caught:
        parse(raw, [file])
    assert str(file) in caught.value.message
    assert "pretrain.learning_rte" in caught.value.message
    assert "`learning_rate`" in caught.value.remedy


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (("prism", "select", "judges"), ["ruels"], "`rules`"),
        (("train", "select", "models"), ["safe-llava-v1.5-7B"], "`safe-llava-v1.5-7b`"),
        (("train", "select", "models"), ["base-llava-v1.5"], "did you mean"),
        (("benchmarks", "select", "tasks"), ["popo"], "`pope`"),
        (("benchmarks", "select", "tasks"), ["POPE"], "did you mean `pope`?"),
        (("prism", "editions", "v1", "dataset"), "prism-v3", "`prism-v1`"),
        (
            ("models", "Qwen25", "new_tokens_by_edition"),
            {"v22": {"refusal_soft": 1, "refusal_hard": 1, "implicit_leakage": 1}},
            "`v2`",
        ),
        (("demo",), {"truth": "t", "safe": "LLaVA", "original": "LLaVA", "benchmark": "popo"}, "`pope`"),
    ],
)
def test_name_of_no_row_is_refused_with_the_nearest(
    raw: dict[str, Any], path: tuple[str, ...], value: Any, words: str
) -> None:
    node = raw
    for part in path[:-1]:
        node = node[part]
    node[path[-1]] = value
    with pytest.raises(ConfigError) as caught:
        parse(raw)
    assert ".".join(path) in caught.value.message
    assert words in caught.value.remedy


@pytest.mark.parametrize("judge", [None, "rules"])
def test_a_judged_benchmark_needs_a_judge_that_can_be_asked(raw: dict[str, Any], judge: str | None) -> None:
    raw["benchmarks"]["judge"] = judge
    with pytest.raises(ConfigError, match="`mmbench` is read by a judge") as caught:
        parse(raw)
    assert "benchmarks.judge" in caught.value.remedy
    raw["benchmarks"]["judge"] = "nobody"
    with pytest.raises(ConfigError, match=r"benchmarks\.judge: no row `nobody`"):
        parse(raw)


def test_a_benchmark_may_have_a_judge_of_its_own(raw: dict[str, Any]) -> None:
    raw["benchmarks"]["tasks"]["mmvet"]["judge"] = "local"
    config = parse(raw)
    named = {name: config.benchmarks.judge_of(name) for name in ("mmvet", "llava-bench", "pope", "mmbench-static")}
    assert named == {"mmvet": "local", "llava-bench": "gpt-benchmarks", "pope": None, "mmbench-static": None}


def test_every_row_can_be_selected(raw: dict[str, Any]) -> None:
    for stage in ("prism", "benchmarks"):
        raw[stage]["select"]["models"] = sorted(raw["models"])
    raw["benchmarks"]["select"]["tasks"] = sorted(raw["benchmarks"]["tasks"])
    config = parse(raw)
    assert "Gemma" in config.prism.select.models
    assert "vqav2-test" in config.benchmarks.select.tasks


def test_the_paper_asks_every_model_every_benchmark(raw: dict[str, Any]) -> None:
    config = parse(raw)
    thirteen = "vqav2 gqa vizwiz scienceqa textvqa pope mme mmbench mmbench-cn seedbench llava-bench mmvet qbench"
    assert set(config.benchmarks.select.tasks) == {*thirteen.split(), "textvqa-ocr"}
    assert config.benchmarks.select.models == config.prism.select.models


def test_rows_keep_what_was_published_about_answering(files: list[Path]) -> None:
    models = load(files).models
    qwen = models["Qwen25"]
    assert (qwen.budget("v1").implicit_leakage, qwen.budget("v2").implicit_leakage) == (200, 100)
    assert models["LLaVA"].budget("v2") == models["LLaVA"].new_tokens
    assert {name for name, row in models.items() if row.weights and row.cut_at_newline} == set()
    decoding = {name: row.published_decoding for name, row in models.items() if row.published_decoding}
    assert decoding == {
        "LLaVA": "greedy",
        "LLaVA-Next": "greedy",
        "LLaVA-Onevision": "greedy",
        "LLaVA-Onevision-0_5B": "checkpoint",
        "Gemma": "checkpoint",
        "Qwen25": "checkpoint",
        "InternVLC2_5": "sampled",
        "InternVLC3": "sampled",
        **dict.fromkeys(("Safe-LLaVA-0_5B", "Safe-LLaVA-7B"), "checkpoint"),
        **dict.fromkeys(("safe-llava-v1.5-0.5b", "llava-v1.5-0.5b"), "checkpoint"),
        **dict.fromkeys(("safe-llava-v1.5-7b", "llava-v1.5-7b"), "checkpoint"),
    }


def test_wrong_type_names_key_and_value(raw: dict[str, Any]) -> None:
    raw["train"]["models"]["base-llava-v1.5"]["finetune"]["learning_rate"] = "two"
    with pytest.raises(ConfigError, match=r"finetune\.learning_rate.*'two'"):
        parse(raw)


def test_missing_key_is_named(raw: dict[str, Any]) -> None:
    del raw["prism"]["released_models"]
    with pytest.raises(ConfigError, match=r"prism\.released_models: this key is missing"):
        parse(raw)


def test_inheritance_merges_and_children_stay_apart() -> None:
    rows = {
        "a": {"x": {"p": 1, "q": 2}, "y": [1]},
        "b": {"inherits": "a", "x": {"p": 3}},
        "c": {"inherits": "b", "y": []},
    }
    resolved = resolve_inheritance(rows, "rows")
    assert resolved["c"] == {"x": {"p": 3, "q": 2}, "y": []}
    resolved["c"]["x"]["q"] = 0
    assert resolved["a"]["x"]["q"] == 2


@pytest.mark.parametrize(
    ("rows", "words"),
    [({"a": {"inherits": "b"}, "b": {"inherits": "a"}}, "circle"), ({"a": {"inherits": "z"}}, "no row `z`")],
)
def test_bad_inheritance_is_refused(rows: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        resolve_inheritance(rows, "rows")


@pytest.mark.parametrize("text", ["a: [", "- 1\n", ""])
def test_file_that_is_no_mapping_is_refused_by_name(tmp_path: Path, text: str) -> None:
    file = tmp_path / "broken.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=r"broken\.yaml"):
        load([file])


def test_a_model_of_the_hub_gets_a_data_set_row(raw: dict[str, Any]) -> None:
    row = {"inherits": "LLaVA", "hub": "somebody/a-model", "revision": "a" * 40}
    config = parse(merge(raw, {"models": {"mine": row}}))
    assert config.models["mine"].weights == "model-mine"
    snapshot = config.data.sets["model-mine"].snapshot
    assert snapshot is not None
    assert (snapshot.repo, snapshot.revision) == ("somebody/a-model", "a" * 40)
    assert "*.safetensors" in snapshot.allow
    assert "*.bin" not in snapshot.allow


def test_two_models_of_one_commit_share_the_data_set_row(raw: dict[str, Any]) -> None:
    row = {"inherits": "LLaVA", "hub": "somebody/a-model", "revision": "a" * 40}
    other = {**row, "new_tokens": {"refusal_soft": 5, "refusal_hard": 5, "implicit_leakage": 5}}
    config = parse(merge(raw, {"models": {"mine": row, "mine-short": other}}))
    assert config.models["mine-short"].weights == config.models["mine"].weights == "model-mine"


def test_a_source_of_its_own_replaces_the_inherited_one(raw: dict[str, Any]) -> None:
    config = parse(merge(raw, {"models": {"mine": {"inherits": "safe-llava-v1.5-7b", "folder": "/models/mine"}}}))
    assert config.models["mine"].train is None
    assert config.models["mine"].folder == "/models/mine"


def test_a_revision_without_hub_is_refused(raw: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="`revision` is that of `hub`"):
        parse(merge(raw, {"models": {"mine": {"inherits": "LLaVA", "revision": "a" * 40}}}))


@pytest.mark.parametrize(
    ("name", "value", "place"),
    [
        ("benchmarks-limit", 5, ("benchmarks", "limit")),
        ("benchmarks-select-tasks", ["pope"], ("benchmarks", "select", "tasks")),
        ("benchmarks-tasks-mmbench-cn-scale", 2.0, ("benchmarks", "tasks", "mmbench-cn", "scale")),
        ("data-audit-pairs", [], ("data", "audit", "pairs")),
        ("benchmarks-tasks-pope-metric", "pope_accuracy", ("benchmarks", "tasks", "pope", "metric")),
    ],
)
def test_a_joined_name_is_the_key_at_its_place(
    raw: dict[str, Any], name: str, value: Any, place: tuple[str, ...]
) -> None:
    expected: Any = value
    for part in reversed(place):
        expected = {part: expected}
    assert parse({**raw, name: value}) == parse(merge(raw, expected))


def test_of_two_places_with_one_joined_name_the_longer_row_is_meant() -> None:
    tree = {"models": {"a": {"dtype": "float16"}, "a-dtype": {"dtype": "float16"}}}
    expected = {"models": {"a": {"dtype": "float16"}, "a-dtype": {"dtype": "float32"}}}
    assert spelled_out({**tree, "models-a-dtype": {"dtype": "float32"}}) == expected
    assert spelled_out({**tree, "models-a-dtype-dtype": "float32"}) == expected


def test_a_joined_name_of_no_key_is_refused_with_the_nearest(raw: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="benchmarks-limt: no such key") as caught:
        parse({**raw, "benchmarks-limt": 5})
    assert "`benchmarks-limit`" in caught.value.remedy
    file = tmp_path / "mine.yaml"
    file.write_text("zzz-zzz: 1\n")
    with pytest.raises(ConfigError, match=r"mine\.yaml: zzz-zzz: no such key"):
        parse(merge(raw, read_yaml(file)), [file])


@pytest.mark.parametrize(
    ("overlay", "words"),
    [
        ("models: {mine: LLaVA}", "models.mine: not a mapping"),
        ("models: {mine: [a]}", "models.mine: not a mapping"),
        ("models: {mine: {inherits: [x]}}", "models.mine.inherits: not the name of a row"),
        ("train: {models: {a: b}}", "train.models.a: not a mapping"),
        ("train: {models: {a: {inherits: {b: c}}}}", "train.models.a.inherits: not the name of a row"),
        ("models: {a/b: {inherits: LLaVA}}", "models.a/b: not a name"),
        ("models: {mine: {inherits: nobody}}", "models.mine.inherits: no row `nobody`"),
        ("models: {mine: {inherits: LLaVA, hub: x}}", "models.mine.hub"),
        ("models: null", "models: Input should be"),
        ("1: 2", "1: no such key"),
        ('results: ""', "results: a path that is not empty"),
        ("results: /", "results: a path that is not empty"),
        ('results: "a{b}"', "results: a path that is not empty"),
        ('data: {root: " "}', "data.root: a path that is not empty"),
        ('train: {checkpoint_root: ""}', "train.checkpoint_root: a path that is not empty"),
        ('images: {folder: ""}', "images.folder: a path that is not empty"),
        ('mirrors: [""]', "mirrors.0: a path that is not empty"),
        ("mirrors: [ftp://a]", "mirrors.0: a folder, or an address"),
        ("prism: {select: {models: [LLaVA, LLaVA]}}", "prism.select.models: `LLaVA` is named twice"),
        ("prism: {released_models: [LLaVA, LLaVA]}", "prism.released_models: `LLaVA` is named twice"),
        ("benchmarks: {select: {tasks: [pope, pope]}}", "benchmarks.select.tasks: `pope` is named twice"),
        ("paper: {formats: [png, png]}", "paper.formats: `png` is named twice"),
        ("paper: {compare: [{safe: LLaVA, original: LLaVA}]}", "paper.compare.0: `LLaVA` is compared with itself"),
        ("prism: {new_tokens: 0}", "prism.new_tokens: Input should be"),
        ("models: {mine: {inherits: LLaVA, image_size: [336]}}", "models.mine.image_size.1: this key is missing"),
        ("models: {mine: {inherits: LLaVA, hub: https://huggingface.co/a/b}}", "models.mine.hub: not a repository as"),
        ("models: {mine: {inherits: LLaVA, vision_tower: a/b}}", "models.mine.vision_tower: not the name of a row"),
        ("prism: {judges: {local: {base_url: localhost:8000/v1}}}", "prism.judges.local.base_url: not an address"),
        ('prism: {judges: {local: {base_url: ""}}}', "prism.judges.local.base_url: not an address"),
        ('mirrors: ["https://"]', "mirrors.0: a folder, or an address"),
        ("images: {registry: host/folder}", "images.registry: not an address as"),
        ("prism: {judges: {local: {max_cost: .inf}}}", "prism.judges.local.max_cost: Input should be a finite"),
        ("benchmarks: {tasks: {pope: {scale: .nan}}}", "benchmarks.tasks.pope.scale: Input should be"),
        ("benchmarks: {limit: yes}", "benchmarks.limit: true or false where a number is needed"),
        ("prism: {judges: {local: {retries: no}}}", "prism.judges.local.retries: true or false"),
    ],
)
def test_a_slip_is_named_with_its_file_and_a_remedy(
    raw: dict[str, Any], files: list[Path], tmp_path: Path, overlay: str, words: str
) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text(overlay + "\n")
    with pytest.raises(ConfigError) as caught:
        parse(merge(raw, read_yaml(mine)), [*files, mine])
    assert words in caught.value.message
    assert caught.value.remedy
    # A key that is no text is found in no file.
    assert overlay == "1: 2" or f"{mine}: {words.split(':')[0]}" in caught.value.message


def test_annotations_are_files_of_their_set(raw: dict[str, Any]) -> None:
    own = {"title": "x", "kind": "annotations", "annotations": [{"path": "mine/a.json"}]}
    file = {"path": "mine.zip", "url": "https://h/mine.zip", "unpack": {"to": "mine", "creates": "mine"}}
    snapshot = {"repo": "a/b", "repo_type": "dataset", "path": "mine"}
    for made in ({"files": [file]}, {"snapshot": snapshot}, {"files": [{"path": "mine/a.json", "url": "https://h/a"}]}):
        assert "mine" in parse(merge(raw, {"data": {"sets": {"mine": own | made}}})).data.sets
    with pytest.raises(ConfigError, match=r"sets\.mine\.annotations: mine/a\.json is none of the set's files: a\.json"):
        parse(merge(raw, {"data": {"sets": {"mine": own | {"files": [{"path": "a.json", "url": "https://h/a"}]}}}}))


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("models: {}\nprism: {}\nmodels: {}\n", "models"),
        ("prism:\n  select: {models: [a], models: [b]}\n", "models"),
        ("x: &x {a: 1}\ny: {<<: *x, b: 1, b: 2}\n", "b"),
    ],
)
def test_a_key_that_comes_twice_is_refused(raw: dict[str, Any], tmp_path: Path, text: str, key: str) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text(text)
    with pytest.raises(ConfigError, match=rf"mine\.yaml: not YAML: the key `{key}` comes 2 times\n.*line \d"):
        parse(raw, [mine])  # as Snakemake gives it, of the last of them
    mine.write_text("x: &x {a: 1}\ny: &y {<<: *x, a: 2}\nz: [*y, {<<: [*x, *y], a: 3}]\n")
    assert read_yaml(mine)["z"] == [{"a": 2}, {"a": 3}]


def test_a_password_in_an_address_is_not_repeated(raw: dict[str, Any]) -> None:
    for overlay in (
        {"mirrors": ["ftp://me:hunter22@host/"]},
        {"prism": {"judges": {"local": {"base_url": "me:hunter22@host"}}}},
    ):
        with pytest.raises(ConfigError) as caught:
            parse(merge(raw, overlay))
        assert "hunter22" not in str(caught.value)


def test_folders_are_what_they_mean(raw: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    mine = {"results": "./out//x/", "data": {"root": "~/data/"}, "images": {"train": "docker://a/b"}}
    config = parse(merge(raw, mine))
    assert (config.results, config.data.root) == ("out/x", "/home/me/data")
    assert config.images.train == "docker://a/b"
