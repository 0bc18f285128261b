"""Options, keys and names that are nearly right lead to the right one."""

import pytest
from click.testing import CliRunner

from lenshpc.cli.main import main
from lenshpc.cli.meant import INSTEAD, VERBS
from lenshpc.config import MEANT, find_near
from lenshpc.launch.sites import Site
from lenshpc.run.augmentations import AUGMENTATIONS
from lenshpc.run.recipe import load_recipe

SUBMIT = ("submit", "--task", "multiclass", "--data", "STORE")


def run(*words: str) -> str:
    """Return the last line of a command that is refused."""
    found = CliRunner().invoke(main, words)
    assert found.exit_code == 2
    return found.output.splitlines()[-1].removeprefix("lenshpc: ").removeprefix("Error: ")


@pytest.mark.parametrize(
    ("option", "told"),
    [
        ("--gpus", "did you mean --gpus-per-node?"),
        ("--model", "did you mean --models?"),
        ("--epochs", "use --set train.epochs=N"),
        ("--gres", "use --gpus-per-node N"),
        ("--partition", "use --site FILE.yaml with `partition`"),
        ("--dryrun", "did you mean --dry-run?"),
    ],
)
def test_option_of_another_name_leads_to_ours(option: str, told: str) -> None:
    assert run(*SUBMIT, option, "4") == f"No such option {option}; {told}"


@pytest.mark.parametrize("verb", sorted(VERBS))
def test_verb_of_other_tools_leads_to_ours(verb: str) -> None:
    done = CliRunner().invoke(main, [verb, "lens_finding"])
    assert done.exit_code == 2
    last = done.stderr.strip().splitlines()[-1]
    assert last == f"Error: No such command {verb!r}; use lenshpc {VERBS[verb]}"
    assert VERBS[verb] in {*main.commands, "--version", "--help"}


def test_option_like_none_is_refused_alone() -> None:
    assert run("status", "--zzz") == "No such option --zzz"


def test_value_after_a_blank_is_told() -> None:
    told = "'train.epochs' has no value; write --set train.epochs=VALUE"
    assert run(*SUBMIT, "--set", "train.epochs", "3") == f"Invalid value for '--set': {told}"


@pytest.mark.parametrize("instead", INSTEAD.values())
def test_what_is_advised_exists(instead: str) -> None:
    option, value = [*instead.split(" "), ""][:2]
    assert any(
        option in param.opts for command in main.commands.values() for param in command.params
    )
    if option == "--set":
        key = value.partition("=")[0]
        section, name = key.split(".")
        assert hasattr(getattr(load_recipe("multiclass", []), section), name)
    if option == "--site":
        assert instead.split("`")[1] in Site.model_fields


@pytest.mark.parametrize(
    ("assignment", "told"),
    [
        ("epochs=3", "unknown key 'epochs'; did you mean train.epochs?"),
        ("train.nodes=2", "unknown key 'train.nodes'; did you mean resources.nodes?"),
        ("data.augment=[rotate]", "unknown augmentation 'rotate'; did you mean affine? known: "),
        ("models=[resnet-34]", "did you mean resnet34? (found ['resnet-34'])"),
        ("models=resnet18", "models: expected a list (found 'resnet18')"),
        ("train.epochs=1.5", "train.epochs: expected a whole number (found 1.5)"),
        ("train.lr=fast", "train.lr: expected a number (found 'fast')"),
        ("folds=0", "folds: expected at least 1 (found 0)"),
        ("train.clip_norm=[1]", "train.clip_norm: expected a number (found [1])"),
    ],
)
def test_setting_that_is_wrong_is_told_in_plain_words(assignment: str, told: str) -> None:
    assert told in run(*SUBMIT, "--set", assignment)


def test_networks_may_stand_after_a_blank() -> None:
    told = run(*SUBMIT, "--models", "resnet18, resnet34")
    assert told.startswith("no store at STORE")


@pytest.mark.parametrize(
    ("name", "known", "expected"),
    [
        ("lens_finding", ["anomaly", "lens-finding"], ["lens-finding"]),
        ("ResNet-34", ["resnet18", "resnet34"], ["resnet34"]),
        ("afine", ["affine", "noise"], ["affine"]),
        ("rotate", ["contrast", "affine"], ["affine"]),
        ("rotate", ["contrast"], []),
    ],
)
def test_nearest_name_is_one_that_is_valid_here(
    name: str, known: list[str], expected: list[str]
) -> None:
    assert find_near(name, known) == expected


def test_words_of_others_stand_for_names_that_exist() -> None:
    assert set(MEANT.values()) <= set(AUGMENTATIONS)
