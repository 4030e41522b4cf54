# The train stage over several machines: one job too, whose shell runs on the first of them and starts the others by
# srun (launcher in common_train.smk). SLURM is on the host, so the image is inside srun, and the rules name none.


use rule train_pretrain as train_pretrain_spread with:
    wildcard_constraints:
        trained=either(SPREAD),
    container:
        None
    threads: lambda wildcards: per_node(cfg.train.models[wildcards.trained])
    resources:
        # Present and 0: the job's shell is no step of one machine.
        mpi=0,
        nodes=lambda wildcards: cfg.train.models[wildcards.trained].nodes,
        gpu=0,
        cpus_per_task=lambda wildcards: cpus(cfg.train.models[wildcards.trained]),
        gres=lambda wildcards: gres(cfg.train.models[wildcards.trained]),
        launcher=lambda wildcards: launcher(cfg.train.models[wildcards.trained]),
        spread=lambda wildcards: spread(cfg.train.models[wildcards.trained]),
        saving=lambda wildcards: saving(wildcards.trained, "pretrain"),
        notice=600,
        mem_mb=lambda wildcards: memory(cfg.train.models[wildcards.trained]),
        runtime=720,


use rule train_finetune as train_finetune_spread with:
    wildcard_constraints:
        trained=either(SPREAD),
    container:
        None
    threads: lambda wildcards: per_node(cfg.train.models[wildcards.trained])
    resources:
        # Present and 0: the job's shell is no step of one machine.
        mpi=0,
        nodes=lambda wildcards: cfg.train.models[wildcards.trained].nodes,
        gpu=0,
        cpus_per_task=lambda wildcards: cpus(cfg.train.models[wildcards.trained]),
        gres=lambda wildcards: gres(cfg.train.models[wildcards.trained]),
        launcher=lambda wildcards: launcher(cfg.train.models[wildcards.trained]),
        spread=lambda wildcards: spread(cfg.train.models[wildcards.trained]),
        saving=lambda wildcards: saving(wildcards.trained, "finetune"),
        notice=600,
        mem_mb=lambda wildcards: memory(cfg.train.models[wildcards.trained]),
        runtime=1440,
