"""The Plan: its members, its split manifest and what its fingerprint says."""

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ranks import recipe
from stores import rewrite

from lenshpc import __version__
from lenshpc.errors import ConfigError, DataError
from lenshpc.files import read_json, write_json
from lenshpc.launch.failures import classify
from lenshpc.run.paths import RunPaths
from lenshpc.run.plan import (
    Member,
    Plan,
    expand,
    load_plan,
    load_splits,
    open_planned_store,
    save_plan,
    scored_rows,
)
from lenshpc.run.recipe import Recipe


@pytest.fixture
def altered(spots, tmp_path):
    """Return what makes the store with other classes, or other values in columns of its rows."""
    numbers = itertools.count()
    return lambda **columns: rewrite(spots, tmp_path / f"altered{next(numbers)}", **columns)


def test_members_go_through_models_then_folds_then_seeds(spots):
    plan, _ = expand(recipe(models=["resnet18", "test_resnet"], folds=2, seeds=[0, 7]), spots)
    assert [member.name for member in plan.members] == [
        "000-resnet18-fold0-seed0",
        "001-resnet18-fold0-seed7",
        "002-resnet18-fold1-seed0",
        "003-resnet18-fold1-seed7",
        "004-test_resnet-fold0-seed0",
        "005-test_resnet-fold0-seed7",
        "006-test_resnet-fold1-seed0",
        "007-test_resnet-fold1-seed7",
    ]
    assert plan.ensembles() == {"resnet18": plan.members[:4], "test_resnet": plan.members[4:]}


def test_gpu_hours_are_those_of_all_members_at_their_limit(spots):
    size = {"nodes": 2, "gpus_per_node": 4, "time_min": 90}
    plan, _ = expand(recipe(folds=3, resources=size), spots)
    assert (plan.gpu_hours_ceiling, plan.core_hours_ceiling) == (3 * 8 * 1.5, 4 * 3 * 8 * 1.5)


def test_members_on_cpus_take_hours_of_cores_alone(spots):
    size = {"nodes": 2, "gpus_per_node": 0, "tasks_per_node": 4, "cpus_per_gpu": 3, "time_min": 90}
    plan, _ = expand(recipe(folds=3, resources=size), spots)
    assert (plan.gpu_hours_ceiling, plan.core_hours_ceiling) == (0, 3 * 8 * 3 * 1.5)


def test_manifest_has_each_training_row_in_one_fold_and_no_test_row(spots):
    _, splits = expand(recipe(folds=3), spots)
    assert splits.columns.tolist() == ["row", "id", "label", "group", "split", "fold"]
    assert splits["row"].tolist() == list(range(120))
    assert splits["id"].tolist() == spots.rows["id"].tolist()
    table = splits.groupby(["split", "fold", "label"]).size().to_dict()
    dev = {("dev", fold, label): 16 for fold in range(3) for label in range(2)}
    assert table == dev | {("test", -1, 0): 12, ("test", -1, 1): 12}


def test_one_fold_holds_out_a_tenth(spots):
    _, splits = expand(recipe(folds=1), spots)
    table = splits.groupby(["split", "fold"]).size().to_dict()
    assert table[("test", -1)] == 24
    assert table[("dev", 0)] + table[("dev", -1)] == 96
    assert 9 <= table[("dev", 0)] <= 10  # a tenth of 48 rows a class


@pytest.fixture
def with_val_split(spots, altered):
    split = spots.rows["split"].to_numpy(dtype=object).copy()
    split[np.flatnonzero(split == "train")[:20]] = "val"
    return altered(split=split), np.flatnonzero(split == "val")


def test_one_fold_is_the_own_val_split(with_val_split):
    store, val_rows = with_val_split
    _, splits = expand(recipe(folds=1), store)
    assert np.flatnonzero(splits["fold"] == 0).tolist() == val_rows.tolist()
    assert set(splits["split"]) == {"dev", "test"}


def test_several_folds_are_cut_from_train_and_val_together(spots, with_val_split):
    store, _ = with_val_split
    _, splits = expand(recipe(folds=3), store)
    pd.testing.assert_frame_equal(splits, expand(recipe(folds=3), spots)[1])


