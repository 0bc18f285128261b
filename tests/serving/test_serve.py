"""What the page tells of runs: whole values of a planted run, curves that grow, faults, SLURM."""

import json
import subprocess
import sys

import pytest
from site_server import serve

from lenshpc.files import write_json
from lenshpc.launch.jobs import JobRecord, record
from lenshpc.serving.chart import choose_ticks, draw_spark
from lenshpc.serving.scheduler import Scheduler


def line_of(run, **changes):
    """Return what the list tells of the planted run, whose metrics synthetic_run.py draws."""
    mean = [1 - 0.3 * 0.7**epoch - 0.01 for epoch in range(4)]  # of the folds 0, 1 and 2
    told = {
        "run": run.paths.name,
        "dataset": "lens_finding",
        "task": "lens-finding",
        "strategy": "single",
        "states": {"DONE": 6},
        "report": "NOT SUBMITTED",
        "headline": "",
        "verdict": "",
        "gpu_hours": round(6 * round(192 / 3600, 4), 4),
        "unit": "process",
        "submitted": "",
        "fault": "",
        "silence": "",
        "epochs_done": 90,
        "epochs": 90,
        "monitor": "auc",
        "mean": [pytest.approx(value) for value in mean],
    }
    return told | changes


def send(run, job_id="8"):
    """Note that job 8 has the members 1 to 5, which are not done."""
    run.paths.slurm.mkdir()
    for member in run.plan.members[1:]:
        run.paths.member(member.name).done.unlink()
    job = JobRecord(
        job_id=job_id,
        token="t",  # noqa: S106 - a job's name
        scheduler="slurm",
        site="big",
        members=(1, 2, 3, 4, 5),
        submitted="2026-01-02T03:04:05+00:00",
    )
    record(run.paths, job)


@pytest.fixture
def tools(tmp_path, monkeypatch):
    """Stand in for squeue, which counts its calls in the file that is returned, and for sacct."""
    folder, calls = tmp_path / "bin", tmp_path / "calls"
    folder.mkdir()
    texts = {"squeue": f"echo squeue >> {calls}\necho '8_0|RUNNING|gpu3|None'", "sacct": "exit 0"}
    for name, text in texts.items():
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return calls


def test_list_tells_each_run(served, run):
    told = {"runs": [line_of(run)], "studies": [], "asked": ""}
    assert served.read("/api/runs") == told


def test_run_tells_members_curves_and_pages(served, run):
    (run.paths.report / "figures").mkdir(parents=True)
    (run.paths.report / "report.html").write_text("<p>fine</p>")
    write_json(
        run.paths.report / "report.json", {"in_short": "AUC 0.9", "verdict": {"colour": "amber"}}
    )
    other = run.paths.root / "report-stacking"
    other.mkdir()
    (other / "report.html").write_text("<p>better</p>")
    told = served.read(f"/api/run/{run.paths.name}")
    curves, status = told.pop("curves"), told.pop("status")
    name = run.paths.name
    assert told == {
        **line_of(run, report="DONE", headline="AUC 0.9", verdict="amber"),
        "pages": [f"{name}/report/report.html", f"{name}/report-stacking/report.html"],
        "asked": "",
    }
    assert [(one["index"], one["state"]) for one in status["members"]] == [
        (index, "DONE") for index in range(6)
    ]
    assert curves[1] == {
        "member": 1,
        "monitor": "auc",
        "epoch": [1, 2, 3, 4],
        "train_loss": [0.7 * 0.8**epoch for epoch in range(4)],
        "val": [1 - 0.3 * 0.7**epoch - 0.01 for epoch in range(4)],
    }
    page = served.ask(f"/run/{name}")[2].decode()
    assert page.count("<polyline class=") == 12  # a member in each of two charts
    assert f'<a href="/file/{name}/report-stacking/report.html">' in page


