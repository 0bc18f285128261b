"""Groups by place on the sky, so that neighbours never part."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from lenshpc.prep.rows import TEXT
from lenshpc.run.extras import require


def name_cells(
    ra_deg: NDArray[np.float64], dec_deg: NDArray[np.float64], order: int
) -> pa.LargeStringArray:
    """Return the HEALPix cell of each position, such as `healpix8-123456`, in nested order."""
    require("sky", "catalogue.group by healpix_order")
    from astropy import units
    from astropy_healpix import lonlat_to_healpix

    cells = lonlat_to_healpix(ra_deg * units.deg, dec_deg * units.deg, 2**order, order="nested")
    prefix, nothing = pa.scalar(f"healpix{order}-", TEXT), pa.scalar("", TEXT)
    return pc.binary_join_element_wise(prefix, pa.array(cells).cast(TEXT), nothing)
