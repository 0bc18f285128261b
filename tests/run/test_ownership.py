"""A run that others own, or may write, is read and never executed, cancelled or written."""

import json
import os
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from pairs_run import make_pairs_run

from lenshpc.cli.main import main
from lenshpc.errors import ConfigError, DataError
from lenshpc.launch.jobs import JobRecord, record, records
from lenshpc.launch.local import stop_queue
from lenshpc.launch.shards import jobs_folder
from lenshpc.launch.sites import Site
from lenshpc.run.ownership import find_risk
from lenshpc.run.paths import RunPaths

NOBODY, INTENT = 65534, "lenshpc-1"
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="gives files to another user")


def all_of(root):
    return [root, *root.rglob("*")]


def stamps(root):
    return {path: (path.lstat().st_mtime_ns, path.lstat().st_size) for path in all_of(root)}


@pytest.fixture
def sent(run):
    """Return a run as its owner submitted it, readable to all."""
    run.paths.slurm.mkdir()
    run.paths.site.write_text('{"name": "x", "scheduler": "slurm", "setup": ["touch /tmp/owned"]}')
    (run.paths.slurm / "queue.json").write_text(f'{{"pid": {os.getpid()}}}')
    for path in all_of(run.paths.root):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return run


@pytest.fixture
def foreign(sent):
    """Return a run of the user nobody."""
    for path in all_of(sent.paths.root):
        os.chown(path, NOBODY, NOBODY)
    return sent


def called(*arguments):
    done = CliRunner().invoke(main, [str(one) for one in arguments])
    return done.exit_code, done.stdout, done.stderr


def test_own_run_that_others_may_read_is_no_risk(sent):
    assert find_risk(sent.paths.root) is None


@pytest.mark.parametrize("name", ["", "slurm", "slurm/site.json", "plan.json", "members"])
def test_what_others_may_write_is_named_with_its_mode(sent, name):
    path = sent.paths.root / name
    path.chmod(path.stat().st_mode | 0o020)
    mode = "0775" if path.is_dir() else "0664"
    assert find_risk(sent.paths.root) == f"{path} may be written by others (mode {mode})"


def test_loose_modes_below_a_private_folder_are_no_risk(sent):
    for path in all_of(sent.paths.root):
        path.chmod(0o777)
    sent.paths.root.chmod(0o700)
    assert find_risk(sent.paths.root) is None


def test_link_to_nothing_is_no_risk(sent):
    (sent.paths.slurm / "12_submitted.pkl").symlink_to("gone.pkl")
    assert find_risk(sent.paths.root) is None


@needs_root
@pytest.mark.parametrize("name", ["slurm/site.json", "slurm", "plan.json"])
def test_one_file_of_another_user_is_named_with_its_owner(sent, name):
    os.chown(sent.paths.root / name, NOBODY, NOBODY)
    assert find_risk(sent.paths.root) == f"{sent.paths.root / name} belongs to nobody"


@needs_root
def test_link_to_what_another_user_owns_is_a_risk(sent, tmp_path):
    (tmp_path / "theirs").mkdir()
    os.chown(tmp_path / "theirs", NOBODY, NOBODY)
    (sent.paths.root / "code").symlink_to(tmp_path / "theirs")
    assert find_risk(sent.paths.root) == f"{sent.paths.root / 'code'} belongs to nobody"


@needs_root
@pytest.mark.parametrize("verb", ["resume", "cancel", "sample"])
def test_foreign_run_is_neither_resumed_nor_cancelled_nor_sampled(foreign, verb):
    before = stamps(foreign.paths.root)
    assert called(verb, foreign.paths.root) == (
        2,
        "",
        f"lenshpc: {foreign.paths.root} belongs to nobody, and files in a run are executed; "
        "submit the recipe again into runs of your own, or only read this run with lenshpc "
        "status, logs and aggregate --out\n",
    )
    assert stamps(foreign.paths.root) == before


@pytest.mark.parametrize("verb", ["resume", "cancel", "sample"])
def test_run_that_others_may_write_is_neither_resumed_nor_cancelled_nor_sampled(sent, verb):
    sent.paths.slurm.chmod(0o777)
    code, out, err = called(verb, sent.paths.root)
    assert (code, out) == (2, "")
    assert err.startswith(f"lenshpc: {sent.paths.slurm} may be written by others (mode 0777), and")


@needs_root
def test_process_that_another_user_calls_a_queue_is_not_signalled(foreign, monkeypatch):
    queue = f'{{"pid": {os.getpid()}, "states": {{"0": "RUNNING"}}}}'
    (foreign.paths.slurm / "queue.json").write_text(queue)
    monkeypatch.setattr("lenshpc.launch.local._is_queue", lambda *_: True)
    with pytest.raises(ValueError, match="belongs to nobody, and files in a run are executed"):
        stop_queue(foreign.paths)


