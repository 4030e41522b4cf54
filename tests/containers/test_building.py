"""Building, pinning, provenance and the listing, with a stand-in for Apptainer."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from safe_llava.config.images import Images
from safe_llava.containers import build as building
from safe_llava.containers import tag as image_tag
from safe_llava.containers.tag import image_path, tag
from safe_llava.core import provenance
from safe_llava.core.errors import ConfigError, DataError
from safe_llava.core.files import write_json

# Writes down what it was asked and what it was shown below /mnt; `inspect` gives labels.
APPTAINER = """\
#!{python}
import json, pathlib, sys
words = sys.argv[1:]
if "--version" in words:
    print("apptainer version 1.4.5")
elif "inspect" in words:
    labels = {{"safe-llava.tag": {label!r}, "org.label-schema.x": "y"}}
    print(json.dumps({{"data": {{"attributes": {{"labels": labels}}}}}}))
elif "exec" in words:
    import os
    os.execvp("bash", words[words.index("bash"):])
else:
    binds = [words[i + 1] for i, word in enumerate(words) if word == "--bind"]
    shown = pathlib.Path(binds[0].split(":")[0], "settings.sh").read_text() if binds else ""
    pathlib.Path({asked!r}).write_text(json.dumps({{"words": words, "settings": shown}}))
    image = next(pathlib.Path(word) for word in words if word.endswith(".part"))
    image.write_bytes(b"half" if {code} else b"image")
    sys.exit({code})
"""


class Fake:
    """A folder with an `apptainer` in front of PATH, and what that was asked."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()

    def install(self, code: int = 0, label: str = "abc") -> None:
        """Make it exit with ``code``, and every image have ``label`` as its tag."""
        text = APPTAINER.format(python=sys.executable, asked=str(self.folder / "asked.json"), code=code, label=label)
        (self.folder / "apptainer").write_text(text)
        (self.folder / "apptainer").chmod(0o755)

    @property
    def asked(self) -> dict:
        """What the last build was asked."""
        return json.loads((self.folder / "asked.json").read_text())


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fake]:
    made = Fake(tmp_path / "bin")
    made.install()
    monkeypatch.setenv("PATH", f"{made.folder}:{os.environ['PATH']}")
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "cache"))
    return made


@pytest.fixture
def local(tmp_path: Path) -> Images:
    (tmp_path / "base").mkdir()
    return Images(wheels="cpu", base=str(tmp_path / "base"))


def test_a_built_image_has_its_note_beside_it(fake: Fake, local: Images, tmp_path: Path, root: Path) -> None:
    out = tmp_path / "images/train.sif"
    building.build("train", local, out)
    assert out.read_bytes() == b"image"
    assert json.loads(Path(f"{out}.json").read_text()) == {
        "sha256": hashlib.sha256(b"image").hexdigest(),
        "bytes": 5,
        "labels": {"safe-llava.tag": "abc"},
    }
    words = fake.asked["words"]
    assert words[-1] == "containers/train.def"
    given = {words[i + 1] for i, word in enumerate(words) if word == "--build-arg"}
    assert {"bootstrap=localimage", f"base={local.base}", "wheels=cpu", f"tag={tag('train', local, root)}"} <= given
    assert {word.split("=")[0] for word in given} >= {"version", "commit"}


def test_an_image_without_kinds_is_not_told_one(fake: Fake, local: Images, tmp_path: Path) -> None:
    building.build("paper", local, tmp_path / "paper.sif")
    assert not [word for word in fake.asked["words"] if word.startswith("wheels=")]


def test_flash_attn_is_compiled_where_it_is_asked_for(fake: Fake, local: Images, tmp_path: Path) -> None:
    for asked in (False, True):
        building.build("train", Images(base=local.base, flash_attn=asked), tmp_path / "train.sif")
        assert ("flash_attn=yes" in fake.asked["words"]) is asked
    building.build("eval", Images(base=local.base, flash_attn=True), tmp_path / "eval.sif")
    assert "flash_attn=yes" not in fake.asked["words"]


def test_a_failed_build_leaves_no_image(fake: Fake, local: Images, tmp_path: Path) -> None:
    fake.install(code=255)
    with pytest.raises(DataError, match="exit status 255"):
        building.build("train", local, tmp_path / "images/train.sif")
    assert list((tmp_path / "images").iterdir()) == []


def test_where_a_registry_is_named_the_image_is_pulled(fake: Fake, tmp_path: Path, root: Path) -> None:
    images = Images(registry="oras://registry.test/group/")
    fake.install(label=tag("eval", images, root))
    building.build("eval", images, tmp_path / "eval.sif")
    words = fake.asked["words"]
    assert words[0] == "pull"
    assert words[-1] == f"oras://registry.test/group/eval-cuda:{tag('eval', images, root)}"


def test_a_pulled_image_that_is_another_than_its_tag_says_is_refused(fake: Fake, tmp_path: Path, root: Path) -> None:
    images = Images(registry="oras://registry.test/group")
    with pytest.raises(DataError, match=f"eval-cuda:{tag('eval', images, root)}.*its tag is abc"):
        building.build("eval", images, tmp_path / "images/eval.sif")
    assert list((tmp_path / "images").iterdir()) == []


