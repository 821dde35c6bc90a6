"""``python -m train.init_ps3``: a PS3 model to start ``ps3_pretrain`` from, around the towers of a SigLIP.

Trunk, text tower, logit scale and logit bias are those of the SigLIP; what PS3 adds (selector, prompt
projection, position tables of the high scales) is new.
"""

import argparse
import logging
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vila_hd.cli.terminal import run_command
from vila_hd.errors import VilaHDError

logger = logging.getLogger(__name__)

_BLOCK_NAMES = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "self_attn.out_proj": "attn.out_proj",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}
_OTHER_NAMES = {
    "embeddings.token_embedding.weight": "token_embedding.weight",
    "embeddings.position_embedding.weight": "positional_embedding",
    "final_layer_norm.weight": "ln_final.weight",
    "final_layer_norm.bias": "ln_final.bias",
    "head.weight": "text_projection.weight",
    "head.bias": "text_projection.bias",
}


def text_tensors_from_siglip(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Tensors of SigLIP's text tower (names without ``text_model.``) under the names of PS3's.

    Raises:
        VilaHDError: a tensor is of no known name.
    """
    import torch

    renamed: dict[str, Any] = {}
    packed: dict[str, dict[str, Any]] = {}
    for name, value in tensors.items():
        if name in _OTHER_NAMES:
            renamed[_OTHER_NAMES[name]] = value
            continue
        parts = name.removeprefix("encoder.layers.").split(".")
        number, part, kind = parts[0], ".".join(parts[1:-1]), parts[-1]
        block = f"transformer.resblocks.{number}"
        if part in _BLOCK_NAMES:
            renamed[f"{block}.{_BLOCK_NAMES[part]}.{kind}"] = value
        elif part in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"):
            packed.setdefault(f"{block}.attn.in_proj_{kind}", {})[part[-6]] = value
        else:
            raise VilaHDError(f"tensor {name} belongs to no part of a SigLIP text tower")
    for name, parts_by_letter in packed.items():
        renamed[name] = torch.cat([parts_by_letter[letter] for letter in "qkv"])
    return renamed


def build(
    source: str, *, scales: Sequence[int] | None, published: bool, seed: int = 0
) -> tuple[Any, Any, Any]:
    """PS3 model, tokenizer and image processor around a SigLIP.

    Args:
        source: folder or hub id of a ``SiglipModel`` with its tokenizer.
        scales: longest side per scale in pixels, low to high; None: the SigLIP's own side, twice and four
            times that.
        published: the choices of the published models, where new training has better ones: one learned
            position per high-resolution patch, resizing without antialiasing.
        seed: of what is new.

    Raises:
        VilaHDError: it is no SigLIP, or not to be had.
    """
    import torch
    from transformers import AutoConfig, AutoTokenizer, SiglipModel

    from vila_hd.ps3.configuration_ps3_dual import PS3Config
    from vila_hd.ps3.configuration_ps3_text import PS3TextConfig
    from vila_hd.ps3.image_processing_ps3 import PS3ImageProcessor
    from vila_hd.ps3.modeling_ps3_dual import PS3Model
    from vila_hd.ps3.tokenization_ps3 import PS3Tokenizer
    from vila_hd.siglip import ps3_config_from_siglip, trunk_tensors_from_siglip

    try:
        config = AutoConfig.from_pretrained(source)
        if config.model_type != "siglip":
            raise VilaHDError(f"{source}: a {config.model_type!r} model; give a SigLIP with both towers")
        siglip = SiglipModel.from_pretrained(source, dtype=torch.float32)
        words = AutoTokenizer.from_pretrained(source)
    except (OSError, KeyError) as error:
        lines = str(error).strip().splitlines()
        raise VilaHDError(f"{source}: {lines[0] if lines else type(error).__name__}") from error
    text = config.text_config
    changes = {"residual_grid_size": None, "resample": "bicubic"} if published else {}
    vision = ps3_config_from_siglip(config.vision_config, scales=scales, max_select_num=2560, **changes)
    tanh = text.hidden_act == "gelu_pytorch_tanh"
    text_config = PS3TextConfig(
        output_dim=text.projection_size, prompt_proj_dim=vision.hidden_size, vocab_size=text.vocab_size,
        context_length=text.max_position_embeddings, width=text.hidden_size, heads=text.num_attention_heads,
        layers=text.num_hidden_layers, mlp_ratio=(text.intermediate_size + 0.5) / text.hidden_size,
        no_causal_mask=True, pool_type="last", proj_bias=True, norm_kwargs={"eps": text.layer_norm_eps},
        act_kwargs={"approximate": "tanh"} if tanh else None, tokenizer_kwargs={"clean": "canonicalize"},
    )  # fmt: skip
    torch.manual_seed(seed)
    model = PS3Model(PS3Config(vision_config=vision, text_config=text_config))
    model.vision_model.trunk.load_state_dict(trunk_tensors_from_siglip(siglip.vision_model.state_dict()))
    missing, unexpected = model.text_model.load_state_dict(
        text_tensors_from_siglip(siglip.text_model.state_dict()), strict=False
    )
    missing = [name for name in missing if not name.startswith("prompt_proj.")]
    if missing or unexpected:
        raise VilaHDError(f"{source}: missing tensors {missing[:4]}, unexpected tensors {unexpected[:4]}")
    with torch.no_grad():
        model.logit_scale.copy_(siglip.logit_scale.reshape(()))
        model.logit_bias.copy_(siglip.logit_bias.reshape(()))
    tokenizer = PS3Tokenizer(words, context_length=text_config.context_length, clean="canonicalize")
    processor = PS3ImageProcessor(
        vision.ps3_scales[-1], vision.image_mean, vision.image_std,
        resize_mode="squash" if published else "fit", do_normalize=False,
    )  # fmt: skip
    return model, tokenizer, processor


def build_parser() -> argparse.ArgumentParser:
    """Options of ``python -m train.init_ps3``."""
    parser = argparse.ArgumentParser(
        prog="python -m train.init_ps3", description="Make a PS3 model around a SigLIP, to pre-train it."
    )
    parser.add_argument("siglip", help="folder or hub id, e.g. google/siglip-so400m-patch14-384")
    parser.add_argument("out", type=Path, help="folder to write")
    parser.add_argument("--scales", type=int, nargs="+", help="pixels, low to high, e.g. 378 756 1512")
    parser.add_argument("--published", action="store_true", help="choices of the published models")
    parser.add_argument("--seed", type=int, default=0, help="of what is new (default: 0)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; 0 on success, 2 on bad input, 130 on Ctrl-C."""
    return run_command(lambda: _run(build_parser().parse_args(argv)))


def _run(args: argparse.Namespace) -> int:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if args.out.exists():
        raise VilaHDError(f"{args.out} is there already: remove it or choose another folder")
    model, tokenizer, processor = build(
        args.siglip, scales=args.scales, published=args.published, seed=args.seed
    )
    partial = args.out.with_name(args.out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    model.save_pretrained(partial)
    tokenizer.save_pretrained(partial, copy_tokenizer=True)
    processor.save_pretrained(partial)
    partial.rename(args.out)
    print(f"wrote {args.out}: scales {list(model.config.vision_config.ps3_scales)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