def test_store_without_test_rows_is_refused(spots, altered):
    store = altered(split="train")
    with pytest.raises(ConfigError) as caught:
        expand(recipe(), store)
    assert str(caught.value) == (
        f"{store.path} has no test rows; give some images a folder of their own, a split "
        "column or a holdout in the dataset file, then prepare another store"
    )


def test_group_in_test_and_training_is_refused(spots, altered):
    first = {split: spots.rows.index[spots.rows["split"] == split][0] for split in spots.rows.split}
    group = spots.rows["group"].to_numpy(dtype=object).copy()
    group[[first["train"], first["test"]]] = "galaxy7"
    with pytest.raises(DataError) as caught:
        expand(recipe(), altered(group=group))
    assert str(caught.value) == (
        "group 'galaxy7' lies in the test split and in training (1 such groups); prepare the "
        "store with a split that keeps groups together"
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"resources__time_min": 7},
        {"resources__mem_gb_per_gpu": 99},
        {"resources__cpus_per_gpu": 2},
        {"resources__max_requeues": {"crash": 9}},
    ],
)
def test_fingerprint_does_not_depend_on_limits(spots, changes):
    assert expand(recipe(**changes), spots)[0].fingerprint() == print_of(spots)


def print_of(store, **changes):
    return expand(recipe(**changes), store)[0].fingerprint()


def test_fingerprint_does_not_depend_on_where_the_store_lies(spots):
    moved = replace(spots, path=Path("/elsewhere/spots"))
    assert print_of(moved) == print_of(spots)


@pytest.mark.parametrize(
    ("resources", "run", "member"),
    [
        (
            {},
            "5770dd4ef95c6761c8a46d81b6b15edaa92740a7d68ab42cbd7da824b34ddbad",
            "ae10992a54a9991d13779ef252a6642dc853ae9904e10644f1bdb32593857287",
        ),
        (
            {"nodes": 2, "gpus_per_node": 4, "cpus_per_gpu": 2},
            "09d98a76227558a6d36437aab3b9e6e08a6d1aac2fc6c9d85a98a36c3f320c21",
            "1c5334ca9681c2514638f5901105b5637560fc5651e696359bfc2b225090c9d7",
        ),
    ],
)
def test_fingerprint_is_the_one_of_before_there_were_members_on_cpus(resources, run, member):
    asked = {"name": "n", "task": "multiclass", "models": ["resnet18"], "folds": 1}
    plan = Plan(
        recipe=Recipe(**asked, resources=resources),
        store="/s",
        store_hash="1",
        dataset="d",
        classes=("a", "b"),
        image_shape=(1, 8, 8),
        splits_hash="2",
        layout=3,
        code_version="3",
        members=(Member(index=0, model="resnet18", fold=0, seed=0),),
    )
    assert (plan.fingerprint(), plan.member_fingerprint(plan.members[0])) == (run, member)


def test_fingerprint_has_the_processes_whatever_they_compute_on(spots):
    on_cpus = {"gpus_per_node": 0, "tasks_per_node": 4}
    assert print_of(spots, resources=on_cpus) == print_of(spots, resources={"gpus_per_node": 4})
    assert print_of(spots, resources=on_cpus) != print_of(spots, resources={"gpus_per_node": 0})
    assert print_of(spots, resources={"gpus_per_node": 0}) == print_of(spots)


def test_fingerprint_is_that_of_an_equal_plan(spots):
    assert print_of(spots) == print_of(spots)
    assert len(print_of(spots)) == 64


@pytest.mark.parametrize(
    "changes",
    [
        {"train__epochs": 3},
        {"train__lr": 2e-3},
        {"seeds": [1]},
        {"split_seed": 1},
        {"folds": 2},
        {"models": ["resnet18"]},
        {"resources__nodes": 2},
        {"resources__gpus_per_node": 2},
        {"data__image_size": 16},
        {"data__crop": 16},
    ],
)
def test_fingerprint_depends_on_what_changes_results(spots, changes):
    assert print_of(spots, **changes) != print_of(spots)


