"""A batch is prepared ahead; on a CPU without a stream, which changes nothing else."""

import pytest
import torch

from lenshpc.data.prefetch import prepare_ahead
from lenshpc.errors import DataError

CPU = torch.device("cpu")


def test_batches_come_in_order_each_after_the_next_was_asked_for():
    made = []

    def batches():
        for number in range(4):
            made.append(number)
            yield {"row": torch.tensor([number])}

    seen = [(batch["row"].item(), len(made)) for batch in prepare_ahead(batches(), CPU)]
    assert seen == [(0, 2), (1, 3), (2, 4), (3, 4)]


def test_no_batches_are_none():
    assert list(prepare_ahead(iter([]), CPU)) == []


def test_what_fails_ahead_is_raised():
    def batches():
        yield {"row": torch.tensor([0])}
        raise DataError("row 1 is damaged")

    with pytest.raises(DataError, match="row 1 is damaged"):
        list(prepare_ahead(batches(), CPU))
