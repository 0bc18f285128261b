"""The table of `lenshpc status`: a line a member, unless very many are in one state."""

from rich.console import Console

from lenshpc.cli.watch import table
from lenshpc.launch.states import MemberStatus, RunStatus


def lines(*members: MemberStatus) -> list[list[str]]:
    """Return the words of each line of the table."""
    console = Console(width=200)
    with console.capture() as captured:
        console.print(table(RunStatus(run="r", members=members, report="PENDING", report_job="9")))
    return [line.split() for line in captured.get().splitlines()[2:]]


def member(index: int, state: str, **facts: object) -> MemberStatus:
    return MemberStatus(
        index=index, name=f"m{index}", state=state, job=f"8_{index}", epochs=5, **facts
    )


def test_table_has_a_line_for_each_member_and_the_report() -> None:
    done = member(0, "DONE", epoch=5, best_metric=0.5, gpu_hours=2.0, node="gpu1")
    assert lines(done, member(1, "FAILED", reason="no [store]")) == [
        ["m0", "DONE", "5/5", "0.5000", "2.00", "8_0", "gpu1"],
        ["m1", "FAILED", "0/5", "0.00", "8_1", "no", "[store]"],
        ["report", "PENDING", "9"],
    ]


def test_table_tells_a_crowd_in_one_line() -> None:
    done = [member(at, "DONE", gpu_hours=0.5) for at in range(100)]
    waiting = [member(at, "PENDING", reason="(Priority)") for at in range(100, 201)]
    told = lines(*done, *waiting)
    assert len(told) == 102
    assert told[-2:] == [
        ["101", "members", "PENDING", "0.00", "(Priority)"],
        ["report", "PENDING", "9"],
    ]
    more = lines(*done, member(201, "DONE", gpu_hours=0.25), *waiting)
    assert more[0] == ["101", "members", "DONE", "50.25"]
