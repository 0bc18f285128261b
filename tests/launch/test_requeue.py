"""What is decided after an attempt has ended, from the events of its job alone."""

import signal
from pathlib import Path

import pytest

from lenshpc.launch.requeue import RequeueDecision, decide, main
from lenshpc.launch.sites import Site
from lenshpc.run.attempts import Attempts, Event, read_events
from lenshpc.run.sections import Requeues
from lenshpc.store import Store

BUDGETS = Requeues(timeout=2, preemption=3, crash=1)


def event(what: str, restart: int = 0, **facts: object) -> Event:
    return Event(what=what, restart=restart, time=0.0, **facts)


def attempt(restart: int, *places: tuple[int, int], cause: str | None = None) -> list[Event]:
    """Return the events of an attempt that saved at these places, and was then told to stop."""
    saved = [event("saved", restart, epoch=epoch, step=step) for epoch, step in places]
    stopped = [event("stopped", restart, cause=cause)] if cause else []
    return [event("started", restart), *saved, *stopped]


def requeued(restart: int, cause: str) -> Event:
    return event("requeued", restart, cause=cause)


def decided(events: list[Event], restart: int = 0, exit_code: int = 75) -> RequeueDecision:
    return decide(events, restart=restart, exit_code=exit_code, budgets=BUDGETS)


@pytest.mark.parametrize(
    ("cause", "allowed"), [("timeout", 2), ("preemption", 3)], ids=["timeout", "preemption"]
)
def test_attempt_that_was_stopped_is_requeued_within_its_budget(cause: str, allowed: int) -> None:
    assert decided(attempt(0, (0, 0), (0, 7), cause=cause)) == RequeueDecision(
        requeue=True, cause=cause, reason=f"{cause}, requeue 1 of at most {allowed}"
    )


def test_attempt_that_died_is_a_crash() -> None:
    assert decided(attempt(0, (0, 0)), exit_code=137) == RequeueDecision(
        requeue=True, cause="crash", reason="crash, requeue 1 of at most 1"
    )


def test_failure_that_would_come_again_is_not_repeated() -> None:
    log = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB"
    decision = decide(attempt(0, (0, 0)), restart=0, exit_code=1, budgets=BUDGETS, logs=[log])
    assert not decision.requeue
    assert decision.reason.startswith(f"GPU OUT OF MEMORY: {log}; submit with a smaller ")


def test_attempt_that_a_later_one_has_replaced_is_not_sent_again() -> None:
    assert decided([*attempt(0, (0, 0)), *attempt(1, (0, 0))], exit_code=137) == RequeueDecision(
        requeue=False,
        cause="crash",
        reason="a later attempt is under way: this one's node was given up for lost",
    )


@pytest.mark.parametrize("number", [signal.SIGUSR2, signal.SIGTERM])
def test_process_that_died_of_the_early_signal_is_no_crash(number: int) -> None:
    assert decided([], exit_code=128 + number).cause == "preemption"


def test_budget_that_is_used_up_ends_the_job() -> None:
    events = [*attempt(0, (0, 0)), requeued(0, "crash"), *attempt(1, (0, 0), (1, 0))]
    assert decided(events, restart=1, exit_code=137) == RequeueDecision(
        requeue=False,
        cause="crash",
        reason="crash for the 2. time; resources.max_requeues.crash is 1",
    )


def test_budgets_are_counted_apart() -> None:
    events = [
        *attempt(0, (0, 0), (0, 5)),
        requeued(0, "crash"),
        *attempt(1, (0, 5), (1, 0), cause="timeout"),
        requeued(1, "timeout"),
        *attempt(2, (1, 0), (1, 1), cause="preemption"),
    ]
    assert decided(events, restart=2).reason == "preemption, requeue 1 of at most 3"


@pytest.mark.parametrize("saved", [[(1, 4)], [(1, 4), (1, 4)], []])
def test_restart_without_progress_ends_the_job(saved: list[tuple[int, int]]) -> None:
    events = [*attempt(0, (0, 0), (1, 4), cause="timeout"), requeued(0, "timeout")]
    decision = decided([*events, *attempt(1, *saved, cause="timeout")], restart=1)
    epoch, step = saved[-1] if saved else (0, 0)
    assert decision == RequeueDecision(
        requeue=False,
        cause="timeout",
        reason=f"timeout, and no progress since the restart at epoch {epoch} step {step}",
    )


