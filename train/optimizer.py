"""AdamW for everything, or Muon for the hidden matrices and AdamW for the rest."""

from typing import Any

import torch
from torch import nn

from .config import OptimConfig
from .stages import Component, component_of


def make_optimizer(model: nn.Module, optim: OptimConfig) -> torch.optim.Optimizer:
    """The optimiser of the trained parameters of ``model``, with the groups of :func:`parameter_groups`."""
    groups = parameter_groups(model, optim)
    if optim.muon_lr is None:
        return torch.optim.AdamW(groups, lr=optim.lr, betas=optim.betas, eps=optim.eps)
    for group in groups:
        if group["use_muon"]:
            group["ns_method"] = "standard"  # in bf16; "gram" takes fp16, which CPUs are slow at
        else:
            group |= {"betas": optim.betas, "eps": optim.eps}
    return _muon(groups)


def _muon(groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    # Imported here because importing it takes seconds.
    from deepspeed.runtime.zero.muon.muon_optimizer import MuonWithAuxAdam

    if torch.cuda.is_available():
        return MuonWithAuxAdam(groups)

    class Eager(MuonWithAuxAdam):
        """Muon without torch.compile, which on a CPU takes a C++ compiler and a minute at every start."""

        def step(self, *args: Any, **kwargs: Any) -> Any:
            with torch.compiler.set_stance("force_eager"):
                return super().step(*args, **kwargs)

    return Eager(groups)


def parameter_groups(model: nn.Module, optim: OptimConfig) -> list[dict[str, Any]]:
    """Optimiser groups of the trained parameters: component x kind (by Muon, decayed, not decayed).

    Muon takes the hidden matrices when ``muon_lr`` is set: two axes, neither embedding nor output head.
    Matrices are decayed; vectors, norms, biases, scalars and embedding tables of positions are not.
    """
    groups: dict[tuple[Component, bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            # Under ZeRO-3 the parameter itself is empty and remembers its shape.
            shape = getattr(parameter, "ds_shape", parameter.shape)
            decay = len(shape) >= 2 and "norm" not in name and "pos_emb" not in name
            hidden = decay and len(shape) == 2 and "embed" not in name and "lm_head" not in name
            muon = hidden and optim.muon_lr is not None
            groups.setdefault((component_of(name), muon, decay), []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": optim.rate(component, muon=muon),
            "weight_decay": optim.weight_decay if decay else 0.0,
            "use_muon": muon,
            "name": f"{component}{' (Muon)' if muon else '' if decay else ' (no decay)'}",
        }
        for (component, muon, decay), parameters in sorted(groups.items())
    ]
