"""Worker that encodes one picture: chosen patches with PS3, or every patch of one scale.

``python -m eval.claims.cost_worker``, driven over its standard input; see ``eval.speed.measuring``.
"""

from typing import Any

import torch

from vila_hd.options import HighResOptions
from vila_hd.ps3.configuration_ps3 import PS3VisionConfig
from vila_hd.ps3.modeling_ps3 import PS3VisionModel

from ..speed import measuring


def build(job: dict[str, Any]) -> measuring.Run:
    """A tower with random weights and its input; the run that is returned encodes the picture."""
    torch.manual_seed(0)
    dtype = getattr(torch, job["dtype"])
    tower = PS3VisionModel(PS3VisionConfig(**job["config"])).to(dtype).eval()
    pixels = measuring.random_pixels(job["side"], dtype, seed=0)

    def chosen() -> measuring.Outcome:
        options = HighResOptions(budget=job["patches"], guided_by="saliency")
        features = tower(pixels, options=options, layers=(-1,)).last_hidden_state
        return measuring.Outcome(tokens=features.shape[1], check=measuring.rms(features))

    def everything() -> measuring.Outcome:
        features = tower.encode_low_res(pixels, keep_cache=False, taps=False).features[0]
        return measuring.Outcome(tokens=features.shape[1], check=measuring.rms(features))

    return everything if job["patches"] is None else chosen


if __name__ == "__main__":
    measuring.serve(build)
