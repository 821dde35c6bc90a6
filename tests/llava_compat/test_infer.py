"""``python -m llava_compat.infer``: the flags and environment variables of ``vila-infer``."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

import llava_compat.api as llava
from llava_compat import infer
from llava_compat.look_settings import LookSettings
from vila_hd.scenes import SceneConfig, make_scene, render

ROOT = Path(__file__).resolve().parents[2]
QUESTION = "what time of day is it?"


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """A picture that nano can tell the time of."""
    path = tmp_path_factory.mktemp("scene") / "Town.JPG"
    drawn = render(make_scene(1, SceneConfig(size=(1280, 720), num_objects=4)))
    Image.fromarray(drawn).save(path, quality=95)
    return path


@pytest.fixture
def asked(monkeypatch):
    """Models and prompts of the runs of a test, as they are when the question is asked."""
    seen: list[tuple[llava.VilaModel, list, LookSettings]] = []
    generate = llava.VilaModel.generate_content

    def spy(self, prompt, **kwargs):
        seen.append((self, prompt, self.look_settings))
        return generate(self, prompt, **kwargs)

    monkeypatch.setattr(llava.VilaModel, "generate_content", spy)
    return seen


def run(*words: str, **environment: str) -> int:
    return infer.main(["--model-path", "nano", *map(str, words)], environment)


def error_of(capsys) -> str:
    """The one line on stderr."""
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.strip().splitlines()
    assert len(lines) == 1, lines
    return lines[0]


def test_a_question_about_a_picture(scene, asked, capsys):
    assert run("--media", scene, "--text", QUESTION) == 0
    captured = capsys.readouterr()
    model, prompt, settings = asked[0]
    assert captured.out.strip() == model.generate_content([llava.Image(scene), QUESTION]) != ""
    assert "\033" not in captured.out
    assert prompt == [llava.Image(str(scene)), QUESTION]
    config = model.model.config  # whose budget is one full pass
    assert settings.num_token_look_close is None
    assert settings.num_look_close * config.vision_config.max_select_num == config.default_budget


def test_short_flags_and_several_media(scene, asked, tmp_path):
    frames = tmp_path / "frames"
    frames.mkdir()
    Image.open(scene).resize((320, 180)).save(frames / "1.png")
    words = ["-m", "nano", "--media", str(scene), str(frames), "--text", QUESTION, "-nf", "2", "-vm", "1"]
    assert infer.main(words, {"NUM_LOOK_CLOSE": "0"}) == 0
    model, prompt, _ = asked[0]
    assert prompt == [llava.Image(str(scene)), llava.Video(str(frames)), QUESTION]
    assert model.config.num_video_frames == 2


def test_the_environment_changes_how_closely_is_looked(scene, asked):
    environment = {
        "NUM_LOOK_CLOSE": "3",
        "NUM_TOKEN_LOOK_CLOSE": "40",
        "SELECT_NUM_EACH_SCALE": "4+16",
        "LOOK_CLOSE_MODE": "after_image",
        "SMOOTH_SELECTION_PROB": "true",
    }
    assert run("--media", scene, "--text", QUESTION, **environment) == 0
    assert asked[0][2] == LookSettings(
        num_look_close=3,
        num_token_look_close=40,
        max_select_num_each_scale=(4, 16),
        look_close_mode="after_image",
        smooth_selection_prob=True,
    )


def test_only_this_command_reads_the_environment(scene, monkeypatch):
    monkeypatch.setenv("NUM_LOOK_CLOSE", "nonsense")
    model = llava.load("nano")
    model.num_token_look_close = 0
    assert model.generate_content([llava.Image(scene), QUESTION])


@pytest.mark.parametrize(
    ("words", "environment", "message"),
    [
        ([], {}, "nothing to answer: give --text, --media or both"),
        (["--text", " "], {}, "nothing to answer"),
        (["--text"], {}, "expected one argument; see python -m llava_compat.infer --help"),
        (["--text", "a", "--media", "/nowhere.png"], {}, "--media /nowhere.png: no such file"),
        (["--text", "a", "--media", "setup.py"], {}, "neither a picture (.jpg"),
        (["--text", "a", "-c", "odd"], {}, "invalid choice: 'odd'"),
        (["--text", "a", "--json-schema", "a.json"], {}, "--json-schema without --json-mode"),
        (["--text", "a", "--json-mode", "--json-schema", "a.json"], {}, "a.json: no such file"),
        (["--text", "a", "--json-mode", "--json-schema", "a.txt"], {}, "use a .json schema or a .py file"),
        (["--text", "a"], {"NUM_LOOK_CLOSE": "many"}, "NUM_LOOK_CLOSE='many' (environment variable)"),
        (["--text", "a"], {"SELECT_NUM_EACH_SCALE": "1+2+3"}, "has 3 number(s): use 2"),
        (["--text", "a", "-m", "/nowhere"], {}, "/nowhere: no such folder"),
        (["--text", "a", "-l", "/nowhere"], {}, "/nowhere: no such folder"),
        (["--text", "a", "--json-mode"], {}, "answers in JSON are not possible with this model's tokenizer"),
    ],
)
def test_errors_are_one_line(capsys, monkeypatch, words, environment, message):
    if "tokenizer" in message:
        pytest.importorskip("llguidance", reason="needs the extra 'json'")
    monkeypatch.chdir(ROOT)
    assert run(*words, **environment) == 2
    line = error_of(capsys)
    assert line.startswith("error: ")
    assert message in line


def test_a_missing_model_is_named(capsys):
    assert infer.main(["--text", "a"], {}) == 2
    assert "--model-path" in error_of(capsys)


def test_ctrl_c(monkeypatch, capsys):
    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(infer, "load_model", interrupt)
    assert run("--text", "a") == 130


def test_a_classic_template(asked, good_published):
    words = ["-m", str(good_published), "--text", "Who?", "--conv-mode", "vicuna_v1", "-nf", "0"]
    assert infer.main(words, {}) == 0
    model = asked[0][0]
    assert model.conversation.version == "v1"
    assert model.config.num_video_frames == 8


def test_tiles_change_nothing_and_that_is_said(capsys):
    assert run("--text", QUESTION, "-vm", "4") == 0
    assert "--video_max_tiles 4 changes nothing" in capsys.readouterr().err


def test_json_schemas_of_both_kinds(tmp_path):
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}}
    stored, program = tmp_path / "a.json", tmp_path / "a.py"
    stored.write_text(json.dumps(schema))
    program.write_text(
        f"class Main:\n    @classmethod\n    def model_json_schema(cls):\n        return {schema!r}\n"
    )
    expected = {"type": "json_schema", "json_schema": {"schema": schema}}
    assert infer.read_format(stored) == infer.read_format(program) == expected
    assert infer.read_format(None) == {"type": "json_object"}


def test_a_pydantic_class_is_a_schema(tmp_path):
    pytest.importorskip("pydantic")
    program = tmp_path / "answer.py"
    program.write_text("from pydantic import BaseModel\nclass Main(BaseModel):\n    number: int\n")
    schema = infer.read_format(program)["json_schema"]["schema"]
    assert schema["properties"]["number"]["type"] == "integer"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", "{", "no JSON"),
        ("a.py", "x = 1", "AttributeError.*define a pydantic class Main"),
        ("a.py", "1 / 0", "ZeroDivisionError: division by zero"),
        ("a.py", "def f(:", "SyntaxError"),
    ],
)
def test_schemas_that_are_none(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(infer.VilaHDError, match=f"--json-schema .*{message}"):
        infer.read_format(path)


def test_the_context_grows_with_what_is_looked_at():
    def length(budget) -> int:
        return infer.context_length(4096, budget, most_patches=14580, patches_per_token=4)

    assert length(2560) == 4096
    assert length(12800) == 12800 // 4 + 1024
    assert length(20000) == length("all") == 14580 // 4 + 1024


def test_help_imports_no_torch():
    program = (
        "import sys\nfrom llava_compat.infer import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit as leaving:\n    assert leaving.code == 0\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    for word in ("--model-path", "--num_video_frames", "NUM_TOKEN_LOOK_CLOSE", "vicuna_v1"):
        assert word in done.stdout


@pytest.mark.slow
def test_the_module_runs(scene):
    done = subprocess.run(
        [sys.executable, "-m", "llava_compat.infer", "-m", "nano", "--media", scene, "--text", QUESTION],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    assert done.stdout.strip()
    assert done.stderr == ""
