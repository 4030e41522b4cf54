"""What a node says of itself, and what that means."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cluster.conftest import H200, configured
from safe_llava.cluster import node
from safe_llava.cluster.checks.findings import CheckResult
from safe_llava.cluster.checks.node import Expected, node_findings
from safe_llava.cluster.estimates.measured import Measured
from safe_llava.config.schema import Config

TRAIN = Expected(image="/images/train.sif", gpus=2, log="results/logs/preflight/train.log")


def by_what(findings: list[CheckResult]) -> dict[str, CheckResult]:
    return {finding.what: finding for finding in findings}


def states(findings: list[CheckResult]) -> dict[str, str]:
    return {finding.what: finding.state for finding in findings}


def test_a_node_that_has_everything_is_green(facts: dict[str, Any], paper: Config, measured: Measured) -> None:
    found = node_findings("train", facts, TRAIN, paper, measured)
    assert set(states(found).values()) == {"ok"}
    lines = by_what(found)
    assert "NCCL between two GPUs: right, 251.02 GB/s" in lines["sum over two processes"].said
    assert "tag 0123abcd" in lines["image"].said
    assert "SLURM job 4711 on node7" in lines["job"].said
    assert "PyTorch's own attention" in lines["flash-attn"].said
    assert "ZeRO" in lines["memory of llava-v1.5-7b, finetune"].said


def test_a_job_that_did_not_come_back_is_red_and_names_its_log(paper: Config, measured: Measured) -> None:
    (line,) = node_findings("train", None, TRAIN, paper, measured)
    assert line.state == "red"
    assert TRAIN.log in line.remedy


def red_line(facts: dict[str, Any], paper: Config, measured: Measured) -> CheckResult:
    (line,) = [one for one in node_findings("train", facts, TRAIN, paper, measured) if one.state == "red"]
    assert line.remedy
    return line


def test_a_job_outside_its_image_is_red(facts: dict[str, Any], paper: Config, measured: Measured) -> None:
    assert red_line({**facts, "image": None}, paper, measured).what == "image"


@pytest.mark.parametrize("labels", [{}, {"safe-llava.tag": "ba9876543210"}])
def test_an_image_whose_labels_are_not_what_its_name_promises_is_red(
    labels: dict[str, str], facts: dict[str, Any], paper: Config, measured: Measured
) -> None:
    want = TRAIN.model_copy(update={"image": "/images/train-cuda-0123456789ab.sif"})
    here = {**facts, "image": {"path": want.image, "labels": labels}}
    line = by_what(node_findings("train", here, want, paper, measured))["image"]
    assert (line.state, "0123456789ab" in line.said) == ("red", True)
    right = {**facts, "image": {"path": want.image, "labels": {"safe-llava.tag": "0123456789ab"}}}
    assert by_what(node_findings("train", right, want, paper, measured))["image"].state == "ok"


def test_an_image_of_the_user_s_own_without_labels_is_open(
    facts: dict[str, Any], paper: Config, measured: Measured
) -> None:
    here = {**facts, "image": {"path": "/images/train.sif", "labels": {}}}
    line = by_what(node_findings("train", here, TRAIN, paper, measured))["image"]
    assert (line.state, "no labels" in line.said, bool(line.remedy)) == ("open", True, True)


def test_memory_of_a_model_whose_size_nobody_noted_is_open(
    facts: dict[str, Any], paper: Config, measured: Measured
) -> None:
    nothing = measured.model_copy(update={"language_models": {}})
    line = by_what(node_findings("train", facts, TRAIN, paper, nothing))["memory of llava-v1.5-7b, finetune"]
    assert (line.state, "not noted" in line.said) == ("open", True)


def test_a_package_that_is_missing_is_red(facts: dict[str, Any], paper: Config, measured: Measured) -> None:
    packages = {name: version for name, version in facts["packages"].items() if name != "deepspeed"}
    assert "deepspeed" in red_line({**facts, "packages": packages}, paper, measured).said


def test_a_package_that_was_built_for_another_torch_is_red(
    facts: dict[str, Any], paper: Config, measured: Measured
) -> None:
    """Its metadata is there all the same."""
    image = "/images/train-cuda-0123456789ab.sif"
    here = {**facts, "image": {"path": image, "labels": {"safe-llava.tag": "0123456789ab"}}}
    here["packages"] = {**facts["packages"], "flash-attn": "2.8.3", "lmms-eval": "0.7.3", "vllm": "0.32.0"}
    fault = "Traceback\nImportError: undefined symbol: _ZN3c10"
    want = TRAIN.model_copy(update={"image": image})
    broken = node_findings("train", {**here, "loaded": {"flash-attn": fault}}, want, paper, measured)
    line = by_what(broken)["flash-attn"]
    assert (line.state, line.said) == ("red", "2.8.3 cannot be loaded: ImportError: undefined symbol: _ZN3c10")
    assert f"rm {image}*; snakemake images" in line.remedy
    broken = node_findings("eval", {**here, "loaded": {"vllm": fault}}, want, paper, measured)
    assert (by_what(broken)["vllm"].state, "backend: transformers" in by_what(broken)["vllm"].remedy) == ("red", True)
    whole = node_findings("train", {**here, "loaded": {"flash-attn": None}}, want, paper, measured)
    assert (by_what(whole)["flash-attn"].state, by_what(whole)["flash-attn"].said) == ("ok", "2.8.3, loaded")
    unseen = node_findings("train", here, want, paper, measured)
    assert (by_what(unseen)["flash-attn"].state, by_what(unseen)["flash-attn"].said) == ("ok", "2.8.3")


def test_a_gpu_too_few_is_red_with_torch_s_reason(facts: dict[str, Any], paper: Config, measured: Measured) -> None:
    one = {**facts["gpus"], "devices": [H200]}
    assert "1 of 2 GPUs are visible" in red_line({**facts, "gpus": one}, paper, measured).said
    none = {"devices": [], "why_none": "the driver is too old", "cuda": "13.0"}
    line = red_line({**facts, "gpus": none}, paper, measured)
    assert "0 of 2 GPUs are visible: the driver is too old" in line.said
    assert "--nv" in line.remedy and "driver 580 or newer" in line.remedy


def test_a_sum_that_is_wrong_or_does_not_come_is_red(facts: dict[str, Any], paper: Config, measured: Measured) -> None:
    wrong = {**facts["all_reduce"], "right": False}
    assert "wrong" in red_line({**facts, "all_reduce": wrong}, paper, measured).said
    hung = {"error": "Traceback\nno sum within 240 s"}
    assert red_line({**facts, "all_reduce": hung}, paper, measured).said == "no sum within 240 s"


def test_a_sum_without_two_gpus_says_that_it_went_over_cpus(
    facts: dict[str, Any], paper: Config, measured: Measured
) -> None:
    gloo = {"backend": "gloo", "gb_per_s": 0.3, "right": True}
    line = by_what(node_findings("train", {**facts, "all_reduce": gloo}, TRAIN, paper, measured))[
        "sum over two processes"
    ]
    assert (line.state, "gloo on CPUs, for want of two GPUs" in line.said) == ("ok", True)


def test_gpus_too_small_for_the_model_are_red_with_the_planner_s_remedy(
    facts: dict[str, Any], measured: Measured, tmp_path: Path
) -> None:
    config = configured("train: {models: {base-llava-v1.5: {processes: 2}}}\n", tmp_path)
    small = {**facts["gpus"], "devices": [{"name": "small", "memory": 8 * 2**30}] * 2}
    found = node_findings("train", {**facts, "gpus": small}, TRAIN, config, measured)
    lines = [line for line in found if line.what == "memory of llava-v1.5-7b, finetune"]
    assert [line.state for line in lines] == ["red"]
    assert "use more or larger GPUs" in lines[0].remedy


def test_a_folder_that_cannot_be_written_is_red(facts: dict[str, Any], paper: Config, measured: Measured) -> None:
    away = {**facts["folders"][0], "path": "data", "error": "Read-only file system"}
    line = red_line({**facts, "folders": [away]}, paper, measured)
    assert (line.what, line.said) == ("folder data", "Read-only file system")


def test_a_node_without_images_or_gpus_is_green_where_none_are_asked_for(
    facts: dict[str, Any], paper: Config, measured: Measured
) -> None:
    want = Expected(image=None, gpus=0, log="")
    here = {**facts, "image": None, "packages": {"matplotlib": "3", "pydantic": "2"}, "all_reduce": None, "gpus": None}
    found = node_findings("paper", here, want, paper, measured)
    assert set(states(found).values()) == {"ok"}
    assert {line.where for line in found} == {"paper environment"}


def test_facts_are_gathered_without_torch_and_without_failing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APPTAINER_CONTAINER", "/images/paper.sif")
    monkeypatch.setitem(sys.modules, "torch", None)
    out = tmp_path / "facts.json"
    node.main(["--gpus", "--folder", str(tmp_path / "later" / "results"), "--folder", "/proc/1", "--out", str(out)])
    facts = json.loads(out.read_text())
    assert facts["image"] == {"path": "/images/paper.sif", "labels": {}}
    assert facts["gpus"]["devices"] == [] and "torch cannot be imported" in facts["gpus"]["why_none"]
    assert (facts["all_reduce"], facts["loaded"]) == (None, {})
    there, away = facts["folders"]
    assert (there["error"], there["free_bytes"] > 0) == (None, True)
    assert away["error"]
    assert not (tmp_path / "later").exists()


def test_a_sum_that_hangs_is_ended_and_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    package = tmp_path / "safe_llava" / "cluster"
    package.mkdir(parents=True)
    for folder in (package.parent, package):
        (folder / "__init__.py").touch()
    (package / "all_reduce.py").write_text("import time\ntime.sleep(600)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(node, "SUM_SECONDS", 3.0)
    assert node.summed() == {"error": "no sum within 3 s"}
    monkeypatch.setattr(node, "SUM_SECONDS", 300.0)
    (package / "all_reduce.py").write_text("raise SystemExit('NCCL error')\n")
    assert node.summed() == {"error": "NCCL error"}


PLATFORMS = """
class current_platform:
    is_cuda = staticmethod(lambda: {cuda})
