# The train stage: pretrain the projector, finetune projector and language model, export a Hugging Face checkpoint.
# Checkpoints of a running stage lie outside every rule's outputs, so that a failed job never loses them.


# What of the resolved row changes a number of a stage lies beside its result, and decides whether it runs again.
rule train_config:
    output:
        row=f"{R}/train/{{trained}}/{{stage}}/config.json",
    log:
        f"{R}/logs/train/{{trained}}/{{stage}}-config.log",
    wildcard_constraints:
        stage="pretrain|finetune",
    container:
        image("train")
    params:
        row=lambda wildcards: training_row(wildcards.trained, wildcards.stage),
    shell:
        "printf '%s\\n' {params.row:q} > {output.row:q} 2> {log:q}"


rule train_pretrain:
    input:
        row=f"{R}/train/{{trained}}/pretrain/config.json",
        needed=lambda wildcards: training_inputs(wildcards.trained, "pretrain"),
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
        image("train")
    threads: lambda wildcards: cfg.train.models[wildcards.trained].processes
    resources:
        gpu=lambda wildcards: gpus(cfg.train.models[wildcards.trained]),
        cpus_per_task=lambda wildcards: cpus(cfg.train.models[wildcards.trained]),
        # No parameters: on how many processes, and where, a model is made and saved is no reason to make it again.
        launcher=lambda wildcards: launcher(cfg.train.models[wildcards.trained]),
        spread=lambda wildcards: spread(cfg.train.models[wildcards.trained]),
        saving=lambda wildcards: saving(wildcards.trained, "pretrain"),
        # Seconds before the time limit at which training is told to save itself; it goes on in the next job.
        notice=600,
        mem_mb=lambda wildcards: memory(cfg.train.models[wildcards.trained]),
        runtime=720,
    params:
        language_model=lambda wildcards: weights_folder(cfg.train.models[wildcards.trained].language_model),
        vision_tower=lambda wildcards: weights_folder(cfg.train.models[wildcards.trained].vision_tower),
        annotations=lambda wildcards: annotation_files(cfg.train.models[wildcards.trained].pretrain.annotations),
        images=lambda wildcards: image_folder(cfg.train.models[wildcards.trained].pretrain.annotations),
        # Each start of an interrupted training adds a file here, so this is nobody's output.
        tensorboard=f"{R}/tensorboard/{{trained}}/pretrain",
    shell:
        "{resources.launcher} python -m safe_llava.train.launch {resources.spread} -- --stage pretrain "
        "--config {input.row:q} --language-model {params.language_model:q} --vision-tower {params.vision_tower:q} "
        "--annotations {params.annotations:q} --images {params.images:q} {resources.saving} "
        "--out {output.projector:q} --metrics {output.metrics:q} --summary {output.summary:q} "
        "--tensorboard {params.tensorboard:q} > {log:q} 2>&1"


rule train_finetune:
    input:
        row=f"{R}/train/{{trained}}/finetune/config.json",
        projector=rules.train_pretrain.output.projector,
        needed=lambda wildcards: training_inputs(wildcards.trained, "finetune"),
    output:
        model=directory(f"{R}/train/{{trained}}/model"),
        metrics=f"{R}/train/{{trained}}/finetune/metrics.csv",
        summary=f"{R}/train/{{trained}}/finetune/summary.json",
    log:
        f"{R}/logs/train/{{trained}}/finetune.log",
    benchmark:
        f"{R}/usage/train/{{trained}}/finetune.tsv"
    wildcard_constraints:
        trained=either(SINGLE),
    container:
        image("train")
    threads: lambda wildcards: cfg.train.models[wildcards.trained].processes
    resources:
        gpu=lambda wildcards: gpus(cfg.train.models[wildcards.trained]),
        cpus_per_task=lambda wildcards: cpus(cfg.train.models[wildcards.trained]),
        # No parameters: on how many processes, and where, a model is made and saved is no reason to make it again.
        launcher=lambda wildcards: launcher(cfg.train.models[wildcards.trained]),
        spread=lambda wildcards: spread(cfg.train.models[wildcards.trained]),
        saving=lambda wildcards: saving(wildcards.trained, "finetune"),
        # Seconds before the time limit at which training is told to save itself; it goes on in the next job.
        notice=600,
        mem_mb=lambda wildcards: memory(cfg.train.models[wildcards.trained]),
        runtime=1440,
    params:
        language_model=lambda wildcards: weights_folder(cfg.train.models[wildcards.trained].language_model),
        vision_tower=lambda wildcards: weights_folder(cfg.train.models[wildcards.trained].vision_tower),
        annotations=lambda wildcards: annotation_files(cfg.train.models[wildcards.trained].finetune.annotations),
        images=lambda wildcards: image_folder(cfg.train.models[wildcards.trained].finetune.annotations),
        tensorboard=f"{R}/tensorboard/{{trained}}/finetune",
    shell:
        "{resources.launcher} python -m safe_llava.train.launch {resources.spread} -- --stage finetune "
        "--config {input.row:q} --language-model {params.language_model:q} --vision-tower {params.vision_tower:q} "
        "--projector {input.projector:q} --annotations {params.annotations:q} --images {params.images:q} "
        "{resources.saving} --out {output.model:q} --metrics {output.metrics:q} "
        "--summary {output.summary:q} --tensorboard {params.tensorboard:q} > {log:q} 2>&1"
