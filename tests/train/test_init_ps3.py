"""A PS3 made from a SigLIP says the same of whole pictures and of texts as the SigLIP."""

import pytest
import torch
from transformers import SiglipConfig, SiglipModel

from train.init_ps3 import main
from vila_hd.options import HighResOptions
from vila_hd.ps3.modeling_ps3_dual import PS3Model
from vila_hd.ps3.tokenization_ps3 import PS3Tokenizer
from vila_hd.testing import tiny_tokenizer


@pytest.fixture(scope="module")
def siglip(tmp_path_factory):
    folder = tmp_path_factory.mktemp("siglip")
    torch.manual_seed(0)
    shared = {
        "hidden_size": 32, "intermediate_size": 50, "num_hidden_layers": 2, "num_attention_heads": 2,
        "hidden_act": "gelu",
    }  # fmt: skip
    tokenizer = tiny_tokenizer()
    config = SiglipConfig(
        vision_config={**shared, "image_size": 56, "patch_size": 14},
        text_config={
            **shared, "vocab_size": len(tokenizer), "max_position_embeddings": 8, "projection_size": 32,
        },
    )  # fmt: skip
    model = SiglipModel(config).eval()
    with torch.no_grad():
        model.logit_scale.fill_(4.5)
        model.logit_bias.fill_(-16.0)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder, model


@pytest.mark.parametrize("flags", [[], ["--published"]], ids=["new", "published"])
def test_towers_agree_with_the_siglip(siglip, tmp_path, flags):
    folder, original = siglip
    assert main([str(folder), str(tmp_path / "ps3"), "--scales", "56", "112", "280", *flags]) == 0
    model = PS3Model.from_pretrained(tmp_path / "ps3")
    assert list(model.config.vision_config.ps3_scales) == [56, 112, 280]
    assert float(model.logit_scale.detach()) == pytest.approx(4.5)
    assert float(model.logit_bias.detach()) == pytest.approx(-16.0)
    ids = PS3Tokenizer.from_pretrained(tmp_path / "ps3")(["a red door", "sea"])
    pixels = torch.rand(2, 3, 56, 56) * 2 - 1
    with torch.no_grad():
        ours = model.encode_image(pixels, options=HighResOptions(budget=0), pool=True)
        texts, _ = model.get_text_features(ids)
        image = original.vision_model(pixel_values=pixels).pooler_output
        text = original.text_model(input_ids=ids).pooler_output
    torch.testing.assert_close(ours.pooled_output, image, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(texts, text, atol=1e-5, rtol=1e-4)


def test_what_is_no_siglip_is_refused(siglip, tmp_path, capsys):
    assert main([str(tmp_path / "none"), str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.startswith("error: ")
    assert main([str(siglip[0]), str(tmp_path)]) == 2
    assert "is there already" in capsys.readouterr().err
