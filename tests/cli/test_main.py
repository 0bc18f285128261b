"""The command line as its users meet it: imports, help, errors, dry runs."""

import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from stores import rewrite

from lenshpc import __version__
from lenshpc.cli.main import main
from lenshpc.config import find_shipped
from lenshpc.registry import task_names

HEAVY = ["torch", "numpy", "pandas", "submitit", "pydantic", "zarr"]
VERBS = ["simulate", "prepare", "verify", "info", "doctor", "submit", "tune", "status", "logs"]
VERBS += ["cancel", "resume", "aggregate", "compare", "predict", "sample", "export", "list"]
VERBS += ["serve", "clean"]
NOT_SIMULATED = {"super_resolution_hsc_hst"}
SPAWNED = """
import json, sys
from lenshpc.cli.main import main
code = 0
for arguments in json.loads(sys.argv[1]):
    try:
        code = code or main(arguments, standalone_mode=False) or 0
    except SystemExit as end:
        code = end.code
print("\\n" + json.dumps([code, sorted(sys.modules)]))
"""


def spawn(*commands, cwd, path=None):
    """Return output, exit code and imported modules of commands in a new Python."""
    done = subprocess.run(
        [sys.executable, "-c", SPAWNED, json.dumps(commands)],
        cwd=cwd,
        env=None if path is None else {"PATH": path},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    out, _, last = done.stdout.rstrip("\n").rpartition("\n")
    code, modules = json.loads(last)
    return out, code, modules


def called(*arguments):
    """Return exit code, output and talk of a command in this process."""
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout, result.stderr


def listing(folder):
    return sorted((str(path), path.stat().st_mtime_ns) for path in folder.rglob("*"))


# --- imports ---------------------------------------------------------------------------------


def test_help_imports_nothing_heavy(tmp_path):
    out, code, modules = spawn(["--help"], cwd=tmp_path)
    assert (code, [name for name in HEAVY if name in modules]) == (0, [])
    assert [line.split()[0] for line in out.splitlines()[-len(VERBS) :]] == VERBS


def test_prepare_imports_neither_torch_nor_submitit(tmp_path):
    _, code, modules = spawn(
        ["simulate", "lens_finding", "images", "--train", "4", "--test", "2"],
        ["prepare", "lens_finding", "images", "store"],
        cwd=tmp_path,
    )
    assert (code, [name for name in ("torch", "submitit") if name in modules]) == (0, [])
    assert (tmp_path / "store" / "zarr.json").is_file()


def test_status_imports_neither_torch_nor_pandas_nor_zarr(run, tmp_path):
    out, code, modules = spawn(["status", run.paths.name], cwd=tmp_path)
    assert (code, [name for name in ("torch", "pandas", "zarr") if name in modules]) == (0, [])
    assert "000-resnet18-fold0-seed0" in out


# --- dry run ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def dry_run(spots, tmp_path_factory):
    """Return the folder, what a dry run prints there, its modules, and whether it wrote."""
    folder = tmp_path_factory.mktemp("dry")
    shutil.copytree(spots.path, folder / "store")
    before = listing(folder)
    command = [
        *("submit", "--task", "multiclass", "--data", "store", "--folds", "3", "--nodes", "2"),
        *("--gpus-per-node", "4", "--models", "resnet18,resnet34", "--site", "rehearsal"),
        *("--set", "resources.time_min=90", "--dry-run"),
    ]
    out, code, modules = spawn(command, cwd=folder, path="/nowhere")
    assert code == 0
    return folder, out, modules, before == listing(folder)


def test_dry_run_without_slurm_writes_nothing_and_imports_no_torch(dry_run):
    _, _, modules, unchanged = dry_run
    assert unchanged
    assert "torch" not in modules


def test_dry_run_prints_cost_map_and_scripts(dry_run):
    folder, out, _, _ = dry_run
    head, members, report = out.split("\n--- sbatch: the ")
    run = Path(head.splitlines()[0].split()[1])
    assert run.parent == folder / "runs"
    assert head.splitlines() == [
        f"run          {run}",
        f"data         {folder / 'store'} (spots: class0, class1)",
        "site         rehearsal (slurm)",
        "a member     2 node(s) x 4 GPU(s), ddp, at most 90 min a job",
        "GPU-hours    72.0 at most, by one job a member",  # 6 members x 8 GPUs x 1.5 h
        "",
        "asked for       value  from",
        "nodes           2      command line",
        "gpus_per_node   4      command line",
        "cpus_per_gpu    1      site rehearsal",
        "mem_gb_per_gpu  1.9    site rehearsal",
        "time_min        90     command line",
        "partition       batch  site rehearsal",
        "report_mem_gb   4      estimated from 120 rows",
        "",
        "element  member                    what happens to it",
        "      0  000-resnet18-fold0-seed0  submitted",
        "      1  001-resnet18-fold1-seed0  submitted",
        "      2  002-resnet18-fold2-seed0  submitted",
        "      3  003-resnet34-fold0-seed0  submitted",
        "      4  004-resnet34-fold1-seed0  submitted",
        "      5  005-resnet34-fold2-seed0  submitted",
    ]
    assert members.startswith("members\n#!/bin/bash\n")
    assert "\n#SBATCH --array=0-5%6\n" in members
    assert report.startswith("report\n#!/bin/bash\n")
    assert "--dependency='afterany:<JOB ID OF THE MEMBERS>'" in report
    assert {f"{run}/slurm" in script for script in (members, report)} == {True}


def test_dry_run_on_a_machine_without_gpus_speaks_of_processes(spots, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    command = ("submit", "--task", "multiclass", "--models", "resnet18", "--folds", "2")
    code, out, _ = called(*command, "--data", spots.path, "--dry-run")
    assert (code, out.splitlines()[2:7]) == (
        0,
        [
            "site         local (local)",
            "a member     1 node(s) x 1 process(es) on CPUs, single, no time limit",
            "",
            "asked for      value                      from",
            "nodes          1                          recipe",
        ],
    )
    assert out.splitlines()[7] == "gpus_per_node  1, but there is none here  recipe"


def test_store_and_site_may_stand_in_the_environment(spots, monkeypatch):
    monkeypatch.setenv("LENSHPC_DATA", str(spots.path))
    monkeypatch.setenv("LENSHPC_SITE", "rehearsal")
    smaller = ("--set", "train.batch_size=64", "--dry-run")
    code, out, err = called("submit", "--task", "diffusion", "--nodes", "4", *smaller)
    assert (code, err) == (0, "")
    assert out.splitlines()[1:4] == [
        f"data         {spots.path} (spots: class0, class1)",
        "site         rehearsal (slurm)",
        "a member     4 node(s) x 1 GPU(s), ddp, at most 720 min a job",
    ]


# --- help ------------------------------------------------------------------------------------


def test_verbs_stand_in_the_order_of_use():
    assert list(main.commands) == VERBS


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_an_example(verb):
    code, out, _ = called(verb, "--help")
    assert code == 0
    assert f"\n  lenshpc {verb} " in out.replace("    ", "  ")
    assert "Example" in out
    assert main.commands[verb].short_help


@pytest.mark.parametrize("verb", VERBS)
def test_every_example_has_options_and_arguments_that_there_are(verb):
    command = main.commands[verb]
    lines = command.help.replace("\\\n", "").splitlines()
    examples = [shlex.split(line) for line in lines if line.strip().startswith("lenshpc ")]
    assert examples
    for _, name, *arguments in examples:
        given, left, _ = command.make_parser(click.Context(command)).parse_args(arguments)
        assert (name, left) == (verb, [])
        assert all(given.get(one.name) for one in command.params if one.required)


@pytest.mark.parametrize(("verb", "left_out"), [("prepare", set()), ("simulate", NOT_SIMULATED)])
def test_help_names_every_dataset_that_ships(verb, left_out):
    listed = called(verb, "--help")[1].split("ships (")[1].split(")")[0]
    assert set(listed.replace(",", " ").split()) == set(find_shipped("data_prep")) - left_out


def test_version():
    assert called("--version") == (0, f"lenshpc, version {__version__}\n", "")


# --- errors ----------------------------------------------------------------------------------


def one_line(*arguments):
    """Return the one line that a command with wrong input ends in."""
    code, out, err = called(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("lenshpc: ")
    assert err.count("\n") == 1
    return err.removeprefix("lenshpc: ").rstrip("\n")


def test_mistyped_option_names_the_nearest():
    code, out, err = called("submit", "--gpus-per-nod", "3")
    assert (code, out) == (2, "")
    last = err.splitlines()[-1]  # click words it differently from version to version
    assert last.startswith("Error: No such option")
    assert "--gpus-per-node" in last


def test_unknown_task_names_the_nearest(spots):
    assert one_line("submit", "--task", "lens-findin", "--data", spots.path) == (
        "unknown task 'lens-findin'; did you mean lens-finding? known: " + ", ".join(task_names())
    )


def test_unknown_site_names_the_nearest(spots):
    told = one_line(
        "submit", "--task", "multiclass", "--data", spots.path, "--site", "rehersal", "--dry-run"
    )
    assert told.startswith("unknown site 'rehersal'; did you mean rehearsal? known: ")


def test_bad_setting_is_one_line(spots):
    told = one_line(
        "submit", "--task", "multiclass", "--data", spots.path, "--set", "train.epoch=3"
    )
    assert told.startswith(
        "recipe multiclass: unknown key 'train.epoch'; did you mean train.epochs?"
    )


@pytest.mark.parametrize("verb", ["status", "logs", "cancel", "resume", "aggregate", "clean"])
def test_unknown_run_lists_those_there_are(verb, run):
    known = run.paths.name
    assert one_line(verb, "lenses") == (
        f"no run 'lenses'; runs in {run.paths.root.parent}: {known}"
    )


def test_study_in_place_of_a_run_is_told_with_its_command(tmp_path):
    (tmp_path / "study.json").write_text("{}")
    assert one_line("status", tmp_path) == (
        f"{str(tmp_path)!r} is a study, not a run; see: lenshpc tune --status {tmp_path}"
    )


def test_missing_store_says_how_to_make_one(tmp_path):
    path = tmp_path / "absent"
    told = f"no store at {path}; make it with: lenshpc prepare DATASET SOURCE {path}"
    assert one_line("info", path) == told
    assert one_line("submit", "--task", "multiclass", "--data", path) == told


def test_folder_that_is_no_store_is_named(tmp_path):
    told = f"{tmp_path} is no store: zarr.json is missing; make one with: lenshpc prepare"
    assert one_line("info", tmp_path) == told


def test_unknown_dataset_names_the_nearest(tmp_path):
    told = one_line("prepare", "lensfinding", tmp_path, tmp_path / "store")
    assert "did you mean lens_finding?" in told


@pytest.mark.parametrize(
    "choice", [[], ["--task", "multiclass", "--recipe", "multiclass"]], ids=["none", "both"]
)
def test_either_task_or_recipe_must_be_given(choice, spots):
    code, out, err = called("submit", *choice, "--data", spots.path)
    assert (code, out) == (2, "")
    assert err.splitlines()[-1] == "Error: give either --task or --recipe"


def test_run_that_was_never_submitted_is_not_resumed(run):
    assert one_line("resume", run.paths.name) == (
        f"run {run.paths.name} was never submitted; use: lenshpc submit"
    )


# --- JSON ------------------------------------------------------------------------------------


def test_info_as_json(spots):
    code, out, err = called("info", spots.path, "--json")
    found = json.loads(out)
    assert (code, err) == (0, "")
    assert (found["num_rows"], found["image_shape"]) == (120, [1, 32, 32])
    assert found["counts"] == {
        "train": {"class0": 48, "class1": 48},
        "test": {"class0": 12, "class1": 12},
    }


def test_info_counts_groups_and_warns_of_no_test_rows(spots, tmp_path):
    group = ["crowd"] * 20 + [f"pair {at // 2}" for at in range(100)]
    store = rewrite(spots, tmp_path / "grouped", group=group, split="train")
    told = called("info", store.path)[1].splitlines()
    assert told[3:6] == [
        "train         120: 60 class0, 60 class1",
        "warning       no test rows, and a run needs some: give some images a folder of their own, "
        "a split column or a holdout in the dataset file, then prepare another store",
        "groups        51, the largest of 20 images",
    ]
    found = [json.loads(called("info", path, "--json")[1]) for path in (store.path, spots.path)]
    assert [one["groups"] for one in found] == [{"num_groups": 51, "largest": 20}, None]
    assert "groups" not in called("info", spots.path)[1]
    assert "warning" not in called("info", spots.path)[1]


def test_status_as_json(run):
    code, out, err = called("status", run.paths.name, "--json")
    found = json.loads(out)
    assert (code, err) == (0, "")
    assert found["run"] == run.paths.name
    assert [line["state"] for line in found["members"]] == ["DONE"] * 6
    assert found["report"] == "NOT SUBMITTED"


def test_status_with_the_usage(run):
    code, out, err = called("status", run.paths.name, "--usage")
    assert (code, err) == (0, "")
    last = "all: 0.00 core-hours, 0.00 wasted, of at most 96.00; from heartbeats"
    assert out.splitlines()[-1] == last  # no job is on record
    costs = json.loads(called("status", run.paths.name, "--usage", "--json")[1])["usage"]
    assert (costs["unit"], costs["estimate_hours"], costs["attempts"]) == ("core", 96.0, [])


def test_aggregate_as_json(run):
    code, out, _ = called("aggregate", run.paths.name, "--json")
    assert code == 0
    assert json.loads(out) == json.loads((run.paths.report / "report.json").read_text())
