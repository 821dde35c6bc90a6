"""Typed words become options, or one line that says which word is wrong."""

import pytest
from PIL import Image

from vila_hd.cli.parsers import command_parser
from vila_hd.cli.values import high_res_options, open_images, parse_guides, split_inputs
from vila_hd.errors import VilaHDError
from vila_hd.options import Pruning


def parsed(*words, command="ask"):
    return command_parser(command).parse_intermixed_args(list(words))


def error_of(call, *arguments, **options):
    with pytest.raises(VilaHDError) as caught:
        call(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_last_word_is_the_question():
    assert split_inputs(["a.png", "b.png", "what is it?"]) == (["a.png", "b.png"], "what is it?")


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ([], "nothing given"),
        (["a.png"], "nothing given besides 'a.png'"),
        (["a.png", ""], "question '' is empty"),
        (["a.png", " \n "], "is empty"),
        (["a.png", "b.JPG"], "'b.JPG' is a picture, not a question"),
        (["a.png", "\udcff what?"], "not valid UTF-8"),
    ],
)
def test_words_without_a_picture_and_a_question(inputs, words):
    assert words in error_of(split_inputs, inputs)


def test_a_question_may_end_like_a_file_name():
    assert split_inputs(["a.png", "what is in b.png"])[1] == "what is in b.png"


def test_options_may_stand_between_pictures_and_question():
    args = parsed("a.png", "--budget", "7", "b.png", "--smooth", "what?", "--guided-by", "1:1,2,3,4")
    assert (args.inputs, args.budget, args.smooth) == (["a.png", "b.png", "what?"], 7, True)


def test_defaults_are_the_checkpoint_s():
    options = high_res_options(parsed("a.png", "q"), num_images=1, default_guide="saliency")
    assert (options.budget, options.guided_by, options.regions) == ("auto", "saliency", ())
    assert (options.per_scale, options.max_scale, options.smooth) == (None, None, False)


def test_every_option_arrives():
    words = [
        "--budget",
        "all",
        "--guided-by",
        "prompt",
        "--per-scale",
        "3,5",
        "--max-scale",
        "768",
        "--smooth",
    ]
    options = high_res_options(parsed("a.png", "q", *words), num_images=1, default_guide="saliency")
    assert (options.budget, options.guided_by, options.per_scale) == ("all", "prompt", (3, 5))
    assert (options.max_scale, options.smooth) == (768, True)


def test_pruning_arrives_or_is_refused():
    def options_of(text):
        return high_res_options(parsed("a.png", "q", "--prune", text), num_images=1, default_guide="saliency")

    assert options_of("visionzip:0.25").pruning == Pruning(method="visionzip", keep=0.25)
    assert "pruning 'zip:0.25': use METHOD:KEEP" in error_of(options_of, "zip:0.25")


def test_boxes_are_sorted_by_picture():
    guide, regions = parse_guides(["2:1,2,3,4", "1:0,0,9.5,9", "2:5,5,6,6"], num_images=3)
    assert guide == "regions"
    assert regions == (((0.0, 0.0, 9.5, 9.0),), ((1.0, 2.0, 3.0, 4.0), (5.0, 5.0, 6.0, 6.0)), ())


def test_one_picture_needs_no_number():
    assert parse_guides(["1,2,3,4"], num_images=1) == ("regions", (((1.0, 2.0, 3.0, 4.0),),))


@pytest.mark.parametrize(
    ("guides", "words"),
    [
        (["magic"], "'magic': use 'prompt', 'saliency', 'random' or a box"),
        (["1,2,3"], "use 'prompt', 'saliency', 'random' or a box"),
        (["1,2,3,4,5"], "use 'prompt', 'saliency', 'random' or a box"),
        (["a:1,2,3,4"], "use 'prompt', 'saliency', 'random' or a box"),
        (["1,2,3,4"], "there are 2 pictures, say which one"),
        (["3:1,2,3,4"], "picture 3 of 2"),
        (["0:1,2,3,4"], "picture 0 of 2"),
        (["prompt", "saliency"], "use one of"),
        (["prompt", "1:1,2,3,4"], "use one of"),
    ],
)
def test_guides_without_meaning(guides, words):
    assert words in error_of(parse_guides, guides, num_images=2)


@pytest.mark.parametrize("box", ["5,2,3,4", "1,4,3,4", "nan,0,1,1", "1,1,inf,2"])
def test_boxes_without_area(box):
    error_of(high_res_options, parsed("a.png", "q", "--guided-by", box), num_images=1, default_guide="prompt")


def test_huge_pictures_of_every_format_open_when_allowed(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    Image.new("RGB", (30, 20)).save(tmp_path / "map.tif")
    error_of(open_images, [str(tmp_path / "map.tif")], allow_huge=False)
    assert open_images([str(tmp_path / "map.tif")], allow_huge=True)[0].size == (30, 20)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--budget", "lots"),
        ("--budget", "-1"),
        ("--budget", "1.5"),
        ("--budget", "1_000"),
        ("--budget", ""),
        ("--budget", "\u0663"),
        ("--per-scale", "1,x"),
        ("--per-scale", ""),
        ("--max-scale", "big"),
        ("--max-new-tokens", "0"),
        ("--max-new-tokens", "many"),
        ("--temperature", "hot"),
        ("--temperature", "-1"),
        ("--temperature", "nan"),
        ("--seed", "x"),
        ("--dtype", "int8"),
        ("--explain", "lens.pdf"),
        ("--explain", "/no/such/folder/lens.html"),
    ],
)
def test_unknown_option_values_name_the_option_and_the_value(option, value):
    message = error_of(parsed, "a.png", "q", f"{option}={value}")
    assert option in message
    assert repr(value) in message
    assert "see vila-hd ask --help" in message


def test_unknown_and_ambiguous_options():
    assert "--bugdet" in error_of(parsed, "a.png", "q", "--bugdet", "3")
    assert "--max" in error_of(parsed, "a.png", "q", "--max", "3")
