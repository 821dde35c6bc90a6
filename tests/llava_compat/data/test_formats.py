"""Rows of every format become the same type, or one line that says what is wrong with which sample."""

import pickle
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from llava_compat.data import DataError, ReadOptions, Row, Source, make_row
from vila_hd import VilaHDError

PLACE = Source("rows.jsonl", 4, 5)
QUESTION, ANSWER = {"from": "human", "value": "Why?"}, {"from": "gpt", "value": "So."}


def read(record: Any, media: Path, **options: Any) -> Row:
    return make_row(record, PLACE, ReadOptions(media=media, **options))


def plain(row: Row) -> list[tuple[str, list[str]]]:
    """Roles and contents; pictures by their names in angle brackets."""
    return [(m.role, [p if isinstance(p, str) else f"<{p.name}>" for p in m.content]) for m in row.messages]


def talk(*values: str, **keys: Any) -> dict[str, Any]:
    turns = [{"from": ("human", "gpt")[i % 2], "value": value} for i, value in enumerate(values)]
    return {"conversations": turns, **keys}


def test_a_llava_row(llava_row: dict[str, Any], media: Path) -> None:
    row = read(llava_row, media)
    assert (row.id, row.source, row.boxes) == ("x1", PLACE, ())
    assert plain(row) == [("user", ["<a.png>", "What is shown?"]), ("assistant", ["A wall."])]
    assert [picture.size for picture in row.open_images()] == [(40, 30)]
    assert row.to_chat() == [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is shown?"}]},
        {"role": "assistant", "content": "A wall."},
    ]


def test_registered_sets_show_pictures_first(media: Path) -> None:
    row = read(talk(" one\n<image>\ntwo ", " A ", "B\n<image>", "C", image=["a.png", "b.png"]), media)
    assert plain(row) == [
        ("user", ["<a.png>", "<b.png>", "one\ntwo"]),
        ("assistant", ["A"]),
        ("user", ["B"]),
        ("assistant", ["C"]),
    ]
    assert plain(read(talk("q", "A", image=["a.png", "b.png"]), media))[0] == (
        "user",
        ["<a.png>", "<b.png>", "q"],
    )
    assert plain(read(talk("<image>", "A", image="a.png"), media))[0] == ("user", ["<a.png>"])


def test_legacy_sets_have_one_line_feed_after_each_picture(media: Path) -> None:
    options = {"convention": "legacy"}
    row = read(talk("<image>one<image>\n\ntwo", "A", image=["a.png", "b.png"]), media, **options)
    assert plain(row)[0] == ("user", ["<a.png>", "\none", "<b.png>", "\ntwo"])
    assert plain(read(talk("q", "A", image="a.png"), media, **options))[0] == ("user", ["<a.png>", "\nq"])
    assert plain(read(talk("q <image>", "A", image="a.png"), media, **options))[0] == (
        "user",
        ["q ", "<a.png>"],
    )


def test_interleaved_sets_keep_the_text(media: Path) -> None:
    row = read(
        talk("one<image>\n\ntwo", "A", "<image>B", "C", images=["a.png", "b.png"]),
        media,
        convention="interleaved",
    )
    assert plain(row)[0] == ("user", ["one", "<a.png>", "\n\ntwo"])
    assert plain(row)[2] == ("user", ["<b.png>", "B"])


def test_openai_messages(media: Path) -> None:
    content = [
        {"type": "image_url", "image_url": {"url": "a.png"}},
        {"type": "text", "text": " and "},
        {"type": "image", "image": "b.png"},
        {"type": "image_url", "image_url": "deep/c.png"},
    ]
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": content},
        {"role": "assistant", "content": [{"type": "text", "text": "Two."}], "tool_calls": None},
    ]
    row = read({"messages": messages}, media)
    assert row.id == "4"
    assert plain(row) == [
        ("system", ["Be brief."]),
        ("user", ["<a.png>", " and ", "<b.png>", "<deep/c.png>"]),
        ("assistant", ["Two."]),
    ]


def test_messages_with_pictures_of_the_row(media: Path) -> None:
    item = [{"type": "image"}, {"type": "text", "text": "q"}]
    for content in (item, "<image>q"):
        row = read(
            {
                "messages": [{"role": "user", "content": content}, {"role": "assistant", "content": "A"}],
                "images": ["a.png"],
            },
            media,
        )
        assert plain(row)[0] == ("user", ["<a.png>", "q"])


def test_pairs_of_texts(media: Path) -> None:
    content = (media / "a.png").read_bytes()
    record = {
        "images": [{"bytes": content, "path": None}, Image.new("RGB", (3, 2))],
        "texts": [{"user": "one", "assistant": "A", "source": "x"}, {"user": "two", "assistant": "B"}],
    }
    row = read(record, media)
    assert [m.role for m in row.messages] == ["user", "assistant"] * 2
    assert [picture.size for picture in row.open_images()] == [(40, 30), (3, 2)]
    assert read({"q": "Why?", "a": "So.", "image": "b.png"}, media).images[0].name == "b.png"