@pytest.mark.parametrize(
    ("changes", "loading"),
    [
        ({}, "resident"),  # 120 images of 4 KiB
        ({"resources__mem_gb_per_gpu": 1e-3}, "resident"),  # half a megabyte for the images
        ({"resources__mem_gb_per_gpu": 0.97e-3}, "stream"),
        ({"resources": {"mem_gb_per_gpu": 0.5e-3, "gpus_per_node": 2}}, "resident"),
        ({"resources": {"mem_gb_per_gpu": 0.5e-3, "nodes": 2}}, "stream"),
        ({"resources__mem_gb_per_gpu": 1e-3, "data__image_size": 64}, "stream"),
        ({"data__loading": "stream"}, "stream"),
        ({"resources__mem_gb_per_gpu": 1e-3, "data__loading": "resident"}, "resident"),
    ],
)
def test_loading_is_decided_by_the_images_and_half_of_a_nodes_memory(spots, changes, loading):
    assert expand(recipe(**changes), spots)[0].recipe.data.loading == loading


def test_fingerprint_depends_on_the_loading_that_was_decided(spots):
    assert print_of(spots) == print_of(spots, data__loading="resident")
    assert print_of(spots) != print_of(spots, data__loading="stream")


def test_quarter_turns_of_oblong_images_are_refused(spots):
    oblong = replace(spots, image_shape=(1, 32, 30))
    with pytest.raises(ConfigError) as caught:
        expand(recipe(), oblong)
    assert str(caught.value) == (
        "data.augment d4 rotates images by 90°, and these have 32 by 30 pixels; use flips, or "
        "--set data.image_size=30"
    )
    expand(recipe(data__augment=["flips"]), oblong)
    with pytest.raises(ConfigError, match=r"method\.tta d4 rotates images by 90°"):
        expand(recipe(data__augment=["flips"], method={"tta": "d4"}), oblong)
    expand(recipe(data__image_size=30), oblong)
    expand(recipe(data__crop=30), oblong)


def test_crops_beyond_the_image_are_refused(spots):
    with pytest.raises(ConfigError) as caught:
        expand(recipe(data__crop=31), replace(spots, image_shape=(1, 32, 30)))
    assert str(caught.value) == (
        "data.crop 31 is larger than the images of 32 by 30 pixels; lower it"
    )


def test_fingerprint_depends_on_the_data(spots):
    assert print_of(replace(spots, content_hash="0" * 64)) != print_of(spots)


def test_plan_round_trips_through_its_file(spots, tmp_path):
    plan, splits = expand(recipe(), spots)
    run = RunPaths(tmp_path / plan.run_name)
    save_plan(run, plan, splits)
    loaded = load_plan(run)
    assert loaded == plan
    assert loaded.fingerprint() == plan.fingerprint()
    assert Plan.model_validate_json(plan.model_dump_json()) == plan
    pd.testing.assert_frame_equal(load_splits(run, loaded), splits)
    assert run.name == f"spots-{plan.fingerprint()[:8]}"


def test_altered_manifest_is_refused(spots, tmp_path):
    plan, splits = expand(recipe(), spots)
    run = RunPaths(tmp_path / plan.run_name)
    save_plan(run, plan, splits)
    swapped = splits.assign(fold=splits["fold"].replace({0: 1, 1: 0}))
    swapped.to_parquet(run.splits, index=False)
    with pytest.raises(DataError, match="is not the manifest of its Plan"):
        load_splits(run, plan)


def test_binary_loss_on_three_classes_is_refused(spots, altered):
    three = altered(classes=("no", "sphere", "vort"))
    with pytest.raises(ConfigError, match=r"bce is for two classes, .* has 3"):
        expand(recipe(method={"loss": "bce"}), three)


def test_batch_larger_than_a_folds_training_rows_is_refused(spots):
    with pytest.raises(ConfigError) as caught:
        expand(recipe(models=("test_resnet",), train__batch_size=128), spots)
    assert str(caught.value) == (
        "fold 0 trains test_resnet on 64 rows, fewer than its train.batch_size 128; lower it with "
        "--set train.batch_size=64, or use a store with more rows"
    )
    few = {"few": {"data.label_fraction": 0.1, "train.batch_size": 16}}
    with pytest.raises(ConfigError) as caught:
        expand(recipe(models=("test_resnet+few",), variants=few), spots)
    assert str(caught.value) == (
        "fold 0 trains test_resnet+few on 8 rows (10% of the labels), fewer than its "
        "train.batch_size 16; lower it with variants.few of a recipe of your own, use a larger "
        "data.label_fraction, or use a store with more rows"
    )


