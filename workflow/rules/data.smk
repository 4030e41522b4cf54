# The data stage: external bytes arrive, are verified, unpacked, and checked against the annotations.

# Where the downloads ask, and how; what is here already is not asked for again when these change.
DOWNLOAD = (
    [f"--mirror={mirror}" for mirror in cfg.mirrors]
    + ["--mirrors-only"] * cfg.data.mirrors_only
    + [f"--connect-timeout={cfg.data.connect_timeout_s}", f"--retries={cfg.data.retries}"]
    + [f"--connections={cfg.data.connections}"]
    + ([f"--bandwidth-mb-s={cfg.data.bandwidth_mb_s}"] if cfg.data.bandwidth_mb_s else [])
)


rule data_fetch:
    output:
        receipt=f"{R}/data/fetched/{{file}}.json",
    log:
        f"{R}/logs/data/fetch/{{file}}.log",
    benchmark:
        f"{R}/usage/data/fetch/{{file}}.tsv"
    container:
        image("paper")
    resources:
        mem_mb=1000,
        runtime=1440,
    params:
        row=lambda wildcards: row_json(FILES[wildcards.file]),
        download=DOWNLOAD,
        root=D,
    shell:
        "python -m safe_llava.data.fetch --row <(printf %s {params.row:q}) --root {params.root:q} "
        "{params.download:q} --out {params.root:q}/{wildcards.file:q} --receipt {output.receipt:q} > {log:q} 2>&1"


rule data_snapshot:
    output:
        receipt=f"{R}/data/snapshots/{{snapshot}}.json",
    log:
        f"{R}/logs/data/snapshot/{{snapshot}}.log",
    benchmark:
        f"{R}/usage/data/snapshot/{{snapshot}}.tsv"
    container:
        image("paper")
    resources:
        mem_mb=2000,
        runtime=1440,
    params:
        row=lambda wildcards: row_json(SNAPSHOTS[wildcards.snapshot]),
        download=DOWNLOAD,
        root=D,
    shell:
        "python -m safe_llava.data.snapshot --row <(printf %s {params.row:q}) --root {params.root:q} "
        "{params.download:q} --out {output.receipt:q} > {log:q} 2>&1"


# The book covers that a list names, each from its own address: `config/ocr-vqa-covers.yaml` asks for them.
rule data_covers:
    input:
        receipt=f"{R}/data/fetched/{{covers}}.json",
    output:
        receipt=f"{R}/data/covers/{{covers}}.json",
    log:
        f"{R}/logs/data/covers/{{covers}}.log",
    benchmark:
        f"{R}/usage/data/covers/{{covers}}.tsv"
    container:
        image("paper")
    resources:
        mem_mb=2000,
        runtime=2880,
    params:
        to=lambda wildcards: FILES[wildcards.covers].covers,
        download=DOWNLOAD,
        root=D,
    shell:
        "python -m safe_llava.data.ocr_vqa --dataset {params.root:q}/{wildcards.covers:q} --root {params.root:q} "
        "--to {params.to:q} {params.download:q} --out {output.receipt:q} > {log:q} 2>&1"


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
        image("paper")
    resources:
        mem_mb=2000,
        runtime=480,
    params:
        row=lambda wildcards: row_json(ARCHIVES[wildcards.archive]),
        root=D,
    shell:
        "python -m safe_llava.data.unpack --archive {params.root:q}/{wildcards.archive:q} --row <(printf %s {params.row:q}) "
        "--root {params.root:q} --out {output.receipt:q} > {log:q} 2>&1"


# The same archive where nothing is to be unpacked: an index of it, through which its files are read.
rule data_index:
    input:
        receipt=f"{R}/data/fetched/{{archive}}.json",
    output:
        receipt=f"{R}/data/indexed/{{archive}}.json",
    log:
        f"{R}/logs/data/index/{{archive}}.log",
    benchmark:
        f"{R}/usage/data/index/{{archive}}.tsv"
    container:
        image("paper")
    resources:
        mem_mb=2000,
        runtime=60,
    params:
        row=lambda wildcards: row_json(ARCHIVES[wildcards.archive]),
        root=D,
    shell:
        "python -m safe_llava.data.index --archive {params.root:q}/{wildcards.archive:q} --row <(printf %s {params.row:q}) "
        "--root {params.root:q} --out {output.receipt:q} > {log:q} 2>&1"


# Before any GPU is reserved: is every image that an annotation names there, and readable? The list of what is wrong is
# a log, because Snakemake deletes the outputs of a check that fails; so the page is one, and an output as well.
rule data_layout:
    input:
        lambda wildcards: receipts(wildcards.dataset),
        lambda wildcards: [path for need in cfg.data.sets[wildcards.dataset].needs for path in receipts(need)],
    output:
        summary=f"{R}/data/layout/{{dataset}}.json",
        page=report(
            f"{R}/data/layout/{{dataset}}.html",
            caption="../report/layout.rst",
            category="data",
            labels={"data set": "{dataset}"},
        ),
    log:
        text=f"{R}/logs/data/layout/{{dataset}}.log",
        wrong=f"{R}/data/layout/{{dataset}}.csv",
        page=f"{R}/logs/data/layout/{{dataset}}.html",
    benchmark:
        f"{R}/usage/data/layout/{{dataset}}.tsv"
    container:
        image("paper")
    threads: 2
    resources:
        mem_mb=4000,
        runtime=240,
    params:
        annotations=lambda wildcards: annotation_files(wildcards.dataset),
        images=lambda wildcards: [row.images for row in cfg.data.sets[wildcards.dataset].annotations],
        kind=lambda wildcards: ("prism" if cfg.data.sets[wildcards.dataset].kind == "prism" else "train"),
        table=lambda wildcards: published_counts(wildcards.dataset),
        receipts=lambda wildcards: [placed(path) for path in archives_of(wildcards.dataset)],
        root=D,
        decode=cfg.data.decode,
        missing=cfg.data.tolerance.missing,
        undecodable=cfg.data.tolerance.undecodable,
    shell:
        "python -m safe_llava.data.layout --annotations {params.annotations:q} --images {params.images:q} "
        "--root {params.root:q} --kind {params.kind} --table <(printf %s {params.table:q}) "
        "--receipts {params.receipts:q} --decode {params.decode} --threads {threads} "
        "--tolerance-missing {params.missing} --tolerance-undecodable {params.undecodable} "
        "--out {log.wrong:q} --log-page {log.page:q} --page {output.page:q} --summary {output.summary:q} "
        "> {log.text:q} 2>&1"
