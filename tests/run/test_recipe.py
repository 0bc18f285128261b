"""What a recipe refuses, and what it decides."""

import pytest
from ranks import recipe as make

from lenshpc.config import validate
from lenshpc.errors import ConfigError
from lenshpc.run.recipe import Recipe, load_recipe, recipe_of_task
from lenshpc.tasks.super_resolution.settings import SuperResolution


def complaint(**changes):
    value = make().model_dump(mode="json")
    for key, change in changes.items():
        section, _, leaf = key.partition("__")
        value[section] = {**value[section], leaf: change} if leaf else change
    with pytest.raises(ConfigError) as caught:
        validate(Recipe, value, "recipe")
    return str(caught.value)


@pytest.mark.parametrize(
    ("batch", "gpus", "fix"), [(16, 3, 15), (2, 4, 4), (10, 8, 8), (31, 2, 32)]
)
def test_batch_that_gpus_cannot_share_names_one_that_they_can(batch, gpus, fix):
    told = complaint(train__batch_size=batch, resources__gpus_per_node=gpus)
    assert told == (
        f"recipe: train.batch_size {batch} cannot be divided among {gpus} GPUs; use --set "
        f"train.batch_size={fix}"
    )
    assert make(train__batch_size=fix, resources__gpus_per_node=gpus).train.batch_size == fix


def test_gpus_of_all_nodes_share_the_batch():
    size = {"nodes": 3, "gpus_per_node": 2}
    assert complaint(resources=size).startswith(
        "recipe: train.batch_size 16 cannot be divided among 6 GPUs"
    )


@pytest.mark.parametrize(
    ("size", "what"),
    [
        ({"gpus_per_node": 2}, "GPUs"),
        ({"gpus_per_node": 0, "tasks_per_node": 2}, "processes"),
    ],
)
def test_single_on_several_is_refused(size, what):
    assert complaint(train__strategy="single", resources=size) == (
        f"recipe: train.strategy single is one process, but 2 {what} are asked for; use ddp"
    )


def test_processes_on_cpus_share_the_batch():
    size = {"nodes": 3, "gpus_per_node": 0, "tasks_per_node": 2}
    assert complaint(resources=size) == (
        "recipe: train.batch_size 16 cannot be divided among 6 processes; use --set "
        "train.batch_size=18"
    )


@pytest.mark.parametrize(
    ("size", "processes", "world", "told", "strategy"),
    [
        ({}, 1, 1, "1 GPU(s)", "single"),
        ({"nodes": 2, "gpus_per_node": 4}, 4, 8, "4 GPU(s)", "ddp"),
        ({"gpus_per_node": 0}, 1, 1, "1 process(es) on CPUs", "single"),
        (
            {"nodes": 2, "gpus_per_node": 0, "tasks_per_node": 4},
            *(4, 8, "4 process(es) on CPUs", "ddp"),
        ),
    ],
)
def test_processes_are_those_of_the_gpus_or_as_many_as_are_asked_for(
    size, processes, world, told, strategy
):
    made = make(resources=size)
    found = made.resources
    node = found.format_node(on_gpus=bool(found.gpus_per_node))
    assert (found.processes_per_node, found.world_size, node, made.strategy) == (
        *(processes, world, told, strategy),
    )


def test_tasks_beside_gpus_are_refused():
    assert complaint(resources={"gpus_per_node": 2, "tasks_per_node": 4}) == (
        "recipe: resources: tasks_per_node 4 is for members on CPUs, and gpus_per_node 2 gives "
        "each GPU its process; remove it, or use gpus_per_node 0"
    )


@pytest.mark.parametrize("warmup", [2, 3])
def test_warmup_that_fills_the_training_is_refused(warmup):
    assert complaint(train__epochs=2, train__warmup_epochs=warmup) == (
        f"recipe: train.warmup_epochs {warmup} must be fewer than train.epochs 2; "
        "use --set train.warmup_epochs=1"
    )


