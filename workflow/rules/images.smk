# The Apptainer images. No rule has one as its input: a rebuilt image is no reason to make anything again.


localrules:
    images,
    image_build,


# The tag in the path is that of everything that goes into the image: there is nothing else to compare.
rule image_build:
    output:
        image=f"{cfg.images.folder}/{{image}}-{{tag}}.sif",
        note=f"{cfg.images.folder}/{{image}}-{{tag}}.sif.json",
    log:
        f"{R}/logs/images/{{image}}-{{tag}}.log",
    wildcard_constraints:
        image=either(OWN_IMAGES),
        tag="[0-9a-f]{12}",
    container:
        ON_THE_HOST
    params:
        python=HOST_PYTHON,
        name=lambda wildcards: OWN_IMAGES[wildcards.image],
        images=row_json(cfg.images),
    shell:
        "{params.python:q} -m safe_llava.containers.build build --name {params.name} --images <(printf %s {params.images:q}) "
        "--out {output.image:q} > {log:q} 2>&1"


rule images:
    input:
        [image(name) for name in OWN_IMAGES.values()],
