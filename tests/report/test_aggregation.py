"""An aggregation as a command: what becomes of it where it cannot go on."""

from click.testing import CliRunner
from damage import files_of_at_most

from lenshpc.cli.main import main
from lenshpc.files import lock


def called(*arguments):
    """Return exit code, output and talk of a command in this process."""
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout, result.stderr


def test_full_disk_while_merging_is_a_line_and_leaves_the_report(run):
    run.paths.report.mkdir()
    (run.paths.report / "report.html").write_text("earlier")
    with files_of_at_most(1000):
        code, out, err = called("aggregate", run.paths.name)
    gate, line = err.splitlines()
    assert (code, out, gate.partition(":")[0]) == (1, "", "gate")
    assert line == (
        "lenshpc: a file cannot be read or written: File too large; check it, then repeat the "
        "command"
    )
    assert [path.name for path in run.paths.report.iterdir()] == ["report.html"]
    assert not list(run.paths.root.rglob("*.tmp"))


def test_second_aggregation_at_a_time_is_refused(run):
    run.paths.cache.mkdir()
    with lock(run.paths.cache / "lock"):
        told = called("aggregate", run.paths.name)
    assert told == (
        1,
        "",
        f"lenshpc: {run.paths.cache} is in use by another process; wait until that has ended, then "
        "repeat the command\n",
    )
    assert not run.paths.report.exists()


def test_two_layouts_among_members_are_a_line(run):
    run.finish(4, run.predictions(4), layout=1)
    code, out, err = called("aggregate", run.paths.name)
    assert (code, out) == (2, "")
    assert "lenshpc: member 4 (resnet34 fold 1 seed 0) of run " in err
    assert "has predictions of layout 1, which another version of lenshpc wrote" in err
