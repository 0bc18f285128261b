"""Masks of filled pixels as further channels: 0 or 1, where their images' pixels are."""

import numpy as np
import pandas as pd
import pytest
import torch
from stores import write_rows

from lenshpc.data.augment import on_cpu, on_device
from lenshpc.data.decoded import Decoded
from lenshpc.data.draws import convert, draw
from lenshpc.data.fold import open_fold
from lenshpc.data.readers import InMemory, OnDevice, Streamed
from lenshpc.data.shared import open_shared_images
from lenshpc.errors import ConfigError
from lenshpc.run.plan import expand
from lenshpc.run.recipe import Recipe
from lenshpc.run.sections import Data
from lenshpc.store import Pixels, StoreSpec, open_store

NUM_TRAIN, NUM_TEST, SIDE = 90, 20, 12
CPU = torch.device("cpu")
CUDA = pytest.param(
    "cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
)


@pytest.fixture(autouse=True)
def scratch(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


def random_masks(num_channels=2):
    shape = NUM_TRAIN + NUM_TEST, num_channels, SIDE, SIDE
    return (np.random.default_rng(0).random(shape) < 0.2).astype(np.uint8)


def stored(path, masks, images=None, labels=None):
    """Return a store whose images are their masks, or others."""
    images = masks.astype(np.float32) if images is None else images
    rows = pd.DataFrame({"label": np.arange(len(masks)) % 2 if labels is None else labels})
    rows["split"] = ["train"] * NUM_TRAIN + ["test"] * NUM_TEST
    rows["id"] = rows["group"] = [f"{index}.npy" for index in range(len(rows))]
    names = tuple("gri"[: masks.shape[1]])
    image = Pixels(shape=masks.shape[1:], dtype="float32", channels=names)
    spec = StoreSpec(dataset="gaps", classes=("no", "yes"), image=image, masks=True)
    write_rows(path, spec, rows, images, masks=masks)
    return open_store(path)


def recipe_of(data, **more):
    settings = {"mask_channels": True, "normalise": "none", **data}
    return Recipe(
        name="gaps", task="multiclass", models=("resnet18",), folds=2, data=settings, **more
    )


def batches_of(store, recipe, device=CPU):
    """Return rows and images of the first member's first epoch."""
    plan, splits = expand(recipe, store)
    with open_fold(plan, plan.members[0], splits, store, device) as data:
        found = [*data.training_batches(0, rank=0, world_size=1, done=0)]
    rows = np.concatenate([batch["row"].cpu().numpy() for batch in found])
    return rows, torch.cat([batch["image"].cpu() for batch in found])


def expected_of(masks, data):
    """Return masks after crop and resizing by whole factors, by numpy."""
    start = (SIDE - data.crop) // 2 if data.crop else 0
    cut = masks[:, :, start : SIDE - start, start : SIDE - start]
    side, wanted = cut.shape[2], data.image_size or cut.shape[2]
    if wanted < side:
        parts = cut.reshape(*cut.shape[:2], wanted, side // wanted, wanted, side // wanted)
        return parts.max(axis=(3, 5))
    return cut.repeat(wanted // side, axis=2).repeat(wanted // side, axis=3)


@pytest.mark.parametrize(
    "settings",
    [{}, {"crop": 8}, {"image_size": 6}, {"crop": 8, "image_size": 24}, {"image_size": 3}],
)
def test_masks_are_held_as_bytes_that_are_cropped_and_resized(tmp_path, settings):
    masks = random_masks()
    decoded = Decoded(stored(tmp_path / "store", masks), Data(**settings), "masks")
    order = [np.array([3, 70, 101]), np.array([0])]
    with open_shared_images(decoded) as held:
        ways = [InMemory(held, CPU), OnDevice.fill(decoded, CPU), Streamed(decoded, CPU)]
        found = [torch.cat([*way.read(order)]).numpy() for way in ways]
    expected = expected_of(masks, Data(**settings))[[3, 70, 101, 0]]
    for masks_of_way in found:
        assert masks_of_way.dtype == np.uint8
        np.testing.assert_array_equal(masks_of_way, expected)


@pytest.mark.parametrize("before_and_after", [(12, 7), (12, 17)])
def test_resized_mask_covers_all_that_a_filled_pixel_had_a_part_in(tmp_path, before_and_after):
    """Down: where an image with light in the filled pixels alone has any light."""
    _, after = before_and_after
    masks = random_masks(1)
    store = stored(tmp_path / "store", masks)
    found = Decoded(store, Data(image_size=after), "masks").as_held(masks)
    light = Decoded(store, Data(image_size=after)).as_held(masks.astype(np.float32))
    assert set(np.unique(found)) == {0, 1}
    if after < SIDE:
        np.testing.assert_array_equal(found, light > 0)
    else:
        nearest = (np.arange(after) + 0.5) * SIDE // after
        at = nearest.astype(int)
        np.testing.assert_array_equal(found, masks[:, :, at][..., at])


@pytest.mark.parametrize("device", ["cpu", CUDA])
@pytest.mark.parametrize("loading", ["resident", "stream"])
@pytest.mark.parametrize("augment", [(), ("d4",), ("flips", "d4")])
def test_masks_follow_their_images(tmp_path, loading, augment, device):
    """Images that are their masks are equal to them, whatever turns them."""
    store = stored(tmp_path / "store", random_masks())
    recipe = recipe_of({"loading": loading, "augment": augment})
    _, images = batches_of(store, recipe, torch.device(device))
    assert images.shape[1:] == (4, SIDE, SIDE)
    assert torch.equal(images[:, :2], images[:, 2:])


def test_masks_are_not_normalised_and_leave_their_images_as_they_are(tmp_path):
    masks = random_masks()
    light = np.random.default_rng(1).normal(7, 3, masks.shape).astype(np.float32)
    store = stored(tmp_path / "store", masks, light)
    settings = {"normalise": "fold", "augment": ["contrast", "noise", "psf_jitter"]}
    rows, images = batches_of(store, recipe_of(settings))
    _, without = batches_of(store, recipe_of(settings | {"mask_channels": False}))
    assert torch.equal(images[:, :2], without)
    np.testing.assert_array_equal(images[:, 2:].numpy(), masks[rows])


def test_one_grey_channel_as_three_has_one_mask(tmp_path):
    masks = random_masks(1)
    recipe = recipe_of({"grey_to_rgb": True, "augment": (), "normalise": "imagenet"})
    rows, images = batches_of(stored(tmp_path / "store", masks), recipe)
    assert images.shape[1] == 4
    np.testing.assert_array_equal(images[:, 3:].numpy(), masks[rows])


def test_parents_of_a_synthetic_row_have_their_masks(tmp_path):
    labels = (np.arange(NUM_TRAIN + NUM_TEST) % 4 == 0).astype(int)
    store = stored(tmp_path / "store", random_masks(), labels=labels)
    recipe = recipe_of({}, method={"smote": {"ratio": 1.0, "neighbours": 3}})
    plan, splits = expand(recipe, store)
    with open_fold(plan, plan.members[0], splits, store, CPU) as data:
        batch = next(data.training_batches(0, rank=0, world_size=1, done=0))
    assert len(batch["mixed"])
    for name in ("image", "partner"):
        assert torch.equal(batch[name][:, :2], batch[name][:, 2:])


@pytest.mark.parametrize("back_end", [on_cpu, on_device])
@pytest.mark.parametrize("augment", ["affine", "crop"])
def test_warped_mask_is_that_of_the_nearest_pixel(back_end, augment):
    """By the image of a slope along x, and along y, which says where each pixel came from."""
    side, num = 32, 16
    random = np.random.default_rng(3)
    masks = (random.random((num, 1, side, side)) < 0.3).astype(np.float32)
    steps = convert(
        draw(Data(augment=[augment]).augment, 0, 0, np.arange(num), (side, side)), torch.from_numpy
    )
    row, column = np.mgrid[:side, :side].astype(np.float32)
    slopes = torch.from_numpy(np.tile(np.stack([row, column]), (num, 1, 1, 1)))
    at = back_end(slopes, steps).numpy()
    found = back_end(torch.from_numpy(masks), steps, nearest=True).numpy()[:, 0]
    assert set(np.unique(found)) == {0, 1}
    # Where rounding decides, and where the image is reflected, a slope says too little.
    clear = (np.abs(at - np.floor(at) - 0.5) > 0.02).all(axis=1)
    inside = ((at > 0.6) & (at < side - 1.6)).all(axis=1)
    down, right = np.rint(at).astype(int).transpose(1, 0, 2, 3)
    nearest = masks[np.arange(num)[:, None, None], 0, down, right]
    checked = clear & inside
    assert checked.mean() > 0.5
    np.testing.assert_array_equal(found[checked], nearest[checked])


def test_what_is_drawn_for_rare_classes_moves_their_masks_too(tmp_path):
    masks = random_masks()
    store = stored(tmp_path / "store", masks)
    settings = {"augment": ["noise"], "augment_minority": ["d4", "contrast"]}
    rows, images = batches_of(store, recipe_of(settings))
    moved = images[:, 2:].numpy()
    same = (moved == masks[rows]).all(axis=(1, 2, 3))
    labels = rows % 2
    rare = labels != np.bincount(labels).argmax()
    assert same[~rare].all()
    assert 0 < same[rare].mean() < 0.5
    assert np.array_equal(moved.sum(axis=(2, 3)), masks[rows].sum(axis=(2, 3)))


def test_store_without_masks_is_refused_in_one_line(tmp_path):
    rows = pd.DataFrame({"label": np.arange(40) % 2, "split": ["train"] * 20 + ["test"] * 20})
    rows["id"] = rows["group"] = [f"{index}.npy" for index in range(len(rows))]
    image = Pixels(shape=(1, SIDE, SIDE), dtype="float32", channels=("g",))
    spec = StoreSpec(dataset="whole", classes=("no", "yes"), image=image)
    write_rows(tmp_path / "store", spec, rows, np.zeros((40, 1, SIDE, SIDE), np.float32))
    with pytest.raises(ConfigError, match=r"^data\.mask_channels: .*has no masks; remove it, or"):
        expand(recipe_of({}), open_store(tmp_path / "store"))


def test_task_that_makes_images_takes_no_masks(tmp_path):
    recipe = Recipe(
        name="gaps", task="anomaly", models=("conv_ae",), folds=2, data={"mask_channels": True}
    )
    with pytest.raises(ConfigError, match="task anomaly as set produces images, and a mask is not"):
        expand(recipe, stored(tmp_path / "store", random_masks()))


def test_default_leaves_what_a_recipe_says_of_itself():
    plain = Recipe(name="a", task="multiclass", models=("resnet18",))
    asked = Recipe(name="a", task="multiclass", models=("resnet18",), data={"mask_channels": True})
    assert "data" not in plain.list_choices()
    assert asked.list_choices()["data"] == {"mask_channels": True}