def test_curves_grow_with_the_files(served, run):
    first = run.plan.members[0]
    paths = run.paths.member(first.name)
    paths.done.unlink()
    lines = paths.metrics.read_text().splitlines(keepends=True)
    paths.metrics.write_text(lines[0])
    address = f"/api/run/{run.paths.name}"
    assert served.read(address)["curves"][0]["epoch"] == [1]
    before = served.ask(f"/run/{run.paths.name}")[2]
    again = json.dumps(json.loads(lines[0]) | {"epoch": 0.0}) + "\n"  # as one that went on has it
    paths.metrics.write_text(again + lines[1] + lines[2][:9])  # the last one is half written
    assert served.read(address)["curves"][0]["epoch"] == [1, 2]
    assert served.ask(f"/run/{run.paths.name}")[2] != before


def test_page_that_has_not_changed_is_not_sent_again(served, run):
    status, headers, _ = served.ask("/")
    again = served.ask("/", headers={"If-None-Match": headers["Etag"]})
    assert (status, again[0], again[2]) == (200, 304, b"")


def test_reading_while_a_member_writes_never_fails(served, run):
    """A line comes in pieces, each flushed, as a slow or a killed writer leaves it."""
    member = run.plan.members[2]
    paths = run.paths.member(member.name)
    paths.done.unlink()
    whole, size = paths.metrics.read_bytes() * 4, 29
    paths.metrics.write_bytes(b"")
    with paths.metrics.open("ab", buffering=0) as stream:
        for at in range(0, len(whole), size):
            stream.write(whole[at : at + size])
            told = served.read(f"/api/run/{run.paths.name}")
            num_whole = whole[: at + size].count(b"\n")
            # A line is one once it is whole, be its end there or not.
            assert len(told["curves"][2]["epoch"]) in {num_whole, num_whole + 1}
            assert told["fault"] == ""
    assert len(told["curves"][2]["epoch"]) == 16


def test_run_that_cannot_be_read_stops_no_other(served, run, tmp_path):
    runs = run.paths.root.parent
    name = "<img src=x onerror=alert(1)>\x1b[31m"
    (runs / name).mkdir()
    (runs / name / "plan.json").write_text("{")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "plan.json").write_text("{}")
    (runs / "link").symlink_to(tmp_path / "elsewhere")
    lines = {one["run"]: one for one in served.read("/api/runs")["runs"]}
    assert lines.pop(run.paths.name) == line_of(run)
    assert lines[name]["fault"].startswith(f"{runs / name / 'plan.json'} is damaged")
    assert lines["elsewhere"]["fault"] == (
        f"it is a link to {tmp_path / 'elsewhere'}, which this page does not follow"
    )
    page = served.ask("/")[2].decode()
    assert "&lt;img src=x onerror=alert(1)&gt;\\x1b[31m</a>" in page
    assert "<img" not in page
    assert "\x1b" not in page
    assert served.ask(f"/run/{run.paths.name}")[0] == 200


def test_study_shows_its_trials_and_what_its_file_tells(served, run):
    study = run.paths.root.parent / "lens-tune-0badcafe"
    (study / "trials").mkdir(parents=True)
    write_json(
        study / "study.json", {"a": "<b>tpe</b>", "recipe": {"search": {"seed": 1}, "then": None}}
    )
    (study / "report").mkdir()
    for name in ("report.html", "best.yaml", "trials.json"):
        (study / "report" / name).write_text("x")
    run.paths.root.rename(study / "trials" / run.paths.name)
    told = served.read("/api/runs")
    assert told == {
        "runs": [],
        "studies": [
            {
                "name": "lens-tune-0badcafe",
                "num_trials": 1,
                "pages": [
                    "lens-tune-0badcafe/report/best.yaml",
                    "lens-tune-0badcafe/report/report.html",
                ],
                "facts": [["recipe.search.seed", "1"], ["a", "<b>tpe</b>"]],
                "fault": "",
            }
        ],
        "asked": "",
    }
    page = served.ask("/study/lens-tune-0badcafe")[2].decode()
    assert "&lt;b&gt;tpe&lt;/b&gt;" in page
    assert f'href="/run/lens-tune-0badcafe/trials/{run.paths.name}"' in page
    trial = served.read(f"/api/run/lens-tune-0badcafe/trials/{run.paths.name}")
    assert trial["states"] == {"DONE": 6}