def test_error_that_would_come_again_is_not_repeated() -> None:
    events = [*attempt(0, (0, 0)), event("failed", cause="error", reason="no store at /data")]
    assert decided(events, exit_code=1) == RequeueDecision(
        requeue=False, cause="error", reason="no store at /data"
    )


def test_error_that_is_the_nodes_is_tried_on_another_one() -> None:
    told = "node gpu3 does not see /data, which was there when the job was submitted"
    events = [*attempt(0, (0, 0)), event("failed", cause="error", reason=told)]
    log = f"lenshpc.errors.DataError: {told}"
    assert decide(events, restart=0, exit_code=1, budgets=BUDGETS, logs=[log]).requeue
    again = [*events, requeued(0, "crash"), event("failed", 1, cause="error", reason=told)]
    decision = decide(again, restart=1, exit_code=1, budgets=BUDGETS, logs=[log])
    assert decision.reason == "crash, and no progress since the restart at epoch 0 step 0"


def test_decision_is_recorded_told_and_read_with_the_budgets_of_the_plan(
    spots: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from ranks import planned, recipe

    asked = recipe(resources={"max_requeues": {"crash": 1}})
    run, _ = planned(tmp_path, spots, asked)
    run.slurm.mkdir(exist_ok=True)
    Attempts(run.attempts("7_1"), 0).append("saved", place=(2, 0))
    assert main(str(run.root), "7_1", "0", "137", "scontrol") == 0
    Attempts(run.attempts("7_1"), 1).append("saved", place=(3, 0))
    Attempts(run.attempts("7_1"), 1).append("saved", place=(4, 0))
    assert main(str(run.root), "7_1", "1", "137", "scontrol") == 1
    assert capsys.readouterr().err == (
        "lenshpc: job 7_1 is requeued: crash, requeue 1 of at most 1\n"
        "lenshpc: job 7_1 is not requeued: "
        "crash for the 2. time; resources.max_requeues.crash is 1\n"
    )
    events = read_events(run.attempts("7_1"))
    assert [(e.what, e.restart, e.place) for e in events] == [
        ("saved", 0, (2, 0)),
        ("requeued", 0, (0, 0)),
        ("saved", 1, (3, 0)),
        ("saved", 1, (4, 0)),
        ("ended", 1, (0, 0)),
    ]


def test_node_at_fault_is_noted_and_avoided_by_the_job_that_comes_back(
    spots: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ranks import planned, recipe

    run, _ = planned(tmp_path, spots, recipe())
    run.slurm.mkdir(exist_ok=True)
    site = Site(name="big", scheduler="slurm", sbatch={"exclude": "gpu1"})
    run.site.write_text(site.model_dump_json())
    monkeypatch.setenv("SLURM_JOB_NODELIST", "gpu7")
    (run.slurm / "7_1_0_log.out").write_text("started\n")
    assert main(str(run.root), "7_1", "0", "137", "scontrol") == 0
    assert "ExcNodeList" not in run.next("7_1").read_text(), "a kill is nobody's fault"
    (run.slurm / "7_2_0_log.out").write_text("CUDA error: uncorrectable ECC error encountered\n")
    for number in range(2):
        assert main(str(run.root), "7_2", str(number), "1", "scontrol") == number
    assert run.next("7_2").read_text() == (
        f"scontrol requeue 7_2 || echo 'lenshpc: send it again with: lenshpc resume {run.root}'\n"
        "scontrol update JobId=7_2 ExcNodeList=gpu1,gpu7\n"
    )
    assert run.excluded.read_text() == '\n{"node":"gpu7","failure":"GPU FAULT","job":"7_2"}\n'
    events = read_events(run.attempts("7_2"))
    assert {(event.failure, event.node, event.tail) for event in events} == {
        ("GPU FAULT", "gpu7", ("CUDA error: uncorrectable ECC error encountered",))
    }


def test_half_a_line_of_a_killed_writer_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "7_attempts.jsonl"
    Attempts(path, 0).append("started")
    whole = read_events(path)
    with path.open("a") as stream:
        stream.write('{"what":"sav')
    assert read_events(path) == whole
    Attempts(path, 1).append("started")
    assert [(event.what, event.restart) for event in read_events(path)] == [
        ("started", 0),
        ("started", 1),
    ]
