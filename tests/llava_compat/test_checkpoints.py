"""load_checkpoint: every form of the published layout."""

import json
import os
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

import vila_hd
from llava_compat import load_checkpoint
from llava_compat.folders import COMPONENTS
from vila_hd import HighResOptions, VilaHDError, cli
from vila_hd.testing import tiny_picture


def shard(folder) -> None:
    """Spread the weights of a folder over two files and an index."""
    tensors = load_file(folder / "model.safetensors")
    names = sorted(tensors)
    weight_map = {name: f"model-0000{1 + i % 2}-of-00002.safetensors" for i, name in enumerate(names)}
    for file in set(weight_map.values()):
        save_file({n: tensors[n] for n in names if weight_map[n] == file}, folder / file, {"format": "pt"})
    (folder / "model.safetensors").unlink()
    index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


# ------------------------------------------------------------------ forms of the layout


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda f, edit: edit(f / "config.json", resume_path=None), id="resume_path null"),
        pytest.param(
            lambda f, edit: edit(f / "config.json", resume_path="/elsewhere"), id="resume_path of another"
        ),
        pytest.param(
            lambda f, edit: edit(
                f / "config.json",
                image_encoder={"_target_": "llava.model.encoders.BasicImageEncoder"},
                video_encoder={"_target_": "llava.model.encoders.BasicVideoEncoder"},
            ),
            id="encoders as objects",
        ),
        pytest.param(
            lambda f, edit: edit(f / "vision_tower" / "config.json", s3_scales=[70, 140, 280]),
            id="both scale keys",
        ),
        pytest.param(lambda f, edit: [shard(f / name) for name in COMPONENTS], id="sharded"),
        pytest.param(
            lambda f, edit: edit(f / "config.json", llm_cfg="x/llm", mm_projector_cfg=None),
            id="no embedded configs",
        ),
    ],
)
def test_every_form_of_the_layout_is_the_same_model(
    published, edit, loaded, change, same_model, changed_settings
):
    change(published, edit)
    model, processor = load_checkpoint(published)
    assert same_model(model, loaded[0])
    model.config.published = loaded[0].config.published
    assert not changed_settings((model, processor), loaded)


def test_the_older_scale_key_alone_is_read(published, edit, loaded):
    path = published / "vision_tower" / "config.json"
    values = json.loads(path.read_text())
    values["s3_scales"] = values.pop("ps3_scales")
    path.write_text(json.dumps(values))
    assert load_checkpoint(published)[0].config.vision_config.ps3_scales == [70, 140, 280]


def test_training_output_with_a_model_folder_is_read(published, tmp_path, loaded, same_model):
    run = tmp_path / "run"
    shutil.copytree(published, run / "model")
    (run / "trainer_state.json").write_text("{}")
    assert same_model(load_checkpoint(run)[0], loaded[0])


def test_vila_hd_load_and_the_command_line_take_such_folders(
    good_published, loaded, tmp_path, capsys, same_model
):
    model, processor = vila_hd.load(good_published)
    assert same_model(model, loaded[0])
    assert not model.training
    path = tmp_path / "picture.png"
    tiny_picture(60, 40).save(path)
    expected = vila_hd.ask(model, processor, [str(path)], "what?", max_new_tokens=4).text
    command = ["ask", "--model", str(good_published), "--max-new-tokens", "4", "--quiet", str(path), "what?"]
    assert cli.main(command) == 0
    assert capsys.readouterr().out.strip() == expected


