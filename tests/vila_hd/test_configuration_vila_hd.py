"""VilaHDConfig: what it accepts, what it derives, and that it survives being saved."""

from pathlib import Path

import pytest
from transformers import AutoConfig

from vila_hd import VilaHDConfig, VilaHDError
from vila_hd.testing import TINY_TEXT_MODELS, tiny_config


@pytest.mark.parametrize("model_type", TINY_TEXT_MODELS)
def test_saved_and_loaded_config_is_equal(model_type: str, tmp_path: Path) -> None:
    config = tiny_config(model_type, default_budget=7)
    config.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert type(loaded) is VilaHDConfig
    assert type(loaded.text_config) is type(config.text_config)
    assert loaded.to_diff_dict() == config.to_diff_dict()


@pytest.mark.parametrize(
    ("projector_type", "tokens"),
    [
        ("mlp_downsample", 4),
        ("mlp_downsample_2x2_fix", 4),
        ("mlp_downsample_3x3_fix", 4),
        ("mlp2x_gelu", 16),
        ("linear", 16),
    ],
)
def test_low_res_tokens_round_up(projector_type: str, tokens: int) -> None:
    assert tiny_config(projector_type=projector_type).low_res_tokens == tokens


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"projector_type": "resampler"}, "projector_type='resampler'"),
        ({"projector_type": "mlp0x_gelu"}, "mlpNx_gelu"),
        ({"default_budget": -1}, "default_budget=-1"),
        ({"prompt_head": None}, "default_guide to 'saliency'"),
        ({"projector_type": "identity"}, "width 32 to a language model of width 48"),
    ],
)
def test_values_that_do_not_fit_are_named(changes: dict[str, object], words: str) -> None:
    with pytest.raises(VilaHDError, match=words):
        tiny_config(**changes)


def test_text_config_without_model_type_is_refused() -> None:
    with pytest.raises(VilaHDError, match="model_type"):
        VilaHDConfig(text_config={"hidden_size": 8})