def test_without_apptainer_the_remedy_is_said(
    local: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root: Path
) -> None:
    monkeypatch.setattr(provenance, "code_commit", lambda: "unknown")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "cache"))
    with pytest.raises(ConfigError, match="no such command"):
        building.build("train", local, tmp_path / "train.sif")


def test_the_machines_settings_are_bound_and_not_part_of_the_command(
    fake: Fake, local: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "wheels").mkdir()
    (tmp_path / "ca.crt").touch()
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    monkeypatch.setenv("PIP_CERT", str(tmp_path / "ca.crt"))
    monkeypatch.setenv("PIP_INDEX_URL", "https://me:hush@index.test/simple")
    monkeypatch.setenv("HF_TOKEN", "hf_hush")
    building.build("train", local, tmp_path / "train.sif")
    words, settings = fake.asked["words"], fake.asked["settings"].splitlines()
    assert "export PIP_FIND_LINKS=/mnt/PIP_FIND_LINKS" in settings
    assert "export PIP_INDEX_URL=https://me:hush@index.test/simple" in settings
    assert {f"{tmp_path}/wheels:/mnt/PIP_FIND_LINKS", f"{tmp_path}/ca.crt:/mnt/PIP_CERT"} <= set(words)
    assert "hush" not in " ".join(words)
    assert not [line for line in settings if "HF_TOKEN" in line]
    assert "hush" not in Path(f"{tmp_path}/train.sif.json").read_text()


