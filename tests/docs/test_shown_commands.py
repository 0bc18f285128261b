"""Each command on the pages is parsed as the command line parses it, and some are run."""

import re
import shlex
import warnings

import click
import pytest
from click.testing import CliRunner
from shown import FENCED, LEFT_OPEN, PAGES, ROOT, list_commands

from lenshpc.cli.main import main
from lenshpc.config import find_shipped, parse_assignment
from lenshpc.run.recipe import load_recipe, recipe_of_task

CHECKED = (click.Choice, click.IntRange, click.FloatRange, type(click.INT), type(click.FLOAT))


def shown_commands():
    for page in PAGES:
        for shown, alone in list_commands(page.read_text(encoding="utf-8")):
            if not LEFT_OPEN.search(shown):
                yield pytest.param(shown, alone, id=f"{page.relative_to(ROOT)}: {shown}"[:120])


@pytest.mark.parametrize(("shown", "alone"), [*shown_commands()])
def test_shown_command_has_options_and_values_that_there_are(shown, alone):
    name, *arguments = shlex.split(shown, comments=True)[1:]
    command = main.commands[name]
    if not alone and needs_value(command, arguments):
        arguments.append("VALUE")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        parser = command.make_parser(click.Context(command, info_name=name))
    given, left, _ = parser.parse_args(arguments)
    assert left == []
    for param in command.params:
        values = given.get(param.name)
        if isinstance(param, click.Argument):
            assert values or not alone or not param.required, f"{param.name} is not given"
        elif isinstance(param.type, CHECKED) and values is not None:
            for value in values if isinstance(values, list) else [values]:
                assert re.fullmatch("[A-Z]+", value) or param.type.convert(value, param, None)
    if given.get("assignments") or given.get("task"):
        check_settings(given)


def needs_value(command, arguments):
    """Say whether the last argument is an option whose value a sentence leaves open."""
    options = {name: param for param in command.params for name in param.opts}
    last = options.get(arguments[-1] if arguments else "")
    return isinstance(last, click.Option) and not last.is_flag


def check_settings(given):
    """Read the recipe with its changes, as `submit` does, where it is one that ships."""
    if given.get("task") == "centring":  # of the plugin that a page shows
        return
    recipe = recipe_of_task(given["task"]) if given.get("task") else given.get("recipe")
    if recipe not in find_shipped("jobs"):
        return
    load_recipe(recipe, [parse_assignment(one) for one in given.get("assignments") or []])


def planned_commands():
    """Yield submissions of networks that tell two classes apart, and need nothing but a store."""
    for case in shown_commands():
        shown, alone = case.values
        ours = re.search(
            r"submit .*(--task lens-finding|--task multiclass|--recipe lens_finding)", shown
        )
        left_out = re.search(r"--init-from|--probe|\./examples|fixmatch", shown)
        if alone and ours and not left_out:
            yield case


@pytest.mark.parametrize(("shown", "alone"), [*planned_commands()])
def test_shown_submission_is_planned(shown, alone, spots, tmp_path, monkeypatch):
    page = (ROOT / "docs" / "start" / "slurm.md").read_text(encoding="utf-8")
    profile = next(code for language, code in FENCED.findall(page) if language == "yaml")
    (tmp_path / "slurm").mkdir()
    for name in ("mycluster.yaml", "slurm/mycluster.yaml", "my.yaml"):
        (tmp_path / name).write_text(profile)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LENSHPC_DATA", str(spots.path))
    arguments = re.sub(r"--data \S+|--wait|--dry-run", "", shown.split(" ", 1)[1])
    done = CliRunner().invoke(main, [*shlex.split(arguments, comments=True), "--dry-run"])
    assert done.exit_code == 0, done.output
    members = re.findall(r"-fold\d+-seed\d+ +submitted$", done.output, re.MULTILINE)
    # As the pages say: "two models on five folds are ten members".
    expected = 10 if "--folds 5 --models resnet18,resnet34 " in f"{arguments} " else len(members)
    assert len(members) == expected > 0


def test_pages_show_every_command_and_every_option():
    text = " ".join(page.read_text(encoding="utf-8") for page in PAGES)
    options = {
        option
        for command in main.commands.values()
        for param in command.params
        if isinstance(param, click.Option)
        for option in param.opts
    }
    assert sorted(option for option in options if f"{option}" not in text) == []
    shown = {
        shlex.split(one, comments=True)[1]
        for page in PAGES
        for one, _ in list_commands(page.read_text("utf-8"))
    }
    assert shown >= {*main.commands}
