"""A run with one damaged file: it is said in its line, and no other run is any the worse."""

import json
import os
import shutil
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from test_main import called

from lenshpc.errors import DataError
from lenshpc.launch.jobs import JobRecord, records
from lenshpc.launch.local import Queue
from lenshpc.launch.sites import Site
from lenshpc.run.paths import RunPaths

DAMAGE = {
    "empty": b"",
    "list": b"[]",
    "null": b"null",
    "mapping": b"{}",
    "text": b'"text"',
    "bytes": b"\x80\xff\x00PK",
    "cut": b'{"pid": 1, "states": {"0"',
    "deep": b"[" * 100_000,
    "digits": b'{"pid": ' + b"9" * 5000 + b"}",
}
JOB = JobRecord(job_id="1", scheduler="local", site="local", members=(0,), submitted="now")


@pytest.fixture
def two(run):
    """Return a run that was sent to this machine's queue, beside a whole one."""
    whole = run.paths.root.with_name("whole")
    shutil.copytree(run.paths.root, whole)
    run.paths.slurm.mkdir()
    run.paths.site.write_text(Site(name="local", scheduler="local").model_dump_json())
    run.paths.jobs.write_text(f"\n{JOB.model_dump_json()}\n")
    (run.paths.slurm / "queue.json").write_text(Queue(states={0: "FAILED"}).model_dump_json())
    run.paths.provenance.write_text('{"submission 1": {}}')
    return run


def listed(two):
    """Return the lines of `lenshpc list` for the damaged run and for the whole one."""
    code, out, err = called("list", "--json")
    assert code == 0, err
    lines = {line["run"]: line for line in json.loads(out)}
    whole = lines.pop("whole")
    assert (whole["states"], whole["fault"]) == ({"DONE": 6}, "")
    (line,) = lines.values()
    return line


def in_one_line(*arguments):
    """Return code and talk of a command that may fail, but only in one line."""
    code, _, err = called(*arguments)
    assert code in {0, 1, 2}
    assert "Traceback" not in err
    if code:
        assert err.splitlines()[-1].startswith("lenshpc: ")
    return code, err


@pytest.mark.parametrize(
    ("name", "sound"), [("slurm/queue.json", {"mapping"}), ("slurm/jobs.jsonl", {"empty", "cut"})]
)
def test_damaged_record_of_jobs_is_named_in_the_runs_line(name, sound, two):
    path = two.paths.root / name
    for kind, content in DAMAGE.items():
        path.write_bytes(content)
        named = listed(two)["fault"].startswith(f"{path} is damaged: ")
        assert named == (kind not in sound), kind
        for verb in ("status", "logs", "cancel"):
            code, err = in_one_line(verb, two.paths.name)
            assert kind in sound or (code, f"{path} is damaged: " in err) == (2, True)


def test_damaged_plan_is_named_in_the_runs_line(two):
    for content in DAMAGE.values():
        two.paths.plan.write_bytes(content)
        fault = listed(two)["fault"]
        assert str(two.paths.plan) in fault
        for verb in ("status", "logs", "cancel", "resume", "aggregate", "clean"):
            code, err = in_one_line(verb, two.paths.name)
            assert (code, str(two.paths.plan) in err) == (2, True)
    assert called("list")[::2] == (0, f"{two.paths.name}: {fault}\n")
    assert called("clean")[2].startswith(f"left alone: {two.paths.name}: {fault}\n")


def test_folder_in_place_of_a_file_is_named(two):
    path = two.paths.root / "slurm" / "queue.json"
    path.unlink()
    path.mkdir()
    assert listed(two)["fault"] == f"{path} is damaged: it is not a file; restore it"


def test_pipe_in_place_of_a_file_keeps_nobody_waiting(two):
    two.paths.jobs.unlink()
    os.mkfifo(two.paths.jobs)
    assert listed(two)["fault"] == f"{two.paths.jobs} is damaged: it is not a file; restore it"


@pytest.mark.parametrize(
    ("name", "sound"),
    [
        ("done.json", set()),
        ("state.json", {"mapping"}),
        ("metrics.jsonl", {"empty", "mapping", "cut"}),
    ],
)
def test_damaged_word_of_a_member_is_told_and_stops_nothing(name, sound, two):
    member = two.paths.member(two.plan.members[0].name)
    if name != "done.json":
        member.done.unlink()
    for kind, content in DAMAGE.items():
        (member.root / name).write_bytes(content)
        line = listed(two)
        assert line["states"] == {"FAILED": 1, "DONE": 5}
        assert (name in line["fault"]) == (kind not in sound), kind
        status = json.loads(called("status", two.paths.name, "--json", "--usage")[1])
        assert bool(status["members"][0]["fault"]) == (kind not in sound)
    assert in_one_line("aggregate", two.paths.name)[0] == 1


@pytest.mark.parametrize("name", ["slurm/site.json", "provenance.json"])
def test_damaged_file_of_a_submission_is_named_where_it_is_read(name, two):
    path = two.paths.root / name
    for kind in DAMAGE.keys() - {"mapping"}:
        path.write_bytes(DAMAGE[kind])
        assert listed(two)["fault"] == ""
        code, err = in_one_line("resume", two.paths.name)
        assert code == 2
        assert err.startswith(f"lenshpc: {path} is damaged: ")


def test_damaged_list_of_nodes_is_named(two):
    two.paths.excluded.write_text('{"node": "$(reboot)"}\n')
    two.paths.site.write_text(Site(name="far", scheduler="slurm").model_dump_json())
    two.paths.jobs.unlink()
    two.paths.member(two.plan.members[0].name).done.unlink()
    code, err = in_one_line("resume", two.paths.name)
    assert (code, str(two.paths.excluded) in err) == (2, True)


def test_line_that_a_kill_cut_off_is_passed_over(two):
    whole = f"\n{JOB.model_dump_json()}\n".encode()
    for end in range(len(whole)):
        two.paths.jobs.write_bytes(whole[:end] + whole)
        cut_in_the_end = whole[:end].endswith(b"}")  # all but its new line
        assert records(two.paths)[-1:] == [JOB]
        assert len(records(two.paths)) == (2 if cut_in_the_end else 1), whole[:end]
        two.paths.jobs.write_bytes(whole + whole[:end])
        assert records(two.paths)[0] == JOB


def test_one_flipped_bit_never_takes_a_job_out_of_the_record(two):
    whole = f"\n{JOB.model_dump_json()}\n".encode()
    for place in range(len(whole)):
        for bit in (0, 2, 5):
            flipped = bytearray(whole)
            flipped[place] ^= 1 << bit
            two.paths.jobs.write_bytes(flipped + whole)
            with suppress(DataError):
                assert len(records(two.paths)) == 2, flipped


@contextmanager
def as_nobody():
    """Be a user who owns nothing; the rest of the process is root's."""
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.skipif(os.geteuid() != 0, reason="root alone can be another user")
def test_run_of_another_user_is_told_and_the_others_stand(two, monkeypatch):
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        runs = Path(folder, "runs")
        shutil.copytree(two.paths.root.parent, runs)
        for path in [runs, *runs.rglob("*")]:
            path.chmod(0o755)
        hidden = runs / two.paths.name
        hidden.chmod(0o700)
        monkeypatch.chdir(folder)
        with as_nobody():
            line = listed(two)
            told = in_one_line("status", two.paths.name)
    assert line["fault"].startswith(f"{hidden / 'plan.json'} cannot be read")
    assert told[0] == 2
    assert RunPaths(hidden).name in told[1]