def test_as_many_compilers_run_as_memory_and_cores_allow_or_as_the_user_says(
    fake: Fake, local: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def said() -> str:
        building.build("train", local, tmp_path / "train.sif")
        (line,) = [line for line in fake.asked["settings"].splitlines() if "MAX_JOBS" in line]
        return line

    monkeypatch.delenv("MAX_JOBS", raising=False)
    monkeypatch.setattr(building.os, "sched_getaffinity", lambda _: set(range(64)))
    for gigabytes, count in ((16, 2), (4, 1), (1000, 64)):
        monkeypatch.setattr(building, "usable_memory", lambda gigabytes=gigabytes: gigabytes * 1e9)
        assert said() == f"export MAX_JOBS={count}"
    monkeypatch.setenv("MAX_JOBS", "5")
    assert said() == "export MAX_JOBS=5"


@pytest.mark.parametrize(
    ("own", "bounds", "usable"),
    [
        ("0::/user.slice/user-1000.slice/session-3.scope\n", {}, 64e9),
        (
            "0::/user.slice/user-1000.slice/session-3.scope\n",
            {"user.slice/user-1000.slice/memory.max": "16000000000", "user.slice/memory.max": "max"},
            16e9,
        ),
        ("1:name=systemd:/\n4:memory:/slurm/job_7\n0::/\n", {"memory/slurm/memory.limit_in_bytes": "8000000000"}, 8e9),
        ("4:memory:/slurm/job_7\n", {"memory/slurm/job_7/memory.limit_in_bytes": "9223372036854771712"}, 64e9),
    ],
)
def test_the_memory_of_a_build_is_bounded_by_the_machine_and_its_cgroups(
    own: str, bounds: dict[str, str], usable: float, tmp_path: Path
) -> None:
    files = {"proc/meminfo": "MemTotal: 99 kB\nMemAvailable:   62500000 kB\n", "proc/self/cgroup": own}
    files |= {f"sys/fs/cgroup/{name}": f"{text}\n" for name, text in bounds.items()}
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert building.usable_memory(tmp_path) == usable


DIGEST = f"sha256:{'5' * 64}"


def _registry(request: httpx2.Request) -> httpx2.Response:
    if request.url.host == "auth.test":
        assert dict(request.url.params) == {"service": "registry.test", "scope": "repository:library/python:pull"}
        return httpx2.Response(200, json={"token": "t"})
    if request.headers.get("authorization") != "Bearer t":
        asked = 'Bearer realm="https://auth.test/token",service="registry.test",scope="repository:library/python:pull"'
        return httpx2.Response(401, headers={"www-authenticate": asked})
    assert request.url.path == "/v2/library/python/manifests/3.11-bookworm"
    return httpx2.Response(200, headers={"docker-content-digest": DIGEST})


def test_the_digest_of_the_base_is_asked_of_its_registry(root: Path, tmp_path: Path) -> None:
    file = tmp_path / "base.yaml"
    before = (root / "containers/base.yaml").read_text()
    file.write_text(before)
    with httpx2.Client(transport=httpx2.MockTransport(_registry)) as client:
        assert building.pin(file, client) == DIGEST
    assert f"\ndigest: {DIGEST}\n" in file.read_text()
    assert file.read_text().splitlines()[:-1] == before.splitlines()[:-1]


@pytest.mark.parametrize("headers", [{}, {"docker-content-digest": "sha256:short"}])
def test_a_digest_that_is_none_is_not_written(root: Path, tmp_path: Path, headers: dict[str, str]) -> None:
    file = tmp_path / "base.yaml"
    file.write_text((root / "containers/base.yaml").read_text())
    with (
        httpx2.Client(transport=httpx2.MockTransport(lambda _: httpx2.Response(200, headers=headers))) as client,
        pytest.raises(DataError, match="names no digest"),
    ):
        building.pin(file, client)
    assert file.read_text() == (root / "containers/base.yaml").read_text()


def test_outside_of_images_the_record_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("APPTAINER_CONTAINER", raising=False)
    assert provenance.record()["image"] == "none"


def test_a_record_names_the_image_by_its_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = tmp_path / "train.sif"
    write_json(f"{image}.json", {"sha256": "a", "bytes": 1, "labels": {"safe-llava.tag": "t"}})
    monkeypatch.setenv("APPTAINER_CONTAINER", str(image))
    assert provenance.record()["image"] == {
        "path": str(image),
        "sha256": "a",
        "bytes": 1,
        "labels": {"safe-llava.tag": "t"},
    }


def test_an_image_without_a_note_is_named_by_its_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APPTAINER_CONTAINER", str(tmp_path / "mine.sif"))
    write_json(tmp_path / "labels.json", {"safe-llava.tag": "t", "org.label-schema.build-arch": "amd64"})
    monkeypatch.setattr(provenance, "LABELS_INSIDE", tmp_path / "labels.json")
    found = provenance.record()["image"]
    assert found == {"path": str(tmp_path / "mine.sif"), "sha256": "unknown", "labels": {"safe-llava.tag": "t"}}


def _result(path: Path, image: object) -> None:
    write_json(path, {"provenance": {"image": image, "commit": "c" * 40}, "score": 1})


def test_the_listing_shows_what_another_image_made(tmp_path: Path) -> None:
    for name, found in (("old", "000000000000"), ("new", "111111111111")):
        labels = {"org.opencontainers.image.title": "safe-llava-eval", "safe-llava.tag": found}
        _result(tmp_path / f"prism/{name}.json", {"path": "eval.sif", "labels": labels})
    _result(tmp_path / "train/none.json", "none")
    _result(tmp_path / "train/own.json", {"path": "mine.sif", "labels": {}})
    _result(tmp_path / "logs/passed-over.json", "none")
    write_json(tmp_path / "prism/no-record.json", [1])
    (tmp_path / "prism/broken.json").write_text("{")
    text = building.listing(list(building.records(tmp_path)), {"eval": "111111111111", "train": "2", "paper": "3"})
    lines = [line.split() for line in text.splitlines()]
    assert lines[0] == ["result", "made", "in", "today", "commit"]
    assert lines[1] == ["prism/old.json", "eval", "000000000000", "111111111111", "cccccccccccc"]
    assert [line[:2] for line in lines[2:-1]] == [["train/none.json", "none"], ["train/own.json", "mine.sif"]]
    assert text.endswith("4 results, 1 of them made in today's images")


def test_where_all_are_of_today_there_is_no_table() -> None:
    made = [building.Made("a.json", "eval", "1", "c")]
    assert building.listing(made, {"eval": "1"}) == "1 results, 1 of them made in today's images"


RULES = """
rule all:
    input: "result.txt"

rule result:
    output: "result.txt"
    container: config["image"]
    shell: "echo made >> {output}"
"""


def test_another_image_is_no_reason_to_make_a_result_again(fake: Fake, tmp_path: Path, root: Path) -> None:
    """With what the profile says about reruns, and Snakemake's own bookkeeping."""
    (tmp_path / "Snakefile").write_text(RULES)
    for name in ("old.sif", "new.sif"):
        (tmp_path / name).touch()

    def snakemake(image: str, *arguments: str) -> str:
        profile = ["--workflow-profile", str(root / "workflow/profiles/default"), "--cores", "1"]
        command = [sys.executable, "-m", "snakemake", *profile, "--sdm", "apptainer", "--config", f"image={image}"]
        done = subprocess.run([*command, *arguments], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    snakemake("old.sif")
    assert "Nothing to be done" in snakemake("new.sif", "--dry-run")
    # Only what the profile leaves out would have made it again.
    assert "oftware" in snakemake("new.sif", "--dry-run", "--rerun-triggers", "software-env")


def test_the_images_of_the_configuration_are_what_the_workflow_would_build(root: Path, tmp_path: Path) -> None:
    images = Images(folder=str(tmp_path), wheels="cpu", base=str(tmp_path))
    wanted = {image_path(name, images, root) for name in image_tag.NAMES}
    settings = f"images={{folder: {tmp_path}, wheels: cpu, base: {tmp_path}}}"
    command = [sys.executable, "-m", "snakemake", "--nolock", "-n", "images", "--config", settings]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert {line.strip().split()[1].rstrip(",") for line in done.stdout.splitlines() if "output:" in line} == wanted