def test_info_and_doctor_describe_such_folders(published, capsys):
    (published / "README.md").write_text("---\nlicense: other\nlicense_name: nsclv1\n---\n")
    assert cli.main(["info", str(published), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["layout"] == "the published VILA-HD layout"
    assert facts["licence"].startswith("nsclv1")
    (published / "README.md").rename(published / "LICENSE")
    assert cli.main(["info", str(published)]) == 0
    assert "licence         see LICENSE in the folder" in capsys.readouterr().out
    assert facts["language model"] == "qwen2, 3 layers of width 64, vocabulary 408"
    assert "budget auto (200): 9 low-res + 50 high-res" in facts["visual tokens"]
    assert facts["numbers"].startswith("329,056 ")
    assert facts["stored as"] == "F32"
    (published / "mm_projector" / "model.safetensors").write_bytes(b"cut off")
    assert cli.main(["info", str(published)]) == 2
    assert "mm_projector/model.safetensors" in capsys.readouterr().err


def test_doctor_finds_what_is_wrong_in_such_folders(published, edit_tensors):
    from vila_hd.checkpoint_files import check_checkpoint

    assert {finding.level for finding in check_checkpoint(published)} == {"ok"}
    edit_tensors(published / "llm", lambda tensors: tensors["lm_head.weight"].fill_(float("nan")))
    (problem,) = [finding for finding in check_checkpoint(published) if finding.level == "problem"]
    assert problem.topic == "values"
    assert "lm_head.weight" in problem.text


def test_hub_ids_are_looked_up_like_folders(good_published, tmp_path, monkeypatch, loaded, same_model):
    # The layout of the hub's cache on the disk: snapshots of links to blobs.
    name = "nvidia/VILA-HD-8B-PS3-1.5K-SigLIP"
    repository = tmp_path / f"models--{name.replace('/', '--')}"
    commit = "0" * 40
    (repository / "blobs").mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    for number, file in enumerate(path for path in good_published.rglob("*") if path.is_file()):
        shutil.copyfile(file, repository / "blobs" / str(number))
        link = repository / "snapshots" / commit / file.relative_to(good_published)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(repository / "blobs" / str(number), link.parent))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("transformers.utils.hub.constants.HF_HUB_CACHE", str(tmp_path), raising=False)
    assert same_model(load_checkpoint(name, local_files_only=True)[0], loaded[0])
    assert same_model(vila_hd.load(name, local_files_only=True)[0], loaded[0])
    with pytest.raises(
        VilaHDError,
        match=r"nvidia/VILA-HD-8B-PS3-4K-SigLIP2: neither a folder nor in the hub's cache.*offline",
    ):
        load_checkpoint("nvidia/VILA-HD-8B-PS3-4K-SigLIP2", local_files_only=True)


# ------------------------------------------------------------------ options and defaults


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_weights_are_read_into_the_dtype_asked_for(good_published, loaded, dtype, same_model):
    model, _ = load_checkpoint(good_published, dtype=dtype)
    kind = getattr(torch, dtype)
    assert {value.dtype for value in model.parameters()} == {kind}
    assert same_model(model, load_checkpoint(good_published)[0].to(kind))


def test_answers_end_as_the_published_ones_do(loaded, vila_goldens):
    info = vila_goldens.manifest["models"]["hd_2x2_prompt_mlp"]
    model, processor = loaded
    for key, value in info["default_generation_config"].items():
        assert getattr(model.generation_config, key) == value
    assert model.config.prompt_end_ids == info["user_prompt_end_ids"]
    assert processor.image_token_id == info["media_token_ids"]["image"]
    assert len(processor.tokenizer) == info["len_tokenizer"]


def test_budgets_round_as_asked(published, edit):
    edit(published / "vision_tower" / "config.json", max_select_num=99)
    splits = {
        rounding: load_checkpoint(published, budget_rounding=rounding)[1].patches_per_pass
        for rounding in ("floor", "remainder", None)
    }
    assert splits == {"floor": (19, 79), "remainder": (19, 80), None: (19, 80)}


@pytest.mark.parametrize(
    ("values", "guide", "head"),
    [
        ({"look_close_mode": "after_prompt"}, "prompt", "mlp"),
        ({"look_close_mode": "after_image"}, "saliency", "mlp"),
    ],
)
def test_a_stored_prompt_head_is_kept_whatever_the_default(published, edit, values, guide, head):
    edit(published / "config.json", **values)
    config = load_checkpoint(published)[0].config
    assert (config.default_guide, config.prompt_head) == (guide, head)


def test_a_model_without_prompt_head_needs_none(published, edit, edit_tensors):
    edit(published / "config.json", look_close_mode="after_image")

    def drop(tensors) -> None:
        for name in [name for name in tensors if name.startswith("top_down")]:
            del tensors[name]

    edit_tensors(published / "mm_projector", drop)
    model, processor = load_checkpoint(published)
    assert model.config.prompt_head is None
    assert vila_hd.ask(model, processor, [tiny_picture()], "what?", max_new_tokens=2).looks[0].num_passes == 2
    options = HighResOptions(guided_by="prompt")
    with pytest.raises(VilaHDError, match="no prompt head"):
        vila_hd.ask(model, processor, [tiny_picture()], "what?", high_res=options)


@pytest.mark.parametrize("rows", [400, 420])
def test_embeddings_get_the_tokenizer_s_length(published, edit, edit_tensors, loaded, rows):
    def resize(tensors) -> None:
        for name in ("model.embed_tokens.weight", "lm_head.weight"):
            value = tensors[name]
            tensors[name] = torch.cat([value, torch.ones(20, value.shape[1])])[:rows].contiguous()

    edit_tensors(published / "llm", resize)
    edit(published / "llm" / "config.json", vocab_size=rows)
    table = load_checkpoint(published)[0].get_input_embeddings().weight
    expected = loaded[0].get_input_embeddings().weight
    assert table.shape == expected.shape == (408, 64)
    kept = min(rows, 408)
    assert torch.equal(table[:kept], expected[:kept])
    torch.testing.assert_close(table[kept:], expected[:kept].mean(0).expand(408 - kept, -1))


def test_missing_media_tokens_are_added_in_the_published_order(published):
    for name in ("tokenizer.json", "tokenizer_config.json", "added_tokens.json"):
        path = published / "llm" / name
        values = json.loads(path.read_text())
        if name == "tokenizer.json":
            values["added_tokens"] = [entry for entry in values["added_tokens"] if entry["id"] < 405]
        elif name == "added_tokens.json":
            values = {token: number for token, number in values.items() if number < 405}
        else:
            values["added_tokens_decoder"] = {
                k: v for k, v in values["added_tokens_decoder"].items() if int(k) < 405
            }
        path.write_text(json.dumps(values))
    tokens = load_checkpoint(published)[1].tokenizer
    names = ["<vila/sentinel>", "<image>", "<vila/video>"]
    assert tokens.convert_tokens_to_ids(names) == [405, 406, 407]


def test_a_template_can_be_given(published, edit):
    edit(published / "llm" / "tokenizer_config.json", chat_template=None)
    with pytest.raises(VilaHDError, match="chat_template="):
        load_checkpoint(published)
    template = "{% for message in messages %}{{ message['role'] + ': ' + message['content'] }}{% endfor %}"
    _, processor = load_checkpoint(published, chat_template=template)
    content = [{"type": "image"}, {"type": "text", "text": "hi"}]
    assert processor.apply_chat_template([{"role": "user", "content": content}]) == "user: <image>hi"


# ------------------------------------------------------------------ what is refused


def test_unknown_missing_and_misshapen_tensors_are_all_named_with_their_shapes(published, edit_tensors):
    edit_tensors(published / "llm", lambda t: t.update({"model.extra.weight": torch.zeros(2, 3)}))
    edit_tensors(published / "mm_projector", lambda t: t.pop("layers.4.bias"))
    edit_tensors(
        published / "vision_tower", lambda t: t.update({"vision_model.prior_prompt": torch.zeros(7)})
    )
    with pytest.raises(VilaHDError) as caught:
        load_checkpoint(published)
    message = str(caught.value)
    assert "1 unknown tensor(s): llm/model.safetensors:model.extra.weight (2, 3)" in message
    assert "1 missing tensor(s): model.projector.layers.4.bias (64,)" in message
    expected = "vision_tower/model.safetensors:vision_model.prior_prompt is (7,), expected (32,)"
    assert f"1 wrongly shaped tensor(s): {expected}" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("file", "values", "words"),
    [
        ("config.json", {"model_type": "llava_llama"}, "a 'llava_llama' model with ps3=True"),
        ("config.json", {"model_type": "qwen2"}, "model_type is 'qwen2'"),
        ("config.json", {"ps3": False}, "with ps3=False"),
        ("config.json", {"look_close_mode": "sometimes"}, "look_close_mode='sometimes'"),
        (
            "config.json",
            {"image_aspect_ratio": "dynamic_s2"},
            "image_aspect_ratio='dynamic_s2' cuts pictures",
        ),
        ("config.json", {"mm_vision_select_layer": -3}, "mm_vision_select_layer=-3"),
        ("config.json", {"mm_vision_select_feature": "patch"}, "mm_vision_select_feature='patch'"),
        ("config.json", {"mm_use_im_start_end": True}, "mm_use_im_start_end=True"),
        ("config.json", {"top_down_prompt_head_type": "linear"}, "top_down_prompt_head"),
        ("config.json", {"num_look_close": 1.5}, "num_look_close=1.5"),
        ("config.json", {"image_encoder": "{"}, "image_encoder='{' is no JSON"),
        ("config.json", {"image_encoder": {"_target_": "x.TSPEncoder"}}, "image_encoder 'x.TSPEncoder'"),
        ("config.json", {"image_encoder": {"start_tokens": "<"}}, "start_tokens='<' is not supported"),
        ("mm_projector/config.json", {"mm_projector_type": "magic"}, "projector_type='magic'"),
        ("mm_projector/config.json", {"mm_projector_type": None}, "mm_projector_type=None"),
        ("vision_tower/config.json", {"num_attention_heads": None}, "number of attention heads"),
        ("vision_tower/config.json", {"ps3_scales": [70]}, "ps3_scales="),
        ("vision_tower/preprocessor_config.json", {"image_mean": [0.1, 0.1, 0.1]}, "disagrees"),
        ("llm/config.json", {"model_type": "nothing"}, "describe no model"),
        ("llm/config.json", {"model_type": "siglip"}, "no causal language model"),
    ],
)
def test_configs_that_no_model_can_have_are_refused(published, edit, file, values, words):
    edit(published / file, **values)
    with pytest.raises(VilaHDError, match=words) as caught:
        load_checkpoint(published)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("component", COMPONENTS)
