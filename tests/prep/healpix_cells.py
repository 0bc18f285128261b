"""Cells of HEALPix by the formulae of Gorski et al. 2005, section 4 and its appendix."""

from math import cos, floor, pi, radians, sin, sqrt


def find(ra_deg, dec_deg, order):
    """Return the nested number of the cell at a position."""
    side, z = 2**order, sin(radians(dec_deg))
    turn = (radians(ra_deg) % (2 * pi)) / (pi / 2)  # in quarters
    if abs(z) <= 2 / 3:
        # Lines of cells that ascend and descend, counted from the south.
        ascending = floor(side * (0.5 + turn - 0.75 * z))
        descending = floor(side * (0.5 + turn + 0.75 * z))
        up, down = ascending // side, descending // side
        face = up % 4 + 4 if up == down else min(up, down) % 4 + (0 if up < down else 8)
        x, y = descending % side, side - 1 - ascending % side
    else:
        quarter = min(3, floor(turn))
        along = turn - quarter
        # cos(dec) is exact where 1 - |sin(dec)| is not
        width = side * (abs(cos(radians(dec_deg))) * sqrt(3 / (1 + abs(z))))
        one, other = (min(side - 1, floor(part * width)) for part in (along, 1 - along))
        face, x, y = (
            (quarter, side - 1 - other, side - 1 - one) if z > 0 else (quarter + 8, one, other)
        )
    bits = sum((x >> bit & 1) << 2 * bit | (y >> bit & 1) << 2 * bit + 1 for bit in range(order))
    return face * side * side + bits
