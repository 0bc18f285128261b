"""Training that begins with the weights of another, and parts of a network that do not learn."""

import logging
import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch
from damage import flip
from networks import build
from ranks import finish, planned, recipe, start
from safetensors.torch import load_file
from spots import write_store

from lenshpc.engine.freezing import freeze
from lenshpc.engine.member import run_member
from lenshpc.engine.pretrained import fill, fill_encoder
from lenshpc.engine.signals import Signals
from lenshpc.errors import ConfigError, DataError, IncompleteError
from lenshpc.files import read_sealed, sha256, write_sealed
from lenshpc.launch.origin import find_awaited_jobs
from lenshpc.run.paths import RunPaths
from lenshpc.run.plan import Plan, save_plan
from lenshpc.run.planning import plan_run
from lenshpc.run.recipe import Recipe
from lenshpc.run.trained import (
    MODEL,
    TRAINING_ROWS,
    EnsembleSpec,
    PixelStatistics,
    TrainedMember,
    narrow,
    read_export,
    weights_file,
)
from lenshpc.store import Store
from lenshpc.tasks.anomaly.autoencoders import Autoencoder
from lenshpc.tasks.physics_guided.networks import GuidedBackbone
from lenshpc.tasks.super_resolution.networks import SuperResolver, srresnet

BODY = ("conv1", "bn1", "layer*")  # of test_resnet: all but the last layer
VIT = {"patch": 8, "width": 24, "depth": 2, "heads": 2}


def network(num_outputs, name="test_resnet", side=32, seed=0, **settings):
    torch.manual_seed(seed)
    return build(name, image_shape=(1, side, side), num_outputs=num_outputs, **settings)


def copy_of(model):
    return {key: value.clone() for key, value in model.state_dict().items()}


def assert_equal(found, expected):
    assert found.keys() == expected.keys()
    assert [key for key in found if not torch.equal(found[key], expected[key])] == []


@pytest.mark.parametrize(
    ("name", "last"), [("test_resnet", "fc"), ("test_vit", "head"), ("d4_net", "head")]
)
def test_all_but_a_last_layer_of_other_classes_is_loaded(name, last):
    source, model = network(2, name), network(3, name, seed=1)
    own, given = copy_of(model), copy_of(source)
    assert fill(model, given) == [f"network.{last}"]
    news = {f"network.{last}.{kind}" for kind in ("weight", "bias")}
    assert_equal(model.state_dict(), {key: (own if key in news else given)[key] for key in own})


def test_last_layer_of_as_many_classes_is_loaded():
    source, model = network(2), network(2, seed=1)
    assert fill(model, copy_of(source)) == []
    assert_equal(model.state_dict(), copy_of(source))


def test_last_layer_of_the_physics_stays_new_and_is_left_behind():
    plain, guided = network(2), GuidedBackbone(network(2, seed=1).network, 5)
    torch.nn.init.ones_(guided.lens.bias)
    given = copy_of(plain)
    assert fill(guided, given) == ["lens"]
    assert_equal(
        copy_of(guided), given | {f"lens.{k}": v for k, v in guided.lens.named_parameters()}
    )
    back = network(2, seed=2)
    assert fill(back, copy_of(guided)) == []
    assert_equal(copy_of(back), given)


def test_probe_begins_with_features_that_are_not_yet_standardised():
    probe = network(2, seed=1, linear_probe=True)
    assert fill(probe, copy_of(network(2))) == ["standardise"]
    assert_equal(copy_of(probe.network), copy_of(network(2).network))
    plain = network(2, seed=2)
    assert fill(plain, copy_of(probe)) == []


@pytest.mark.parametrize(
    "make", [lambda: Autoencoder((1, 16, 16), 4), lambda: SuperResolver(srresnet(1, 2, 8, 1), 2)]
)
def test_networks_of_images_are_loaded_whole(make):
    torch.manual_seed(0)
    source, model = make(), make()
    assert fill(model, copy_of(source)) == []
    assert_equal(copy_of(model), copy_of(source))


