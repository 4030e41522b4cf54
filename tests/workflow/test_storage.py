"""How images are stored may change at any time: what is learned from stays the same, so nothing is trained again."""

from __future__ import annotations

from pathlib import Path

import pytest

from workflow.conftest import Run, job_counts

DEMO = ("--configfile", "config/demo.yaml")
IMAGES = "downloads/llava-pretrain-images/images.zip"


class Finished:
    """A results folder in which everything up to one pretraining is there, as files of no content."""

    def __init__(self, snakemake: Run, folder: Path) -> None:
        self._snakemake, self._results = snakemake, folder / "results"
        self._target = str(self._results / "train" / "demo-safe" / "pretrain" / "projector.safetensors")
        for line in self._run("--summary", self._target).splitlines()[1:]:
            self.write(line.split("\t")[0])
        self._run("--touch", "--forceall", "--cores", "1", self._target)

    def _run(self, *arguments: str, data: str = "", mirrors: str = "") -> str:
        settings = ("--config", f"results={self._results}", f"data={{root: {self._results}/data, {data}}}")
        settings += (f"mirrors=[{mirrors}]",)
        done = self._snakemake(*arguments, *DEMO, *settings)
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr if "-n" in arguments else done.stdout

    def write(self, path: str) -> None:
        file = self._results / path if not path.startswith("/") else Path(path)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("{}\n")

    def touch(self, data: str) -> None:
        self._run("--touch", "--cores", "1", self._target, data=data)

    def jobs(self, data: str = "", mirrors: str = "", profile: tuple[str, ...] = ()) -> dict[str, int]:
        counts = job_counts(self._run("-n", self._target, *profile, data=data, mirrors=mirrors))
        counts.pop("total", None)
        return counts


@pytest.fixture(scope="module")
def finished(snakemake: Run, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    return Finished(snakemake, tmp_path_factory.mktemp("stored"))


@pytest.mark.parametrize("profile", [(), ("--profile", "slurm")])
def test_how_bytes_come_is_no_reason_to_run_anything_again(finished: Finished, profile: tuple[str, ...]) -> None:
    other = "connections: 7, retries: 1, connect_timeout_s: 2, bandwidth_mb_s: 3, mirrors_only: false"
    assert finished.jobs(other, "https://me:pass@mirror.example/", profile) == {}


def test_another_storage_looks_through_the_images_again_and_trains_nothing(finished: Finished) -> None:
    assert finished.jobs() == {}
    extracted = "sets: {llava-pretrain-images: {storage: extracted}}"  # config/demo.yaml says archive
    assert finished.jobs(extracted) == {"data_unpack": 1, "data_layout": 1}
    finished.write(f"data/unpacked/{IMAGES}.json")
    finished.touch(extracted)
    assert finished.jobs(extracted) == {}


def test_other_bytes_train_again(finished: Finished) -> None:
    url = "huggingface.co/datasets/liuhaotian/LLaVA-Pretrain/resolve/main/images.zip"
    pins = f'pins: {{"{url}": {{size: 1, sha256: "{"0" * 64}"}}}}'
    assert {"data_fetch", "data_index", "data_layout", "train_pretrain"} <= set(finished.jobs(pins))
