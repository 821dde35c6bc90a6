"""Data files become the ids, labels and pictures that the published data loader and collator recorded."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from transformers import PreTrainedTokenizerFast

from llava_compat.data import ReadOptions, read_rows
from vila_hd import VilaHDProcessor, add_pictures_to_template
from vila_hd.supervision import ConversationEncoder
from vila_hd.testing import tiny_processor

GOLDEN = Path(__file__).parents[2] / "golden" / "conversation"
RECORDED: dict[str, Any] = json.loads((GOLDEN / "recorded.json").read_text(encoding="utf-8"))
BATCHES: dict[str, Any] = RECORDED["cases"]["training_batch"]
SIZES = {"img0.png": (140, 90), "img1.png": (80, 150), "img2.png": (120, 120)}


def make_processor(model: str) -> VilaHDProcessor:
    """One placeholder per picture and nothing after it, as ids were recorded before expansion."""
    folder = GOLDEN / "tokenizers" / RECORDED["models"][model]["tokenizer"]
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    return VilaHDProcessor(
        tiny_processor().image_processor,
        tokenizer,
        low_res_tokens=1,
        scales=(32, 64, 128),
        patch_size=8,
        downsample=2,
        patches_per_pass=(16, 64),
        image_end_text="",
        chat_template=add_pictures_to_template(tokenizer.chat_template),
    )


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for name, size in SIZES.items():
        Image.new("RGB", size).save(folder / name)
    return folder


@pytest.mark.parametrize("name", sorted(BATCHES))
def test_rows_of_recorded_batches(name: str, pictures: Path, tmp_path: Path) -> None:
    case = BATCHES[name]
    (tmp_path / "data.json").write_text(json.dumps(case["data"]), encoding="utf-8")
    rows = list(read_rows(tmp_path / "data.json", ReadOptions(media=pictures)))
    assert [image.name for row in rows for image in row.images] == case["images_in_batch_order"]
    encoder = ConversationEncoder(make_processor(case["model"]), published=True)
    end_ids = RECORDED["models"][case["model"]]["user_prompt_end_ids"]
    for row, instance, end in zip(rows, case["instances"], case["prompt_end_positions"], strict=True):
        encoded = encoder(row.to_chat())
        assert encoded.input_ids == instance["input_ids"]
        assert encoded.labels == instance["labels"]
        # The published code reads the end of the first question.
        assert encoded.prompt_positions(end_ids)[0] == end
        sizes = [[height, width] for width, height in row.check_images()]
        assert sizes == (instance["original_image_sizes"] or [])
