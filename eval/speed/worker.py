"""Worker that measures our tower: ``python -m eval.speed.worker``, driven over its standard input."""

from typing import Any

import torch

from vila_hd.options import HighResOptions
from vila_hd.ps3.modeling_ps3 import PS3VisionModel

from . import measuring


def build(job: dict[str, Any]) -> measuring.Run:
    """Load the tower and prepare its input; the run that is returned does one forward."""
    dtype = getattr(torch, job["dtype"])
    model = PS3VisionModel.from_pretrained(job["folder"], dtype=dtype)
    assert isinstance(model, PS3VisionModel)
    model.eval()
    pixels = measuring.random_pixels(job["side"], dtype, job["seed"])
    options = HighResOptions(budget=job["looks"] * job["pass_budget"], guided_by="saliency")
    sum(float(parameter.detach().sum()) for parameter in model.parameters())

    def run() -> measuring.Outcome:
        features = model(pixels, options=options, layers=(-1,)).last_hidden_state
        low = features[:, : job["low_res_tokens"]]
        return measuring.Outcome(tokens=features.shape[1], check=measuring.rms(low))

    return run


if __name__ == "__main__":
    measuring.serve(build)
