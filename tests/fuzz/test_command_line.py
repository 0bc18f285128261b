"""Command lines of any words: they end with 0, 1 or 2, and leave nothing where they are refused."""

import os
import shutil
import socketserver
from itertools import chain

import click
import pytest
from click.testing import CliRunner
from hypothesis import strategies as st
from tries import try_in_bounds

from lenshpc.cli.main import main

QUICK, WHOLE = 60, 3000
PLACES = [
    *(
        "",
        ".",
        "..",
        "store",
        "runs",
        "file",
        "pipe",
        "pipe.yaml",
        "link",
        "loop",
        "locked",
        "mine.yaml",
        "-",
    ),
    *("/dev/null", "/dev/zero", "/dev/full", "file/below", "missing/below", "store/zarr.json", "~"),
    *("a" * 300, "a" * 5000, "a/" * 3000, "\udcff", "é😀", "\x1b[31m", "[red]x[/red]"),
    *("--", "-x", "--help", "a\nb", "$(x)", "%s", "{}", "*", "runs/*", "con:x.yaml", "os:x.yaml"),
]
NAMES = ["lens_finding", "multiclass", "lens-finding", "local", "rehearsal", "slc", "resnet18"]
NUMBERS = ["0", "-1", "1", "2", "3", "1.5", "nan", "inf", "9" * 20, "9" * 5000, "0x10", "1e9", "٣"]
SETTINGS = [
    "train.lr=.inf",
    "seeds=[18446744073709551616]",
    "a=&a [*a]",
    "name=!!set {a}",
    "=",
    "x",
]
SETTINGS += ["train.epochs=" + "9" * 5000, ".".join("a" * 99) + "=1", "data=1", "then=[foundation]"]
WORDS = [*PLACES, *NAMES, *NUMBERS, *SETTINGS, "RUN"]
free = st.text(max_size=9).map(lambda text: text.replace("\0", ""))  # no system passes it on
word = st.sampled_from(WORDS) | free


def lines_of(verb):
    """Return a strategy of a verb with any of its options, and as many arguments as it takes."""
    params = main.commands[verb].params
    options = [
        st.tuples(st.sampled_from(one.opts), *([] if one.is_flag else [word]))
        for one in params
        if isinstance(one, click.Option)
    ]
    num = sum(isinstance(one, click.Argument) for one in params)
    arguments = st.lists(word, min_size=num, max_size=num) | st.lists(word, max_size=4)
    flat = st.lists(st.one_of(*options), max_size=4).map(lambda some: [*chain(*some)])
    return st.tuples(flat, arguments).map(lambda two: [verb, *two[0], *two[1]])


command_lines = st.one_of(
    *map(lines_of, main.commands),
    st.lists(st.sampled_from([*main.commands, *WORDS]) | free, max_size=5),
)


def goes_to_work(line):
    """Say whether a line may be one that is accepted, and computes for long."""
    return line[:1] == ["simulate"] and any(char.isdecimal() for word in line for char in word)


@pytest.fixture
def place(spots, pristine_run, tmp_path, monkeypatch):
    """Return a working folder with a store, a run, and things that are neither."""
    folder = tmp_path / "work"
    shutil.copytree(spots.path, folder / "store")
    (folder / "file").write_text("a file\n")
    (folder / "mine.yaml").write_text("task: multiclass\nmodels: [resnet18]\n")
    (folder / "link").symlink_to("nowhere")
    (folder / "loop").symlink_to("loop")
    (folder / "locked").mkdir(mode=0)
    os.mkfifo(folder / "pipe")
    os.mkfifo(folder / "pipe.yaml")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("PATH", "/nowhere")  # no SLURM, wherever this runs
    # A server that is accepted ends at once, and not with Ctrl-C.
    monkeypatch.setattr(socketserver.BaseServer, "serve_forever", lambda server: None)
    return folder


def listing(folder):
    """Return what lies in a folder, with sizes and times."""
    found = ((path, path.lstat()) for path in folder.rglob("*"))
    return {str(path): (one.st_mode, one.st_size, one.st_mtime_ns) for path, one in found}


def make_check(place, pristine):
    """Return what one try is: a command line in a folder that is put right before the next."""
    run = place / "runs" / pristine.paths.name
    seen = {}

    def check(line):
        if not run.is_dir():
            shutil.copytree(pristine.paths.root, run)
        if not seen:
            seen.update(listing(place))
        line = [run.name if word == "RUN" else word for word in line]
        line += ["--dry-run"] if line[:1] == ["submit"] else []
        result = CliRunner().invoke(main, line)
        told = (line, result.exit_code, result.stderr)
        assert result.exception is None or isinstance(result.exception, SystemExit), told
        assert result.exit_code in {0, 1, 2}, told
        assert "Traceback" not in result.output, told
        if result.exit_code == 2:
            assert listing(place) == seen, told
        else:
            seen.clear()

    return check


@pytest.mark.parametrize("number", [QUICK, pytest.param(WHOLE, marks=pytest.mark.slow)])
def test_any_command_line_ends_in_order(number, place, pristine_run):
    lines = command_lines.filter(lambda line: not goes_to_work(line))
    try_in_bounds(number, lines, make_check(place, pristine_run))
