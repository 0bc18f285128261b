"""The report says on what each member ran, and how it computed."""

import pytest

from lenshpc.report.common import _members

MEMBER = {
    "index": 0,
    "model": "resnet18",
    "fold": 1,
    "seed": 2,
    "best_epoch": 3,
    "epochs": 4,
    "seconds": 61.0,
    "num_processes": 2,
    "device": "NVIDIA A100-SXM4-80GB",
    "strategy": "ddp",
    "adopted": None,
}


@pytest.mark.parametrize(
    ("facts", "told"),
    [
        # a member of a version that noted no more
        ({"precision": None, "tf32": None, "deterministic": None}, ""),
        ({"precision": "fp32", "tf32": True, "deterministic": False}, ", fp32 in TF32"),
        ({"precision": "fp32", "tf32": False, "deterministic": True}, ", fp32, deterministic"),
        ({"precision": "bf16", "tf32": True, "deterministic": False}, ", bf16"),
    ],
)
def test_table_says_how_a_member_computed(facts: dict, told: str) -> None:
    [row] = _members([{**MEMBER, **facts}]).rows
    assert row.cells[-1] == f"2 × NVIDIA A100-SXM4-80GB, ddp{told}"
