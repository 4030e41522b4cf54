# How steps are run, in Apptainer container images or with this environment, and what is checked before the first one: the
# room for the data, the keys of judges, the container images. No rule has a container image as its input: a rebuilt one
# is no reason to make anything again.
import atexit
import shlex

from snakemake.deployment.singularity import Singularity

from safe_llava.config.secrets import missing_keys
from safe_llava.containers.binds import show
from safe_llava.containers.tag import NAMES, image_name
from safe_llava.core.provenance import code_commit
from snakemake_executor_plugin_slurm_steady.script import TRAP

OWN_IMAGES = {image_name(name, cfg.images, REPOSITORY): name for name in NAMES if not getattr(cfg.images, name)}
# A container's home is the working directory, which may be on a network: caches go to the machine's own disk. And it may
# have no git.
INSIDE = (
    f"export SAFE_LLAVA_COMMIT={code_commit() if IN_CONTAINERS else ''}; "
    'export XDG_CACHE_HOME="${{TMPDIR:-/tmp}}/safe-llava-$(id -u)"; '
    "for cache in TRITON_CACHE_DIR CUDA_CACHE_PATH MPLCONFIGDIR; do export $cache=$XDG_CACHE_HOME/$cache; done; "
    # A module's compiler, and a certificate's place, are those of the machine.
    "unset CC CXX CPATH LIBRARY_PATH CUDA_HOME; "
    'for file in SSL_CERT_FILE SSL_CERT_DIR; do [ -e "${{!file:-/}}" ] || unset $file; done; '
)
# Under SLURM each shell says how it ended (TRAP). A prefix replaces Snakemake's own, which stops at the first error.
shell.prefix(
    "set -euo pipefail; "
    + TRAP
    + f"export PYTHONPATH={shlex.quote(str(REPOSITORY / 'scripts'))}; "
    + (INSIDE if IN_CONTAINERS else f"export PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH; ")
)

if IN_CONTAINERS:
    # Containers see the working directory and /tmp; everything else that is named has to be shown to them.
    folders = [row.folder for row in cfg.models.values() if row.folder]
    show([REPOSITORY, R, D, CHECKPOINTS, *folders, *(mirror for mirror in cfg.mirrors if "://" not in mirror)])

if NO_APPTAINER:
    # Snakemake asks for the command in a dry-run, too, which starts no container: a laptop shows what a cluster would do.
    Singularity().checked = True


def answers_of_folder(name):
    """Whether everything that a model is asked was answered from the folder that its row names now."""
    records = [f"prism/answers/{edition}/{name}/record.json" for edition in cfg.prism.select.editions]
    results = [f"benchmarks/{name}/{benchmark}/results.json" for benchmark in cfg.benchmarks.select.tasks]
    asked = records * (name in cfg.prism.select.models) + results * (name in cfg.benchmarks.select.models)
    try:
        facts = [json.loads(Path(R, record).read_text()) for record in asked]
        return all(one.get("provenance", one)["row"]["folder"] == cfg.models[name].folder for one in facts)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def check_folders():
    """Refuse a folder without a checkpoint where there are tables of before.

    Snakemake takes a file whose job cannot be planned for one that was given: those tables would pass for the folder's.
    Where the answers are this very folder's, its checkpoint may be gone since.
    """
    if not any(Path(R, "tables").glob("*.csv")):
        return
    for name in dict.fromkeys([*cfg.prism.select.models, *cfg.benchmarks.select.models]):
        folder = cfg.models[name].folder
        if folder and (Path(folder, "config.json").is_file() or not answers_of_folder(name)):
            source_ready(name)


check_folders()


def check_container_images(jobs):
    """Refuse to start where Apptainer or a container image is not there: Snakemake notices in the first job."""
    jobs = list(jobs) if IN_CONTAINERS else []
    wanted = {str(job.container_img_url) for job in jobs if job.container_img_url}
    wanted |= {container_image("train") for _ in jobs_of(jobs, "train_pretrain_spread", "train_finetune_spread")}
    if wanted and NO_APPTAINER:
        raise WorkflowError("apptainer: no such command\n  remedy: load the site's module, or install Apptainer")
    absent = sorted(image for image in wanted if "://" not in image and not Path(image).exists())
    if absent:
        raise WorkflowError(f"no container image {', '.join(absent)}\n  remedy: snakemake images")