@pytest.mark.parametrize(
    ("source", "model"),
    [
        (lambda: Autoencoder((1, 16, 16), 4), lambda: Autoencoder((1, 16, 16), 5)),
        (lambda: network(2, "test_convnext"), lambda: network(2)),
        (lambda: network(2, "test_vit", side=32), lambda: network(2, "test_vit", side=64)),
    ],
)
def test_any_other_difference_is_an_error(source, model):
    with pytest.raises(RuntimeError, match=r"Missing key|size mismatch"):
        fill(model(), copy_of(source()))


def test_encoder_of_a_classifier_goes_into_an_encoder_beside_another_last_layer():
    source, model = network(2, "mae_vit", vit=VIT), network(2, "mae_vit", seed=1, vit=VIT)
    fill_encoder(model, copy_of(source))
    assert_equal(copy_of(model.network.encoder), copy_of(source.network.encoder))
    assert not torch.equal(model.network.head.weight, source.network.head.weight)


@pytest.mark.parametrize(
    ("patterns", "left"),
    [
        (("conv1", "bn1", "layer[1-4]"), {"network.fc.weight", "network.fc.bias"}),
        (("[!f]*",), {"network.fc.weight", "network.fc.bias"}),
        (("conv1", "bn1", "layer?", "fc.bias"), {"network.fc.weight"}),
    ],
)
def test_patterns_name_modules_and_parameters_of_the_network(patterns, left):
    model = network(2)
    freeze(model, patterns)
    assert {name for name, value in model.named_parameters() if value.requires_grad} == left


def test_network_of_which_nothing_would_learn_is_refused():
    with pytest.raises(ConfigError, match="freeze freezes all of the network"):
        freeze(network(2), ("*.bias", "*.weight"))


def test_pattern_that_matches_nothing_is_told_what_there_is():
    with pytest.raises(ConfigError) as caught:
        freeze(network(2), ("layer1", "stage1"))
    assert str(caught.value) == (
        "train.freeze 'stage1' matches no part of the network; it has conv1, bn1, act1, maxpool, "
        "layer1, layer2, layer3, layer4, global_pool, fc, and parts inside these, such as "
        "conv1.0.weight"
    )


def fine_tuning(source: RunPaths, **changes: object) -> Recipe:
    value = {"name": "fine", "folds": 2, "init_from": str(source.root), "train__epochs": 1}
    return recipe(**value, train__freeze=BODY, **changes)


def prepared(asked: Recipe, store: Store, folder: Path) -> tuple[RunPaths, Plan]:
    made = plan_run(asked, store, folder)
    save_plan(made.paths, made.plan, made.splits)
    made.paths.slurm.mkdir(mode=0o700)
    return made.paths, made.plan


@pytest.fixture(scope="module")
def trained(spots: Store, tmp_path_factory: pytest.TempPathFactory) -> tuple[RunPaths, Plan]:
    """Return a run of two folds and seeds, of which the members of fold 1 are done."""
    asked = recipe(folds=2, seeds=(0, 7), train__epochs=1)
    run, plan = planned(tmp_path_factory.mktemp("trained"), spots, asked)
    for member in plan.members:
        if member.fold == 1:
            run_member(run, member.index, Signals())
    return run, plan


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Return a store of three classes with other pixels."""
    labels = torch.arange(96).numpy() % 3
    folder = tmp_path_factory.mktemp("three")
    return write_store(folder / "three", labels, ["train"] * 72 + ["test"] * 24, seed=5)


def assert_frozen(run: RunPaths, plan: Plan, index: int, source: RunPaths, name: str) -> None:
    """Assert that a member has the other's weights and statistics, but for its last layer."""
    before = load_file(source.member(name).weights)
    after = load_file(run.member(plan.members[index].name).weights)
    last = {"network.fc.weight", "network.fc.bias"}
    rest = [{k: v for k, v in one.items() if k not in last} for one in (before, after)]
    assert_equal(*rest)
    assert after["network.fc.weight"].shape != before["network.fc.weight"].shape


