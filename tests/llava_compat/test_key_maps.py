"""Names of tensors, both ways."""

import pytest

from llava_compat.key_maps import join_full_name, split_full_name, to_ours, to_published
from vila_hd import VilaHDError
from vila_hd.testing import tiny_config, tiny_model


@pytest.fixture(scope="module")
def names() -> list[str]:
    return list(tiny_model(tiny_config(lm_head_bias=True)).state_dict())


@pytest.mark.parametrize("prefix", ["model", "transformer"])
def test_every_name_of_ours_has_one_place_and_comes_back(names, prefix):
    published = [to_published(name, base_prefix=prefix) for name in names]
    assert len(set(published)) == len(names)
    assert [to_ours(component, name, base_prefix=prefix) for component, name in published] == names
    bodies = {name.partition(".")[0] for component, name in published if component == "llm"}
    assert bodies == {prefix, "lm_head"}


def test_full_names_of_the_published_model_come_back(names):
    for component, name in map(to_published, names):
        assert split_full_name(join_full_name(component, name)) == (component, name)


@pytest.mark.parametrize(
    ("component", "name"),
    [
        ("llm", "model.layers.3.self_attn.rotary_emb.inv_freq"),
        ("vision_tower", "text_model.ln_final.weight"),
        ("vision_tower", "logit_scale"),
    ],
)
def test_what_no_model_of_ours_holds_is_dropped(component, name):
    assert to_ours(component, name) is None


@pytest.mark.parametrize(
    ("component", "name"),
    [
        ("llm", "vision_model.prior_prompt"),
        ("mm_projector", "layer.1.weight"),
        ("vision_tower", "logit_scales"),
    ],
)
def test_unknown_names_are_not_guessed(component, name):
    with pytest.raises(KeyError, match=name):
        to_ours(component, name)


def test_unknown_names_of_ours_are_refused():
    with pytest.raises(VilaHDError, match=r"model\.adapter\.weight"):
        to_published("model.adapter.weight")
    with pytest.raises(VilaHDError, match="belongs to no component"):
        split_full_name("vision_tower.vision_model.prior_prompt")


def test_published_names_are_those_of_the_recorded_checkpoints(vila_goldens):
    from llava_compat.tensors import open_folder

    folder = vila_goldens.model_folder("hd_2x2_prompt_mlp")
    for component in ("llm", "vision_tower", "mm_projector"):
        for name in open_folder(folder / component, component):
            ours = to_ours(component, name)
            assert ours is not None
            assert to_published(ours) == (component, name)
