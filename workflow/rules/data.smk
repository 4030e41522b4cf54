# The data stage: external bytes arrive, are verified, unpacked, and checked against the annotations.


rule data_fetch:
    output:
        receipt=f"{R}/data/fetched/{{file}}.json",
    log:
        f"{R}/logs/data/fetch/{{file}}.log",
    benchmark:
        f"{R}/usage/data/fetch/{{file}}.tsv"
    container:
        cfg.images.paper
    resources:
        mem_mb=1000,
        runtime=1440,
    params:
        row=lambda wildcards: row_json(FILES[wildcards.file]),
        mirrors=[f"--mirror={mirror}" for mirror in cfg.mirrors] + ["--mirrors-only"] * cfg.data.mirrors_only,
        root=D,
        timeout=cfg.data.connect_timeout_s,
        retries=cfg.data.retries,
    shell:
        "python -m safe_llava.data.fetch --row <(printf %s {params.row:q}) --root {params.root:q} "
        "{params.mirrors:q} --connect-timeout {params.timeout} --retries {params.retries} "
        "--out {params.root:q}/{wildcards.file:q} --receipt {output.receipt:q} > {log:q} 2>&1"


rule data_snapshot:
    output:
        receipt=f"{R}/data/snapshots/{{snapshot}}.json",
    log:
        f"{R}/logs/data/snapshot/{{snapshot}}.log",
    benchmark:
        f"{R}/usage/data/snapshot/{{snapshot}}.tsv"
    container:
        cfg.images.paper
    resources:
        mem_mb=2000,
        runtime=1440,
    params:
        row=lambda wildcards: row_json(SNAPSHOTS[wildcards.snapshot]),
        mirrors=[f"--mirror={mirror}" for mirror in cfg.mirrors] + ["--mirrors-only"] * cfg.data.mirrors_only,
        root=D,
        timeout=cfg.data.connect_timeout_s,
        retries=cfg.data.retries,
    shell:
        "python -m safe_llava.data.snapshot --row <(printf %s {params.row:q}) --root {params.root:q} "
        "{params.mirrors:q} --connect-timeout {params.timeout} --retries {params.retries} "
        "--out {output.receipt:q} > {log:q} 2>&1"


rule data_unpack:
    input:
        receipt=f"{R}/data/fetched/{{archive}}.json",
    output:
        receipt=f"{R}/data/unpacked/{{archive}}.json",
    log:
        f"{R}/logs/data/unpack/{{archive}}.log",
    benchmark:
        f"{R}/usage/data/unpack/{{archive}}.tsv"
    container:
        cfg.images.paper
    resources:
        mem_mb=2000,
        runtime=480,
    params:
        row=lambda wildcards: row_json(ARCHIVES[wildcards.archive]),
        root=D,
    shell:
        "python -m safe_llava.data.unpack --archive {params.root:q}/{wildcards.archive:q} --row <(printf %s {params.row:q}) "
        "--root {params.root:q} --out {output.receipt:q} > {log:q} 2>&1"


# Before any GPU is reserved: is every image that an annotation names there, and readable? The list of what is wrong is
# a log, because Snakemake deletes the outputs of a check that fails.
rule data_layout:
    input:
        lambda wildcards: receipts(wildcards.dataset),
        lambda wildcards: [path for need in cfg.data.sets[wildcards.dataset].needs for path in receipts(need)],
    output:
        summary=f"{R}/data/layout/{{dataset}}.json",
    log:
        text=f"{R}/logs/data/layout/{{dataset}}.log",
        wrong=f"{R}/data/layout/{{dataset}}.csv",
    benchmark:
        f"{R}/usage/data/layout/{{dataset}}.tsv"
    container:
        cfg.images.paper
    resources:
        mem_mb=4000,
        runtime=240,
    params:
        annotations=lambda wildcards: annotation_files(wildcards.dataset),
        images=lambda wildcards: [row.images for row in cfg.data.sets[wildcards.dataset].annotations],
        kind=lambda wildcards: ("prism" if cfg.data.sets[wildcards.dataset].kind == "prism" else "train"),
        root=D,
        decode=cfg.data.decode,
        missing=cfg.data.tolerance.missing,
        undecodable=cfg.data.tolerance.undecodable,
    shell:
        "python -m safe_llava.data.layout --annotations {params.annotations:q} --images {params.images:q} "
        "--root {params.root:q} --kind {params.kind} --decode {params.decode} --tolerance-missing {params.missing} "
        "--tolerance-undecodable {params.undecodable} --out {log.wrong:q} --summary {output.summary:q} "
        "> {log.text:q} 2>&1"