def test_run_goes_on_from_the_member_of_its_fold_and_seed_with_all_but_one_layer_frozen(
    trained: tuple[RunPaths, Plan], three: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source, _ = trained
    asked = fine_tuning(source, seeds=(7,), train__ema_decay=0.9, train__clip_norm=0.5)
    run, plan = prepared(asked, three, tmp_path)
    caplog.set_level(logging.INFO)
    run_member(run, 1, Signals())
    assert_frozen(run, plan, 1, source, "003-test_resnet-fold1-seed7")
    told = [one.getMessage() for one in caplog.records if one.name == "lenshpc.engine.pretrained"]
    assert told == [f"starts from member 3 of run {source.name}; new: network.fc"]


def test_member_that_is_not_done_gives_no_weights(
    trained: tuple[RunPaths, Plan], three: Store, tmp_path: Path
) -> None:
    run, _ = prepared(fine_tuning(trained[0]), three, tmp_path)
    with pytest.raises(IncompleteError, match=r"member 0 of run .* is not done; finish it with"):
        run_member(run, 0, Signals())


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes", [{"train__strategy": "ddp"}, {"train__strategy": "deepspeed"}], ids=["ddp", "zero"]
)
def test_frozen_parts_stay_bit_by_bit_on_two_processes(
    trained: tuple[RunPaths, Plan], three: Store, tmp_path: Path, changes: dict[str, object]
) -> None:
    source, _ = trained
    two = {"resources__gpus_per_node": 2, "train__ema_decay": 0.9}
    run, plan = prepared(fine_tuning(source, **two, **changes), three, tmp_path)
    finish(start([run], index=1, world_size=2))
    assert_frozen(run, plan, 1, source, "002-test_resnet-fold1-seed0")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"models": ["test_convnext"]},
            "of task multiclass has weights of test_resnet, and none for test_convnext of task "
            "multiclass; give --models a network that it has",
        ),
        (
            {"task": "anomaly", "models": ["conv_ae"], "train__batch_size": 4},
            "has weights of test_resnet, and none for conv_ae of task anomaly",
        ),
        ({"models": ["mae_vit"]}, "and none for mae_vit of task multiclass"),
    ],
)
def test_run_without_weights_for_a_network_is_refused_by_planning(
    trained: tuple[RunPaths, Plan], three: Store, tmp_path: Path, changes: dict, told: str
) -> None:
    with pytest.raises(ConfigError, match=told):
        plan_run(fine_tuning(trained[0], **changes), three, tmp_path)


def exported(source: tuple[RunPaths, Plan], store: Store, folder: Path, rows: list[int]) -> Path:
    """Write the export of a run's members that are done, which have learnt from some rows."""
    run, plan = source
    (folder / "members").mkdir(parents=True)
    pd.DataFrame({"sha256": store.rows["sha256"].iloc[rows]}).to_parquet(folder / TRAINING_ROWS)
    members = [
        TrainedMember(**one.model_dump(), mean=(0.5,), std=(0.2,), sha256=sha256(weights))
        for one in plan.members
        if (weights := run.member(one.name).weights).exists()
    ]
    for member in members:
        shutil.copy(run.member(member.name).weights, folder / weights_file(member))
    spec = EnsembleSpec(
        name=run.name,
        fingerprint=plan.fingerprint(),
        recipe=narrow(plan.recipe, plan.recipe.models),
        dataset=plan.dataset,
        source={},
        classes=plan.classes,
        channels=store.channels,
        image_shape=store.image_shape,
        dtype=store.dtype.name,
        pixels=PixelStatistics.of(store.column("moments")),
        members=tuple(members),
        files={TRAINING_ROWS: sha256(folder / TRAINING_ROWS)},
    )
    write_sealed(folder / MODEL, spec.model_dump(mode="json"))
    return folder


