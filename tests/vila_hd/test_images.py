"""Every picture a user may have opens as it looks, or fails with one line that names it and the fix."""

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from vila_hd.errors import VilaHDError
from vila_hd.images import MAX_PIXELS, ORIENTATION_TAG, ORIENTATIONS, image_size, open_image

# Pillow warns about the damaged TIFF and EXIF tags that these tests make on purpose.
pytestmark = pytest.mark.filterwarnings("ignore:.*(EXIF|Truncated|Tag data|Metadata).*:UserWarning")


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def gradient(width: int = 23, height: int = 17) -> Image.Image:
    """A picture without any symmetry, so every rotation and channel swap shows."""
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([x, y, 255 - (x + y) / 2], -1).astype(np.uint8))


def error_of(source: object, **options: object) -> str:
    with pytest.raises(VilaHDError) as caught:
        open_image(source, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def opened_or_refused(content: bytes, **options: object) -> Image.Image | None:
    """The picture, or None when it was refused with one line; anything else that is raised fails the test."""
    refusal = ""
    try:
        return open_image(content, name="cut", **options)
    except VilaHDError as error:
        refusal = str(error)
    assert refusal.startswith("cut: ")
    assert "\n" not in refusal
    return None


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM"])
def test_lossless_formats_come_back_as_saved(kind):
    assert np.array_equal(np.asarray(open_image(encoded(gradient(), kind))), np.asarray(gradient()))


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "AVIF", "JPEG2000"])
def test_lossy_formats_come_back_close(kind):
    image = gradient(64, 48)
    difference = np.asarray(open_image(encoded(image, kind, quality=95)), int) - np.asarray(image, int)
    assert np.abs(difference).mean() < 6


def test_sources_of_every_kind_give_the_same_picture(tmp_path):
    content = encoded(gradient(), "PNG")
    path = tmp_path / "a picture.png"
    path.write_bytes(content)
    expected = gradient().tobytes()
    with path.open("rb") as file:
        sources = [path, str(path), content, bytearray(content), memoryview(content), file, gradient()]
        assert [open_image(source).tobytes() for source in sources] == [expected] * len(sources)


def test_a_pipe_is_read_to_its_end():
    class Pipe(io.BytesIO):
        def seekable(self):
            return False

    assert open_image(Pipe(encoded(gradient(), "PNG"))).size == (23, 17)


