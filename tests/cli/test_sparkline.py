"""Curves of a few letters."""

import pytest

from lenshpc.cli.sparkline import draw_curve


@pytest.mark.parametrize(
    ("values", "drawn"),
    [
        ([], ""),
        ([0.5], "▄"),
        ([2, 2, 2], "▄▄▄"),
        ([0, 1, 2, 3, 4, 5, 6, 7], "▁▂▃▄▅▆▇█"),
        ([-1.0, 0.0, -0.5], "▁█▅"),
        # two of twenty each: the means are 0.5, 2.5, and so on
        (list(range(20)), "▁▂▃▃▄▅▆▆▇█"),
        # parts of 1, 1, 1, 1, 1, 1, 1, 1, 1, 2 for eleven
        ([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 14], "▁▁▁▁▁▁▁▁▁█"),
    ],
)
def test_curve_fits_its_width_and_goes_from_bottom_to_top(values, drawn):
    assert draw_curve(values, 10) == drawn


def test_curve_in_letters():
    assert draw_curve(range(8), 10, ascii_only=True) == "_.-=+*#@"
