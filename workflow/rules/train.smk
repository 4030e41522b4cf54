# The train stage: pretrain the projector, finetune projector and language model, export a Hugging Face checkpoint.
# Checkpoints of a running stage lie outside every rule's outputs, so that a failed job never loses them.
import shlex

from safe_llava.cluster.estimates.footprint import memory_mb, notice_seconds
from safe_llava.cluster.estimates.measured import read_measured

MEASURED = read_measured()
SINGLE = [name for name in TRAINED if cfg.train.models[name].nodes == 1]
SPREAD = [name for name in TRAINED if cfg.train.models[name].nodes > 1]


def training_row(wildcards):
    """What of a trained model's row is a reason to run a stage again: that which changes a number of this stage."""
    return json.dumps(cfg.train.models[wildcards.trained].identity(wildcards.stage), indent=2)


def training_inputs(name, stage):
    """What a stage of training needs to be there."""
    row = cfg.train.models[name]
    annotations = getattr(row, stage).annotations
    # What a model learns from is in the fetched bytes. That they are stored in another way now, or were looked through
    # again, is no reason to train again: Snakemake runs whatever is behind a job that runs, unless it is `ancient`.
    sets = (annotations, *cfg.data.sets[annotations].needs)
    paths = [file.path for part in sets for file in SETS[part].files]
    learnt = [placed(path) if path in COVERS else fetched(path) for path in paths]
    return [ancient(layout(annotations)), *learnt, *receipts(row.language_model), *receipts(row.vision_tower)]


def training_images(name, stage):
    """The folder that the image names of a stage's annotations are relative to."""
    return f"{D}/{cfg.data.sets[getattr(cfg.train.models[name], stage).annotations].annotations[0].images}"


def training_annotations(name, stage):
    """The annotation files of a stage, which name its images."""
    return annotation_files(getattr(cfg.train.models[name], stage).annotations)


def processes(name):
    """Training processes on each machine."""
    return cfg.train.models[name].processes // cfg.train.models[name].nodes


def gpus(name):
    """GPUs a node for a training job; a row that trains on CPU asks for none."""
    return processes(name) if cfg.train.models[name].accelerator == "gpu" else 0


def cpus(name):
    """CPUs on each machine: a GPU's process has eight that load samples (train.run --workers)."""
    return processes(name) * (8 if gpus(name) else 1)


def notice(name, stage):
    """Seconds before the time limit at which training is told to save itself; it resumes in the next job."""
    return notice_seconds(cfg, MEASURED, name, stage, CHECKPOINTS / name / stage)


def launcher(name):
    """What starts the launcher: nothing on one machine; on several srun, with the container inside it."""
    if (nodes := cfg.train.models[name].nodes) == 1:
        return ""
    # A process that stops in good order leaves the others the time to do so.
    step = f"srun --nodes={nodes} --ntasks-per-node=1 --cpus-per-task={cpus(name)} --wait=120 --kill-on-bad-exit=0"
    if not IN_CONTAINERS:
        return step
    arguments = workflow.deployment_settings.apptainer_args
    return f"{step} apptainer exec --home {shlex.quote(str(Path.cwd()))} {arguments} {container_image('train')}"


def spread(name):
    """The launcher's arguments: processes on this machine, and where those of several machines meet."""
    if (nodes := cfg.train.models[name].nodes) == 1:
        return f"--processes {processes(name)}"
    # The shell runs on the first machine; the port is the job's own.
    return f'--processes {processes(name)} --nodes {nodes} --rendezvous "$(hostname):$((20000 + SLURM_JOB_ID % 20000))"'


def saving(name, stage):
    """The trainer's arguments that change no number: where and when it saves itself, and at what loss it stops."""
    row = cfg.train.models[name]
    flags = {"checkpoints": CHECKPOINTS / name / stage, **dict(row.checkpoints), "loss_limit": row.loss_limit}
    given = [(flag.replace("_", "-"), str(value)) for flag, value in flags.items() if value is not None]
    return " ".join(f"--{flag} {shlex.quote(value)}" for flag, value in given)


def training(stage, runtime):
    """The resources of a stage on one machine."""
    return dict(
        gpu=of("trained", gpus),
        cpus_per_task=of("trained", cpus),
        # No parameters: on how many processes, and where, a model is made and saved is no reason to make it again.
        launcher=of("trained", launcher),
        spread=of("trained", spread),
        saving=of("trained", saving, stage=stage),
        notice=of("trained", notice, stage=stage),
        mem_mb=of("trained", memory_mb, config=cfg, measured=MEASURED),
        runtime=runtime,
    )


