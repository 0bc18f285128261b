"""Parts with arrays: whole by what the request names, whatever else lies in the folder."""

import numpy as np
import pandas as pd
import pytest

from lenshpc.files import write_sealed
from lenshpc.inference.outputs import REQUEST, PredictionRequest, Predictions


@pytest.fixture
def predictions(tmp_path) -> Predictions:
    """Return a folder of five images in two parts, both written, with an array `sr`."""
    request = PredictionRequest(
        ensemble="0" * 64,
        name="toy",
        weights={},
        code=None,
        is_foreign=False,
        source="images",
        source_digest="1" * 64,
        dataset=None,
        num_rows=5,
        part_rows=4,
        arrays=("sr",),
    )
    (tmp_path / "parts").mkdir()
    write_sealed(tmp_path / REQUEST, request.model_dump(mode="json"))
    made = Predictions(tmp_path)
    for part in range(made.num_parts):
        rows = made.rows(part)
        images = np.ones((len(rows), 1, 3, 3), np.float32) * (part + 1)
        made.write(part, pd.DataFrame({"row": list(rows)}), {"sr": images})
    return made


def test_array_that_another_job_has_half_made_is_no_part_of_any(predictions):
    assert predictions.missing() == []
    draft = predictions.arrays / ".sr.host.1.tmp"
    draft.mkdir()
    (draft / "zarr.json").write_text("{}")
    assert predictions.missing() == []
    rows = predictions.rows(1)
    images = np.full((len(rows), 1, 3, 3), 2, np.float32)
    predictions.write(1, pd.DataFrame({"row": list(rows)}), {"sr": images})
    assert predictions.missing() == []


def test_part_that_lost_its_shard_is_made_again(predictions):
    (shard,) = [one for one in (predictions.arrays / "sr/c/1").rglob("*") if one.is_file()]
    shard.unlink()
    assert predictions.missing() == [1]
