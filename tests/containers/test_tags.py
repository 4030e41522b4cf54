"""An image's name says what is in it, and a base that is not pinned is refused."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from safe_llava.config.images import Images
from safe_llava.containers import build as building
from safe_llava.containers.tag import NAMES, base, image_name, image_path, parts, tag, tag_in
from safe_llava.core.errors import ConfigError

CPU = Images(wheels="cpu")


@pytest.fixture
def clone(root: Path, tmp_path: Path) -> Path:
    """What the images are made from, to be changed."""
    for folder in ("containers", "envs"):
        shutil.copytree(root / folder, tmp_path / folder, ignore=shutil.ignore_patterns("images"))
    return tmp_path


@pytest.mark.parametrize("name", NAMES)
def test_whatever_goes_into_an_image_changes_its_tag(name: str, clone: Path) -> None:
    seen = {tag(name, CPU, clone)}
    for part in parts(name, "cpu", clone):
        with (clone / part).open("a") as stream:
            stream.write("\n# changed\n")
        seen.add(tag(name, CPU, clone))
    assert len(seen) == 1 + len(parts(name, "cpu", clone))


def test_what_goes_into_no_image_changes_no_tag(clone: Path) -> None:
    before = [tag(name, CPU, clone) for name in NAMES]
    for other in ("envs/local.lock", "envs/README.md", "envs/train-cuda.lock", "containers/README.md"):
        (clone / other).write_text("changed")
    assert [tag(name, CPU, clone) for name in NAMES] == before


def test_another_base_is_another_image(clone: Path) -> None:
    assert tag("paper", CPU, clone) != tag("paper", Images(base="/a/folder"), clone)
    before = tag("paper", CPU, clone)
    file = clone / "containers/base.yaml"
    file.write_text(re.sub(r"^digest: .*", f"digest: sha256:{'1' * 64}", file.read_text(), flags=re.MULTILINE))
    assert tag("paper", CPU, clone) != before


def test_another_content_of_a_local_base_is_another_image(root: Path, tmp_path: Path) -> None:
    def seen(base: Path) -> str:
        return tag("paper", Images(base=str(base)), root)

    file = tmp_path / "base.sif"
    file.write_bytes(b"one")
    before = seen(file)
    assert seen(file) == before
    file.write_bytes(b"other")
    assert seen(file) != before
    folder = tmp_path / "debian"
    installed = folder / "var/lib/dpkg/status"
    installed.parent.mkdir(parents=True)
    installed.write_text("Package: python3\nVersion: 3.11.2-1\n")
    before = seen(folder)
    (folder / "var/cache").mkdir()
    assert seen(folder) == before
    installed.write_text("Package: python3\nVersion: 3.11.2-2\n")
    assert seen(folder) != before


def test_a_path_tells_the_tag_of_an_image_that_is_made_here(root: Path) -> None:
    assert tag_in(image_path("train", CPU, root)) == tag("train", CPU, root)
    assert tag_in("docker://mine") is tag_in("/images/train-cuda.sif") is None


def test_the_kind_of_wheels_is_in_the_name_where_there_are_two(root: Path) -> None:
    assert [image_name(name, CPU, root) for name in NAMES] == ["train-cpu", "eval-cpu", "paper"]
    assert tag("train", CPU, root) != tag("train", Images(), root)
    assert tag("paper", CPU, root) == tag("paper", Images(), root)


def test_flash_attn_is_another_train_image_where_it_is_asked_for(root: Path) -> None:
    asked = Images(flash_attn=True)
    assert tag("train", asked, root) != tag("train", Images(), root)
    assert [tag(name, asked, root) for name in NAMES[1:]] == [tag(name, Images(), root) for name in NAMES[1:]]
    with pytest.raises(ValueError, match="goes with `wheels: cuda` alone"):
        Images(flash_attn=True, wheels="cpu")


def test_an_image_lies_in_the_folder_under_its_tag(root: Path) -> None:
    images = Images(wheels="cpu", folder="elsewhere")
    assert image_path("train", images, root) == f"elsewhere/train-cpu-{tag('train', images, root)}.sif"


def test_an_image_of_ones_own_is_taken_as_it_is(root: Path) -> None:
    assert image_path("train", Images(train="mine.sif"), root) == "mine.sif"


def test_every_file_that_a_definition_copies_is_there(root: Path) -> None:
    for name in NAMES:
        for wheels in ("cuda", "cpu"):
            for part in parts(name, wheels, root):
                assert (root / part).is_file(), part


def test_an_unknown_image_is_refused(root: Path) -> None:
    with pytest.raises(ConfigError, match="no such definition") as caught:
        tag("trian", CPU, root)
    assert "train, eval, paper" in caught.value.remedy


def test_a_base_whose_digest_nobody_knows_is_refused(clone: Path) -> None:
    file = clone / "containers/base.yaml"
    file.write_text(re.sub(r"^digest: .*", "digest: unknown", file.read_text(), flags=re.MULTILINE))
    with pytest.raises(ConfigError, match=r"containers/base\.yaml.*not pinned") as caught:
        building.source(Images(), clone)
    assert "containers.build pin" in caught.value.remedy
    with pytest.raises(ConfigError, match=r"images\.base.*not pinned"):
        building.source(Images(base="docker://python:3.11-bookworm"), clone)


def test_a_pinned_base_comes_from_its_registry(clone: Path) -> None:
    pinned = f"docker://docker.io/library/python@sha256:{'0' * 64}"
    assert building.source(Images(base=pinned), clone) == ("docker", pinned.removeprefix("docker://"))
    file = clone / "containers/base.yaml"
    file.write_text(re.sub(r"^digest: .*", f"digest: sha256:{'0' * 64}", file.read_text(), flags=re.MULTILINE))
    assert base(Images(), clone) == pinned


def test_a_base_may_be_a_folder_of_this_machine(clone: Path, tmp_path: Path) -> None:
    assert building.source(Images(base=str(tmp_path)), clone) == ("localimage", str(tmp_path))
    with pytest.raises(ConfigError, match="no such folder"):
        building.source(Images(base=str(tmp_path / "absent")), clone)