def test_the_file_is_closed_and_the_caller_s_file_is_not(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(encoded(gradient(), "PNG"))
    open_image(path)
    path.unlink()
    file = io.BytesIO(encoded(gradient(), "PNG"))
    open_image(file)
    assert not file.closed


def test_cmyk():
    cmyk = Image.new("CMYK", (8, 8), (0, 255, 255, 0))  # no cyan, all magenta and yellow: red
    for kind in ("JPEG", "TIFF"):
        assert open_image(encoded(cmyk, kind)).getpixel((4, 4)) == pytest.approx((255, 0, 0), abs=3)


def test_16_bit_grey_is_scaled_not_clipped():
    values = np.array([[0, 257, 32896, 65535]], np.uint16)
    for kind in ("PNG", "TIFF"):
        image = open_image(encoded(Image.fromarray(values), kind))
        assert [image.getpixel((x, 0)) for x in range(4)] == [(v,) * 3 for v in (0, 1, 128, 255)]


def test_16_bit_big_endian_tiff_and_pgm():
    big = Image.frombytes("I;16B", (2, 1), struct.pack(">2H", 0, 65535))
    pgm = b"P5 2 1 65535\n" + struct.pack(">2H", 0, 65535)
    for source in (encoded(big, "TIFF"), big, pgm):
        assert [open_image(source).getpixel((x, 0)) for x in range(2)] == [(0, 0, 0), (255, 255, 255)]


def png_16_bit_rgb(values: list[tuple[int, int, int]]) -> bytes:
    """A one-row PNG with 16 bits per channel, which Pillow cannot write."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    row = b"\0" + b"".join(struct.pack(">3H", *value) for value in values)
    header = struct.pack(">IIBBBBB", len(values), 1, 16, 2, 0, 0, 0)
    signature = b"\x89PNG\r\n\x1a\n"
    return signature + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(row)) + chunk(b"IEND", b"")


def test_16_bit_rgb():
    image = open_image(png_16_bit_rgb([(65535, 0, 0), (0, 32768, 65535)]))
    assert [image.getpixel((x, 0)) for x in range(2)] == [(255, 0, 0), (0, 128, 255)]


def test_float_grey_in_0_to_1():
    image = Image.fromarray(np.array([[0.0, 0.5, 1.0]], np.float32))
    assert [open_image(encoded(image, "TIFF")).getpixel((x, 0))[0] for x in range(3)] == [0, 128, 255]


@pytest.mark.parametrize(
    "values",
    [
        np.array([[0.0, 812.0]], np.float32),
        np.array([[-0.5, 0.5]], np.float32),
        np.array([[0.5, np.nan]], np.float32),
        np.array([[0, 70000]], np.int32),
        np.array([[0, 200]], np.int32),
    ],
    ids=["float above 1", "float below 0", "nan", "int beyond 16 bit", "int of unknown range"],
)
def test_grey_values_of_unknown_range_are_an_error(values):
    assert "which one is white is not known" in error_of(encoded(Image.fromarray(values), "TIFF"))


def test_alpha_is_composited_on_white():
    for mode, colour, expected in (
        ("RGBA", (255, 0, 0, 0), (255, 255, 255)),
        ("RGBA", (255, 0, 0, 255), (255, 0, 0)),
        ("RGBA", (0, 0, 0, 128), (127, 127, 127)),
        ("LA", (0, 0), (255, 255, 255)),
        ("LA", (10, 255), (10, 10, 10)),
    ):
        assert open_image(encoded(Image.new(mode, (3, 3), colour), "PNG")).getpixel((1, 1)) == expected


def test_premultiplied_alpha():
    half_red = Image.new("RGBA", (2, 2), (255, 0, 0, 128))
    expected = open_image(half_red).getpixel((0, 0))
    assert open_image(half_red.convert("RGBa")).getpixel((0, 0)) == expected


def test_palette_with_and_without_transparency():
    palette = Image.new("P", (2, 1))
    palette.putpalette([255, 0, 0, 0, 0, 255])
    palette.putpixel((1, 0), 1)
    opaque = open_image(encoded(palette, "PNG"))
    keyed = open_image(encoded(palette, "PNG", transparency=1))
    assert [opaque.getpixel((x, 0)) for x in range(2)] == [(255, 0, 0), (0, 0, 255)]
    assert [keyed.getpixel((x, 0)) for x in range(2)] == [(255, 0, 0), (255, 255, 255)]


def test_key_colour_of_rgb_and_grey_is_transparent():
    rgb = Image.new("RGB", (2, 2), (0, 255, 0))
    grey = Image.new("L", (2, 2), 7)
    wide = Image.fromarray(np.full((2, 2), 1234, np.uint16))
    assert open_image(encoded(rgb, "PNG", transparency=(0, 255, 0))).getpixel((0, 0)) == (255, 255, 255)
    assert open_image(encoded(grey, "PNG", transparency=7)).getpixel((0, 0)) == (255, 255, 255)
    assert open_image(encoded(wide, "PNG", transparency=1234)).getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("mode", ["1", "L", "YCbCr", "HSV", "RGBX", "LAB", "PA", "La"])
def test_other_modes_become_rgb_of_the_same_size(mode):
    source = gradient()
    if mode == "LAB":
        source = Image.new("LAB", (23, 17), (255, 128, 128))  # a* and b* of 0 are stored as 128: white
    elif mode in ("PA", "La"):
        source = source.convert("P" if mode == "PA" else "LA")
    image = open_image(source.convert(mode))
    assert (image.mode, image.size) == ("RGB", (23, 17))
    if mode == "LAB":
        assert image.getpixel((3, 3)) == pytest.approx((255, 255, 255), abs=2)


def test_one_bit_white_is_white():
    image = Image.new("1", (9, 3), 1)
    for kind in ("PNG", "TIFF", "BMP"):
        assert open_image(encoded(image, kind)).getpixel((8, 2)) == (255, 255, 255)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "TIFF", "PNG"])
def test_of_several_frames_the_first_is_used_and_a_warning_says_so(kind, caplog):
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue", "lime")]
    image = open_image(encoded(frames[0], kind, save_all=True, append_images=frames[1:]), name="film")
    assert image.getpixel((8, 8)) == pytest.approx((255, 0, 0), abs=6)
    assert "film: has several frames" in caplog.text


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_applied(kind, orientation):
    upright = Image.new("RGB", (48, 32), "white")
    upright.paste("red", (0, 0, 16, 16))  # a red corner, top left when upright
    turn = ORIENTATIONS.get(orientation)
    undo = {Image.Transpose.ROTATE_90: Image.Transpose.ROTATE_270}
    undo[Image.Transpose.ROTATE_270] = Image.Transpose.ROTATE_90
    stored = upright if turn is None else upright.transpose(undo.get(turn, turn))
    exif = Image.Exif()
    exif[ORIENTATION_TAG] = orientation
    image = open_image(encoded(stored, kind, exif=exif))
    assert image.size == (48, 32)
    assert image.getpixel((5, 5))[1] < 90
    assert min(image.getpixel(corner)[1] for corner in ((43, 5), (5, 27), (43, 27))) > 170


@pytest.mark.parametrize("kind", ["JPEG", "TIFF", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_size_is_known_from_the_header(kind, orientation):
    exif = Image.Exif()
    exif[ORIENTATION_TAG] = orientation
    content = encoded(gradient(), kind, exif=exif)
    assert image_size(content) == open_image(content).size
    assert image_size(Image.open(io.BytesIO(content))) == open_image(content).size


def test_the_size_of_no_picture_is_refused():
    for source in (b"", b"%PDF-1.4", "/no/such.png", encoded(gradient(), "PNG")[:20]):
        with pytest.raises(VilaHDError):
            image_size(source)


def test_a_damaged_exif_block_does_not_hide_the_picture():
    image = open_image(encoded(gradient(), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff"))
    assert image.size == (23, 17)


@pytest.mark.parametrize("size", [(1, 1), (1, 20000), (20000, 1), (65000, 2)])
def test_tiny_and_extreme_shapes(size):
    assert open_image(encoded(Image.new("RGB", size), "PNG")).size == size


def bmp_header(width: int, height: int) -> bytes:
    """The header of a huge picture whose pixels are not there: decoding must not even be tried."""
    return (
        b"BM"
        + struct.pack("<IHHI", 54, 0, 0, 54)
        + struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, *[0] * 6)
    )


def test_more_than_200_megapixels_are_refused_before_decoding():
    message = error_of(bmp_header(20_000, 15_000), name="huge.bmp")
    assert "huge.bmp: 20000 x 15000 = 300 megapixels" in message
    assert "200 allowed" in message
    assert "--allow-huge-images" in message


@pytest.mark.slow
def test_huge_pictures_open_when_allowed():
    content = encoded(Image.new("1", (20_000, 10_001)), "PNG")
    assert MAX_PIXELS < 20_000 * 10_001
    error_of(content)
    assert open_image(content, max_pixels=None).size == (20_000, 10_001)


def test_the_limit_is_for_what_is_not_decoded_yet(tmp_path):
    lazy = Image.open(io.BytesIO(encoded(gradient(), "PNG")))
    assert "23 x 17" in error_of(lazy, max_pixels=100)
    assert open_image(gradient(), max_pixels=100).size == (23, 17)
    opened = open_image(encoded(gradient(), "PNG"))
    assert open_image(opened, max_pixels=100) is opened


def test_pillow_s_own_limit_neither_warns_nor_refuses(recwarn, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    for kind in ("PNG", "JPEG", "BMP"):
        assert open_image(encoded(gradient(), kind)).size == (23, 17)
    assert not recwarn.list
    assert Image.MAX_IMAGE_PIXELS == 10


def test_where_pillow_insists_on_its_limit_the_message_says_so(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    message = error_of(encoded(gradient(), "TIFF"), name="map.tif")
    assert "map.tif: more pixels than Pillow decodes" in message
    assert "--allow-huge-images" in message


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty (0 bytes)"),
        (b"just a text file, really", "not a picture"),
        (b"%PDF-1.7 ...", "a PDF; pages are not read"),
        (b"<!DOCTYPE html><html>", "a web page"),
        (b"\n  <svg xmlns='http://www.w3.org/2000/svg'/>", "an SVG drawing"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "git lfs pull"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", "a HEIC picture"),
        (b"\0\0\0\x18ftypisom\0\0\0\0", "a video"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "PostScript"),
        (b"PK\x03\x04 rest", "a zip archive"),
        (b"\x89PNG\r\n\x1a\n", "damaged or cut off"),
    ],
)
def test_files_that_are_no_pictures_are_named(content, words):
    message = error_of(content, name="scan.png")
    assert message.startswith("scan.png: ")
    assert words in message


def test_paths_that_are_no_files(tmp_path):
    locked = tmp_path / "loop"
    locked.symlink_to(locked)
    assert "no such file" in error_of(tmp_path / "missing.png")
    assert "a folder" in error_of(tmp_path)
    assert "cannot be opened" in error_of(locked)
    assert "cannot be opened" in error_of("null\0byte.png")
    assert "cannot be opened" in error_of("x" * 5000)
    assert "empty file name" in error_of("  ")
    assert "not fetched" in error_of("https://example.org/a.png")


def test_sources_of_a_wrong_kind():
    assert "ndarray" in error_of(np.zeros((2, 2, 3), np.uint8))
    assert "NoneType" in error_of(None)
    assert "mode 'rb'" in error_of(io.StringIO("text"))


def test_a_closed_pil_picture_is_an_error():
    image = gradient()
    image.close()
    error_of(image)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "PPM"])
def test_truncated_files_are_errors_at_every_length(kind):
    whole = encoded(gradient(), kind)
    picture = np.asarray(open_image(whole))
    for length in range(0, len(whole), max(1, len(whole) // 60)):
        image = opened_or_refused(whole[:length])
        if image is not None:  # only trailing bytes without pixels were cut
            assert np.array_equal(np.asarray(image), picture), f"{length} of {len(whole)} bytes"


SEEDS = {
    "png": encoded(gradient(), "PNG"),
    "png palette": encoded(gradient().convert("P"), "PNG", transparency=3),
    "png 16": encoded(Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8) * 999), "PNG"),
    "jpeg": encoded(
        gradient(), "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"
    ),
    "jpeg cmyk": encoded(gradient().convert("CMYK"), "JPEG"),
    "tiff": encoded(gradient(), "TIFF"),
    "tiff lzw": encoded(gradient(), "TIFF", compression="tiff_lzw"),
    "tiff float": encoded(gradient().convert("F").point(lambda v: v / 255), "TIFF"),
    "gif": encoded(gradient(), "GIF", save_all=True, append_images=[gradient().rotate(90)]),
    "webp": encoded(gradient(), "WEBP", lossless=True),
    "webp film": encoded(gradient(), "WEBP", save_all=True, append_images=[gradient().rotate(90)]),
    "bmp": encoded(gradient(), "BMP"),
    "bmp rle": encoded(gradient().convert("P"), "BMP"),
    "ppm": encoded(gradient(), "PPM"),
    "jpeg 2000": encoded(gradient(), "JPEG2000"),
    "avif": encoded(gradient(), "AVIF"),
    "qoi": encoded(gradient(), "QOI"),
}

EDITS = st.lists(
    st.tuples(
        st.sampled_from(["set", "cut", "insert"]), st.integers(0, 10_000), st.binary(min_size=1, max_size=6)
    ),
    min_size=1,
    max_size=6,
)


@pytest.mark.parametrize("seed", SEEDS)
@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(edits=EDITS)
def test_damaged_files_give_a_picture_or_one_line(seed, edits):
    content = bytearray(SEEDS[seed])
    for action, place, patch in edits:
        place %= max(1, len(content))
        if action == "set":
            content[place : place + len(patch)] = patch
        elif action == "insert":
            content[place:place] = patch
        else:
            del content[place:]
    image = opened_or_refused(bytes(content), max_pixels=4_000_000)
    assert image is None or image.mode == "RGB"
