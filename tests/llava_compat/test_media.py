"""Prompts, pictures and videos as scripts give them."""

import http.server
import logging
import threading
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image as PILImage

from llava_compat import media
from llava_compat.media import Image, Video, frames_at, read_prompt, read_video, spread
from vila_hd import VilaHDError

RED, BLUE = (255, 0, 0), (0, 0, 255)


def read(prompt):
    return read_prompt(prompt, num_video_frames=4, fps=0)


def words(prompt) -> list[str]:
    return [item.get("text", item["type"]) for item in read(prompt).content]


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "a.png"
    PILImage.new("RGB", (6, 4), RED).save(path)
    return path


def test_parts_follow_each_other_without_anything_in_between(file):
    assert words(["a ", Image(file), " b"]) == ["a ", "image", " b"]
    assert words(["one", "two"]) == ["one", "two"]
    assert words("just a text") == ["just a text"]
    assert words(Image(str(file))) == ["image"]


def test_the_message_is_stripped_at_its_ends_only(file):
    assert words(["  ", " a ", Image(file), " b ", "\n"]) == ["a ", "image", " b"]
    assert words([Image(file), "\n"]) == ["image"]


def test_pictures_come_in_order_and_as_rgb(file):
    other = PILImage.new("RGBA", (3, 2), (*BLUE, 255))
    pictures = read([other, "and", Image(file)]).pictures
    assert [(picture.mode, picture.size) for picture in pictures] == [("RGB", (3, 2)), ("RGB", (6, 4))]
    assert [picture.getpixel((0, 0)) for picture in pictures] == [BLUE, RED]


def test_words_that_stand_for_media_are_taken_out(file, caplog):
    with caplog.at_level(logging.WARNING, logger="llava_compat"):
        assert words([Image(file), "<image>\nwhat is it?"]) == ["image", "what is it?"]
        assert words("what <vila/video>is it?") == ["what is it?"]
    assert sum("taken out of texts" in message for message in caplog.messages) == 2


@pytest.mark.parametrize(
    "prompt", [None, 3, {"a": 1}, b"text", ["a", None], ["a", ["b"]], [np.zeros((2, 2))]]
)
def test_other_types_are_refused(prompt):
    with pytest.raises(VilaHDError, match="use a text"):
        read(prompt)


# ---------------------------------------------------------------- addresses


