"""Classification guided by physics: what reaches the loss, the features, the files."""

import pytest
import torch
from torch.nn import functional

from lenshpc.engine.load import make_task
from lenshpc.registry import TaskSpec
from lenshpc.run.sections import Train
from lenshpc.tasks.physics_guided.lens_layer import LensRenderer
from lenshpc.tasks.physics_guided.settings import PhysicsGuided as Settings

PHYSICS = {"pixel_scale_arcsec": 0.1, "curriculum": (0.2, 0.6), "weight": 0.5, "source_side": 8}
LABELS = torch.tensor([0, 1, 2, 1])

pytestmark = pytest.mark.usefixtures("seeded")


def make(zoom=2.0, **method):
    return make_task(
        "physics-guided",
        TaskSpec(
            settings=Settings(physics=PHYSICS, **method),
            train=Train(),
            classes=("a", "b", "c"),
            class_counts=(10, 10, 10),
            image_shape=(1, 32, 32),
            zoom=zoom,
        ),
    )


def batch_at(progress, **more):
    image = torch.rand(4, 1, 32, 32)
    times = {"phase": 0, "progress": torch.tensor(progress)}
    return {"image": image, "label": LABELS, **times, **more}


def test_weight_rises_evenly_over_its_part_of_the_training():
    task = make()
    found = [task.weight(torch.tensor(at)).item() for at in (0.0, 0.2, 0.3, 0.4, 0.6, 1.0)]
    assert found == pytest.approx([0, 0, 0.125, 0.25, 0.5, 0.5])


def test_loss_is_the_classifications_and_the_weighted_loss_of_the_lenses():
    task = make()
    model, batch = task.build_model("test_resnet").eval(), batch_at(1.0)
    layer = LensRenderer(task._physics, 32, 0.2)  # two pixels of the store make one
    features = model.features(batch["image"])
    physics = layer.losses(batch["image"], layer.lens(model.lens(features))).mean()
    expected = functional.cross_entropy(model.head(features), LABELS) + 0.5 * physics
    torch.testing.assert_close(task.training_step(model, batch)["loss"], expected)


def test_before_the_curriculum_begins_the_features_learn_from_labels_alone():
    task = make()
    model, batch = task.build_model("test_resnet").eval(), batch_at(0.1)
    task.training_step(model, batch)["loss"].backward()
    guided = [parameter.grad.clone() for parameter in model.network.parameters()]
    assert all(parameter.grad.eq(0).all() for parameter in model.lens.parameters())
    model.zero_grad()
    functional.cross_entropy(model(batch["image"]), LABELS).backward()
    for parameter, grad in zip(model.network.parameters(), guided, strict=True):
        torch.testing.assert_close(parameter.grad, grad)


def test_smote_between_features_leaves_the_lens_of_each_image():
    task = make(smote={"space": "feature"})
    model = task.build_model("test_resnet").eval()
    batch = batch_at(1.0)
    partner = {
        "partner": torch.rand(4, 1, 32, 32),
        "mix": torch.tensor([0.0, 0.5, 0.0, 1.0]),
        "mixed": torch.tensor([1, 3]),
    }
    mixed, alone = (task.training_step(model, one) for one in (batch | partner, batch))
    torch.testing.assert_close(mixed["physics_loss"], alone["physics_loss"])
    assert not torch.isclose(mixed["loss"], alone["loss"])


def test_unlabelled_views_are_not_redrawn():
    task = make(consistency={"threshold": 0.8})
    model, batch = task.build_model("test_resnet").eval(), batch_at(1.0)
    views = {"weak": torch.rand(6, 1, 32, 32), "strong": torch.rand(6, 1, 32, 32)}
    found, alone = (task.training_step(model, one) for one in (batch | views, batch))
    torch.testing.assert_close(found["physics_loss"], alone["physics_loss"])


@torch.no_grad()
def test_files_keep_the_lens_and_the_loss_of_each_row():
    task = make()
    model, batch = task.build_model("test_resnet").eval(), batch_at(1.0)
    found = task.infer(model, batch)
    raw = model.lens(model.features(batch["image"]))
    layer = LensRenderer(task._physics, 32, 0.2)
    for name, column in layer.lens(raw)._asdict().items():
        torch.testing.assert_close(found[name], column)
    losses = layer.losses(batch["image"], layer.lens(raw))
    torch.testing.assert_close(found["physics_loss"], losses)
    assert task.predict(model, batch)["physics_loss"].equal(found["physics_loss"])


@torch.no_grad()
def test_redrawn_images_lie_in_the_ring():
    task = make()
    model, batch = task.build_model("test_resnet").eval(), batch_at(1.0)
    found = task.reconstruct(model, batch)
    shapes = {name: tuple(values.shape) for name, values in found.items()}
    assert shapes == {"light": (4, 32, 32), "render": (4, 32, 32), "source": (4, 8, 8)}
    outside = ~LensRenderer(task._physics, 32, 0.2).ring
    assert found["light"][:, outside].eq(0).all()
    assert found["render"][:, outside].eq(0).all()
    assert (found["light"] - found["render"]).abs().mean() < found["light"].abs().mean()


@torch.no_grad()
def test_network_without_a_lens_is_the_same_classifier():
    """The plain variant begins with the same weights, so their comparison is paired."""
    torch.manual_seed(3)
    guided = make().build_model("test_resnet").eval()
    torch.manual_seed(3)
    plain_task = make_task(
        "physics-guided",
        TaskSpec(
            settings=Settings(),
            train=Train(),
            classes=("a", "b", "c"),
            class_counts=(1, 1, 1),
            image_shape=(1, 32, 32),
        ),
    )
    plain, image = plain_task.build_model("test_resnet").eval(), torch.rand(2, 1, 32, 32)
    assert torch.equal(guided(image), plain(image))
    state = guided.state_dict()
    assert set(state) - set(plain.state_dict()) == {"lens.weight", "lens.bias"}


def test_weights_of_a_guided_network_begin_a_plain_one(tmp_path):
    from safetensors.torch import save_file

    guided = make().build_model("test_resnet")
    save_file(guided.state_dict(), tmp_path / "model.safetensors")
    again = make(weights=str(tmp_path / "model.safetensors")).build_model("test_resnet")
    for name, values in guided.network.state_dict().items():
        assert torch.equal(again.network.state_dict()[name], values)


@torch.no_grad()
def test_new_images_get_the_classes_and_the_lens_that_files_hold():
    task, batch = make(tta="d4"), batch_at(1.0)
    model = task.build_model("test_resnet").eval()
    kept, found = task.infer(model, batch), task.apply(model, {"image": batch["image"]})
    assert set(kept) - set(found) == {
        "rot90_logp_0",
        "rot90_logp_1",
        "rot90_logp_2",
        "physics_loss",
    }
    assert all(torch.equal(found[key], kept[key]) for key in found)
