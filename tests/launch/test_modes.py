"""A run may be read by whom the umask lets, and written by nobody else; its jobs are private."""

import os
import shutil
import struct
import tempfile
from pathlib import Path

import pytest
from click.testing import CliRunner
from commands import finished
from ranks import recipe
from synthetic_run import make_run

from lenshpc.cli.main import main
from lenshpc.config import validate
from lenshpc.errors import ConfigError
from lenshpc.files import make_open_folder
from lenshpc.launch.modes import writing, writing_in
from lenshpc.launch.sites import Site
from lenshpc.launch.submit import Calls, submit
from lenshpc.run.ownership import find_risk
from lenshpc.run.planning import plan_run

NOBODY = 65534
UMASKS = [
    (None, 0o002, 0o755, 0o644),
    (None, 0o027, 0o750, 0o640),
    (None, 0o077, 0o700, 0o600),
    ("0027", 0o000, 0o750, 0o640),
    ("22", 0o077, 0o755, 0o644),
]


@pytest.fixture
def set_umask():
    """Return a function that sets the umask until the test ends."""
    before = os.umask(0o022)
    os.umask(before)
    yield os.umask
    os.umask(before)


def mode(path):
    return path.stat().st_mode & 0o7777


def modes_below(root, *, but=()):
    """Return the modes of the folders and those of the files of a run, its own among them."""
    found = [path for path in root.rglob("*") if not set(path.relative_to(root).parts) & set(but)]
    return (
        {mode(path) for path in [root, *found] if path.is_dir()},
        {mode(path) for path in found if path.is_file()},
    )


@pytest.mark.parametrize(("asked", "command", "folder", "file"), UMASKS)
def test_umask_says_who_reads_and_nobody_else_writes(
    tmp_path, set_umask, asked, command, folder, file
):
    set_umask(command)
    with writing(asked):
        make_open_folder(tmp_path / "runs" / "run")
        (tmp_path / "runs" / "run" / "file").touch()
    assert modes_below(tmp_path / "runs") == ({folder}, {file})
    assert set_umask(command) == command


@pytest.mark.parametrize("umask", ["0", "0002", "0020", "0722", "27x", "00027"])
def test_umask_that_lets_others_write_or_is_none_is_refused(umask):
    with pytest.raises(ConfigError, match="umask"):
        validate(Site, {"name": "x", "scheduler": "slurm", "umask": umask}, "site x")


def test_default_acl_of_a_folder_of_runs_lets_nobody_write(tmp_path, set_umask):
    everyone, id_of_none = 7, 0xFFFFFFFF
    entries = [(tag, everyone, id_of_none) for tag in (0x01, 0x04, 0x20)]  # user, group, others
    acl = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)
    try:
        os.setxattr(tmp_path, "system.posix_acl_default", acl)
    except OSError:
        pytest.skip("this file system has no ACLs")
    set_umask(0o022)
    (tmp_path / "loose").mkdir()
    make_open_folder(tmp_path / "run")
    (tmp_path / "run" / "members").mkdir()
    (tmp_path / "run" / "members" / "file").touch()
    assert mode(tmp_path / "loose") == 0o777
    assert modes_below(tmp_path / "run") == ({0o755}, {0o644})


def train(root: str, index: int) -> None:
    """Stand for a member: it is pickled, and never called."""


def write_report(root: str) -> None:
    """Stand for the report's job."""


@pytest.mark.parametrize(("asked", "command", "folder", "file"), UMASKS[:4])
def test_what_a_submission_writes_is_open_but_for_its_jobs(
    tmp_path, spots, monkeypatch, set_umask, asked, command, folder, file
):
    (tmp_path / "bin").mkdir()
    for name, lines in {"sbatch": "echo 8", "squeue": "", "sacct": "", "scontrol": ""}.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{lines}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    set_umask(command)
    site = Site(name="big", scheduler="slurm", max_array_size=10, umask=asked)
    run = plan_run(recipe(), spots, tmp_path / "runs")
    submit(run, site, Calls(train, write_report))
    assert modes_below(run.paths.root, but=["slurm"]) == ({folder}, {file})
    assert mode(run.paths.slurm) == 0o700
    assert find_risk(run.paths.root) is None
    with writing_in(run.paths):
        (run.paths.root / "more").touch()
    assert mode(run.paths.root / "more") == file