@pytest.fixture
def server(file):
    """The address of a server that has one picture and nothing else."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200 if self.path == "/a.png" else 404)
            self.end_headers()
            if self.path == "/a.png":
                self.wfile.write(file.read_bytes())

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


def test_pictures_are_fetched_from_addresses(server):
    (picture,) = read([Image(f"{server}/a.png"), "what?"]).pictures
    assert picture.size == (6, 4)


def test_what_cannot_be_fetched_is_named(server, monkeypatch):
    with pytest.raises(VilaHDError, match=r"/b\.png: cannot be fetched \(.*404"):
        read(Image(f"{server}/b.png"))
    with pytest.raises(VilaHDError, match=r"http://127.0.0.1:1/a\.png: cannot be fetched"):
        read(Image("http://127.0.0.1:1/a.png"))
    monkeypatch.setattr(media, "MOST_BYTES", 10)
    with pytest.raises(VilaHDError, match="more than 0 MB"):
        read(Image(f"{server}/a.png"))


# ---------------------------------------------------------------- videos


def test_frames_are_spread_evenly():
    assert spread(100, 4) == [0, 33, 66, 99]
    assert spread(5, 1) == [0]
    assert spread(2, 4) == [0, 0, 1, 1]
    assert spread(1, 3) == [0, 0, 0]
    assert spread(6, 3) == [0, 2, 5]  # halves go to the even number, as in numpy


def test_frames_at_a_rate():
    assert frames_at(100, 25.0, 1.0, 10) == [0, 25, 50, 75]
    assert frames_at(100, 25.0, 1.0, 2) == [0, 25]
    assert frames_at(10, 5.0, 50.0, 4) == [0, 0, 0, 0]
    assert frames_at(3, 1.0, 1.25, 9) == [0, 1, 2, 2]


@pytest.fixture
def frames(tmp_path):
    """A folder of ten frames; frame i is of grey 25 * i."""
    folder = tmp_path / "frames"
    folder.mkdir()
    for number in range(10):
        PILImage.new("RGB", (8, 8), (25 * number,) * 3).save(folder / f"{number:03}.png")
    (folder / "notes.txt").write_text("no picture")
    return folder


def test_a_folder_of_frames_needs_no_package(frames, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    shown = read_video(Video(frames), num_frames=4, fps=0)
    assert [picture.getpixel((0, 0))[0] for picture in shown] == [0, 75, 150, 225]
    prompt = read_prompt(["see ", Video(str(frames)), "?"], num_video_frames=3, fps=2.0)
    assert [item["type"] for item in prompt.content] == ["text", *["image"] * 3, "text"]
    assert len(prompt.pictures) == 3


def test_an_empty_folder_is_no_video(tmp_path):
    with pytest.raises(VilaHDError, match="no pictures in this folder"):
        read_video(Video(tmp_path), num_frames=4, fps=0)


@pytest.mark.parametrize(
    ("number", "fps"), [(0, 0), (None, 0), (True, 0), (2, -1), (2, "1"), (2, float("nan"))]
)
def test_numbers_of_frames_are_checked(frames, number, fps):
    with pytest.raises(VilaHDError, match=r"num_video_frames=|fps="):
        read_video(Video(frames), num_frames=number, fps=fps)


def write_video(path, frames, codec: str) -> None:
    """A video of ``(rows, columns, 3)`` frames at 10 per second."""
    av = pytest.importorskip("av", reason="needs the extra 'video'")
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.time_base = Fraction(1, 10)
        for number, values in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(values, format="rgb24")
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """Twenty frames; frame i is of grey 12 * i."""
    path = tmp_path_factory.mktemp("video") / "a.mp4"
    write_video(path, [np.full((48, 64, 3), 12 * number, np.uint8) for number in range(20)], "mpeg4")
    return path


def greys(pictures) -> list[int]:
    """Numbers of the frames, told by their grey."""
    return [round(np.asarray(picture).mean() / 12) for picture in pictures]


def test_frames_of_a_file(video):
    assert greys(read_video(Video(video), num_frames=4, fps=0)) == spread(20, 4)
    assert greys(read_video(Video(video), num_frames=8, fps=2.0)) == [0, 5, 10, 15]
    shown = read_video(Video(video), num_frames=30, fps=0)
    assert greys(shown) == spread(20, 30)
    assert {picture.size for picture in shown} == {(64, 48)}
    assert {picture.mode for picture in shown} == {"RGB"}


def test_a_file_that_is_cut_off_yields_what_it_has(tmp_path, caplog):
    generator = np.random.default_rng(0)
    noise = [generator.integers(0, 255, (48, 64, 3), np.uint8) // 20 + 12 * number for number in range(20)]
    whole, half = tmp_path / "whole.avi", tmp_path / "half.avi"
    write_video(whole, [np.minimum(values, 255).astype(np.uint8) for values in noise], "mjpeg")
    half.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    assert greys(read_video(Video(whole), num_frames=2, fps=0)) == [0, 19]
    first, last = greys(read_video(Video(half), num_frames=2, fps=0))
    assert first == 0
    assert 1 <= last < 12
    assert "damaged; only its first" in caplog.text


def test_what_is_no_video_is_named(tmp_path):
    pytest.importorskip("av", reason="needs the extra 'video'")
    path = tmp_path / "a.mp4"
    path.write_bytes(b"this is not a video" * 50)
    with pytest.raises(VilaHDError, match=r"a\.mp4: cannot be read as a video"):
        read_video(Video(path), num_frames=4, fps=0)


def test_a_missing_package_is_named_with_its_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    path = tmp_path / "a.mp4"
    path.write_bytes(b"")
    with pytest.raises(VilaHDError, match=r"av \(needed for reading video files\).*vila-hd\[video\]"):
        read_video(Video(path), num_frames=4, fps=0)


def test_frames_are_shown_upright():
    class Sideways:
        rotation = -90

        def to_image(self):
            picture = PILImage.new("RGB", (4, 2), RED)
            picture.putpixel((0, 0), BLUE)
            return picture

    shown = media._upright(Sideways())
    assert shown.size == (2, 4)
    assert shown.getpixel((1, 0)) == BLUE  # a quarter turn clockwise
