"""Listing, cleaning, logs and completion, on a run that nobody trained."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console
from test_main import HEAVY, called

from lenshpc.cli.list import render
from lenshpc.cli.show import size_text
from lenshpc.files import read_json, read_sealed, write_json, write_sealed
from lenshpc.launch.local import Queue, queue_path
from lenshpc.launch.runs import RunSummary

LENSHPC = str(Path(sys.executable).with_name("lenshpc"))


@pytest.fixture
def failed(run):
    """Return the run with a local job of member 0 that failed and left a log."""
    run.paths.slurm.mkdir()
    run.paths.member(run.plan.members[0].name).done.unlink()
    queue = Queue(states={0: "FAILED"}, jobs={0: "4711"})
    queue_path(run.paths).write_text(queue.model_dump_json())
    job = {"job_id": "1", "scheduler": "local", "site": "local", "members": [0], "submitted": "now"}
    run.paths.jobs.write_text(json.dumps(job) + "\n")
    (run.paths.slurm / "4711_0_log.out").write_text("first line\nValueError: bad\n")
    return run


def test_list_counts_states(failed):
    code, out, err = called("list", "--json")
    (line,) = json.loads(out)
    assert (code, err, line["run"]) == (0, "", failed.paths.name)
    assert (line["states"], line["report"]) == ({"FAILED": 1, "DONE": 5}, "NOT SUBMITTED")
    files = [path for path in failed.paths.root.rglob("*") if path.is_file()]
    assert line["num_bytes"] == sum(path.stat().st_size for path in files)


def test_run_that_cannot_be_read_stops_no_other_in_the_list(failed, tmp_path):
    plan = read_sealed(failed.paths.plan)
    other = tmp_path / "runs" / "with-plugin"
    other.mkdir()
    write_sealed(other / "plan.json", {**plan, "plugins": {"lens-rings": "1.2"}})
    code, out, err = called("list")
    fault = f"{other} was made with lens-rings 1.2, which is not installed here; install it"
    assert (code, err) == (0, f"with-plugin: {fault}\n")
    assert [line.split()[0] for line in out.splitlines()[1:]] == ["with-plugin", failed.paths.name]
    assert called("status", "with-plugin")[::2] == (2, f"lenshpc: {fault}\n")


def test_list_of_no_runs_says_so(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert called("list") == (0, "", "no runs in runs; name another folder with --runs\n")
    assert called("list", "--json") == (0, "[]\n", "")


def test_clean_passes_over_runs_that_cannot_be_read(failed):
    old = failed.paths.root.with_name("old-0000")
    shutil.copytree(failed.paths.root, old)
    value = read_json(old / "plan.json") | {"code_version": "0.1.0"}
    del value["layout"]
    write_json(old / "plan.json", value)
    code, _, err = called("clean")
    assert (code, err.count("left alone: ")) == (0, 1)
    code, _, err = called("clean", old.name)
    assert (code, err.partition(" was")[0]) == (2, f"lenshpc: {old}")


def test_logs_are_those_of_the_member_that_failed(failed):
    code, out, err = called("logs", failed.paths.name)
    assert (code, out) == (0, "first line\nValueError: bad\n")
    log = failed.paths.slurm / "4711_0_log.out"
    assert err == f"{failed.plan.members[0].name}, FAILED: {log}\n"


def test_logs_of_a_member_without_a_job_say_its_state(failed):
    code, out, err = called("logs", failed.paths.name, "--member", 1)
    assert (code, out) == (2, "")
    assert err == "lenshpc: member 1 has no log: it is DONE\n"


@pytest.mark.parametrize(
    ("member", "told"),
    [
        (["--member", 6], "has members 0 to 5, not 6"),
        (["--member", 10**9], "has members 0 to 5, no"),
    ],
)
@pytest.mark.parametrize("verb", ["logs", "cancel"])
def test_member_that_there_is_not_is_named_with_those_that_there_are(failed, verb, member, told):
    failed.paths.site.write_text('{"name": "local", "scheduler": "local"}')
    code, out, err = called(verb, failed.paths.name, *member)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"lenshpc: run {failed.paths.name} {told}")


def test_logs_are_of_the_rank_that_tells_how_the_member_failed(failed):
    logs = [failed.paths.slurm / f"4711_{rank}_log.out" for rank in range(3)]
    texts = ["Connection closed by peer\n", "ValueError: bad\n", "Connection closed by peer\n"]
    for log, text in zip(logs, texts, strict=True):
        log.write_text(text)
    code, out, err = called("logs", failed.paths.name)
    assert (code, out, err.split()[-1]) == (0, texts[1], str(logs[1]))
    assert called("logs", failed.paths.name, "--rank", 0)[:2] == (0, texts[0])
    assert called("logs", failed.paths.name, "--rank", 3) == (
        2,
        "",
        "lenshpc: member 0 has a log of rank 0 to 2, not of 3\n",
    )


def test_cancel_says_that_there_is_nothing_to_cancel(failed):
    failed.paths.site.write_text('{"name": "local", "scheduler": "local"}')
    told = "nothing to cancel: no job of it waits or runs\n"
    assert called("cancel", failed.paths.name) == (0, "", told)
    assert called("cancel", failed.paths.name, "--member", 1) == (0, "", told)


def test_clean_lists_a_line_a_kind_then_removes_what_is_not_needed(failed):
    paths = failed.paths
    done, open_one = (paths.member(failed.plan.members[at].name) for at in (1, 0))
    for member in (done, open_one):
        member.checkpoint.mkdir()
        (member.checkpoint / "weights").write_bytes(bytes(41_000_000))
        (member.checkpoint / "state").write_bytes(bytes(10))
    (done.root / ".model.1.tmp").write_bytes(bytes(999))
    pickles = [paths.slurm / f"4711_{at}_submitted.pkl" for at in range(100)]
    for pickle in pickles:
        pickle.write_bytes(bytes(1020))
    part = paths.cache / "merge-0123" / "00000"
    part.parent.mkdir(parents=True)
    part.write_bytes(bytes(2000))
    listing = (
        f"{paths.name}:\n"
        f"  members/{done.root.name}: checkpoint, 2 files, 41.0 MB\n"
        f"  members/{done.root.name}: half-written, 1 file, 999 B\n"
        "  cache: kept by aggregate, 1 file, 2.0 kB\n"
        "  slurm: pickles, 100 files, 102.0 kB\n"
    )
    assert called("clean") == (0, listing, "104 files, 41.1 MB to remove, with --yes\n")
    assert all(path.exists() for path in [done.checkpoint, *pickles])
    code, out, err = called("clean", paths.name, "--yes")
    assert (code, out, err) == (0, listing, "104 files, 41.1 MB removed\n")
    assert not any(path.exists() for path in [done.checkpoint, part, *pickles])
    assert open_one.checkpoint.is_dir()  # its training will go on from here
    assert done.predictions.is_file()
    assert called("clean") == (0, "", "0 files, 0 B to remove, with --yes\n")


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (999_949, "999.9 kB"),
        (999_950, "1.0 MB"),
        (41_000_000, "41.0 MB"),
        (2_345_000_000, "2.3 GB"),
        (10**15, "1000.0 TB"),
    ],
)
def test_sizes_are_in_units_that_fit(num_bytes, text):
    assert size_text(num_bytes) == text


def summary(**facts):
    known = {
        "run": "lens_finding-9f2c51ab",
        "dataset": "lens_finding",
        "task": "lens-finding",
        "strategy": "ddp",
        "states": {"DONE": 5},
        "report": "DONE",
        "headline": "AUC 0.987",
        "verdict": "amber",
        "gpu_hours": 12.25,
        "submitted": "2026-01-02T03:04:05+00:00",
        "num_bytes": 41_000_000,
    }
    return RunSummary(**(known | facts))


def listed(width, *runs):
    console = Console(width=width or 20, no_color=True)
    with console.capture() as captured:
        console.print(render(runs, width), crop=False)
    return captured.get().splitlines()


RUNS = (
    summary(),
    summary(
        run="slc-01234567",
        states={"DONE": 3, "FAILED": 2},
        report="FAILED",
        headline="old",
        unit="process",
    ),
    summary(run="broken", states={}, dataset="", task="", strategy="", report="", gpu_hours=0.0),
)

MORE = ("2026-01-02", "41.0 MB")


def test_list_on_a_terminal_of_80_columns():
    assert listed(80, *RUNS) == [
        "run                    members          report     verdict  data",
        "lens_finding-9f2c51ab  5 DONE           AUC 0.987  amber    lens_finding",
        "slc-01234567           3 DONE 2 FAILED  FAILED              lens_finding",
        "broken                 not known",
    ]


def test_list_tells_all_states_before_anything_else():
    states = dict.fromkeys(
        ["DONE", "RUNNING", "PENDING", "CANCELLED", "FAILED", "NOT SUBMITTED"], 1
    )
    told = "1 DONE 1 RUNNING 1 PENDING 1 CANCELLED 1 FAILED 1 NOT SUBMITTED"
    assert listed(80, summary(states=states)) == [
        f"run{' ' * 14}members",
        f"lens_fi…f2c51ab  {told}",
    ]


def test_list_in_a_pipe_has_all_columns():
    told, data = [re.split("  +", line) for line in listed(None, *RUNS)], ("lens_finding", "ddp")
    assert told[0][7:] == ["submitted", "size", "task"]
    assert told == [
        ["run", "members", "report", "verdict", "data", "strategy", "hours", *told[0][7:]],
        [RUNS[0].run, "5 DONE", "AUC 0.987", "amber", *data, "12.25 GPU-h", *MORE, "lens-finding"],
        [RUNS[1].run, "3 DONE 2 FAILED", "FAILED", "-", *data, "12.25 process-h", *told[1][7:]],
        ["broken", "not known", "-", "-", "-", "-", "-", *MORE, "-"],
    ]


def test_list_tells_data_task_strategy_and_headline(failed):
    failed.paths.report.mkdir()
    (failed.paths.report / "report.html").touch()
    for content, headline, verdict in (
        ({"in_short": "AUC 0.987", "verdict": {"colour": "green"}}, "AUC 0.987", "green"),
        ({"in_short": "FID 3.1", "verdict": None}, "FID 3.1", ""),
        ({"in_short": "AUC 0.987", "verdict": "green"}, "", ""),
        ({}, "", ""),
        ([], "", ""),
    ):
        write_json(failed.paths.report / "report.json", content)
        (line,) = json.loads(called("list", "--json")[1])
        assert (line["headline"], line["verdict"], line["report"]) == (headline, verdict, "DONE")
    plan = failed.plan
    told = (plan.dataset, plan.recipe.task, plan.recipe.strategy)
    assert (line["dataset"], line["task"], line["strategy"]) == told
    assert line["submitted"] == "now"
    members = json.loads(called("status", failed.paths.name, "--json")[1])["members"]
    assert line["gpu_hours"] == pytest.approx(sum(one["gpu_hours"] for one in members))


def test_list_ends_with_the_run_that_was_submitted_last(failed):
    names = ["c", "a", "b"]
    for day, name in enumerate(names, start=1):
        root = failed.paths.root.with_name(name)
        shutil.copytree(failed.paths.root, root)
        text = (root / "slurm" / "jobs.jsonl").read_text()
        (root / "slurm" / "jobs.jsonl").write_text(text.replace("now", f"2026-01-0{day}"))
    shutil.rmtree(failed.paths.root)
    assert [line.split()[0] for line in called("list")[1].splitlines()[1:]] == names
    assert [line["run"] for line in json.loads(called("list", "--json")[1])] == names


def test_clean_of_all_needs_a_run_and_yes(failed):
    assert called("clean", "--all")[0] == 2
    assert called("clean", failed.paths.name, "--all")[0] == 0
    assert failed.paths.root.is_dir()
    assert called("clean", failed.paths.name, "--all", "--yes")[0] == 0
    assert not failed.paths.root.exists()


def completed(words, cwd):
    """Return what bash gets for the last of the words."""
    environ = {
        **os.environ,
        "_LENSHPC_COMPLETE": "bash_complete",
        "COMP_WORDS": " ".join(words),
        "COMP_CWORD": str(len(words) - 1),
    }
    done = subprocess.run(
        [LENSHPC], cwd=cwd, env=environ, capture_output=True, text=True, check=True
    )
    return [line.partition(",")[2] for line in done.stdout.splitlines()]


def test_runs_tasks_recipes_sites_and_datasets_are_completed(run, tmp_path):
    name = run.paths.name
    for words, expected in [
        (["lenshpc", "status", name[:3]], [name]),
        (["lenshpc", "clean", name[:3]], [name]),
        (["lenshpc", "submit", "--task", "mul"], ["multiclass"]),
        (["lenshpc", "submit", "--recipe", "lens_finding_s"], ["lens_finding_smote_kfold"]),
        (["lenshpc", "submit", "--site", "reh"], ["rehearsal"]),
        (["lenshpc", "prepare", "sl"], ["slc"]),
    ]:
        assert completed(words, tmp_path) == expected


def test_completion_imports_nothing_heavy(run, tmp_path):
    script = (
        "import sys, click\n"
        "from lenshpc.cli.completing import runs, recipes, sites, datasets, tasks\n"
        "from lenshpc.cli.main import main\n"
        "for each in (runs, recipes, sites, datasets, tasks):\n"
        "    assert each(click.Context(main), None, '')\n"
        f"print([name for name in {HEAVY} if name in sys.modules])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"
