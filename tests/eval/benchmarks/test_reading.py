import base64
import io
import json

import datasets
import pytest
from PIL import Image

from eval.benchmarks.reading import open_folder, open_hub
from vila_hd.errors import VilaHDError

COLUMNS = ("image",)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def png(color="red"):
    file = io.BytesIO()
    Image.new("RGB", (2, 2), color).save(file, "PNG")
    return file.getvalue()


def write_lines(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_pictures_are_paths_or_base64(tmp_path):
    (tmp_path / "a.png").write_bytes(png("blue"))
    write_lines(
        tmp_path / "rows.jsonl",
        [{"q": "1", "image": "a.png"}, {"q": "2", "image": base64.b64encode(png()).decode()}],
    )
    rows = open_folder(tmp_path, "x", "", "test", COLUMNS)
    assert [rows[0], rows[1]] == [{"q": "1"}, {"q": "2"}]
    assert rows.pictures(0, COLUMNS)[0].getpixel((0, 0)) == (0, 0, 255)
    assert rows.pictures(1, COLUMNS)[0].getpixel((0, 0)) == (255, 0, 0)


def test_a_missing_or_damaged_picture_is_named(tmp_path):
    (tmp_path / "bad.png").write_bytes(b"no picture")
    write_lines(tmp_path / "rows.jsonl", [{"image": "gone.png"}, {"image": "bad.png"}, {"image": None}])
    rows = open_folder(tmp_path, "x", "", "test", COLUMNS)
    for index, name in enumerate(["gone.png", "bad.png"]):
        with pytest.raises(VilaHDError, match=f"row {index}, column 'image': no picture in '{name}'"):
            rows.pictures(index, COLUMNS)
    with pytest.raises(VilaHDError, match="row 2 has no picture in image"):
        rows.pictures(2, COLUMNS)


def test_a_copy_of_the_repository_gives_config_and_split(tmp_path):
    for config in ("one", "two"):
        for split in ("val", "validation", "test"):
            table = datasets.Dataset.from_list(
                [{"image": {"bytes": png(), "path": None}, "q": f"{config} {split}"}]
            )
            (tmp_path / config).mkdir(exist_ok=True)
            table.to_parquet(str(tmp_path / config / f"{split}-00000-of-00001.parquet"))
    rows = open_folder(tmp_path, "x", "two", "val", COLUMNS)
    assert (len(rows), rows[0]["q"]) == (1, "two val")
    assert open_folder(tmp_path, "x", "two", "test", COLUMNS).revision != rows.revision


def test_tables_and_folders_named_after_the_task(tmp_path):
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "rows.tsv").write_text("q\timage\na, b\ta.png\n")
    write_lines(tmp_path / "y" / "rows.jsonl", [{"q": "other", "image": "a"}])
    assert open_folder(tmp_path, "x", "", "test", COLUMNS)[0] == {"q": "a, b"}


def test_folders_without_readable_files_are_errors(tmp_path):
    with pytest.raises(VilaHDError, match="gone: no such folder"):
        open_folder(tmp_path / "gone", "x", "", "test", COLUMNS)
    with pytest.raises(
        VilaHDError, match=r"has no .parquet, .json, .jsonl, .csv, .tsv file: give the folder of 'x'"
    ):
        open_folder(tmp_path, "x", "", "test", COLUMNS)
    (tmp_path / "a.jsonl").write_text("{broken\n")
    with pytest.raises(VilaHDError, match=r"cannot read .*a\.jsonl") as caught:
        open_folder(tmp_path, "x", "", "test", COLUMNS)
    assert "\n" not in str(caught.value)
    (tmp_path / "b.csv").write_text("q\n1\n")
    with pytest.raises(VilaHDError, match=r"mixes \.csv and \.jsonl files"):
        open_folder(tmp_path, "x", "", "test", COLUMNS)


def test_a_repository_in_the_layout_of_the_hub_is_loaded_by_config_and_split(tmp_path):
    card = "---\nconfigs:\n"
    for config in ("one", "two"):
        card += f"- config_name: {config}\n  data_files:\n"
        for split in ("validation", "test"):
            card += f"  - split: {split}\n    path: {config}/{split}-*\n"
            row = {"image": {"bytes": png(), "path": None}, "q": f"{config} {split}"}
            table = datasets.Dataset.from_list([row])
            (tmp_path / "repo" / config).mkdir(parents=True, exist_ok=True)
            table = table.cast_column("image", datasets.Image())
            table.to_parquet(str(tmp_path / "repo" / config / f"{split}-00000-of-00001.parquet"))
    (tmp_path / "repo" / "README.md").write_text(card + "---\n")
    rows = open_hub(str(tmp_path / "repo"), "two", "test", "", COLUMNS)
    assert (len(rows), rows[0]) == (1, {"q": "two test"})
    assert rows.columns == ("image", "q")
    assert rows.pictures(0, COLUMNS)[0].size == (2, 2)
    assert rows.revision
    with pytest.raises(VilaHDError, match=r"config 'two', split 'train'.* cannot be fetched"):
        open_hub(str(tmp_path / "repo"), "two", "train", "", COLUMNS)


def test_a_dataset_that_cannot_be_fetched_names_the_command(monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(
        VilaHDError, match="hf download --repo-type dataset no-body/nothing --revision abc "
    ) as caught:
        open_hub("no-body/nothing", "", "test", "abc", COLUMNS)
    assert "\n" not in str(caught.value)
