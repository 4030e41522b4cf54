# The data stage beside the training: what cleaned annotations changed, and what annotations mention of people.

# The set that a cleaned one was made from.
MADE_FROM = {pair.safe: pair.original for pair in cfg.data.audit.pairs}


rule data_compare:
    input:
        original=lambda wildcards: receipts(MADE_FROM[wildcards.dataset]),
        safe=lambda wildcards: receipts(wildcards.dataset),
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
        image("paper")
    resources:
        mem_mb=4000,
        runtime=120,
    params:
        original=lambda wildcards: annotation_files(MADE_FROM[wildcards.dataset]),
        safe=lambda wildcards: annotation_files(wildcards.dataset),
    shell:
        "python -m safe_llava.data.compare --original {params.original:q} --safe {params.safe:q} "
        "--differences {output.differences:q} --page {output.page:q} --summary {output.summary:q} > {log:q} 2>&1"


# What the answers of a set mention of people.
rule data_audit:
    input:
        lambda wildcards: receipts(wildcards.dataset),
    output:
        counts=f"{R}/data/audit/{{dataset}}.json",
    log:
        f"{R}/logs/data/audit/{{dataset}}.log",
    benchmark:
        f"{R}/usage/data/audit/{{dataset}}.tsv"
    wildcard_constraints:
        dataset=either(cfg.data.audit.sets),
    container:
        image("paper")
    threads: 8
    resources:
        mem_mb=4000,
        runtime=240,
    params:
        annotations=lambda wildcards: annotation_files(wildcards.dataset),
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
        image("paper")
    params:
        pairs=[word for pair in cfg.data.audit.pairs for word in ("--pair", pair.original, pair.safe)],
        published=[word for pair in cfg.data.audit.pairs for word in published_audit(pair)],
    shell:
        "python -m safe_llava.data.audit_table {params.pairs:q} {params.published:q} --counts {input.counts:q} "
        "--out {output.table:q} > {log:q} 2>&1"