def test_run_starts_from_an_export_on_a_machine_without_the_run(
    trained: tuple[RunPaths, Plan], spots: Store, three: Store, tmp_path: Path
) -> None:
    folder = exported(trained, spots, tmp_path / "export", list(range(96)))
    asked = recipe(init_from=str(folder), train__freeze=BODY, train__epochs=1, folds=2)
    run, plan = prepared(asked, three, tmp_path)
    assert plan.recipe.init_from == str(folder)
    assert plan.recipe.init_fingerprint == read_export(folder).spec.digest
    assert find_awaited_jobs(plan) == ()
    run_member(run, 1, Signals())
    assert_frozen(run, plan, 1, trained[0], "002-test_resnet-fold1-seed0")


def test_another_export_makes_another_run_that_the_first_does_not_go_on_as(
    trained: tuple[RunPaths, Plan], spots: Store, three: Store, tmp_path: Path
) -> None:
    folder = exported(trained, spots, tmp_path / "export", [0])
    asked = recipe(init_from=str(folder), train__epochs=1, folds=2)
    run, plan = prepared(asked, three, tmp_path)
    value = read_sealed(folder / MODEL)
    write_sealed(folder / MODEL, value | {"name": "another"})
    other = plan_run(asked, three, tmp_path).plan
    assert other.recipe.init_fingerprint != plan.recipe.init_fingerprint
    assert other.fingerprint() != plan.fingerprint()
    with pytest.raises(DataError, match="export has changed since this run was submitted to start"):
        run_member(run, 0, Signals())


def test_export_that_has_learnt_from_test_rows_is_refused(
    trained: tuple[RunPaths, Plan], spots: Store, tmp_path: Path
) -> None:
    folder = exported(trained, spots, tmp_path / "export", [0, 5, 97, 100])
    with pytest.raises(ConfigError) as caught:
        plan_run(recipe(init_from=str(folder), folds=2), spots, tmp_path)
    assert str(caught.value) == (
        f"export {folder} was trained on 2 of the 24 test rows of {spots.path}, such as "
        f"{spots.rows['id'][97]!r}; start from one that was trained on a store that keeps them in "
        "its test split"
    )


@pytest.mark.parametrize(
    ("name", "change", "told"),
    [
        (TRAINING_ROWS, Path.unlink, "export lacks training_rows.parquet; export the run"),
        (TRAINING_ROWS, flip, r"export/training_rows.parquet was changed after the export"),
        ("members/002-test_resnet-fold1-seed0.safetensors", flip, "was changed after the export"),
        (MODEL, flip, "model.json"),
    ],
)
def test_export_that_lacks_a_file_or_has_another_is_refused(
    trained: tuple[RunPaths, Plan], spots: Store, three: Store, tmp_path: Path, name, change, told
) -> None:
    folder = exported(trained, spots, tmp_path / "export", [0])
    change(folder / name)
    with pytest.raises(DataError, match=told):
        plan_run(recipe(init_from=str(folder), folds=2), three, tmp_path)


def test_export_that_does_not_say_what_it_has_learnt_from_is_refused(
    trained: tuple[RunPaths, Plan], spots: Store, three: Store, tmp_path: Path
) -> None:
    folder = exported(trained, spots, tmp_path / "export", [0])
    write_sealed(folder / MODEL, read_sealed(folder / MODEL) | {"files": {}})
    with pytest.raises(DataError, match=r"training_rows.parquet was changed after the export"):
        plan_run(recipe(init_from=str(folder), folds=2), three, tmp_path)


def test_folder_that_is_neither_a_run_nor_an_export_is_refused(
    three: Store, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"is neither a run, .* unpack a .zip first"):
        plan_run(recipe(init_from=str(tmp_path), folds=2), three, tmp_path)


def test_rows_of_what_a_run_began_with_itself_are_not_unseen(
    trained: tuple[RunPaths, Plan], spots: Store, three: Store, tmp_path: Path
) -> None:
    folder = exported(trained, spots, tmp_path / "export", [97])
    run, _ = prepared(recipe(init_from=str(folder), folds=2), three, tmp_path)
    with pytest.raises(ConfigError, match=r"run spots-\w+ was trained on 1 of the 24 test rows of"):
        plan_run(recipe(init_from=str(run.root), folds=2), spots, tmp_path)