@pytest.mark.parametrize("text", ["", "{", "[]", '{"recipe": {}}'])
def test_damaged_plan_is_refused(tmp_path, text):
    (tmp_path / "plan.json").write_text(text)
    with pytest.raises((DataError, ConfigError), match=r"plan\.json"):
        load_plan(RunPaths(tmp_path))


def test_plan_of_an_older_layout_is_refused(spots, tmp_path):
    run = RunPaths(tmp_path)
    save_plan(run, *expand(recipe(), spots))
    value = read_json(run.plan) | {"code_version": "0.1.0"}
    del value["layout"]
    value["recipe"]["method"]["frozen"] = value["recipe"]["method"].pop("linear_probe")
    write_json(run.plan, value)
    with pytest.raises(DataError) as caught:
        load_plan(run)
    assert str(caught.value) == (
        f"{tmp_path} was made by lenshpc 0.1.0, whose runs lenshpc {__version__} cannot read; "
        "submit the recipe again"
    )


def test_anomalies_neither_train_nor_validate(spots):
    plan, splits = expand(
        recipe(task="anomaly", models=["conv_ae"], method={"normal": "class1"}), spots
    )
    parts = splits.groupby("split")["label"].agg(set).to_dict()
    assert parts == {"excluded": {0}, "dev": {1}, "test": {0, 1}}
    assert set(splits.loc[splits["split"] == "dev", "fold"]) == {0, 1, 2}
    assert set(splits.loc[splits["split"] != "dev", "fold"]) == {-1}
    scored = scored_rows(plan, splits, plan.members[1])
    assert scored.groupby("split")["label"].agg(set).to_dict() == {
        "excluded": {0},
        "oof": {1},
        "test": {0, 1},
        "train": {1},
    }
    assert set(scored.loc[scored["split"] == "oof", "fold"]) == {1}
    assert set(scored.loc[scored["split"] == "train", "fold"]) == {0, 2}
    assert not scored["row"].duplicated().any()


def test_classifier_scores_its_fold_and_the_test_rows(spots):
    plan, splits = expand(recipe(), spots)
    scored = scored_rows(plan, splits, plan.members[2])
    expected = splits[(splits["fold"] == 2) | (splits["split"] == "test")]
    assert sorted(scored["row"]) == expected["row"].tolist()
    assert set(scored["split"]) == {"oof", "test"}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"task": "anomaly", "models": ["conv_ae"], "method": {"normal": "no_sub"}},
            "unknown method.normal 'no_sub'; known: class0, class1",
        ),
        (
            {"task": "super-resolution", "models": ["edsr"]},
            "task super-resolution learns from pairs, and {path} holds none; "
            "prepare a dataset that has a target, such as super_resolution",
        ),
        (
            {"data__normalise": "imagenet"},
            "data.normalise imagenet is for three channels, {path} has 1; "
            "use fold, or --set data.grey_to_rgb=true",
        ),
        (
            {"method": {"consistency": {}}},
            "method.consistency learns from unlabelled rows, and {path} has none; "
            "name their folder as `unlabelled` in the dataset file and prepare it again",
        ),
        (
            {"method": {"loss": "complement"}},
            "method.loss complement needs three classes or more: of two, only one is wrong, and "
            "the entropy over it is 0; use --set method.loss=cross_entropy, or focal",
        ),
        (
            {"method": {"smote": {}}, "data__loading": "stream"},
            "method.smote mixes images that lie anywhere in the store, and data.loading is stream; "
            "raise resources.mem_gb_per_gpu, or use --set data.loading=resident",
        ),
    ],
)
def test_recipe_that_does_not_fit_the_store_is_refused(spots, changes, told):
    with pytest.raises(ConfigError) as caught:
        expand(recipe(**changes), spots)
    assert str(caught.value) == told.format(path=spots.path)


def test_store_without_normal_rows_is_refused(spots, altered):
    wanted = recipe(task="anomaly", models=["conv_ae"])
    told = "has no training rows of class class0, which task anomaly learns"
    with pytest.raises(ConfigError, match=told):
        expand(wanted, altered(label=1))
    only_tested = np.where(spots.rows["split"] == "test", 0, 1)
    with pytest.raises(ConfigError, match=told):
        expand(wanted, altered(label=only_tested))
    with pytest.raises(ConfigError, match="has no test rows of class class0"):
        expand(wanted, altered(label=1 - only_tested))