"""


def test_what_is_compiled_for_gpus_is_loaded_in_a_process_of_its_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    vllm, flash = tmp_path / "vllm", tmp_path / "flash_attn.py"
    vllm.mkdir()
    (vllm / "__init__.py").write_text("class LLM: pass\n")
    (vllm / "platforms.py").write_text(PLATFORMS.format(cuda=True))
    flash.write_text("def flash_attn_varlen_func(): pass\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert node.loaded(["torch"]) == {}
    assert node.loaded(["torch", "flash-attn", "vllm"]) == {"flash-attn": None, "vllm": None}
    flash.write_text("raise ImportError('undefined symbol: _ZN3c10')\n")
    (vllm / "platforms.py").write_text(PLATFORMS.format(cuda=False))
    broken = node.loaded(["flash-attn", "vllm"])
    assert str(broken["flash-attn"]).endswith("ImportError: undefined symbol: _ZN3c10")
    assert broken["vllm"] == "vLLM sees no GPU"
    flash.write_text("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n")
    assert node.loaded(["flash-attn"]) == {"flash-attn": "ended by SIGSEGV"}
    flash.write_text("import time\ntime.sleep(600)\n")
    monkeypatch.setattr(node, "LOAD_SECONDS", 3.0)
    assert node.loaded(["flash-attn"]) == {"flash-attn": "not loaded within 3 s"}


def test_what_is_compiled_for_gpus_is_loaded_where_one_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node, "package_versions", lambda names: {"vllm": "0.32.0"})
    monkeypatch.setattr(node, "loaded", dict.fromkeys)
    for devices, found in ([H200], {"vllm": None}), ([], {}):
        monkeypatch.setattr(node, "gpus", lambda devices=devices: {"devices": devices})
        assert node.facts([], with_gpus=True, with_sum=False)["loaded"] == found
    assert node.facts([], with_gpus=False, with_sum=False)["loaded"] == {}


def test_two_processes_sum_here_with_gloo(root: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(root / "scripts"), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, "-m", "safe_llava.cluster.all_reduce"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["backend"], found["right"]) == ("gloo", True)