def training_on_several(stage, runtime):
    """The resources of a stage over several machines; `mpi` is there and 0: the job's shell is no step of one machine."""
    nodes = of("trained", lambda name: cfg.train.models[name].nodes)
    gres = of("trained", lambda name: f"gpu:{gpus(name)}" if gpus(name) else "")
    # `gres`, for a number in all might be spread unevenly.
    return training(stage, runtime) | dict(mpi=0, nodes=nodes, gpu=0, gres=gres)


# What of the resolved row changes a number of a stage lies beside its result, and decides whether it runs again.
rule train_config:
    output:
        row=f"{R}/train/{{trained}}/{{stage}}/config.json",
    log:
        f"{R}/logs/train/{{trained}}/{{stage}}-config.log",
    wildcard_constraints:
        stage="pretrain|finetune",
    container:
        container_image("train")
    params:
        row=training_row,
    shell:
        "printf '%s\\n' {params.row:q} > {output.row:q} 2> {log:q}"


rule train_pretrain:
    input:
        row=f"{R}/train/{{trained}}/pretrain/config.json",
        needed=of("trained", training_inputs, stage="pretrain"),
    output:
        projector=f"{R}/train/{{trained}}/pretrain/projector.safetensors",
        metrics=f"{R}/train/{{trained}}/pretrain/metrics.csv",
        summary=f"{R}/train/{{trained}}/pretrain/summary.json",
    log:
        f"{R}/logs/train/{{trained}}/pretrain.log",
    benchmark:
        f"{R}/usage/train/{{trained}}/pretrain.tsv"
    wildcard_constraints:
        trained=either(SINGLE),
    container:
        container_image("train")
    threads: of("trained", processes)
    resources:
        **training("pretrain", 720),
    params:
        language_model=of("trained", lambda name: weights_folder(cfg.train.models[name].language_model)),
        vision_tower=of("trained", lambda name: weights_folder(cfg.train.models[name].vision_tower)),
        annotations=of("trained", training_annotations, stage="pretrain"),
        images=of("trained", training_images, stage="pretrain"),
        # Each start adds a file here: nobody's output.
        tensorboard=f"{R}/tensorboard/{{trained}}/pretrain",
        # Made of outputs: not compared.
        stage=lambda wildcards, output: ["--stage=pretrain", f"--out={output.projector}"],
    shell:
        "{resources.launcher} python -m safe_llava.train.launch {resources.spread} -- {params.stage:q} "
        "--config {input.row:q} --language-model {params.language_model:q} --vision-tower {params.vision_tower:q} "
        "--annotations {params.annotations:q} --images {params.images:q} {resources.saving} "
        "--metrics {output.metrics:q} --summary {output.summary:q} --tensorboard {params.tensorboard:q} > {log:q} 2>&1"


use rule train_pretrain as train_finetune with:
    input:
        row=f"{R}/train/{{trained}}/finetune/config.json",
        projector=rules.train_pretrain.output.projector,
        needed=of("trained", training_inputs, stage="finetune"),
    output:
        model=directory(f"{R}/train/{{trained}}/model"),
        metrics=f"{R}/train/{{trained}}/finetune/metrics.csv",
        summary=f"{R}/train/{{trained}}/finetune/summary.json",
    log:
        f"{R}/logs/train/{{trained}}/finetune.log",
    benchmark:
        f"{R}/usage/train/{{trained}}/finetune.tsv"
    resources:
        **training("finetune", 1440),
    params:
        annotations=of("trained", training_annotations, stage="finetune"),
        images=of("trained", training_images, stage="finetune"),
        tensorboard=f"{R}/tensorboard/{{trained}}/finetune",
        stage=lambda wildcards, input, output: [
            *("--stage=finetune", f"--projector={input.projector}", f"--out={output.model}")
        ],


# Over several machines a stage is one job too, whose shell runs on the first of them and starts the others by srun
# (`launcher`). SLURM is on the host, so the container is inside srun, and these rules name none.
use rule train_pretrain as train_pretrain_spread with:
    wildcard_constraints:
        trained=either(SPREAD),
    container:
        ON_THE_HOST
    resources:
        **training_on_several("pretrain", 720),


use rule train_finetune as train_finetune_spread with:
    wildcard_constraints:
        trained=either(SPREAD),
    container:
        ON_THE_HOST
    resources:
        **training_on_several("finetune", 1440),