def damage_of(path):
    """Return the error of a run whose file was damaged."""
    run = RunPaths(path.parent)
    with pytest.raises(DataError) as caught:
        load_splits(run, load_plan(run))
    return str(caught.value)


@pytest.fixture
def saved(spots, tmp_path):
    plan, splits = expand(recipe(), spots)
    run = RunPaths(tmp_path / plan.run_name)
    save_plan(run, plan, splits)
    return run


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", "NaN", "3", '"plan"', "[" * 100_000, "\x00\xff", '{"layout": 4}'],
)
def test_plan_of_other_bytes_is_damaged(saved, text):
    saved.plan.write_bytes(text.encode("latin-1"))
    assert damage_of(saved.plan).startswith(f"{saved.plan} is damaged")


@pytest.mark.parametrize("change", [{"layout": 4.0}, {"store": "/elsewhere"}, {"members": []}])
def test_edited_plan_is_refused(saved, change):
    write_json(saved.plan, read_json(saved.plan) | change)
    assert damage_of(saved.plan) == (
        f"{saved.plan} is damaged or was edited: it does not match the hash that it contains; "
        "repeat the submit command, which writes it again, with --set for what should change"
    )


def test_plan_of_another_run_is_refused_unless_the_folder_was_renamed(saved, spots, tmp_path):
    other, splits = expand(recipe(train__lr=2e-3), spots)
    save_plan(saved, other, splits)
    told = f"{saved.plan} is the Plan of {other.run_name}, not of this folder"
    assert damage_of(saved.plan).startswith(told)
    assert load_plan(RunPaths(saved.root.rename(tmp_path / "thesis-figure-3"))) == other


@pytest.mark.parametrize("name", ["plan.json", "splits.parquet"])
def test_file_of_a_run_that_may_not_be_read_is_not_called_damaged(saved, name):
    path = saved.root / name
    path.unlink()
    path.symlink_to(path)
    assert damage_of(path) == (
        f"{path} cannot be read: Too many levels of symbolic links; check its permissions and the "
        "file system, then repeat the command"
    )


@pytest.mark.parametrize("length", [0, 4, 100, -1])
def test_manifest_that_was_cut_short_is_damaged(saved, length):
    saved.splits.write_bytes(saved.splits.read_bytes()[:length])
    assert damage_of(saved.splits).startswith(f"{saved.splits} is damaged (")


def test_manifest_with_a_text_that_is_none_is_refused(saved):
    table = pq.read_table(saved.splits)
    wrong = pa.array([b"\xff"] * len(table), pa.binary()).view(pa.string())
    pq.write_table(table.set_column(1, "id", wrong), saved.splits)
    assert damage_of(saved.splits) == (
        f"{saved.splits} is not the manifest of its Plan; submit the recipe again"
    )


def test_job_that_finds_no_store_says_that_its_node_does_not_see_it(saved, monkeypatch, tmp_path):
    plan = load_plan(saved)
    monkeypatch.setenv("SLURMD_NODENAME", "gpu7")
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")
    for hidden in (False, True):
        away = plan.model_copy(update={"store": tmp_path / "hidden"})
        if hidden:  # there is the folder that another file system is mounted on elsewhere
            away.store.mkdir()
        with pytest.raises(DataError) as caught:
            open_planned_store(away)
        assert str(caught.value) == (
            f"node gpu7 does not see {away.store}, which was there when the job was submitted; "
            "tell the site the node's name, or if no node sees it, move it to where all of them do"
        )
        failure = classify("", "1:0", [f"lenshpc.errors.DataError: {caught.value}"], "gpu[1-9]")
        assert (failure.name, failure.node) == ("NO SHARED FILES", "gpu7")


def test_store_that_was_moved_is_named_with_the_way_on(saved):
    plan = load_plan(saved)
    away = plan.model_copy(update={"store": plan.store.with_name("away")})
    with pytest.raises(DataError) as caught:
        open_planned_store(away)
    assert str(caught.value) == (
        f"no store at {away.store}, where the run was planned; if it was moved, repeat the submit "
        "command with its new place as --data: the run stays the same"
    )