def test_base64_pictures(media: Path) -> None:
    import base64

    url = "data:image/png;base64," + base64.b64encode((media / "b.png").read_bytes()).decode()
    assert read(talk("q", "A", image=url), media).check_images() == [(20, 50)]


def test_boxes_belong_to_pictures(media: Path) -> None:
    one = talk("q", "A", image="a.png")
    assert read({**one, "box": [1, 2, 30.5, 30]}, media).boxes == (((1.0, 2.0, 30.5, 30.0),),)
    assert read({**one, "box": [[1, 2, 3, 4], [5, 6, 7, 8]]}, media).boxes == (((1, 2, 3, 4), (5, 6, 7, 8)),)
    assert read({**one, "box": None}, media).boxes == ()
    two = talk("q", "A", image=["a.png", "b.png"], boxes=[[], [[1, 2, 3, 50]]])
    row = read(two, media)
    assert row.boxes == ((), ((1, 2, 3, 50),))
    assert row.check_images() == [(40, 30), (20, 50)]


def test_a_system_message_of_the_set(media: Path) -> None:
    row = read(talk("q", "A"), media, system="")
    assert plain(row)[0] == ("system", [""])
    own = [{"from": "system", "value": "s"}, QUESTION, ANSWER]
    assert plain(read({"conversations": own}, media, system="t"))[0] == ("system", ["s"])


DEEP: Any = []
for _ in range(100_000):
    DEEP = [DEEP]

WRONG: list[tuple[Any, str, str]] = [
    # whole rows
    (7, "form", "expected an object, got 7"),
    ({}, "form", "expected one of the keys conversations, messages, texts, q, got \\[\\]"),
    ({"text": "a"}, "form", "got \\['text'\\]"),
    ({"conversations": [QUESTION, ANSWER], "q": "a"}, "form", "got \\['conversations', 'q'\\]"),
    ({"id": [1], "q": "a", "a": "b"}, "form", "id is \\[1\\]"),
    ({"conversations": []}, "form", "conversations is \\[\\]"),
    ({"conversations": {"from": "human"}}, "form", "conversations is {"),
    ({"conversations": DEEP}, "form", "conversations\\[0\\] is a list"),
    (
        {"conversations": ["hi"]},
        "form",
        "conversations\\[0\\] is 'hi'; give an object with 'from' and 'value'",
    ),
    ({"conversations": [QUESTION, {"from": "gpt"}]}, "form", "conversations\\[1\\]"),
    ({"conversations": [QUESTION, {"from": "gpt", "value": None}]}, "form", "expected a text, got None"),
    ({"messages": [{"role": "user", "content": None}]}, "form", "messages\\[0\\].content is None"),
    (
        {"messages": [{"role": "user", "content": [{"type": "audio"}]}]},
        "form",
        "use items of type text, image or",
    ),
    ({"messages": [{"role": "assistant", "tool_calls": [1]}]}, "form", "tool calls are not read"),
    ({"texts": [{"user": "a"}]}, "form", "texts\\[0\\]"),
    # roles
    (
        {"conversations": [{"from": "bot", "value": "a"}]},
        "roles",
        "role 'bot' is not known; use one of human",
    ),
    ({"conversations": [ANSWER, QUESTION]}, "roles", "turn 0 is the assistant's, expected the user's"),
    (
        {"conversations": [QUESTION, QUESTION, ANSWER]},
        "roles",
        "turn 1 is the user's, expected the assistant's",
    ),
    ({"conversations": [QUESTION, ANSWER, QUESTION]}, "roles", "the last turn is not the assistant's"),
    ({"conversations": [{"from": "system", "value": "a"}]}, "roles", "the last turn is not the assistant's"),
    ({"conversations": [QUESTION, {"from": "system", "value": "a"}]}, "roles", "turn 1 is the system's"),
    # texts
    (talk("q", " \n "), "empty text", "turn 1: the answer is empty"),
    (talk("", "A"), "empty text", "turn 0: the question is empty"),
    (talk("q\ud800", "A"), "broken text", "conversations\\[0\\]: character 1 is half of a surrogate pair"),
    # counts of pictures
    (talk("<image><image> q", "A", image="a.png"), "image count", "2 <image> token\\(s\\) .* but 1 picture"),
    (talk("<image> q", "A"), "image count", "1 <image> token\\(s\\) .* but 0 picture"),
    (
        talk("<image> q", "A", image=["a.png", "b.png"]),
        "image count",
        "1 <image> token\\(s\\) .* but 2 picture",
    ),
    (talk("q", "A <image>", image="a.png"), "image count", "turn 1 is the assistant's and holds <image>"),
    (talk("q", "A", image="a.png", images=["a.png"]), "image count", "both 'image' and 'images'"),
    (talk("q", "A", "<image>", "B", image="a.png"), "empty text", "turn 2: nothing is left of the question"),
    (
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "<image>"}]}]},
        "image count",
        "use an item {'type': 'image'}",
    ),
    # files
    (talk("q", "A", image="z.png"), "image missing", "image 'z.png': there is no file '.*z.png'"),
    (talk("q", "A", image="deep"), "image missing", "there is no file"),
    (talk("q", "A", image=5), "image path", "image 5; give a file name"),
    (talk("q", "A", image={"bytes": None, "path": None}), "image path", "image {'bytes'"),
    (talk("q", "A", image="data:image/png;base64,@@"), "image broken", "base64 text is damaged"),
    # boxes
    (talk("q", "A", image="a.png", box=[1, 2, 3]), "box", "box \\[1, 2, 3\\]; give four numbers"),
    (talk("q", "A", image="a.png", box="1,2,3,4"), "box", "give four numbers"),
    (talk("q", "A", image="a.png", box=[5, 2, 3, 4]), "box", "expected 0 <= x1 < x2"),
    (talk("q", "A", image="a.png", box=[0, 0, float("nan"), 4]), "box", "expected 0 <= x1 < x2"),
    (talk("q", "A", image="a.png", box=[0, 0, True, 4]), "box", "expected 0 <= x1 < x2"),
    (talk("q", "A", image="a.png", box=[0, 0, 10**400, 4]), "box", "give four numbers"),
    (talk("q", "A", image="a.png", box=[0, 0, 10**5000, 4]), "box", "box a list; give four numbers"),
    (talk("q", "A", image=10**5000), "image path", "image a int; give a file name"),
    (talk("q", "A", box=[1, 2, 3, 4]), "box", "'box' with 0 picture"),
    (talk("q", "A", image="a.png", boxes=[]), "box", "'boxes' has 0 list\\(s\\) for 1 picture"),
    (talk("q", "A", image="a.png", boxes=[[1, 2, 3, 4]]), "box", "box 1; give four numbers"),
    (talk("q", "A", image="a.png", boxes=3), "box", "boxes 3; give one list"),
    (talk("q", "A", image="a.png", box=[1, 2, 3, 4], boxes=[]), "box", "both 'box' and 'boxes'"),
    # videos
    (talk("q", "A", video="v.mp4"), "video", "key 'video': videos are not read; save frames as pictures"),
    (talk("<video> q", "A"), "video", "text with <video>"),
]