def test_a_component_that_lies_elsewhere_is_named(published, edit, component):
    shutil.rmtree(published / component)
    with pytest.raises(VilaHDError, match=f"no {component}/config.json"):
        load_checkpoint(published)
    edit(published / "config.json", **{f"{component}_cfg": "owner/name"})
    with pytest.raises(VilaHDError, match=rf"takes its {component} from elsewhere .*'owner/name'"):
        load_checkpoint(published)


def test_values_that_are_not_finite_are_named(published, edit_tensors):
    edit_tensors(published / "llm", lambda t: t["model.norm.weight"].fill_(1e30))
    load_checkpoint(published)
    with pytest.raises(VilaHDError, match=r"model.norm.weight: NaN or infinite values as float16"):
        load_checkpoint(published, dtype="float16")


def test_names_of_nothing_are_refused(tmp_path, good_published):
    with pytest.raises(VilaHDError, match="no such folder"):
        load_checkpoint(tmp_path / "missing")
    with pytest.raises(VilaHDError, match=r"config\.json"):
        load_checkpoint(tmp_path)
    with pytest.raises(VilaHDError, match="a file, not a folder"):
        load_checkpoint(str(good_published / "config.json"))


@pytest.mark.parametrize("component", COMPONENTS)
def test_a_part_of_a_model_names_the_whole(good_published, component):
    folder = good_published / component
    with pytest.raises(
        VilaHDError, match=f"only the {component} of a model; give the folder above"
    ) as caught:
        load_checkpoint(folder)
    assert str(caught.value).endswith(str(good_published))


