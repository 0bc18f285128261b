"""A submission tells the commit that it came from, and keeps what differs from it."""

import hashlib
import json
import subprocess
from importlib import metadata

import pytest
from click.testing import CliRunner

from lenshpc.cli.main import main
from lenshpc.launch import provenance


@pytest.fixture
def checkout(tmp_path):
    """Return a folder with one committed module."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    (folder / "errors.py").write_text("old\n")
    git(folder, "init", "-q")
    git(folder, "add", "errors.py")
    git(folder, "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-q", "-m", "one")
    return folder


def git(folder, *arguments):
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_clean_checkout_is_its_commit(checkout, tmp_path):
    commit = git(checkout, "rev-parse", "HEAD")
    state = provenance.git_state(checkout, tmp_path / "code")
    assert state == {"commit": commit, "clean": True, "diff": None}
    assert not (tmp_path / "code").exists()


def test_difference_from_the_commit_is_kept_under_its_hash(checkout, tmp_path):
    (checkout / "errors.py").write_text("new \xe4\n", encoding="latin-1")
    state = provenance.git_state(checkout, tmp_path / "code")
    (kept,) = (tmp_path / "code").iterdir()
    text = kept.read_bytes()
    assert b"\n-old\n+new \xe4\n" in text
    sha256 = hashlib.sha256(text).hexdigest()
    assert (state["clean"], state["diff"]) == (False, {"sha256": sha256, "num_bytes": len(text)})
    assert kept.name == f"{sha256[:16]}.diff"


def test_large_difference_is_cut_but_hashed_whole(checkout, tmp_path):
    (checkout / "errors.py").write_text("new\n" * 400_000)
    state = provenance.git_state(checkout, tmp_path / "code")
    (kept,) = (tmp_path / "code").iterdir()
    assert state["diff"]["num_bytes"] > kept.stat().st_size == provenance.MAX_DIFF_BYTES


def write_versions(run, *versions):
    """Note submissions with versions of numpy."""
    here = provenance.facts(["lenshpc"], "0")
    noted = [here | {"packages": here["packages"] | {"numpy": one}} for one in versions]
    run.provenance.write_text(json.dumps(dict(enumerate(noted))))


def test_versions_that_changed_are_told_in_their_order(run):
    here = metadata.version("numpy")
    write_versions(run.paths, "1.0", "1.0", "1.1")
    expected = f"run {run.paths.name} has seen numpy 1.0, then 1.1, then {here}: "
    assert provenance.describe_changes(run.paths) == f"{expected}members may differ by it"
    done = CliRunner().invoke(main, ["status", run.paths.name])
    assert (done.exit_code, done.stderr) == (0, f"warning: {expected}members may differ by it\n")
    write_versions(run.paths, here)
    assert provenance.describe_changes(run.paths) == ""


@pytest.mark.parametrize("text", ["", "[]", "null", '{"a": 1}', '{"a": {"lenshpc": 1}}', "\x00"])
def test_record_that_cannot_be_read_tells_of_no_change(run, text):
    run.paths.provenance.write_text(text)
    assert provenance.describe_changes(run.paths) == ""


def test_folder_outside_of_a_checkout_has_no_commit(tmp_path):
    assert provenance.git_state(tmp_path, tmp_path / "code") is None


def test_checkout_is_looked_for_where_the_package_lies(tmp_path):
    if not (provenance.PACKAGE.parent / ".git").exists():
        pytest.skip("these tests do not run in a checkout")
    state = provenance.git_state(provenance.PACKAGE, tmp_path / "code")
    assert state["commit"] == git(provenance.PACKAGE, "rev-parse", "HEAD")
