# The checks of the data stage: is every image there, what did cleaned annotations change, and what do annotations mention
# of people?
from safe_llava.lexicon.rules import rules_version

# The set that a cleaned one was made from.
MADE_FROM = {pair.safe: pair.original for pair in cfg.data.audit.pairs}


def archives_of(name):
    """The archives that a data set and those that it needs consist of."""
    return [file.path for part in (name, *cfg.data.sets[name].needs) for file in SETS[part].files if file.unpack]


def looked_through(name):
    """The receipts of a data set with annotations, and of the sets whose images it names."""
    return [path for part in (name, *cfg.data.sets[name].needs) for path in receipts(part)]


def published_counts(name):
    """What the table says of a data set's samples and files, as the JSON that the layout check reads."""
    sources = {source.path: source for part in cfg.data.sets.values() for source in part.files}
    samples = {
        row.path: {"published": row.samples, "pinned": row.path in FILES and FILES[row.path].sha256 != "unknown"}
        for row in cfg.data.sets[name].annotations
    }
    files = {ARCHIVES[path].unpack.to: sources[path].unpack.files for path in archives_of(name) if path in sources}
    return json.dumps({"samples": samples, "files": files})


def tolerated(wildcards):
    """How many images may be wrong, as the JSON of the section; 0 where none may."""
    return row_json(cfg.data.tolerance) if any(dict(cfg.data.tolerance).values()) else 0


def published_audit(pair):
    """The arguments that hand over what was published about the original set of a pair."""
    numbers = [f"{attribute}={number}" for attribute, number in pair.published.items()]
    return ["--published", pair.original, *numbers] if numbers else []


# Before any GPU is reserved: is every image that an annotation names there, and readable? The list of what is wrong is
# a log, because Snakemake deletes the outputs of a check that fails; so the page is one, and an output as well.
rule data_layout:
    input:
        of("dataset", looked_through),
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
        container_image("paper")
    threads: 2
    resources:
        mem_mb=4000,
        runtime=240,
    params:
        annotations=of("dataset", annotation_files),
        images=of("dataset", lambda name: [row.images for row in cfg.data.sets[name].annotations]),
        kind=of("dataset", lambda name: "prism" if cfg.data.sets[name].kind == "prism" else "train"),
        table=of("dataset", published_counts),
        receipts=of("dataset", lambda name: [placed(path) for path in archives_of(name)]),
        root=D,
        decode=cfg.data.decode,
        tolerated=tolerated,
        # What a function makes of inputs is not compared: `tolerated` is, where each number has its name.
        tolerance=lambda wildcards, input: (
            f"--tolerance-missing {cfg.data.tolerance.missing} --tolerance-undecodable {cfg.data.tolerance.undecodable}"
        ),
    shell:
        "python -m safe_llava.data.layout --annotations {params.annotations:q} --images {params.images:q} "
        "--root {params.root:q} --kind {params.kind} --table <(printf %s {params.table:q}) "
        "--receipts {params.receipts:q} --decode {params.decode} --threads {threads} "
        "{params.tolerance} "
        "--out {log.wrong:q} --log-page {log.page:q} --page {output.page:q} --summary {output.summary:q} "
        "> {log.text:q} 2>&1"


rule data_compare:
    input:
        original=of("dataset", lambda name: receipts(MADE_FROM[name])),
        safe=of("dataset", receipts),
    output:
        summary=f"{R}/data/compare/{{dataset}}.json",
        differences=f"{R}/data/compare/{{dataset}}.csv.gz",
        page=report(
            f"{R}/data/compare/{{dataset}}.html",
            caption="../report/compare.rst",
            category="data",
            labels={"data set": "{dataset}, changes"},
        ),
    log:
        f"{R}/logs/data/compare/{{dataset}}.log",
    benchmark:
        f"{R}/usage/data/compare/{{dataset}}.tsv"
    wildcard_constraints:
        dataset=either(MADE_FROM),
    container:
        container_image("paper")
    resources:
        mem_mb=4000,
        runtime=120,
    params:
        original=of("dataset", lambda name: annotation_files(MADE_FROM[name])),
        safe=of("dataset", annotation_files),
    shell:
        "python -m safe_llava.data.compare --original {params.original:q} --safe {params.safe:q} "
        "--differences {output.differences:q} --page {output.page:q} --summary {output.summary:q} > {log:q} 2>&1"


# What the answers of a set mention of people.
rule data_audit:
    input:
        of("dataset", receipts),
    output:
        counts=f"{R}/data/audit/{{dataset}}.json",
    log:
        f"{R}/logs/data/audit/{{dataset}}.log",
    benchmark:
        f"{R}/usage/data/audit/{{dataset}}.tsv"
    wildcard_constraints:
        dataset=either(cfg.data.audit.sets),
    container:
        container_image("paper")
    threads: 8
    resources:
        mem_mb=4000,
        runtime=240,
    params:
        annotations=of("dataset", annotation_files),
        version=rules_version(),
    shell:
        "python -m safe_llava.data.audit --annotations {params.annotations:q} --processes {threads} "
        "--out {output.counts:q} > {log:q} 2>&1"


rule data_audit_table:
    input:
        counts=[f"{R}/data/audit/{name}.json" for name in cfg.data.audit.sets],
    output:
        table=report(
            f"{R}/tables/audit.csv",
            caption="../report/table_audit.rst",
            category="data",
        ),
    log:
        f"{R}/logs/data/audit_table.log",
    container:
        container_image("paper")
    params:
        arguments=[
            word
            for pair in cfg.data.audit.pairs
            for word in ("--pair", pair.original, pair.safe, *published_audit(pair))
        ],
    shell:
        "python -m safe_llava.data.audit_table {params.arguments:q} --counts {input.counts:q} "
        "--out {output.table:q} > {log:q} 2>&1"
