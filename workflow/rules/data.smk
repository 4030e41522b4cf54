# The data stage: external bytes arrive, are verified, unpacked, and checked against the annotations.
import ast
import itertools

from snakemake.io import IOFile

from safe_llava.config.selection import checked_sets, needed

ANNOUNCED = []

# How bytes come, in an environment variable: in no parameter, where it would be a reason to run everything again, and in
# no command, which everybody sees and Snakemake keeps; a mirror's address may hold a password.
HOW = ("mirrors_only", "connect_timeout_s", "retries", "connections", "bandwidth_mb_s")
COPIES = {path: file.mirrors for path, file in FILES.items() if file.mirrors}
DOWNLOAD = {"mirrors": cfg.mirrors, "file_mirrors": COPIES, **{key: getattr(cfg.data, key) for key in HOW}}
os.environ.update(SAFE_LLAVA_DOWNLOAD=json.dumps(DOWNLOAD))


def resolved_row(name):
    """The row of a file or a repository, as its step reads it: without what says how the bytes come."""
    return row_json(SNAPSHOTS[name]) if name in SNAPSHOTS else row_json(FILES[name], mirrors=[])


def as_kept(receipt):
    """How the bytes came, where an older version kept it as a parameter of a receipt: no reason to fetch them again."""
    kept = workflow.persistence.params(IOFile(receipt)) or []
    return next((ast.literal_eval(value) for value in kept if "--connect-timeout=" in value), [])


def data_milestone():
    """Everything that the selected models, editions and benchmarks need from outside."""
    checked = checked_sets(cfg)
    prompts = [judge_prompts(*asked) for asked in itertools.product(cfg.prism.select.judges, cfg.prism.select.editions)]
    plain = [part for part in needed(cfg) if part.set not in checked and part.kind != "prompts"]
    return [
        *map(layout, checked),
        *[path for part in plain if part.snapshot for path in receipts(part.set)],
        *[placed(file.path) for part in plain for file in part.files],
        *sorted({path for paths in prompts for path in paths}),
    ]


def planned(wildcards):
    """The milestone's inputs. They are asked for while the DAG is built: so a dry-run, too, shows the plan first."""
    if workflow.is_main_process and not ANNOUNCED and not QUIET:
        from safe_llava.data.planning.volume import report

        ANNOUNCED.append(True)
        print(report(cfg.data, needed(cfg))[0], file=sys.stderr, flush=True)
    return data_milestone()


rule data_fetch:
    output:
        receipt=f"{R}/data/fetched/{{file}}.json",
    log:
        f"{R}/logs/data/fetch/{{file}}.log",
    benchmark:
        f"{R}/usage/data/fetch/{{file}}.tsv"
    container:
        container_image("paper")
    resources:
        mem_mb=1000,
        runtime=1440,
    params:
        row=of("file", resolved_row),
        download=of("file", lambda name: as_kept(fetched(name))),
        root=D,
    shell:
        "python -m safe_llava.data.fetch --row <(printf %s {params.row:q}) --root {params.root:q} "
        "--out {params.root:q}/{wildcards.file:q} --receipt {output.receipt:q} > {log:q} 2>&1"


rule data_snapshot:
    output:
        receipt=f"{R}/data/snapshots/{{snapshot}}.json",
    log:
        f"{R}/logs/data/snapshot/{{snapshot}}.log",
    benchmark:
        f"{R}/usage/data/snapshot/{{snapshot}}.tsv"
    container:
        container_image("paper")
    resources:
        mem_mb=2000,
        runtime=1440,
    params:
        row=of("snapshot", resolved_row),
        download=of("snapshot", lambda name: as_kept(receipts(name)[0])),
        root=D,
    shell:
        "python -m safe_llava.data.snapshot --row <(printf %s {params.row:q}) --root {params.root:q} "
        "--out {output.receipt:q} > {log:q} 2>&1"


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
        container_image("paper")
    resources:
        mem_mb=2000,
        runtime=2880,
    params:
        to=of("covers", lambda name: COVERS[name].covers),
        download=of("covers", lambda name: as_kept(placed(name))),
        root=D,
    shell:
        "python -m safe_llava.data.ocr_vqa --dataset {params.root:q}/{wildcards.covers:q} --root {params.root:q} "
        "--to {params.to:q} --out {output.receipt:q} > {log:q} 2>&1"


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
        container_image("paper")
    resources:
        mem_mb=2000,
        runtime=480,
    params:
        row=of("archive", resolved_row),
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
        container_image("paper")
    resources:
        mem_mb=2000,
        runtime=60,
    params:
        row=of("archive", resolved_row),
        root=D,
    shell:
        "python -m safe_llava.data.index --archive {params.root:q}/{wildcards.archive:q} --row <(printf %s {params.row:q}) "
        "--root {params.root:q} --out {output.receipt:q} > {log:q} 2>&1"
