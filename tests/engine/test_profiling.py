"""A trace of ten steps lies with the member, which is the same with it and without."""

import gzip
import json
from pathlib import Path

import pytest
from ranks import planned, recipe

from lenshpc.engine import profiling
from lenshpc.engine.member import run_member
from lenshpc.engine.signals import Signals
from lenshpc.files import read_json
from lenshpc.run.completion import is_done
from lenshpc.run.paths import MemberPaths
from lenshpc.store import Store


def trained(folder: Path, store: Store, **changes: object) -> MemberPaths:
    """Return the files of a member that was trained for a while."""
    run, plan = planned(folder, store, recipe(**{"train__batch_size": 8, **changes}))
    run_member(run, 0, Signals())
    assert is_done(run, plan, plan.members[0], verify=True)
    return run.member(plan.members[0].name)


@pytest.mark.parametrize("num", [1, pytest.param(10, marks=pytest.mark.slow)])
def test_trace_has_its_steps_and_changes_nothing(
    spots: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num: int
) -> None:
    assert profiling.STEPS == 10
    monkeypatch.setattr(profiling, "STEPS", num)  # a step's table takes a second
    plain = trained(tmp_path / "plain", spots, train__epochs=3)
    traced = trained(tmp_path / "traced", spots, train__epochs=3, train__profile=True)
    trace = json.loads(gzip.decompress((traced.profile / "trace.json.gz").read_bytes()))
    steps = {
        event["name"]
        for event in trace["traceEvents"]
        if event.get("cat") == "user_annotation" and event["name"].startswith("ProfilerStep#")
    }
    assert steps == {f"ProfilerStep#{number}" for number in range(5, 5 + num)}
    table = (traced.profile / "operations.txt").read_text()
    assert "aten::convolution" in table
    assert sorted(path.name for path in traced.profile.iterdir()) == [
        "operations.txt",
        "trace.json.gz",
    ]
    assert not plain.profile.exists()
    assert traced.root.name == plain.root.name
    hashes = [read_json(paths.done)["files"] for paths in (plain, traced)]
    for one in hashes:  # it has the times of the epochs
        del one["metrics.jsonl"]
    assert hashes[0] == hashes[1]


def test_training_of_fewer_steps_has_no_trace(spots: Store, tmp_path: Path) -> None:
    short = trained(tmp_path, spots, train__epochs=1, train__batch_size=32, train__profile=True)
    assert not short.profile.exists()
