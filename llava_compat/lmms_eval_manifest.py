"""The entry point that tells lmms-eval about our models.

lmms-eval loads all entry points of all packages together, and a failure of one hides the rest: nothing is
imported here before it is needed.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lmms_eval.models.registry_v2 import ModelManifest


def manifests() -> "ModelManifest":
    """``lmms-eval --model vila_hd`` -> ``llava_compat.lmms_eval_model.VilaHD``."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(model_id="vila_hd", chat_class_path="llava_compat.lmms_eval_model.VilaHD")
