"""A recipe and a store become runs that can be sent, from Python as from the command line."""

import hashlib

import pytest
from click.testing import CliRunner

from lenshpc.cli.main import main
from lenshpc.errors import ConfigError
from lenshpc.run.plan import check_plugins, load_plan, save_plan
from lenshpc.run.planning import plan_chain, plan_run
from lenshpc.run.recipe import Recipe

NETWORK = """
from torch import nn

def tiny(spec):
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(spec.num_outputs))
"""
VIT = {"patch": 8, "width": 24, "depth": 2, "heads": 2}


def recipe(**changes):
    value = {"name": "spots", "task": "multiclass", "models": ("test_resnet",), "folds": 2}
    return Recipe(**{**value, "train": {"batch_size": 8}, **changes})


def test_planning_writes_nothing_and_is_the_command_lines(spots, tmp_path):
    planned = plan_run(recipe(train={"batch_size": 32}), spots, tmp_path / "runs")
    command = ["submit", "--task", "multiclass", "--data", str(spots.path), "--dry-run"]
    options = ["--models", "test_resnet", "--folds", "2", "--runs", str(tmp_path / "runs")]
    shown = CliRunner().invoke(main, [*command, *options])
    assert shown.exit_code == 0, shown.stderr
    assert list(tmp_path.iterdir()) == []
    assert planned.paths.root == (tmp_path / "runs" / planned.plan.run_name).resolve()
    names = [member.name for member in planned.plan.members]
    assert names == ["000-test_resnet-fold0-seed0", "001-test_resnet-fold1-seed0"]
    assert all(name in shown.stdout for name in names)


def test_chain_starts_from_the_run_before_it(spots, tmp_path):
    (tmp_path / "fine.yaml").write_text(
        "name: fine\ntask: multiclass\nmodels: [mae_vit]\nfolds: 1\n"
        f"method: {{vit: {VIT}}}\ntrain: {{batch_size: 8}}\n".replace("'", "")
    )
    first = Recipe(
        name="fm",
        task="foundation",
        models=("mae_vit",),
        folds=1,
        then=(str(tmp_path / "fine.yaml"),),
        method={"vit": VIT, "decoder_width": 16, "decoder_depth": 1, "decoder_heads": 2},
        train={"batch_size": 8},
    )
    head, fine = plan_chain(first, spots, tmp_path / "runs")
    assert fine.plan.recipe.init_from == str(head.paths.root)
    assert fine.plan.recipe.init_fingerprint == head.plan.fingerprint()
    assert [one.plan.recipe.name for one in (head, fine)] == ["fm", "fine"]
    text = (tmp_path / "fine.yaml").read_text()
    (tmp_path / "fine.yaml").write_text(text.replace("batch_size: 8", "batch_size: 99"))
    with pytest.raises(ConfigError) as caught:
        plan_chain(first, spots, tmp_path / "runs")
    assert str(caught.value) == (
        f"{tmp_path}/fine.yaml, which comes after fm: fold 0 trains mae_vit on 86 rows, fewer "
        "than its train.batch_size 99; lower it with --set train.batch_size=86, or use a store "
        f"with more rows; --set does not change {tmp_path}/fine.yaml; name a recipe of your own "
        "under `then`, or use --set then=[]"
    )


def test_network_of_a_file_is_planned_by_its_hash(spots, tmp_path):
    path = tmp_path / "mynet.py"
    path.write_text(NETWORK)
    asked = recipe(models=(f"{path}:tiny", "test_resnet"))
    planned = plan_run(asked, spots, tmp_path / "runs")
    name = f"tiny@{hashlib.sha256(NETWORK.encode()).hexdigest()[:12]}"
    assert planned.plan.recipe.models == (name, "test_resnet")
    assert planned.files == {name: NETWORK.encode()}
    assert planned.plan.members[0].name == f"000-{name}-fold0-seed0"

    save_plan(planned.paths, planned.plan, planned.splits)
    assert load_plan(planned.paths) == planned.plan
    path.write_text(NETWORK + "\n")
    changed = plan_run(asked, spots, tmp_path / "runs")
    assert changed.plan.fingerprint() != planned.plan.fingerprint()
    (tmp_path / "elsewhere").mkdir()
    moved = tmp_path / "elsewhere" / "other.py"
    moved.write_text(NETWORK)
    same = plan_run(recipe(models=(f"{moved}:tiny", "test_resnet")), spots, tmp_path / "runs")
    assert same.plan.fingerprint() == planned.plan.fingerprint()


@pytest.mark.parametrize(
    ("text", "name", "told"),
    [
        (NETWORK, "Tiny", "defines no class or function Tiny; it has tiny"),
        ("def tiny(:", "tiny", r"mynet.py:1: invalid syntax.*; correct the file"),
        (None, "tiny", r"mynet.py:tiny: cannot read the file \(No such file or directory\)"),
    ],
)
def test_file_without_the_network_is_refused(spots, tmp_path, text, name, told):
    path = tmp_path / "mynet.py"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError, match=told):
        plan_run(recipe(models=(f"{path}:{name}",)), spots, tmp_path / "runs")


def test_loss_of_a_file_is_planned_by_its_hash_in_variants_too(spots, tmp_path):
    path = tmp_path / "myloss.py"
    path.write_text("def plain(spec):\n    return None\n")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    asked = recipe(
        models=("test_resnet", "test_resnet+mine"),
        variants={"mine": {"method.loss": f"{path}:plain"}},
    )
    planned = plan_run(asked, spots, tmp_path / "runs")
    assert planned.plan.recipe.of("test_resnet+mine").method.loss == f"plain@{digest}"
    assert planned.plan.recipe.method.loss == "cross_entropy"
    assert list(planned.files) == [f"plain@{digest}"]


def test_file_under_two_paths_is_one_network(spots, tmp_path):
    for name in ("one.py", "two.py"):
        (tmp_path / name).write_text(NETWORK)
    asked = recipe(models=tuple(f"{tmp_path}/{name}.py:tiny" for name in ("one", "two")))
    with pytest.raises(ConfigError, match=r"models: tiny@\w+ is listed twice; remove one"):
        plan_run(asked, spots, tmp_path / "runs")


@pytest.mark.parametrize(
    "changes",
    [
        {"models": ("tiny@0123456789ab",)},
        {"method": {"loss": "plain@0123456789ab"}},
        {"models": ("test_resnet+x",), "variants": {"x": {"method.loss": "plain@0123456789ab"}}},
    ],
)
def test_name_of_a_file_that_another_run_keeps_is_refused(spots, tmp_path, changes):
    with pytest.raises(ConfigError, match=r"@0123456789ab is how another run refers to .*FILE.py:"):
        plan_run(recipe(**changes), spots, tmp_path / "runs")


def test_run_goes_on_with_the_plugins_of_its_submission_alone(spots, tmp_path):
    plan = plan_run(recipe(), spots, tmp_path / "runs").plan
    check_plugins(plan)
    other = plan.model_copy(update={"plugins": {"lens-rings": "1.0"}})
    with pytest.raises(ConfigError) as caught:
        check_plugins(other)
    assert str(caught.value) == (
        f"run {other.run_name} was submitted with lens-rings 1.0, and would now use no plugin; "
        "restore what it was submitted with, or submit the recipe again"
    )
