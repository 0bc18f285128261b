"""What a judgement reads of a run's members."""

import pandas as pd

from lenshpc.report.content import Column, Row, Table
from lenshpc.run.results import gather


def test_predictions_are_those_of_all_members_with_their_models(run):
    found = gather(run.paths, run.plan, {}, allow_partial=False).predictions()
    written = [
        pd.read_parquet(run.paths.member(one.name).predictions).assign(model=one.model)
        for one in run.plan.members
    ]
    order = ["model", "row", "logp_0"]
    expected = pd.concat(written).sort_values(order, ignore_index=True)
    ordered = found.sort_values(order, ignore_index=True)
    pd.testing.assert_frame_equal(ordered[list(expected)], expected)


def test_plain_table_has_a_column_a_title_and_a_row_a_line():
    assert Table.of(["Model", "Error"], [["a", "0.1"], ["b", "0.2"]]) == Table(
        columns=(Column(title="Model"), Column(title="Error")),
        rows=(Row(cells=("a", "0.1")), Row(cells=("b", "0.2"))),
    )
