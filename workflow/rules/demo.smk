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
        image("paper")
    params:
        truth=f"{R}/{cfg.demo.truth}",
        safe=cfg.demo.safe,
        original=cfg.demo.original,
        benchmark=cfg.demo.benchmark,
    shell:
        "python -m safe_llava.demo.check --truth {params.truth:q} --answers {input.answers:q} "
        "--scores {input.scores:q} --benchmarks {input.benchmarks:q} --benchmark {params.benchmark:q} "
        "--safe {params.safe:q} --original {params.original:q} --out {output.table:q} > {log:q} 2>&1"
