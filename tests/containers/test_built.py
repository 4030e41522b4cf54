"""The images as `make test-cluster` builds them: what they hold, and what they say of themselves."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml

from safe_llava.config.images import Images
from safe_llava.containers.build import labels
from safe_llava.containers.tag import NAMES, image_path, tag
from safe_llava.core.files import file_digest

pytestmark = pytest.mark.cluster
IMPORTS = {
    "train": "torch, deepspeed, transformers, peft, tensorboard",
    "eval": "torch, transformers, lmms_eval, datasets",
    "paper": "httpx2, huggingface_hub, matplotlib, pyarrow, openai",
}


@pytest.fixture(scope="module")
def images() -> Images:
    """The section of the configuration that names the built images."""
    settings = os.environ.get("SAFE_LLAVA_CLUSTER_IMAGES")
    if settings is None:
        reason = "no images: `make test-cluster` builds them, and names them in SAFE_LLAVA_CLUSTER_IMAGES"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return Images.model_validate(yaml.safe_load(Path(settings).read_text())["images"])


def inside(image: str, tmp_path: Path, *command: str, options: Sequence[str] = ()) -> str:
    """Run a command in an image as Snakemake does."""
    words = ["apptainer", "exec", "--home", str(tmp_path), *options, image, *command]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("name", NAMES)
def test_an_image_holds_its_packages(name: str, images: Images, tmp_path: Path, root: Path) -> None:
    image = image_path(name, images, root)
    place = inside(image, tmp_path, "python", "-c", f"import sys, {IMPORTS[name]}; print(sys.prefix)")
    assert place.splitlines()[-1] == "/opt/safe-llava/environment"


@pytest.mark.parametrize("name", NAMES)
def test_an_image_says_what_it_was_made_from(name: str, images: Images, root: Path) -> None:
    image = image_path(name, images, root)
    found = labels(Path(image))
    lock = f"envs/{name}-cpu.lock" if name != "paper" else "envs/paper.lock"
    assert found["safe-llava.tag"] == tag(name, images, root)
    assert found["safe-llava.lock"] == file_digest(root / lock)
    assert found["org.opencontainers.image.title"] == f"safe-llava-{name}"
    assert {"org.opencontainers.image.version", "org.opencontainers.image.revision"} <= found.keys()
    note = json.loads(Path(f"{image}.json").read_text())
    assert note["labels"] == found
    assert note["sha256"] == file_digest(image)


@pytest.mark.parametrize("name", NAMES)
def test_nothing_of_this_machine_stays_in_an_image(name: str, images: Images, tmp_path: Path, root: Path) -> None:
    script = "cat /mnt/* /.singularity.d/env/*.sh /.singularity.d/labels.json; ls /mnt /opt/safe-llava"
    found = inside(image_path(name, images, root), tmp_path, "sh", "-c", f"{script} 2> /dev/null")
    assert "settings.sh" not in found
    for variable in ("PIP_FIND_LINKS", "PIP_INDEX_URL", "PIP_CERT"):
        assert variable not in found


def test_a_record_names_the_image_that_its_process_runs_in(images: Images, tmp_path: Path, root: Path) -> None:
    image = image_path("paper", images, root)
    code = f"import sys; sys.path.insert(0, {str(root / 'scripts')!r})\n"
    code += "import json\nfrom safe_llava.core.provenance import record\nprint(json.dumps(record()['image']))"
    (tmp_path / "step.py").write_text(code)
    binds = ("--bind", str(root), "--bind", str(Path(image).parent))
    found = json.loads(inside(image, tmp_path, "python", "step.py", options=binds))
    assert found["path"] == image
    assert found["labels"]["safe-llava.tag"] == tag("paper", images, root)
