# How steps are run: in Apptainer container images, or with this environment. No rule has a container image as its input:
# a rebuilt one is no reason to make anything again.
import shlex

from snakemake.deployment.singularity import Singularity

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
