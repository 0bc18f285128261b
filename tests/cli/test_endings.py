"""However a command ends, it says so in one line, and keeps what is needed to mend a fault."""

import errno
import os
import re
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from commands import LENSHPC

from lenshpc import __version__
from lenshpc.cli.main import Commands, main

FULL = OSError(errno.ENOSPC, "No space left on device")
LOCKED = PermissionError(errno.EACCES, "Permission denied", "/far/\x1b[31mplan.json")


@pytest.fixture
def state(tmp_path, monkeypatch):
    """Return where this test's tracebacks go."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state" / "lenshpc"


def ending(error, verb="aggregate"):
    """Return exit code and talk of a command in which an error comes up."""

    def fail():
        raise error

    result = CliRunner().invoke(Commands(commands={verb: click.Command(verb, callback=fail)}), verb)
    assert result.stdout == ""
    return result.exit_code, result.stderr


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (
            LOCKED,
            2,
            r"/far/\x1b[31mplan.json cannot be read or written: Permission denied; check it, then "
            "repeat the command",
        ),
        (
            FULL,
            1,
            "a file cannot be read or written: No space left on device; check it, then repeat the "
            "command",
        ),
        (
            MemoryError(),
            1,
            "this machine has too little memory; free some, or use another machine",
        ),
    ],
)
def test_what_the_system_refuses_is_one_line_and_no_fault(error, code, told, state):
    assert ending(error) == (code, f"lenshpc: {told}\n")
    assert not state.exists()


@pytest.mark.parametrize(
    ("verb", "told"),
    [
        ("prepare", "the same command continues where it stopped"),
        ("resume", "submitted jobs continue, and the same command submits the rest"),
        ("info", "the same command starts from the beginning"),
    ],
)
def test_interrupt_says_what_the_same_command_does(verb, told):
    assert ending(KeyboardInterrupt(), verb) == (130, f"lenshpc: stopped; {told}\n")


def test_interrupt_while_commands_are_imported_is_one_line():
    script = (
        "import sys\n"
        "class Interrupted:\n"
        "    def find_spec(name, *_):\n"
        "        if name == 'click': raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Interrupted)\n"
        "from lenshpc.cli.entry import main\n"
        "main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, check=False, text=True
    )
    assert (done.returncode, done.stdout) == (130, "")
    assert done.stderr == "lenshpc: stopped before it began\n"


@pytest.mark.parametrize("error", [RecursionError("too deep"), KeyError("\x1b[31m"), EOFError()])
def test_error_that_nobody_foresaw_is_one_line_and_its_traceback_is_kept(error, state):
    code, err = ending(error)
    (log,) = state.iterdir()
    name = type(error).__name__
    assert code == 70
    assert re.fullmatch(rf"lenshpc: {name}[^\n]*; this is a fault of lenshpc [^\n]*\n", err)
    assert "\x1b" not in err
    assert err.endswith(f"this is a fault of lenshpc {__version__}, please report it with {log}\n")
    text = log.read_text()
    assert text.startswith(f"lenshpc {__version__}, Python ")
    assert "Traceback (most recent call last):" in text
    assert stat.S_IMODE(log.stat().st_mode) == 0o600
    assert stat.S_IMODE(state.stat().st_mode) == 0o700


def test_traceback_goes_to_the_temporary_folder_where_there_is_no_other(state, tmp_path):
    state.parent.write_text("no folder")
    code, err = ending(ZeroDivisionError("by nought"))
    log = Path(err.rstrip().rpartition(" ")[2])
    assert (code, log.name[:8], log.suffix) == (70, "lenshpc-", ".log")
    assert "ZeroDivisionError: by nought" in log.read_text()
    log.unlink()


def test_two_faults_are_two_files(state):
    for _ in range(2):
        ending(ValueError("again"))
    assert len(list(state.iterdir())) == 2


def listed_into(stdout, folder):
    """Return exit code and talk of a list that is written to a file or a pipe."""
    command = [LENSHPC, "list", "--json"]
    process = subprocess.Popen(
        command, cwd=folder, stdout=stdout, stderr=subprocess.PIPE, text=True
    )
    _, err = process.communicate(timeout=60)
    return process.returncode, err


def test_output_that_nobody_reads_to_its_end_is_no_error(run, tmp_path):
    reader, writer = os.pipe()
    os.close(reader)
    assert listed_into(writer, tmp_path) == (1, "")  # click's code
    os.close(writer)


def test_output_that_finds_the_disk_full_is_one_line(run, tmp_path):
    with Path("/dev/full").open("w") as full:
        code, err = listed_into(full, tmp_path)
    assert (code, err.count("\n"), "No space left on device" in err) == (1, 1, True)


@pytest.mark.slow
def test_simulation_that_is_interrupted_leaves_nothing(tmp_path):
    command = [LENSHPC, "simulate", "lens_finding", "images", "--train", "20000", "--workers", "2"]
    process = subprocess.Popen(
        command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    while not list(tmp_path.glob(".images.*/*/*.*")):
        assert process.poll() is None
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: the workers too
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (
        130,
        "lenshpc: stopped; nothing is kept, and the same command starts from the beginning\n",
    )
    assert list(tmp_path.iterdir()) == []


# --- wrong input -----------------------------------------------------------------------------


@pytest.fixture
def place(run, spots, tmp_path):
    """Return the working folder of a run, with things that are no folder of runs and no store."""
    (tmp_path / "file").write_text("a file\n")
    (tmp_path / "loop").symlink_to("loop")
    os.mkfifo(tmp_path / "pipe")
    return tmp_path


SUBMIT = ("submit", "--task", "multiclass", "--set", "method.weights=random", "--data")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["status", "a" * 5000], "File name too long"),
        (["status", "a\0b"], r"no run 'a\x00b'"),
        (["status", ""], "no run ''"),
        (["clean", "", "--all", "--yes"], "no run ''"),
        (["list", "--runs", "/dev/null"], "/dev/null cannot be read: Not a directory"),
        (["clean", "--runs", "file"], "file cannot be read: Not a directory"),
        (["list", "--runs", "loop"], "loop cannot be read: Too many levels of symbolic links"),
        (["status", "loop"], "no run 'loop'"),
        ([*SUBMIT, "file"], "file is no store: zarr.json is missing"),
        ([*SUBMIT, "pipe"], "pipe is no store: zarr.json is missing"),
        ([*SUBMIT, "/dev/zero"], "/dev/zero is no store: zarr.json is missing"),
        ([*SUBMIT, "STORE", "--runs", "file"], "cannot be read or written: Not a directory"),
        ([*SUBMIT, "STORE", "--runs", "/dev/null"], "cannot be read or written: Not a directory"),
        ([*SUBMIT, "STORE", "--set", "train.lr=.inf"], "'.inf' is no finite number"),
        ([*SUBMIT, "STORE", "--set", "seeds=[18446744073709551616]"], "is no number of 64 bits"),
        ([*SUBMIT, "STORE", "--set", "seeds=[4294967296]"], "expected less than 4294967296"),
        ([*SUBMIT, "STORE", "--set", "train.epochs=" + "9" * 5000], "is no number of 64 bits"),
        ([*SUBMIT, "STORE", "--folds", "9" * 4000], "folds: expected at most"),
        ([*SUBMIT, "STORE", "--site", "pipe.yaml"], "no such file: pipe.yaml"),
    ],
)
def test_wrong_input_is_one_line_and_leaves_nothing(words, told, place, spots, state):
    before = {str(path): path.lstat().st_mtime_ns for path in place.rglob("*")}
    words = [str(spots.path) if word == "STORE" else word for word in words]
    result = CliRunner().invoke(main, words)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("lenshpc: ")
    assert (result.stderr.count("\n"), told in result.stderr) == (1, True), result.stderr
    assert {str(path): path.lstat().st_mtime_ns for path in place.rglob("*")} == before