def test_plateau_with_warmup_is_refused():
    assert complaint(train__scheduler="plateau", train__warmup_epochs=1) == (
        "recipe: train.scheduler plateau has no warm-up, and train.warmup_epochs is 1; "
        "use --set train.warmup_epochs=0"
    )


def test_remedies_for_imbalance_that_add_up_are_warned_of():
    weights, smote = {"class_weights": "balanced"}, {"smote": {}}
    assert make(data__sampling="balanced").warnings == ()
    assert make(data__sampling="balanced", method=weights).warnings == (
        "data.sampling balanced and method.class_weights balanced count rare classes 2 times; "
        "keep one",
    )
    assert make(data__sampling="balanced", method=weights | smote).warnings == (
        "data.sampling balanced and method.class_weights balanced and method.smote count rare "
        "classes 3 times; keep one",
    )


def test_method_is_that_of_the_task():
    assert type(make(task="super-resolution", models=["edsr"]).method) is SuperResolution
    assert make(task="anomaly", models=["wae"]).monitor == ("loss", -1)
    assert make().monitor == ("auc", 1)
    assert complaint(task="anomali").startswith(
        "recipe: task: unknown task 'anomali'; did you mean anomaly?"
    )
    assert complaint(train__monitor="psnr") == (
        "recipe: train.monitor: unknown metric 'psnr'; known: auc, pr_auc, loss"
    )
    assert complaint(method__losss="bce").startswith(
        "recipe: unknown key 'method.losss'; did you mean method.loss? known: method.loss, "
    )
    assert complaint(method__weights="imagnet") == (
        "recipe: method.weights: expected random, imagenet, hf-hub:ORG/NAME, or the path of a "
        ".safetensors or .pth file (found 'imagnet')"
    )


def test_mixing_between_features_goes_with_no_other_mixing():
    method = {"smote": {"space": "feature"}, "mixup_alpha": 0.2}
    assert complaint(method=method).startswith(
        "recipe: method: smote.space feature cannot be combined with mixup or CutMix; use pixel"
    )


def test_pairs_are_turned_exactly_or_not_at_all():
    with pytest.raises(ValueError, match=r"data\.augment affine changes the pixels of pairs"):
        make(task="super-resolution", models=["edsr"], data__augment=["d4", "affine"])


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"task": "super-resolution", "models": ["edsr", "resnet18"]},
            "unknown network of task super-resolution 'resnet18'; did you mean srresnet? known: ",
        ),
        (
            {"task": "anomaly", "models": ["conv_vea"]},
            "unknown network of task anomaly 'conv_vea'; did you mean conv_vae? known: ",
        ),
        ({"models": ["edsr"]}, "edsr is no classifier; task multiclass cannot use it"),
        (
            {"task": "anomaly", "models": ["wae"], "data__stretch": "sqrt"},
            "data.stretch sqrt: task anomaly measures errors in the units of the store",
        ),
        (
            {"task": "super-resolution", "models": ["rcan"], "data__normalise": "image"},
            "data.normalise image: task super-resolution measures errors in the units",
        ),
    ],
)
def test_networks_and_pixels_are_those_of_the_task(changes, told):
    assert complaint(method={}, **changes).startswith(f"recipe: {told}")


def test_augmentation_is_named_alone_or_with_its_ranges():
    recipe = make(data__augment=["d4", "affine", {"affine": {"scale": 0.3}}, {"crop": None}])
    assert [step.model_dump() for step in recipe.data.augment] == [
        {"kind": "d4"},
        {"kind": "affine", "rotate_deg": 180.0, "scale": 0.1, "shift": 0.05},
        {"kind": "affine", "rotate_deg": 180.0, "scale": 0.3, "shift": 0.05},
        {"kind": "crop", "min_side": 0.8},
    ]
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe


@pytest.mark.parametrize(
    ("step", "told"),
    [
        ("afine", "unknown augmentation 'afine'; did you mean affine? known: flips, d4, affine, "),
        (
            {"affine": {"scal": 0.1}},
            "unknown key of affine 'scal'; did you mean scale? known: rotate_deg, scale, shift",
        ),
        ({"affine": {"scale": 1}}, "expected less than 1 (found 1)"),
        (
            {"affine": [1]},
            "affine takes a mapping of keys, {affine: {rotate_deg: …, scale: …, shift: …}}",
        ),
        ({"noise": {"std": 0}}, "expected more than 0 (found 0)"),
        ({"psf_jitter": {"sigma_px": 9}}, "expected at most 4 (found 9)"),
    ],
)
def test_augmentation_that_is_unknown_or_out_of_range_is_refused(step, told):
    message = complaint(data__augment=[step])
    assert message.startswith("recipe: data.augment.0")
    assert told in message


@pytest.mark.parametrize(
    ("crop", "size", "dtype", "held"),
    [
        (None, None, "uint8", ((3, 41, 40), "uint8")),
        (None, None, "float32", ((3, 41, 40), "float32")),
        (None, None, "float64", ((3, 41, 40), "float32")),
        (None, 20, "uint8", ((3, 20, 20), "float32")),
        (None, 20, "int16", ((3, 20, 20), "float32")),
        (24, None, "uint8", ((3, 24, 24), "uint8")),
        (24, 12, "uint8", ((3, 12, 12), "float32")),
    ],
)
def test_images_are_held_as_bytes_only_if_not_resized(crop, size, dtype, held):
    assert make(data__crop=crop, data__image_size=size).data.in_memory((3, 41, 40), dtype) == held


def test_repeated_entries_are_refused():
    assert complaint(models=["resnet18", "resnet18"]).startswith(
        "recipe: models: an entry is listed twice (found "
    )
    assert complaint(seeds=[1, 2, 1]).startswith("recipe: seeds: an entry is listed twice (found ")


@pytest.mark.parametrize("model", ["", "a b", "../x", "resnet18;rm", "hf-hub:timm/x", "a\n"])
def test_model_that_is_no_name_is_refused(model):
    assert complaint(models=[model]).startswith(
        f"recipe: models: {model!r} is neither NETWORK nor FILE.py:NAME, alone or with +VARIANT"
    )


@pytest.mark.parametrize("name", ["", "a b", "a/b", ".hidden", "-x", "a\n", "x" * 65])
def test_name_that_is_no_folder_name_is_refused(name):
    assert complaint(name=name).startswith("recipe: name: ")


@pytest.mark.parametrize("key", ["models", "seeds"])
def test_empty_lists_are_refused(key):
    assert complaint(**{key: []}).startswith(f"recipe: {key}: ")


@pytest.mark.parametrize(
    ("asked", "gpus", "nodes", "strategy"),
    [
        ("auto", 1, 1, "single"),
        ("auto", 2, 1, "ddp"),
        ("auto", 1, 2, "ddp"),
        ("deepspeed", 1, 1, "deepspeed"),
        ("ddp", 1, 1, "ddp"),
    ],
)
def test_strategy_auto_is_decided_by_the_number_of_processes(asked, gpus, nodes, strategy):
    size = {"nodes": nodes, "gpus_per_node": gpus}
    recipe = make(train__strategy=asked, resources=size)
    assert (recipe.strategy, recipe.resources.world_size) == (strategy, gpus * nodes)


def test_recipe_is_immutable():
    with pytest.raises(ValueError, match="frozen"):
        make().folds = 7


def test_changes_are_made_in_order():
    recipe = load_recipe("multiclass", [("folds", 2), ("train.epochs", 4), ("folds", 3)])
    assert (recipe.folds, recipe.train.epochs, recipe.train.batch_size) == (3, 4, 32)


def test_task_has_the_recipe_of_its_name():
    assert recipe_of_task("lens-finding") == "lens_finding"
    with pytest.raises(ConfigError, match="did you mean lens-finding"):
        recipe_of_task("lens-findng")


VARIANTS = {"plain": {"train.lr": 0.5, "data.augment": []}}


