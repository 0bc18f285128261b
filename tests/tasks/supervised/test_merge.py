import numpy as np
import pandas as pd
import pytest
import zarr
from synthetic_run import make_run

from lenshpc.errors import DataError
from lenshpc.run.predictions import evaluated_rows, read_array
from lenshpc.tasks.supervised.merge import merge


def merged(run, missing=()):
    return merge(run.paths, run.plan, run.splits, missing)


def complaint(run):
    with pytest.raises(DataError) as caught:
        merged(run)
    return str(caught.value)


def expected_message(run, index, fault):
    member = run.plan.members[index]
    done = run.paths.member(member.name).done
    title = f"{member.model} fold {member.fold} seed {member.seed}"
    name = run.paths.name
    return (
        f"member {index} ({title}) of run {name} {fault}; "
        f"rerun it with: rm {done} && lenshpc resume {name}"
    )


def by_hand(run, model):
    """Average probabilities with pandas, row by row."""
    members = run.plan.ensembles()[model]
    frames = pd.concat([run.predictions(member.index) for member in members])
    columns = [f"logp_{k}" for k in range(len(run.plan.classes))]
    values = np.exp(frames[columns].astype(float))
    values = values.div(values.sum(axis=1), axis=0)
    return values.groupby(frames["row"].to_numpy()).mean()


@pytest.mark.parametrize("classes", [("nonlens", "lens"), ("no", "sphere", "vort")])
def test_probabilities_are_means_over_seeds_and_members(tmp_path, classes):
    run = make_run(tmp_path, classes=classes, seeds=(0, 7))
    found = merged(run)
    assert list(found.probabilities) == ["resnet18", "resnet34", "ensemble"]
    assert found.headline == "ensemble"
    models = [by_hand(run, model) for model in run.plan.recipe.models]
    for name, expected in zip(found.probabilities, [*models, sum(models) / 2], strict=True):
        np.testing.assert_allclose(
            found.probabilities[name], expected.loc[found.rows["row"]], atol=1e-12
        )


def test_rows_that_always_train_are_not_evaluated(tmp_path):
    run = make_run(tmp_path, folds=1, models=("resnet18",))
    found = merged(run)
    assert found.headline == "resnet18"
    assert list(found.probabilities) == ["resnet18"]
    assert (run.splits["fold"] == -1).sum() > found.rows["split"].eq("oof").sum()
    assert not np.isnan(found.probabilities["resnet18"]).any()


def test_duplicated_row_is_an_error(run):
    frame = run.predictions(1)
    run.finish(1, pd.concat([frame, frame.iloc[[3]]]))
    fault = f"predicts {frame['id'][3]!r} more than once"
    assert complaint(run) == expected_message(run, 1, fault)


def test_missing_row_is_an_error(run):
    frame = run.predictions(1)
    run.finish(1, frame.drop(index=[0, 1]))
    fault = f"does not predict {frame['id'][0]!r} and 1 more"
    assert complaint(run) == expected_message(run, 1, fault)


def test_row_of_another_fold_is_an_error(run):
    frame = run.predictions(1)
    other = run.predictions(0).query("split == 'oof'").head(1)
    run.finish(1, pd.concat([frame, other]))
    fault = f"predicts {other['id'].iloc[0]!r}, which is not among its rows (oof or test)"
    assert complaint(run) == expected_message(run, 1, fault)


def test_predictions_of_two_folds_exchanged_are_an_error(run):
    first, second = run.predictions(0), run.predictions(1)
    run.finish(0, second)
    run.finish(1, first)
    assert "which is not among its rows (oof or test)" in complaint(run)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_value_that_is_not_finite_is_an_error(run, value):
    frame = run.predictions(2)
    frame.loc[5, "logp_1"] = value
    run.finish(2, frame)
    fault = f"predicts a value that is not finite for {frame['id'][5]!r}"
    assert complaint(run) == expected_message(run, 2, fault)


def test_probabilities_that_do_not_add_up_are_an_error(run):
    frame = run.predictions(2)
    frame.loc[5, "logp_1"] += 0.1
    run.finish(2, frame)
    fault = f"predicts probabilities that do not add up to 1 for {frame['id'][5]!r}"
    assert complaint(run) == expected_message(run, 2, fault)


@pytest.mark.parametrize(("column", "value"), [("id", "other.npy"), ("split", "test")])
def test_row_that_contradicts_the_manifest_is_an_error(run, column, value):
    frame = run.predictions(2).sort_values("split").reset_index(drop=True)
    right = frame["id"][0]
    frame.loc[0, column] = value
    run.finish(2, frame)
    fault = f"gives {right!r} another id or split than the manifest"
    assert complaint(run) == expected_message(run, 2, fault)


