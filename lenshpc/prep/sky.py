"""Groups by place on the sky, so that neighbours never part."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from lenshpc.prep.rows import TEXT
from lenshpc.run.extras import require

_SLICE_ROWS = 2**18


def name_cells(
    ra_deg: NDArray[np.float64], dec_deg: NDArray[np.float64], order: int
) -> pa.LargeStringArray:
    """Return the HEALPix cell of each position, such as `healpix8-123456`, in nested order."""
    require("sky", "catalogue.group by healpix_order")
    from astropy import units
    from astropy_healpix import lonlat_to_healpix

    prefix, nothing, parts = pa.scalar(f"healpix{order}-", TEXT), pa.scalar("", TEXT), []
    for first in range(0, len(ra_deg), _SLICE_ROWS):
        rows = slice(first, first + _SLICE_ROWS)
        places = ra_deg[rows] * units.deg, dec_deg[rows] * units.deg
        cells = lonlat_to_healpix(*places, 2**order, order="nested")
        parts.append(pc.binary_join_element_wise(prefix, pa.array(cells).cast(TEXT), nothing))
    return pa.concat_arrays(parts)
