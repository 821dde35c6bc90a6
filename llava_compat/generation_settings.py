"""What a ``GenerationConfig`` of a script leaves open, filled in as the published code does."""

import copy

from transformers import GenerationConfig

from vila_hd.errors import VilaHDError


def complete_config(
    config: GenerationConfig | None, default: GenerationConfig, prompt_tokens: int, limit: int | None
) -> GenerationConfig:
    """``config`` with a length in new tokens, and ids where it has none.

    Args:
        config: of the call; None: ``default``.
        default: the model's own. Its ``max_length``, as that of ``config``, counts the prompt, too.
        prompt_tokens: tokens of the prompt, visual ones included.
        limit: tokens that the language model reads; None: any number.

    Raises:
        VilaHDError: the prompt leaves no room for an answer, which names both numbers; or ``config`` is none.
    """
    if limit is not None and prompt_tokens > limit:
        raise VilaHDError(
            f"the prompt has {prompt_tokens} tokens, but the language model reads {limit}: look less closely "
            "(num_look_close, num_token_look_close), or show fewer pictures"
        )
    if config is not None and not isinstance(config, GenerationConfig):
        raise VilaHDError(
            f"generation_config of type {type(config).__name__}: use transformers.GenerationConfig, or "
            "change model.default_generation_config"
        )
    config = copy.deepcopy(default if config is None else config)
    for name in ("eos_token_id", "pad_token_id", "bos_token_id"):
        if getattr(config, name) is None:
            setattr(config, name, getattr(default, name))
    if config.do_sample and config.temperature == 0:
        config.do_sample = False  # what scripts mean by it
    if config.max_new_tokens is None:
        lengths = [n for n in (config.max_length or default.max_length, limit) if n is not None]
        if not lengths or min(lengths) <= prompt_tokens:
            raise VilaHDError(
                f"the prompt has {prompt_tokens} tokens, which leaves none of max_length="
                f"{min(lengths, default=None)}: set max_new_tokens, or look less closely"
            )
        config.max_new_tokens = min(lengths) - prompt_tokens
    config.max_length = None
    return config