def clone_fault():
    """What to tell where the executor would run the code of another clone, whose environment this Snakemake runs in."""
    place = Path(next(iter(FOREIGN.values())).__file__).parent
    return f"the environment is that of another clone: it runs the code of {place}\n  remedy: make env, and .venv/bin/snakemake"


def check_clone():
    """Refuse to submit by the code of another clone."""
    if FOREIGN and getattr(workflow.executor_plugin, "name", "") == "slurm-steady":
        raise WorkflowError(clone_fault())


def check_room(jobs):
    """Refuse to start where what the jobs fetch and unpack does not fit, before anything has been fetched."""
    coming = jobs_of(jobs, "data_fetch", "data_unpack", "data_snapshot")
    about = {wildcard for job in coming for wildcard in job.wildcards}
    if cfg.data.ignore_space or not about:
        return
    from safe_llava.data.planning.volume import lines_of, require_room
    from safe_llava.data.download.room import room

    parts = [
        one.model_copy(update={"files": [file for file in one.files if file.path in about]})
        for name, one in SETS.items()
        if name in about or any(file.path in about for file in one.files)
    ]
    try:
        require_room(lines_of(cfg.data, parts), room(Path(D)), Path(D))
    except SafeLlavaError as error:
        raise WorkflowError(str(error)) from None


def keys_not_set(jobs):
    """What to tell the user where a judge that the jobs call has no key, else None."""
    jobs = list(jobs)
    judges = {job.wildcards.judge for job in jobs_of(jobs, "prism_judge")}
    judged = {job.wildcards.benchmark for job in jobs_of(jobs, "benchmarks_judged")}
    judges |= {name for name in map(cfg.benchmarks.judge_of, judged) if name is not None}
    return missing_keys({name: cfg.prism.judges[name] for name in sorted(judges)}, os.environ)


def check_keys(jobs):
    """Refuse to start where a judge's key is missing, before anything has been spent."""
    if missing := keys_not_set(jobs):
        raise WorkflowError(missing)


def warn_of_start():
    """Say at a dry-run's end what a run needs and is not here: Snakemake calls `onstart` for no dry-run."""
    if not workflow.dryrun or workflow.dag is None:
        return
    from snakemake_executor_plugin_slurm_steady.site import unfilled

    # As Snakemake has loaded it, which may be that of another clone.
    settings = OWN.get("snakemake_executor_plugin_slurm_steady.settings")
    given = settings and getattr(settings.ExecutorSettings, "given", None)
    if given and FOREIGN:
        print(clone_fault(), file=sys.stderr)
    if given and (names := unfilled(given)):
        print(f"a run needs {', '.join(names)}, still unknown in workflow/profiles/slurm/config.yaml", file=sys.stderr)
    if NO_APPTAINER:
        print("a run needs the command apptainer, which is not here", file=sys.stderr)
    if missing := keys_not_set(workflow.dag.needrun_jobs(exclude_finished=False)):
        print(missing, file=sys.stderr)


def end_dry_run():
    """Leave a dry-run's objects to the end of the process: to look through them for cycles takes a tenth of a second."""
    if workflow.dryrun:
        gc.freeze()
        gc.disable()


atexit.register(end_dry_run)
if workflow.is_main_process and not QUIET:
    atexit.register(warn_of_start)


onstart:
    check_clone()
    # Preflight reports each container image that is missing.
    check_container_images(job for job in workflow.dag.needrun_jobs() if job.rule.name != NAME_OF("preflight_node"))
    check_keys(workflow.dag.needrun_jobs())
    check_room(workflow.dag.needrun_jobs())


localrules:
    images,
    image_build,


# The tag in the path is that of everything that goes into the container image: there is nothing else to compare.
rule image_build:
    output:
        image=f"{cfg.images.folder}/{{image}}-{{tag}}.sif",
        note=f"{cfg.images.folder}/{{image}}-{{tag}}.sif.json",
    log:
        f"{R}/logs/images/{{image}}-{{tag}}.log",
    wildcard_constraints:
        image=either(OWN_IMAGES),
        tag="[0-9a-f]{12}",
    container:
        ON_THE_HOST
    params:
        python=HOST_PYTHON,
        name=of("image", OWN_IMAGES.get),
        images=row_json(cfg.images),
    shell:
        "{params.python:q} -m safe_llava.containers.build build --name {params.name} --images <(printf %s {params.images:q}) "
        "--out {output.image:q} > {log:q} 2>&1"


rule images:
    input:
        [container_image(name) for name in OWN_IMAGES.values()],