def test_variant_changes_the_recipe_of_its_models_alone():
    asked = make(models=["test_resnet", "test_resnet+plain"], variants=VARIANTS)
    assert asked.of("test_resnet") is asked
    plain = asked.of("test_resnet+plain")
    assert (plain.models, plain.train.lr, plain.data.augment) == (("test_resnet",), 0.5, ())
    unchanged = {"models", "variants", "train", "data"}
    assert plain.model_dump(exclude=unchanged) == asked.model_dump(exclude=unchanged)
    assert plain.train.model_dump(exclude={"lr"}) == asked.train.model_dump(exclude={"lr"})


def test_variant_may_start_from_nothing():
    asked = make(
        models=["test_vit+scratch"], variants={"scratch": {"init_from": None}}, init_from="runs/x"
    )
    assert asked.of("test_vit+scratch").init_from is None


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"models": ["test_resnet+plane"], "variants": VARIANTS},
            "unknown variant 'plane'; did you mean plain? known: plain",
        ),
        (
            {"variants": {"big": {"resources.nodes": 2}}},
            "variants.big sets resources.nodes; a variant may only change keys that begin with "
            "method., train., data., and set init_from to null",
        ),
        (
            {"models": ["test_resnet+plain"], "variants": {"plain": {"train.epoch": 3}}},
            "variants.plain: unknown key 'train.epoch'; did you mean train.epochs?",
        ),
        (
            {"models": ["test_resnet+plain"], "variants": {"plain": {"train.batch_size": 15}}},
            "variants.plain: train.batch_size 15 cannot be divided among 2 GPUs",
        ),
        (
            {"init_from": "runs/x", "method": {"weights": "imagenet"}},
            "test_resnet would get its first weights twice, from init_from and from "
            "method.weights; use --set method.weights=random, or a variant that sets init_from to "
            "null",
        ),
        (
            {"models": ["test resnet"]},
            "'test resnet' is neither NETWORK nor FILE.py:NAME, alone or with +VARIANT",
        ),
    ],
)
def test_variant_that_makes_no_recipe_is_refused(changes, told):
    assert told in complaint(**changes, resources={"gpus_per_node": 2})


ZERO2 = {"strategy": "deepspeed", "zero_stage": 2}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"train": {"batch_size": 16, "accumulate": 3}, "resources__gpus_per_node": 2},
            "train.accumulate 3 does not divide the 8 images that each of 2 GPUs takes of a batch; "
            "use --set train.accumulate=2",
        ),
        (
            {"train": {"sync_batchnorm": True}, "resources": {"gpus_per_node": 0, "nodes": 2}},
            "train.sync_batchnorm is for GPUs, and 2 processes on CPUs are asked for; remove it",
        ),
        (
            {"train": {"offload": "optimizer"}},
            "train.offload optimizer is for ZeRO, and train.strategy is auto; "
            "use --set train.strategy=deepspeed",
        ),
        (
            {"train": {"offload": "parameters", **ZERO2}},
            "train.offload parameters is for ZeRO-3, which partitions them, and train.zero_stage "
            "is 2; use --set train.zero_stage=3",
        ),
        (
            {"train": {"offload": "optimizer", "optimizer": "sgd", **ZERO2}},
            "train.offload computes AdamW on the host, and train.optimizer is sgd; "
            "use --set train.optimizer=adamw",
        ),
        (
            {"train": {"deterministic": True, "compile": "max-autotune"}},
            "train.compile max-autotune picks what is fastest when it runs, so results can differ "
            "in their last bits, which train.deterministic forbids; use --set "
            "train.compile=default",
        ),
        (
            {"train": {"activation_checkpointing": True, "compile": "default"}},
            "train.compile decides by itself what is recomputed in the backward pass, and so does "
            "train.activation_checkpointing; use --set train.compile=none, or remove "
            "train.activation_checkpointing",
        ),
    ],
)
def test_ways_of_stepping_that_do_not_go_together_are_refused(changes, told):
    assert complaint(**changes).removeprefix("recipe: ").removeprefix("train: ") == told


def test_averages_go_with_every_stage_of_zero():
    zero3 = {"strategy": "deepspeed", "zero_stage": 3, "ema_decay": 0.9}
    assert make(train=zero3).train.ema_decay == 0.9
