"""How images are stored may change at any time: what is learned from stays the same, so nothing is trained again."""

from __future__ import annotations

import pytest

from workflow.conftest import Finished, Run

IMAGES = "downloads/llava-pretrain-images/images.zip"


@pytest.fixture(scope="module")
def finished(snakemake: Run, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    return Finished(snakemake, tmp_path_factory.mktemp("stored"), "train/demo-safe/pretrain/projector.safetensors")


@pytest.mark.parametrize("profile", [(), ("--profile", "slurm")])
def test_how_bytes_come_is_no_reason_to_run_anything_again(finished: Finished, profile: tuple[str, ...]) -> None:
    other = "connections: 7, retries: 1, connect_timeout_s: 2, bandwidth_mb_s: 3, mirrors_only: false"
    assert finished.jobs(*profile, data=other, mirrors="[https://me:pass@mirror.example/]") == {}


def test_another_storage_looks_through_the_images_again_and_trains_nothing(finished: Finished) -> None:
    assert finished.jobs() == {}
    extracted = "sets: {llava-pretrain-images: {storage: extracted}}"  # config/demo.yaml says archive
    assert finished.jobs(data=extracted) == {"data_unpack": 1, "data_layout": 1}
    finished.write(f"data/unpacked/{IMAGES}.json")
    finished.touch(data=extracted)
    assert finished.jobs(data=extracted) == {}


def test_other_bytes_train_again(finished: Finished) -> None:
    url = "huggingface.co/datasets/liuhaotian/LLaVA-Pretrain/resolve/main/images.zip"
    pins = f'pins: {{"{url}": {{size: 1, sha256: "{"0" * 64}"}}}}'
    assert {"data_fetch", "data_index", "data_layout", "train_pretrain"} <= set(finished.jobs(data=pins))
