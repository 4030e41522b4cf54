# Functions of the train stage: what decides whether a model is trained again, and how a job is laid over machines.


def training_row(name, stage):
    """What of a trained model's row is a reason to run a stage again: that which changes a number of this stage."""
    return json.dumps(cfg.train.models[name].identity(stage), indent=2)


def training_inputs(name, stage):
    """What a stage of training needs to be there."""
    row = cfg.train.models[name]
    annotations = getattr(row, stage).annotations
    # What a model learns from is in the fetched bytes. That they are stored in another way now, or were looked through
    # again, is no reason to train again: Snakemake runs whatever is behind a job that runs, unless it is `ancient`.
    sets = (annotations, *cfg.data.sets[annotations].needs)
    paths = [file.path for part in sets for file in SETS[part].files]
    learnt = [placed(path) if path in COVERS else fetched(path) for path in paths]
    weights = [*receipts(row.language_model), *receipts(row.vision_tower)]
    return [ancient(layout(annotations)), *learnt, *weights]


def per_node(row):
    """Training processes on each machine."""
    return row.processes // row.nodes


def gpus(row):
    """GPUs a node for a training job; a row that trains on CPU asks for none."""
    return per_node(row) if row.accelerator == "gpu" else 0


def cpus(row):
    """CPUs on each machine: a GPU's process has eight that load samples (train.run --workers)."""
    return per_node(row) * (8 if row.accelerator == "gpu" else 1)


def memory(row):
    """Memory of each machine in MB: AdamW's state of a 7B model where it does not fit on the GPUs, and the loaders."""
    return 128000 + 16000 * gpus(row) if gpus(row) else 4000


def gres(row):
    """GPUs of each machine, for a job of several: a number in all might be spread unevenly."""
    return f"gpu:{gpus(row)}" if gpus(row) else ""


def launcher(row):
    """What starts the launcher: nothing on one machine; on several srun, with the image inside it.

    SLURM is on the host and not in images, so the rules of several machines name no container of their own.
    """
    if row.nodes == 1:
        return ""
    # A process that stops in good order leaves the others the time to do so.
    step = f"srun --nodes={row.nodes} --ntasks-per-node=1 --cpus-per-task={cpus(row)} --wait=120 --kill-on-bad-exit=0"
    if not IN_IMAGE:
        return step
    arguments = workflow.deployment_settings.apptainer_args
    return f"{step} apptainer exec --home {shlex.quote(str(Path.cwd()))} {arguments} {image('train')}"


def spread(row):
    """The launcher's arguments: processes on this machine, and where those of several machines meet."""
    if row.nodes == 1:
        return f"--processes {row.processes}"
    # The shell runs on the first machine; the port is the job's own.
    return (
        f'--processes {per_node(row)} --nodes {row.nodes} --rendezvous "$(hostname):$((20000 + SLURM_JOB_ID % 20000))"'
    )


def saving(name, stage):
    """The trainer's arguments that change no number: where and when it saves itself, and at what loss it stops."""
    row = cfg.train.models[name]
    flags = {
        "checkpoints": str(CHECKPOINTS / name / stage),
        **row.checkpoints.model_dump(),
        "loss_limit": row.loss_limit,
    }
    return " ".join(
        f"--{flag.replace('_', '-')} {shlex.quote(str(value))}" for flag, value in flags.items() if value is not None
    )


SINGLE = [name for name in TRAINED if cfg.train.models[name].nodes == 1]
SPREAD = [name for name in TRAINED if cfg.train.models[name].nodes > 1]
