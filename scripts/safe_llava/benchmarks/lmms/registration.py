"""The manifest of our model for lmms-eval's plug-in mechanism (entry points of the group ``lmms_eval.models``).

The entry point is ``safe_llava = "safe_llava.benchmarks.lmms.registration:manifest"``; with it installed,
``lmms-eval --model safe_llava --model_args pretrained=DIR,row=ROW.json`` asks the same engine as the workflow.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lmms_eval.models.registry_v2 import ModelManifest


def manifest() -> ModelManifest:
    """Return the manifest of the model plug-in; nothing heavy is imported."""
    # lmms-eval reads its plug-ins while its own package is still being imported.
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(model_id="safe_llava", simple_class_path="safe_llava.benchmarks.lmms.plugin.SafeLlava")