@pytest.mark.parametrize(("record", "kind", "words"), WRONG, ids=range(len(WRONG)))
def test_what_is_wrong_is_named_with_its_place(record: Any, kind: str, words: str, media: Path) -> None:
    with pytest.raises(DataError, match=words) as caught:
        read(record, media)
    message = str(caught.value)
    assert message.startswith("rows.jsonl:5 (row 4): ")
    assert "\n" not in message
    assert caught.value.kind == kind
    assert isinstance(caught.value, VilaHDError)


def test_the_sample_is_named(media: Path) -> None:
    with pytest.raises(
        DataError, match=r"^rows.jsonl:5 \(row 4\): sample 'x7': turn 1: the answer is empty"
    ) as caught:
        read(talk("q", "", id="x7"), media)
    copy = pickle.loads(pickle.dumps(caught.value))  # as a worker process hands it on
    assert (str(copy), copy.kind, copy.source, copy.row_id) == (str(caught.value), "empty text", PLACE, "x7")


@pytest.mark.parametrize(
    ("record", "words"),
    [
        (talk("q", "A", model="x", id="1"), "row: unknown key\\(s\\) \\['model'\\]"),
        (
            {"conversations": [QUESTION, {**ANSWER, "weight": 0}]},
            "conversations\\[1\\]: unknown key\\(s\\) \\['weight'",
        ),
    ],
)
def test_strict_reading_refuses_unknown_keys(record: Any, words: str, media: Path) -> None:
    assert read(record, media).messages
    with pytest.raises(DataError, match=words):
        read(record, media, strict=True)


def test_a_box_outside_of_its_picture(media: Path) -> None:
    row = read(talk("q", "A", image="a.png", box=[1, 2, 41, 30], id="b"), media)
    for look in (row.check_images, row.open_images):
        with pytest.raises(
            DataError, match=r"sample 'b': box \[1.*\] lies outside of a.png, which is 40 x 30 pixels"
        ):
            look()


def test_a_damaged_picture(tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n nothing")
    row = read(talk("q", "A", image="bad.png"), tmp_path)
    for look in (row.check_images, row.open_images):
        with pytest.raises(DataError, match=r"bad.png: damaged") as caught:
            look()
        assert caught.value.kind == "image broken"
    (tmp_path / "bad.png").unlink()
    with pytest.raises(DataError, match="no such file") as caught:
        row.open_images()
    assert caught.value.kind == "image missing"


def test_unknown_convention(media: Path) -> None:
    with pytest.raises(DataError, match="convention='new': use one of registry, legacy, interleaved"):
        ReadOptions(media=media, convention="new")  # type: ignore[arg-type]