def test_file_without_the_columns_is_an_error(run):
    run.finish(2, run.predictions(2).drop(columns="logp_1"))
    assert "has predictions that cannot be read (" in complaint(run)


def test_order_of_rows_in_a_file_of_the_first_layout_is_irrelevant(run):
    before = merged(run).probabilities["ensemble"]
    for index in range(len(run.plan.members)):
        run.finish(index, run.predictions(index).sample(frac=1, random_state=0), layout=1)
    np.testing.assert_array_equal(merged(run).probabilities["ensemble"], before)


def test_rows_of_a_missing_member_have_no_value(run):
    absent = run.plan.members[1]
    found = merged(run, [absent])
    assert found.missing == (absent,)
    uncovered = (found.rows["fold"] == 1).to_numpy()
    for name, expected in (("resnet18", uncovered), ("resnet34", np.zeros_like(uncovered))):
        np.testing.assert_array_equal(np.isnan(found.probabilities[name]).all(axis=1), expected)
    np.testing.assert_array_equal(np.isnan(found.probabilities["ensemble"]).all(axis=1), uncovered)


def test_evaluated_rows_are_in_the_order_of_the_manifest(run):
    rows = evaluated_rows(run.splits)
    assert rows["row"].tolist() == run.splits["row"].tolist()
    assert set(rows["split"]) == {"oof", "test"}


def test_headline_is_the_combination_that_the_recipe_names(run):
    recipe = run.plan.recipe.model_copy(update={"ensemble": "logit_mean"})
    found = merge(run.paths, run.plan.model_copy(update={"recipe": recipe}), run.splits)
    plain = merged(run)
    np.testing.assert_array_equal(
        found.probabilities["ensemble"], plain.combinations["ensemble (logit mean)"]
    )
    np.testing.assert_array_equal(
        found.combinations["ensemble (mean)"], plain.probabilities["ensemble"]
    )
    assert set(found.weights) == {"ensemble", *found.combinations}
    assert found.weights["ensemble (mean)"] == {"resnet18": 0.5, "resnet34": 0.5}


def test_turned_images_are_merged_where_all_members_predicted_them(run):
    assert merged(run).turned == {}
    for index, member in enumerate(run.plan.members):
        if member.model == "resnet34":
            frame = run.predictions(index)
            turned = frame.assign(rot90_logp_0=frame["logp_1"], rot90_logp_1=frame["logp_0"])
            run.finish(index, turned)
    found = merged(run)
    assert set(found.turned) == {"resnet34"}
    upright = found.probabilities["resnet34"]
    np.testing.assert_array_equal(found.turned["resnet34"], upright[:, ::-1])


def test_array_is_read_in_the_order_asked_for(run):
    member = run.plan.members[1]
    order = run.predictions(1)["row"].to_numpy()
    values = np.stack([order, -order], axis=1).astype(np.float16)
    group = zarr.open_group(run.paths.member(member.name).root / "arrays.zarr", mode="w")
    group.create_array("embedding", data=values)
    asked = np.random.default_rng(0).permutation(order)[:20]
    found = read_array(run.paths, member, "embedding", asked)
    np.testing.assert_array_equal(found, np.stack([asked, -asked], axis=1).astype(np.float16))
    with pytest.raises(DataError, match="has no array 'maps' that can be read"):
        read_array(run.paths, member, "maps", asked)
    other = np.setdiff1d(np.arange(150), order)
    with pytest.raises(DataError, match=f"does not predict row {other[0]};"):
        read_array(run.paths, member, "embedding", other)


@pytest.mark.parametrize(
    ("models", "headline", "combined"),
    [
        (("resnet18", "resnet34", "resnet18+plain"), "ensemble", ["resnet18", "resnet34"]),
        (("resnet18", "resnet18+plain"), "resnet18", []),
    ],
)
def test_no_ensemble_takes_a_variant_in(tmp_path, models, headline, combined):
    made = make_run(tmp_path, models=models, folds=2, variants={"plain": {"train.lr": 0.1}})
    merged = merge(made.paths, made.plan, made.splits)
    assert merged.headline == headline
    if combined:
        expected = np.mean([merged.probabilities[name] for name in combined], axis=0)
        np.testing.assert_allclose(merged.probabilities["ensemble"], expected)
    assert all(list(weights) == combined for weights in merged.weights.values())