def called(*arguments):
    done = CliRunner().invoke(main, [str(one) for one in arguments])
    return done.exit_code, done.stdout, done.stderr


@pytest.fixture
def shared(monkeypatch):
    """Return a folder that all may enter, with one for the user nobody in it."""
    with tempfile.TemporaryDirectory(prefix="lenshpc-shared-") as text:
        folder = Path(text)
        folder.chmod(0o755)
        (folder / "theirs").mkdir()
        os.chown(folder / "theirs", NOBODY, NOBODY)
        monkeypatch.chdir(folder)
        yield folder


@pytest.fixture
def as_nobody():
    """Return a function that makes this process the user nobody until the test ends."""

    def become():
        os.setegid(NOBODY)
        os.seteuid(NOBODY)

    yield become
    os.seteuid(0)
    os.setegid(0)


@pytest.fixture
def open_run(shared, set_umask):
    """Return a run of two members as they are made, its jobs being private."""
    set_umask(0o002)
    with writing():
        run = make_run(shared, models=("resnet18",), folds=2, num_train=90, num_test=20).paths
        run.slurm.mkdir(mode=0o700)
        run.site.write_text('{"name": "x", "scheduler": "slurm"}')
    return run


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")


@needs_root
def test_colleague_sees_a_run_and_writes_nothing_in_it(open_run, as_nobody):
    as_nobody()
    code, out, err = called("status", open_run.root)
    assert (code, out.count("DONE")) == (0, 2), err
    code, out, err = called("list", "--runs", open_run.root.parent)
    assert (code, open_run.name in out) == (0, True), err
    for path in [open_run.root, *open_run.root.rglob("*")]:
        assert not os.access(path, os.W_OK, effective_ids=True)
    assert not os.access(open_run.slurm, os.R_OK | os.X_OK, effective_ids=True)
    code, _, err = called("resume", open_run.root)
    begin = f"lenshpc: {open_run.root} belongs to root, and files in a run are executed"
    assert (code, err.startswith(begin)) == (2, True)


@needs_root
@pytest.mark.slow
def test_colleague_reports_on_a_run_elsewhere(open_run, shared, as_nobody):
    # As root first, which imports all that it takes: Python may lie where only root reads.
    assert called("aggregate", open_run.root)[0] == 0
    as_nobody()
    page = (open_run.report / "report.html").read_bytes()
    code, _, err = called("aggregate", open_run.root, "--out", shared / "theirs" / "mine")
    assert code == 0, err
    mine = shared / "theirs" / "mine" / "report"
    assert (mine / "report.html").stat().st_uid == NOBODY
    assert (mine / "predictions.parquet").read_bytes() == (
        open_run.report / "predictions.parquet"
    ).read_bytes()
    assert (open_run.report / "report.html").read_bytes() == page


@pytest.mark.slow
def test_all_that_a_run_has_is_open_but_for_pickles(spots, tmp_path):
    shutil.copytree(spots.path, tmp_path / "store")
    site = tmp_path / "group.yaml"
    site.write_text('scheduler: local\numask: "0027"\n')
    code, _, err = finished(
        tmp_path,
        *("submit", "--task", "multiclass", "--data", "store", "--folds", "1", "--wait"),
        *("--models", "test_resnet", "--set", "train.warmup_epochs=0", "--gpus-per-node", "0"),
        *("--set", "train.epochs=1", "--site", str(site)),
    )
    assert code == 0, err
    (root,) = (tmp_path / "runs").iterdir()
    assert (root / "report" / "report.html").is_file()
    assert modes_below(root, but=["slurm"]) == ({0o750}, {0o640})
    assert mode(root / "slurm") == 0o700
    assert find_risk(root) is None
