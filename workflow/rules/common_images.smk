# Functions of the images: which one a rule runs in, and that it is there.
from safe_llava.containers.tag import NAMES as IMAGE_NAMES, image_name, image_path


def image(name):
    """The image of an environment: train, eval or paper."""
    return image_path(name, cfg.images, REPOSITORY)


OWN_IMAGES = {image_name(name, cfg.images, REPOSITORY): name for name in IMAGE_NAMES if not getattr(cfg.images, name)}
# SLURM, Apptainer and the keys are on the machine itself and not in images: what needs them runs in none, and says so.
ON_THE_HOST = lambda wildcards: None
# Its `python` need not be the one that has Snakemake, where the other rules have images.
HOST_PYTHON = str(Path(sys.executable).parent / "python")


def check_images(jobs):
    """Refuse to start where an image is not there: Snakemake itself notices in the first job that needs it."""
    jobs = list(jobs) if IN_IMAGE else []
    wanted = {str(job.container_img_url) for job in jobs if job.container_img_url}
    wanted |= {image("train") for job in jobs if job.rule.name.endswith("_spread")}
    absent = sorted(image for image in wanted if "://" not in image and not Path(image).exists())
    if absent:
        raise WorkflowError(f"no image {', '.join(absent)}\n  remedy: snakemake images")
