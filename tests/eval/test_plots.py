import xml.etree.ElementTree as ElementTree

import pytest

from eval.plots import HEIGHT, WIDTH, Chart, Line, draw, nice_ticks, save
from vila_hd.errors import VilaHDError

SVG = "{http://www.w3.org/2000/svg}"


def chart(*points, **changes):
    line = Line(name="a < b", points=points)
    return Chart(**{"title": "t", "x": "tokens", "y": "%", "lines": (line,), **changes})


def circles(document):
    root = ElementTree.fromstring(document)
    return [(float(c.get("cx")), float(c.get("cy"))) for c in root.iter(f"{SVG}circle")]


def test_points_lie_in_their_panel_in_proportion():
    places = circles(draw([chart((0, 0), (10, 50), (20, 100)), chart((1, 5))]))
    (x1, y1), (x2, y2), (x3, y3), (x4, _) = places
    assert (x2, y2) == (pytest.approx((x1 + x3) / 2, abs=0.1), pytest.approx((y1 + y3) / 2, abs=0.1))
    assert 0 < x1 < x3 < WIDTH < x4 < 2 * WIDTH
    assert 0 < y3 < y1 < HEIGHT


def test_a_line_goes_from_left_to_right():
    document = draw([chart((20, 1), (0, 2), (10, 3))])
    (line,) = ElementTree.fromstring(document).iter(f"{SVG}polyline")
    xs = [float(pair.split(",")[0]) for pair in line.get("points").split()]
    assert xs == sorted(xs)


def test_no_name_lies_over_a_point():
    document = draw([chart((0, 1), (1, 1.5), (2, 0)), chart((5, 5))])
    rightmost = max(x for x, _ in circles(document) if x < WIDTH)
    names = [t for t in ElementTree.fromstring(document).iter(f"{SVG}text") if t.text == "a < b"]
    assert [rightmost < float(name.get("x")) % WIDTH for name in names] == [True, True]


def test_given_ticks_are_the_only_ones():
    document = draw([chart((0, 1), (1, 2), ticks=((0, "378"), (1, "original")))])
    texts = [text.text for text in ElementTree.fromstring(document).iter(f"{SVG}text")]
    assert {"378", "original", "a < b"} <= set(texts)


@pytest.mark.parametrize("bounds", [(0, 1), (-3, 97), (0.001, 0.0042), (1234, 98765)])
def test_ticks_are_round_and_inside(bounds):
    ticks = nice_ticks(*bounds)
    assert 3 <= len(ticks) <= 6
    assert bounds[0] <= ticks[0] < ticks[-1] <= bounds[1]


def test_a_path_that_cannot_be_written_is_one_line(tmp_path):
    with pytest.raises(VilaHDError, match="cannot write"):
        save([chart((0, 1))], tmp_path / "no" / "a.svg")
