"""Configuration of the PS3 text tower. The keys are those of the published folders."""

from typing import Any, Literal

from transformers import PreTrainedConfig

from ..errors import VilaHDError

_POOL_TYPES = ("first", "last", "argmax", "none")


class PS3TextConfig(PreTrainedConfig):
    """A pre-norm text transformer whose pooled output is compared with pictures and turned into a selection
    prompt.

    Three published keys are kept so that a folder is written back as it was read, but change nothing here, as
    in the reference: ``final_ln_after_pool``, ``output_tokens`` and ``hf_tokenizer_name``.

    Attributes:
        output_dim: Width of the pooled output, shared with the pooled picture.
        prompt_proj_dim: Width of the selection prompt; equals the width of the vision tower.
        context_length: Tokens that a text is padded or cut to; the most that a call accepts.
        vocab_size: Rows of the token embedding.
        hf_tokenizer_name: Folder or hub id of the tokenizer the model was trained with.
        tokenizer_kwargs: Options of that tokenizer, such as ``{"clean": "canonicalize"}``.
        width: Channels of the transformer.
        heads: Attention heads; a divisor of ``width``.
        layers: Blocks.
        mlp_ratio: Hidden width of the MLP as a multiple of ``width``, rounded down.
        ls_init_value: Start of the learned layer scales; None: the blocks have none.
        embed_cls: Append a learned token and pool there.
        pad_id: Token that the appended token does not attend to (with ``embed_cls`` and a causal mask only).
        no_causal_mask: Let every token see every other.
        pool_type: Token that is pooled: ``first``, ``last``, ``argmax`` (the largest id), or ``none`` (keep
            all).
        proj_bias: The output projection has a bias.
        act_kwargs: Arguments of the GELU, such as ``{"approximate": "tanh"}``.
        norm_kwargs: Arguments of the LayerNorms, such as ``{"eps": 1e-6}``.
    """

    model_type = "ps3_text_model"
    base_config_key = "text_config"

    output_dim: int = 1152
    prompt_proj_dim: int = 1152
    context_length: int = 77
    vocab_size: int = 49408
    hf_tokenizer_name: str | None = None
    tokenizer_kwargs: dict[str, Any] | None = None
    width: int = 512
    heads: int = 8
    layers: int = 12
    mlp_ratio: float = 4.0
    ls_init_value: float | None = None
    embed_cls: bool = False
    pad_id: int = 0
    no_causal_mask: bool = False
    final_ln_after_pool: bool = False
    pool_type: Literal["first", "last", "argmax", "none"] = "argmax"
    proj_bias: bool = False
    output_tokens: bool = False
    act_kwargs: dict[str, Any] | None = None
    norm_kwargs: dict[str, Any] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        self.act_kwargs = dict(self.act_kwargs or {})
        self.norm_kwargs = dict(self.norm_kwargs or {})
        sizes = ("output_dim", "prompt_proj_dim", "context_length", "vocab_size", "width", "heads", "layers")
        for name in sizes:
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise VilaHDError(f"text config: {name}={value!r}: use a whole number >= 1")
        if not self.width * self.mlp_ratio >= 1:
            raise VilaHDError(
                f"text config: mlp_ratio={self.mlp_ratio!r}: use a number above 1/width={1 / self.width}"
            )
        if self.width % self.heads:
            raise VilaHDError(f"text config: width={self.width} is not a multiple of heads={self.heads}")
        if self.pool_type not in _POOL_TYPES:
            raise VilaHDError(
                f"text config: pool_type={self.pool_type!r}: use one of {', '.join(_POOL_TYPES)}"
            )
        _check_keys("act_kwargs", self.act_kwargs, {"approximate"})
        _check_keys("norm_kwargs", self.norm_kwargs, {"eps", "elementwise_affine", "bias"})

    @property
    def hidden_size(self) -> int:
        """The name under which transformers and DeepSpeed look up ``width``."""
        return self.width


def _check_keys(name: str, options: dict[str, Any], known: set[str]) -> None:
    unknown = sorted(set(options) - known)
    if unknown:
        raise VilaHDError(f"text config: {name} has unknown key(s) {unknown}; known: {sorted(known)}")
