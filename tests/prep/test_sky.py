"""Cells on the sky are those of HEALPix, and neighbours share one."""

import healpix_cells
import numpy as np
import pytest

from lenshpc.prep.sky import name_cells


@pytest.mark.parametrize("order", [0, 8, 20])
def test_cells_are_those_of_gorski_and_others(order):
    random = np.random.default_rng(order)
    ra = np.append(random.uniform(0, 360, 200), [0, 0, 359.9, 123, 45])
    dec = np.append(np.degrees(np.arcsin(random.uniform(-1, 1, 200))), [90, -90, 0.01, 1.1, 41.8])
    expected = [
        f"healpix{order}-{healpix_cells.find(*place, order)}"
        for place in np.stack([ra, dec], axis=1)
    ]
    assert name_cells(ra, dec, order).to_pylist() == expected


def test_places_an_arcsecond_apart_share_a_cell_and_others_do_not():
    ra, dec = np.array([150.1, 150.1 + 1 / 3600, 151.1]), np.array([2.2, 2.2, 2.2])
    first, second, third = name_cells(ra, dec, 8).to_pylist()
    assert first == second != third


def test_zero_and_360_degrees_are_one_meridian():
    dec = np.array([-80.0, -3.3, 3.3, 80.0])
    assert name_cells(np.zeros(4), dec, 8).equals(name_cells(np.full(4, 360.0), dec, 8))
