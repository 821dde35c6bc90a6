"""Pictures and videos in prompts, in the shape that VILA scripts use: ``[Image("a.jpg"), "What is it?"]``."""

import http.client
import urllib.request
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image

from vila_hd.constants import IMAGE_TOKEN
from vila_hd.errors import VilaHDError
from vila_hd.images import open_image
from vila_hd.utils.imports import import_optional
from vila_hd.utils.logging import get_logger
from vila_hd.utils.text import one_line

logger = get_logger(__name__)

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif")
VIDEO_SUFFIXES = (".mp4", ".mkv", ".webm", ".mov", ".avi")

TIMEOUT = 60.0
"""Seconds to wait for a picture at an address."""

MOST_BYTES = 200_000_000
"""Largest file that is fetched."""

MEDIA_TOKENS = (IMAGE_TOKEN, "<vila/video>")
"""Words that stand for media; taken out of the texts of a prompt."""


class Media:
    """Something to look at in a prompt."""


@dataclass(frozen=True)
class File(Media):
    """A file, by its name."""

    path: str | Path


class Image(File):
    """A picture file, or its http(s) address."""


class Video(File):
    """A video file, or a folder of its frames as pictures, which are taken in the order of their names."""


Part = str | Media | PIL.Image.Image


@dataclass(frozen=True)
class ReadPrompt:
    """A prompt, read and decoded."""

    content: list[dict[str, Any]]
    """Content of the user's message as chat templates read it; ``{"type": "image"}`` for every picture."""

    pictures: list[PIL.Image.Image]
    """RGB, in the order of the message."""


def read_prompt(prompt: Part | Sequence[Part], *, num_video_frames: int, fps: float) -> ReadPrompt:
    """The message that a prompt stands for.

    Parts follow each other without anything in between. As in the published code, words that stand for media
    are taken out of texts, with a warning, and the whole message loses white space at its ends.

    Args:
        prompt: one part or several: a text, an ``Image``, a PIL picture, a ``Video``.
        num_video_frames: frames of a video at most.
        fps: frames per second of a video file; 0: as many as are wanted, evenly spread.

    Raises:
        VilaHDError: the prompt is empty, a part is of another type, or a file cannot be read.
    """
    parts: Iterable[Any] = [prompt] if isinstance(prompt, str | Media | PIL.Image.Image) else prompt
    if not isinstance(parts, list | tuple):
        raise VilaHDError(f"prompt of type {type(prompt).__name__}: use a text or a list of texts and media")
    content: list[dict[str, Any]] = []
    pictures: list[PIL.Image.Image] = []
    for number, part in enumerate(parts):
        if isinstance(part, str):
            content.append({"type": "text", "text": clean_text(part)})
            continue
        shown = _open(part, number, num_video_frames, fps)
        pictures += shown
        content += [{"type": "image"} for _ in shown]
    content = _strip(content)
    if not content:
        raise VilaHDError(f"prompt {prompt!r:.80} is empty: ask something, or show a picture")
    return ReadPrompt(content, pictures)


def clean_text(text: str) -> str:
    """``text`` without words that stand for media; a warning tells when there were any."""
    if not any(token in text for token in MEDIA_TOKENS):
        return text
    logger.warning(
        "%r: words that stand for media are taken out of texts; show a picture as a part of its own, "
        "Image('a.jpg')",
        text[:80],
    )
    for token in MEDIA_TOKENS:
        text = text.replace(token, "")
    return text.strip()