def test_a_run_without_a_model_names_its_newest_checkpoint(published, tmp_path):
    run = tmp_path / "run"
    for step in (900, 1100, 100):
        shutil.copytree(published, run / f"checkpoint-{step}")
    (run / "checkpoint-2000").mkdir()
    with pytest.raises(
        VilaHDError, match=r"without a finished model; give .*checkpoint-1100, its newest one"
    ):
        load_checkpoint(run)
    load_checkpoint(run / "checkpoint-1100")


def test_our_own_layout_is_pointed_to_its_loader(tmp_path):
    from vila_hd.loading import BUNDLED

    with pytest.raises(VilaHDError, match=r"our own layout; load it with vila_hd\.load"):
        load_checkpoint(BUNDLED)
    with pytest.raises(VilaHDError, match=r"load it with vila_hd\.load\('nano'\)"):
        load_checkpoint("nano")


@pytest.mark.parametrize("lost", ["one shard", "all weights", "Git LFS"])
def test_half_downloaded_folders_are_named(published, lost):
    folder = published / "llm"
    if lost == "one shard":
        shard(folder)
        (folder / "model-00002-of-00002.safetensors").unlink()
        words = r"llm: 1 of the 2 weight files of its index are missing: 'model-00002-of-00002\.safetensors'"
    elif lost == "all weights":
        (folder / "model.safetensors").rename(folder / "model.safetensors.incomplete")
        words = r"llm: no model\.safetensors .*; get the weights"
    else:
        (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\nsize 9\n")
        words = "a Git LFS pointer, not the file itself; run git lfs pull"
    with pytest.raises(VilaHDError, match=words):
        load_checkpoint(published)


def test_base_is_for_adapters(good_published):
    with pytest.raises(VilaHDError, match="holds a whole model"):
        load_checkpoint(good_published, base=good_published)
