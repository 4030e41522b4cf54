"""Training on images in an archive gives what training on files gives."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from data.storing import archive_folder
from safe_llava.core.errors import TrainError
from safe_llava.images import store as imagefiles
from safe_llava.train import run
from safe_llava.train.samples.images import load_image
from train.tiny import Tiny, make_row


@pytest.mark.usefixtures("one_process")
def test_the_same_losses_and_weights(tiny: Tiny, tmp_path: Path) -> None:
    archived = archive_folder(tiny.images, tmp_path / "data", "pictures")
    losses, weights = [], []
    for name, images in (("files", tiny.images), ("archive", archived)):
        arguments = tiny.arguments(tmp_path / name, make_row(finetune={"max_steps": 3}), "finetune", "--workers", "2")
        arguments[arguments.index("--images") + 1] = str(images)
        assert run.train(run.parser().parse_args(arguments)) == 0
        with (tmp_path / name / "metrics.csv").open(newline="") as stream:
            losses.append([row["loss"] for row in csv.DictReader(stream)])
        weights.append(load_file(tmp_path / name / "model" / "model.safetensors"))
    assert losses[0] == losses[1]
    assert len(losses[0]) == 3
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


def test_a_damaged_or_missing_member_is_named_as_a_file_is(tiny: Tiny, tmp_path: Path) -> None:
    archived = archive_folder(tiny.images, tmp_path / "data", "pictures")
    with pytest.raises(TrainError, match=r"pictures/9\.png: no such image"):
        load_image(archived / "9.png")
    path = tmp_path / "data" / "downloads" / "pictures.zip"
    content = bytearray(path.read_bytes())
    content[content.index(b"IDAT") + 6] ^= 1
    path.write_bytes(content)
    imagefiles.forget_indexes()
    with pytest.raises(TrainError, match=r"pictures/0\.png: the image cannot be decoded: .*its CRC is another"):
        load_image(archived / "0.png")
