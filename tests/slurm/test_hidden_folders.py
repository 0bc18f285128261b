"""Nodes that do not see a store or a runs folder: a node is told and avoided, or all are told."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from spot_runs import Sent, Work, call, submitted, wait_for

from lenshpc.launch import exclusion

NODES = range(1, 5)
LONE = Work(epochs=2)


@pytest.fixture
def hide(cluster) -> Iterator[Callable[..., None]]:
    """Return a function that puts an empty file system over a folder on some nodes."""
    hidden: list[tuple[int, Path]] = []

    def cover(folder: Path, *nodes: int) -> None:
        for node in nodes:
            cluster.run("shell", node, "mount", "-t", "tmpfs", "tmpfs", folder)
            hidden.append((node, folder))

    yield cover
    for node, folder in hidden:
        cluster.run("shell", node, "umount", "--lazy", folder)


def failure_of(sent: Sent) -> dict:
    [line] = sent.status()["members"]
    assert line["state"] == "FAILED"
    return line["failure"]


def noted(sent: Sent) -> list[tuple[str, str]]:
    """Return failure and node of the lines that were noted."""
    lines = [json.loads(line) for line in sent.run.excluded.read_text().split("\n") if line]
    return [(line["failure"], line["node"]) for line in lines]


def test_member_leaves_a_node_that_does_not_see_the_store(cluster, spots, tmp_path, hide) -> None:
    hide(spots.path, 1)
    sent = submitted(tmp_path, spots, LONE)
    sent.wait_for_end()
    assert noted(sent) == [("NO SHARED FILES", "node1")]
    assert exclusion.nodes(sent.run) == ("node1",)


def test_store_that_no_node_sees_is_named_and_no_node_is_avoided(
    cluster, spots, tmp_path, hide
) -> None:
    hide(spots.path, *NODES)
    sent = submitted(tmp_path, spots, LONE)
    wait_for(lambda: not sent.queued())
    failure = failure_of(sent)
    assert (failure["name"], failure["action"]) == ("NO SHARED FILES", "exclude node")
    node = failure["node"]
    assert f"node {node} does not see {spots.path}, which was there when" in failure["line"]
    assert sorted(noted(sent)) == [("NO SHARED FILES", "node1"), ("NO SHARED FILES", "node2")]
    assert exclusion.nodes(sent.run) == ()


def test_runs_folder_that_no_node_sees_is_named_though_there_is_no_log(
    cluster, spots, tmp_path, hide
) -> None:
    runs = tmp_path / "batch"
    runs.mkdir()
    hide(runs, *NODES)
    sent = submitted(tmp_path, spots, LONE)
    wait_for(lambda: not sent.queued())
    failure = failure_of(sent)
    told = f"node node1 does not see {sent.run.slurm}, or may not write there: no log was begun"
    assert (failure["name"], failure["node"], failure["line"]) == ("NO SHARED FILES", "node1", told)
    done = call(tmp_path, "logs", str(sent.run.root))
    assert done.returncode == 2
    assert (
        f"member 0 has no log: it is FAILED (job {sent.job()} ended FAILED: {told})" in done.stderr
    )
