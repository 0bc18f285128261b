"""What anomaly detection promises to the engine, and what it refuses."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from lenshpc.engine.load import make_task
from lenshpc.errors import ConfigError, DataError
from lenshpc.registry import TaskSpec, component_names
from lenshpc.run.networks import check_names
from lenshpc.run.sections import Train
from lenshpc.statistics.image_metrics import ssim
from lenshpc.tasks.anomaly.autoencoders import discrepancy
from lenshpc.tasks.anomaly.settings import Anomaly as Settings

SIDE = 24
MODELS = component_names("networks", "anomaly")
ERRORS = ("mse", "rel_mse", "ssim_error")


pytestmark = pytest.mark.usefixtures("seeded")


@pytest.fixture(params=MODELS)
def name(request):
    return request.param


def make(counts=(10, 0), mean=(0.1,), std=(0.2,), **method):
    spec = TaskSpec(
        settings=Settings(**{"latents": 8} | method),
        train=Train(),
        classes=("no_sub", "sub"),
        class_counts=counts,
        image_shape=(1, SIDE, SIDE),
        mean=mean,
        std=std,
    )
    return make_task("anomaly", spec)


def rings(num=8, label=0):
    y, x = torch.meshgrid(*2 * [torch.arange(SIDE) - (SIDE - 1) / 2], indexing="ij")
    radius = torch.hypot(x - torch.linspace(-2, 2, num)[:, None, None], y)
    image = torch.exp(-((radius - 7) ** 2) / 4) + torch.exp(-radius)
    image = image + 0.05 * torch.randn(num, SIDE, SIDE)
    return {
        "image": image[:, None],
        "label": torch.full((num,), label),
        "row": torch.arange(num),
        "progress": torch.tensor(0.5),
    }


def train(task, model, batch, steps=20):
    optimizer = torch.optim.AdamW(model.train().parameters(), lr=5e-3)
    losses = []
    for _ in range(steps):
        loss = task.training_step(model, batch)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_loss_falls_on_eight_images(name):
    task = make()
    losses = train(task, task.build_model(name), rings())
    assert np.mean(losses[-5:]) < min(0.8 * losses[0], losses[0] - 0.1)


@torch.no_grad()
def test_predictions_of_halves_are_those_of_the_whole(name):
    """In double precision: a fit multiplies the rounding, which depends on the batch's size."""
    task, batch = make(), rings()
    model, batch["image"] = task.build_model(name).double().eval(), batch["image"].double()
    parts = [
        {key: value[part] if value.ndim else value for key, value in batch.items()}
        for part in (slice(4), slice(4, 8))
    ]
    for ask in (task.predict, task.infer):
        whole, halves = ask(model, batch), [ask(model, part) for part in parts]
        for key, column in whole.items():
            assert len(column) == 8
            joined = torch.cat([half[key] for half in halves])
            torch.testing.assert_close(joined, column)


def test_state_round_trips_through_a_file(name, tmp_path):
    task, batch = make(), rings()
    model = task.build_model(name)
    train(task, model, batch, steps=2)
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    other = task.build_model(name)
    other.load_state_dict(load_file(tmp_path / "model.safetensors"))
    with torch.no_grad():
        expected, found = (task.infer(each.eval(), batch) for each in (model, other))
    assert all(torch.equal(expected[key], found[key]) for key in expected)


@torch.no_grad()
def test_files_hold_all_scores_upright_and_turned(name):
    task = make()
    found = task.infer(task.build_model(name).eval(), rings())
    turned = (f"rot90_{one}" for one in ERRORS)
    assert set(found) == {"loss", *ERRORS, *turned, "reconstruction"}
    assert found["reconstruction"].shape == (8, 1, SIDE, SIDE)
    assert found["reconstruction"].dtype == torch.float16


@torch.no_grad()
def test_a_lens_is_judged_alike_from_all_sides():
    task, batch = make(), rings()
    found = task.infer(task.build_model("lens_ae").eval(), batch)
    torch.testing.assert_close(found["rot90_mse"], found["mse"])


@torch.no_grad()
def test_a_lens_draws_the_ring_of_its_einstein_radius():
    model = make().build_model("lens_ae")
    drawn = model.templates(torch.zeros(1, 8))[0, 0]
    y, x = torch.meshgrid(*2 * [torch.arange(SIDE) - (SIDE - 1) / 2], indexing="ij")
    radius = (torch.hypot(x, y) * drawn**8).sum() / (drawn**8).sum()
    assert radius.item() == pytest.approx(0.2 * SIDE, abs=0.2)