@needs_root
def test_foreign_run_is_listed_shown_and_reported_on_elsewhere(foreign, tmp_path):
    shutil.rmtree(foreign.paths.root / "report", ignore_errors=True)
    before = stamps(foreign.paths.root)
    code, out, _ = called("status", foreign.paths.root)
    assert (code, out.count("DONE")) == (0, 6)
    assert called("list", "--runs", foreign.paths.root.parent)[0] == 0
    assert called("aggregate", foreign.paths.root) == (
        2,
        "",
        f"lenshpc: run {foreign.paths.name} belongs to nobody; write its report into a folder of "
        f"your own with: lenshpc aggregate {foreign.paths.name} --out FOLDER\n",
    )
    code, out, err = called("aggregate", foreign.paths.root, "--out", tmp_path / "mine")
    assert code == 0, err
    assert out.endswith(f"report: {tmp_path / 'mine' / 'report' / 'report.html'}\n")
    assert (tmp_path / "mine" / "report" / "report.html").is_file()
    assert stamps(foreign.paths.root) == before


@needs_root
def test_open_submission_of_another_user_is_left_to_them(foreign):
    members = tuple(range(6))
    intent = JobRecord(token=INTENT, scheduler="slurm", site="x", members=members, submitted="2026")
    record(foreign.paths, intent)
    for member in foreign.plan.members[1:]:
        foreign.paths.member(member.name).done.unlink()
    before = stamps(foreign.paths.root)
    code, out, _ = called("status", foreign.paths.root, "--json")
    assert (code, out.count('"UNKNOWN"')) == (0, 5)
    assert "nobody has left a submission open; their next command settles it" in out
    assert stamps(foreign.paths.root) == before


@pytest.fixture
def as_nobody():
    """Return a function that makes this process the user nobody until the test ends."""
    yield lambda: os.seteuid(NOBODY)
    os.seteuid(0)


@needs_root
def test_run_whose_jobs_are_private_is_shown_as_far_as_it_may_be_read(sent, as_nobody):
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        root = Path(folder) / sent.paths.name
        shutil.copytree(sent.paths.root, root)
        (root / "slurm").chmod(0o700)
        done = root / "members" / sent.plan.members[3].name / "done.json"
        done.unlink()
        as_nobody()
        theirs = replace(sent, paths=RunPaths(root))
        code, out, _ = called("status", theirs.paths.root, "--json")
        assert records(theirs.paths) == []
        os.seteuid(0)
    assert (code, out.count('"DONE"'), out.count('"UNKNOWN"')) == (0, 5, 1)
    assert "the jobs of root are not all shown to others" in out


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("job_id", "12\\n#SBATCH --wrap=x"),
        ("job_id", "$(id)"),
        ("token", "../x"),
        ("follows", "1;id"),
    ],
)
def test_record_whose_words_could_reach_a_shell_is_refused(run, key, value):
    run.paths.slurm.mkdir()
    facts = {"job_id": "5", "token": "t", "follows": ""} | {key: value}
    words = ", ".join(f'"{name}": "{text}"' for name, text in facts.items())
    lines = f'{{{words}, "scheduler": "slurm", "site": "x", "members": [0], "submitted": "2026"}}'
    run.paths.jobs.write_text(lines)
    with pytest.raises(DataError, match=rf"jobs\.jsonl is damaged: {key}: String should match"):
        records(run.paths)


@needs_root
def test_log_that_its_owner_keeps_private_cannot_be_read(sent, as_nobody):
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        root = Path(folder) / sent.paths.name
        shutil.copytree(sent.paths.root, root)
        log = root / "slurm" / "9_0_log.out"
        log.write_text("secret\n")
        log.chmod(0o600)
        queue = {"states": {"0": "FAILED"}, "jobs": {"0": "9"}}
        (root / "slurm" / "queue.json").write_text(json.dumps(queue))
        facts = {"scheduler": "local", "site": "x", "submitted": "2026"}
        record(RunPaths(root), JobRecord(job_id="9", members=(0,), **facts))
        as_nobody()
        code, out, err = called("logs", root, "--member", "0")
        os.seteuid(0)
    assert (code, out) == (2, "")
    assert err.splitlines()[-1] == (
        f"lenshpc: {log} cannot be read: Permission denied; check its permissions and the file "
        "system, then repeat the command"
    )


def test_folder_of_jobs_that_others_may_write_is_refused(tmp_path):
    folder = tmp_path / ".store.slurm"
    (folder / "code").mkdir(parents=True)
    folder.chmod(0o777)
    site = Site(name="big", scheduler="slurm")
    with pytest.raises(ConfigError) as caught:
        jobs_folder(folder, site)
    assert str(caught.value) == (
        f"{folder} may be written by others (mode 0777), and jobs would execute what is in it; "
        "choose another folder"
    )


@pytest.mark.slow
def test_images_that_are_merged_for_a_report_lie_beside_it(tmp_path):
    run = make_pairs_run(tmp_path)
    before = stamps(run.paths.root)
    code, _, err = called("aggregate", run.paths.root, "--out", tmp_path / "mine")
    assert code == 0, err
    assert sorted(path.name for path in (tmp_path / "mine").iterdir()) == ["merged.zarr", "report"]
    assert str(tmp_path / "mine" / "merged.zarr") in (
        tmp_path / "mine" / "report" / "report.md"
    ).read_text().replace("\\", "")
    assert stamps(run.paths.root) == before
