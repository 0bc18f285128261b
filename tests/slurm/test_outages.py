"""The controller, the accounting or the disk fails under a run: it ends with the same bits."""

import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from spot_runs import PAIR, output, release, submitted, wait_for

pytestmark = pytest.mark.slow

ACCOUNTING_OUTAGE_S = 60


def test_members_that_end_while_the_controller_is_down_are_reported_when_it_is_back(
    cluster, spots, tmp_path, undisturbed
) -> None:
    calm = undisturbed(PAIR)
    sent = submitted(tmp_path, spots, PAIR)
    jobs = [sent.job(index) for index in range(2)]
    held = [sent.held(job) for job in jobs]
    cluster.run("ctld-stop")
    for process in held:
        release(process)
    wait_for(lambda: all(sent.member(index).done.is_file() for index in range(2)))
    cluster.run("ctld-start")
    sent.wait_for_end()
    for index, job in enumerate(jobs):
        sent.assert_nothing_was_trained_twice(index, job)
    assert sent.predictions() == calm


def test_run_goes_from_its_start_to_its_report_without_accounting(
    cluster, spots, tmp_path, undisturbed
) -> None:
    calm = undisturbed(PAIR)
    cluster.run("dbd-stop")
    began = time.monotonic()
    sent = submitted(tmp_path, spots, PAIR)
    jobs = [sent.job(index) for index in range(2)]
    sent.wait_for_end()
    time.sleep(max(0, began + ACCOUNTING_OUTAGE_S - time.monotonic()))
    cluster.run("dbd-start")
    for index, job in enumerate(jobs):
        sent.assert_nothing_was_trained_twice(index, job)
    assert sent.predictions() == calm
    assert sent.resumed() == []


@pytest.fixture
def small_disk(cluster, tmp_path: Path) -> Iterator[Path]:
    """Return a folder of a file system of 64 MB, which all nodes see."""
    folder = tmp_path / "disk"
    folder.mkdir()
    output(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(folder)])
    yield folder
    cluster.run("reset")
    output(["umount", "--lazy", str(folder)])


def fill(path: Path) -> None:
    """Write a file until its file system is full."""
    with suppress(OSError), path.open("wb", buffering=0) as stream:
        while True:
            stream.write(bytes(4096))


def test_members_that_find_the_disk_full_say_so_and_go_on_once_there_is_room(
    cluster, spots, small_disk: Path, undisturbed
) -> None:
    calm = undisturbed(PAIR)
    sent = submitted(small_disk, spots, PAIR)
    jobs = [sent.job(index) for index in range(2)]
    held = [sent.held(job) for job in jobs]
    ballast = small_disk / "ballast"
    fill(ballast)
    for process in held:
        release(process)
    wait_for(lambda: not sent.queued())
    assert [line["state"] for line in sent.status()["members"]] == ["FAILED", "FAILED"]
    assert all("DISK FULL" in sent.events(job)[-1].reason for job in jobs)
    ballast.unlink()
    assert sent.resumed() == [0, 1]
    sent.wait_for_end()
    for index, job in enumerate(jobs):
        sent.assert_nothing_was_trained_twice(index, job, sent.job(index))
    assert sent.predictions() == calm