@pytest.mark.parametrize("path", ["/run/none", "/study/none", "/run/a/trials/b", "/none", "/api/x"])
def test_address_of_nothing_is_404(served, path):
    assert served.ask(path)[0] == 404


def test_folder_that_goes_away_is_told(served, run, tmp_path):
    run.paths.root.parent.rename(tmp_path / "gone")
    status, _, body = served.ask("/api/runs")
    assert status == 503
    assert json.loads(body)["error"].startswith("no folder ")
    assert served.ask("/")[0] == 503


def test_slurm_is_asked_once_in_a_while(run, tools):
    send(run)
    with serve(run.paths.root.parent) as served:
        states = [served.read("/api/runs")["runs"][0]["states"] for _ in range(5)]
    assert states == [{"DONE": 1, "RUNNING": 1, "FAILED": 4}] * 5
    assert tools.read_text() == "squeue\n"


def test_jobs_that_slurm_was_not_asked_for_are_not_taken_for_ended(run, tools):
    scheduler = Scheduler()
    send(run)
    with serve(run.paths.root.parent, scheduler) as served:
        served.read("/api/runs")
        job = JobRecord(
            job_id="11", scheduler="slurm", site="big", members=(4,), submitted="2026-01-02"
        )
        record(run.paths, job)
        told = served.read(f"/api/run/{run.paths.name}")["status"]
    assert [one["state"] for one in told["members"]] == [
        *("DONE", "RUNNING", "UNKNOWN", "UNKNOWN", "UNKNOWN", "UNKNOWN")
    ]
    assert told["silence"] == "jobs were submitted after SLURM was asked"
    assert tools.read_text() == "squeue\n"


def test_run_that_is_over_costs_no_query(run, tools):
    send(run)
    for index in range(1, 6):
        run.finish(index, run.predictions(index))
    with serve(run.paths.root.parent, Scheduler(every_s=0.0)) as served:
        for _ in range(4):
            assert served.read("/api/runs")["runs"][0]["states"] == {"DONE": 6}
    assert tools.read_text() == "squeue\n"


def test_nothing_is_written(run, tools):
    """Nor is a submission settled that was stopped: `status` does that."""
    send(run, job_id="")
    root = run.paths.root.parent
    before = {path: path.lstat().st_mtime_ns for path in root.rglob("*")}
    with serve(root) as served:
        told = served.read(f"/api/run/{run.paths.name}")["status"]
        served.ask("/")
        served.ask(f"/run/{run.paths.name}")
    assert {path: path.lstat().st_mtime_ns for path in root.rglob("*")} == before
    assert [one["state"] for one in told["members"]] == ["DONE"] + ["UNKNOWN"] * 5
    assert told["silence"] == "a command is sending its jobs, or was stopped while it did"


@pytest.mark.parametrize(
    ("values", "ticks"),
    [
        ([], (0.0, 0.25, 4)),
        ([0.7, 0.35], (0.3, 0.1, 4)),
        ([1.0], (0.9, 0.05, 4)),
        ([0.0], (-1.0, 0.5, 4)),
        ([-1e99, 1e99], (-1e99, 5e98, 4)),
        ([1e-300, 2e-300], (0.0, 1e-100, 1)),
    ],
)
def test_ticks_are_round_and_cover_the_values(values, ticks):
    low, step, num = choose_ticks(values)
    assert (low, step, num) == (pytest.approx(ticks[0]), pytest.approx(ticks[1]), ticks[2])


def test_spark_goes_from_the_lowest_to_the_highest():
    assert draw_spark([1.0, None, 3.0]) == "0.00,100.00 100.00,0.00"
    assert draw_spark([5.0]) == "0.00,50.00 0.00,50.00"  # a line of no length, drawn as a dot
    assert draw_spark([]) == ""


def test_nothing_imports_torch(served, run):
    """In a process of its own, since the tests before have imported it."""
    code = (
        "import sys; from pathlib import Path; from lenshpc.serving.pages import draw_folder; "
        "from lenshpc.serving.folder import RunsFolder; "
        "from lenshpc.serving.scheduler import Scheduler; import lenshpc.serving.server; "
        "draw_folder(RunsFolder(Path('runs'), Scheduler())); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