@torch.no_grad()
def test_errors_are_in_the_units_of_the_store():
    task, batch = make(mean=(0.3,), std=(2.0,)), rings()
    model = task.build_model("conv_ae").eval()
    found = task.infer(model, batch)
    image, drawn = (2 * each + 0.3 for each in (batch["image"], model.reconstruct(batch["image"])))
    mse = ((image - drawn) ** 2).mean(dim=(1, 2, 3))
    torch.testing.assert_close(found["mse"], mse)
    torch.testing.assert_close(found["rel_mse"], mse / (image**2).mean(dim=(1, 2, 3)))
    torch.testing.assert_close(found["ssim_error"], (1 - ssim(image, drawn)).float())
    torch.testing.assert_close(found["reconstruction"], drawn.half())


@torch.no_grad()
def test_turned_scores_are_those_of_turned_images():
    task, batch = make(), rings()
    model = task.build_model("conv_ae").eval()
    turned = batch | {"image": torch.rot90(batch["image"], dims=(2, 3))}
    torch.testing.assert_close(
        task.infer(model, batch)["rot90_mse"], task.infer(model, turned)["mse"]
    )


def test_an_epoch_with_another_class_is_refused(name):
    task, columns = make(), {"loss": np.zeros(8, np.float32)}
    model, labels = task.build_model(name), np.zeros(8, int)
    task.training_step(model, rings())
    assert task.summarise(labels, columns) == {"loss": 0.0}
    task.training_step(model, rings() | {"label": torch.tensor([0, 0, 1, 0, 0, 0, 0, 0])})
    task.training_step(model, rings())
    with pytest.raises(DataError, match="rows of class sub came to training"):
        task.summarise(labels, columns)


@pytest.mark.parametrize("num", [1, 8])
def test_discrepancy_inside_autocast_is_that_outside(num):
    latent, found = torch.randn(num, 32), []
    for enabled in (False, True):
        torch.manual_seed(1)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            found.append(discrepancy(latent))
    assert torch.equal(*found)
    assert found[0].dtype == torch.float32


def test_variances_that_float16_does_not_hold_have_a_loss():
    model = make().build_model("conv_vae").eval()
    torch.nn.init.constant_(model.encoder.out.bias, 12)  # exp(12) is 163,000
    with torch.autocast("cpu", torch.float16):
        loss = model(rings()["image"])
    torch.testing.assert_close(loss, model(rings()["image"]), rtol=1e-2, atol=0)


def test_training_rows_of_another_class_are_refused_before_anything_runs():
    with pytest.raises(DataError, match="rows of class sub came to training"):
        make(counts=(10, 1))
    make(counts=(0, 10), normal="sub")


def test_another_class_cannot_choose_an_epoch():
    with pytest.raises(DataError, match="where only no_sub belongs"):
        make().summarise(np.array([0, 1]), {"loss": np.zeros(2, np.float32)})


def test_summary_is_the_mean_loss():
    columns = {"loss": np.array([1, 2, 6], np.float32)}
    assert make().summarise(np.zeros(3, int), columns) == {"loss": 3.0}


@pytest.mark.parametrize(
    ("mean", "std", "dtype"),
    [(0.1, 0.2, torch.float16), (3e4, 1e4, torch.float32), (1e-7, 1e-6, torch.float32)],
)
@torch.no_grad()
def test_reconstructions_are_kept_in_a_type_that_holds_their_units(mean, std, dtype):
    task = make(mean=(mean,), std=(std,))
    found = task.infer(task.build_model("conv_ae").eval(), rings())["reconstruction"]
    assert found.dtype == dtype
    assert torch.isfinite(found).all()
    assert found.std() > 0


def test_a_network_of_another_task_is_refused():
    with pytest.raises(ConfigError, match="resnet18"):
        make().build_model("resnet18")


def test_names_are_known_without_torch():
    check_names(MODELS, Settings())


@torch.no_grad()
def test_new_images_get_the_scores_that_files_hold(name):
    task, batch = make(), rings()
    model = task.build_model(name).eval()
    kept, found = task.infer(model, batch), task.apply(model, {"image": batch["image"]})
    assert list(found) == list(ERRORS)
    assert all(torch.equal(found[key], kept[key]) for key in found)
