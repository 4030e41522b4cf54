# Only in `make demo`: do the two tiny models differ as their annotations do?


localrules:
    demo_check,


rule demo_check:
    input:
        answers=expand(
            f"{R}/prism/answers/{{edition}}/{{model}}/refusal_soft.jsonl",
            edition=cfg.prism.select.editions,
            model=[cfg.demo.safe, cfg.demo.original],
        ),
        scores=f"{R}/tables/prism.csv",
        benchmarks=f"{R}/tables/benchmarks.csv",
    output:
        table=report(f"{R}/tables/demo.csv", caption="../report/demo.rst", category="demo"),
    log:
        f"{R}/logs/demo/check.log",
    container:
        container_image("paper")
    params:
        arguments=[
            f"--truth={R}/{cfg.demo.truth}",
            f"--benchmark={cfg.demo.benchmark}",
            f"--safe={cfg.demo.safe}",
            f"--original={cfg.demo.original}",
        ],
    shell:
        "python -m safe_llava.demo.check {params.arguments:q} --answers {input.answers:q} --scores {input.scores:q} "
        "--benchmarks {input.benchmarks:q} --out {output.table:q} > {log:q} 2>&1"
