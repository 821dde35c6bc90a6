"""Which tiles a picture is cut into."""

import pytest

from vila_hd.towers.tiling import choose_tiles


@pytest.mark.parametrize(
    ("size", "max_tiles", "expected"),
    [
        ((756, 756), 4, (2, 2)),
        ((1512, 1512), 16, (4, 4)),
        ((3000, 3000), 4, (2, 2)),
        ((2160, 3840), 16, (3, 5)),
        ((3840, 2160), 16, (5, 3)),
        ((2160, 3840), 8, (2, 4)),
        ((300, 300), 16, (1, 1)),  # fills less than half of 2 x 2 tiles
        ((540, 540), 16, (2, 2)),
        ((378, 756), 16, (1, 2)),
        ((10, 4000), 16, (1, 16)),
        ((2000, 2000), 1, (1, 1)),
    ],
)
def test_tiles_of_known_pictures(size, max_tiles, expected):
    assert choose_tiles(*size, tile=378, max_tiles=max_tiles) == expected


def test_no_allowed_grid_is_closer_to_the_picture_s_shape():
    for height, width in [(100, 97), (333, 1000), (640, 480), (1080, 1920), (5000, 700)]:
        rows, columns = choose_tiles(height, width, tile=64, max_tiles=12)
        assert rows * columns <= 12
        gap = abs(width / height - columns / rows)
        for r in range(1, 13):
            for c in range(1, 12 // r + 1):
                assert gap <= abs(width / height - c / r)