def _strip(content: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """``content`` without white space at its ends."""
    content = list(content)
    while content and content[0]["type"] == "text":
        content[0] = {"type": "text", "text": content[0]["text"].lstrip()}
        if content[0]["text"]:
            break
        content.pop(0)
    while content and content[-1]["type"] == "text":
        content[-1] = {"type": "text", "text": content[-1]["text"].rstrip()}
        if content[-1]["text"]:
            break
        content.pop()
    return content


def _open(part: Any, number: int, num_video_frames: int, fps: float) -> list[PIL.Image.Image]:
    if isinstance(part, PIL.Image.Image):
        return [open_image(part)]
    if isinstance(part, Image):
        return [read_picture(part)]
    if isinstance(part, Video):
        return read_video(part, num_frames=num_video_frames, fps=fps)
    raise VilaHDError(
        f"part {number} of the prompt is a {type(part).__name__}: use a text, Image(...), Video(...) or a "
        "PIL picture"
    )


def read_picture(image: Image) -> PIL.Image.Image:
    """The picture in a file or at an address, upright and RGB.

    Raises:
        VilaHDError: it cannot be read.
    """
    path = str(image.path)
    if not path.startswith(("http://", "https://")):
        return open_image(image.path)
    return open_image(_fetch(path), name=path)


def _fetch(address: str) -> bytes:
    request = urllib.request.Request(address, headers={"User-Agent": "vila-hd"})
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
            content: bytes = response.read(MOST_BYTES + 1)
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = one_line(error)[:160]
        raise VilaHDError(f"{address}: cannot be fetched ({reason}); give the name of a file") from error
    if len(content) > MOST_BYTES:
        raise VilaHDError(
            f"{address}: more than {MOST_BYTES // 10**6} MB; download it and give the file name"
        )
    return content


def read_video(video: Video, *, num_frames: int, fps: float) -> list[PIL.Image.Image]:
    """Frames of a video, evenly spread from the first to the last, or ``fps`` of every second.

    Args:
        video: a file, or a folder of frames.
        num_frames: frames at most. A shorter video yields some of them twice, as in the published code.
        fps: of a file: frames per second from its beginning; 0: evenly spread.

    Raises:
        VilaHDError: there are no frames, a number is none, or PyAV is missing, which video files need.
    """
    if isinstance(num_frames, bool) or not isinstance(num_frames, int) or num_frames < 1:
        raise VilaHDError(f"num_video_frames={num_frames!r}: use a whole number >= 1")
    if isinstance(fps, bool) or not isinstance(fps, int | float) or not 0 <= fps < float("inf"):
        raise VilaHDError(f"fps={fps!r}: use frames per second, 0 for evenly spread frames")
    path = Path(video.path)
    if path.is_dir():
        return _read_folder(path, num_frames)
    if not path.is_file():
        raise VilaHDError(f"{path}: no such video file or folder of frames; check the name")
    return _read_file(path, num_frames, fps)


def spread(count: int, wanted: int) -> list[int]:
    """Numbers of ``wanted`` of ``count`` frames, evenly spread, the first and the last among them."""
    return [int(number) for number in np.round(np.linspace(0, count - 1, wanted))]


def frames_at(count: int, rate: float, fps: float, most: int) -> list[int]:
    """Numbers of the frames at 0, 1 / fps, 2 / fps, ... seconds, ``most`` at most.

    Args:
        count: frames of the video.
        rate: its frames per second.
        fps: frames wanted per second.
        most: frames wanted at most.
    """
    times = [number / fps for number in range(most) if number / fps < count / rate]
    return [min(round(time * rate), count - 1) for time in times]


def _read_folder(folder: Path, num_frames: int) -> list[PIL.Image.Image]:
    names = sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
    if not names:
        raise VilaHDError(f"{folder}: no pictures in this folder; give the folder of a video's frames")
    numbers = spread(len(names), num_frames)
    frames = {number: open_image(names[number]) for number in sorted(set(numbers))}
    return [frames[number] for number in numbers]


def _read_file(path: Path, num_frames: int, fps: float) -> list[PIL.Image.Image]:
    av = import_optional("av", extra="video", purpose="reading video files")

    def pick(count: int, rate: float) -> list[int]:
        return frames_at(count, rate, fps, num_frames) if fps > 0 else spread(count, num_frames)

    try:
        count, rate = _measure(av, path)
        if not count:
            raise VilaHDError(f"{path}: holds no video frames; give another file")
        wanted = pick(count, rate)
        frames, decoded = _decode(av, path, set(wanted))
        if decoded and not frames.keys() >= set(wanted):
            logger.warning("%s: damaged; only its first %d of %d frames are used", path, decoded, count)
            wanted = pick(decoded, rate)
            frames, _ = _decode(av, path, set(wanted))
    except (av.error.FFmpegError, OSError) as error:
        reason = one_line(error)[:160]
        raise VilaHDError(f"{path}: cannot be read as a video ({reason}); convert it to MP4") from error
    if not frames:
        raise VilaHDError(f"{path}: no frame can be decoded; convert it to MP4")
    return [frames[number] for number in wanted]


def _measure(av: Any, path: Path) -> tuple[int, float]:
    """``(frames, frames per second)``, counted without decoding: headers are often wrong."""
    with av.open(str(path)) as container:
        if not container.streams.video:
            return 0, 1.0
        stream = container.streams.video[0]
        count = sum(packet.size > 0 for packet in container.demux(stream))
        return count, float(stream.average_rate or stream.guessed_rate or 1)


def _decode(av: Any, path: Path, wanted: set[int]) -> tuple[dict[int, PIL.Image.Image], int]:
    """``(number of a frame -> its picture, frames that were decoded)``; ends at a damaged place."""
    frames: dict[int, PIL.Image.Image] = {}
    count = 0
    with av.open(str(path)) as container:
        container.streams.video[0].thread_type = "AUTO"
        decoded = container.decode(video=0)
        while len(frames) < len(wanted):
            try:
                frame = next(decoded)
            except (StopIteration, av.error.FFmpegError):
                break
            if count in wanted:
                frames[count] = _upright(frame)
            count += 1
    return frames, count


def _upright(frame: Any) -> PIL.Image.Image:
    """A frame the way players show it: phones store videos sideways and say so."""
    turn = round(getattr(frame, "rotation", 0) or 0)
    picture: PIL.Image.Image = frame.to_image()
    return picture.rotate(turn, expand=True) if turn % 360 else picture
