"""What the super-resolution task promises to the engine, and its losses against other code."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from lenshpc.engine.load import make_task
from lenshpc.errors import ConfigError
from lenshpc.registry import TaskSpec
from lenshpc.run.sections import Train
from lenshpc.statistics.image_metrics import ssim
from lenshpc.tasks.super_resolution.networks import bicubic
from lenshpc.tasks.super_resolution.settings import SuperResolution as Settings

LOSSES = ("l1", "l2", "l1_ssim", "fourier")
NETWORKS = ("srresnet", "edsr", "rcan")
MEAN, STD = 0.25, 0.5


pytestmark = pytest.mark.usefixtures("seeded")


def make(scale=2, target_side=None, **method):
    side = target_side or 12 * scale
    spec = TaskSpec(
        settings=Settings(**({"width": 8, "blocks": 2} | method)),
        train=Train(),
        classes=("lens",),
        class_counts=(8,),
        image_shape=(1, 12, 12),
        target_shape=(1, side, side),
        mean=(MEAN,),
        std=(STD,),
    )
    return make_task("super-resolution", spec)


def eight(scale=2):
    target = torch.randn(8, 1, 12 * scale, 12 * scale)
    image = nn.functional.avg_pool2d(target, scale)
    return {"image": image, "target": target, "label": torch.zeros(8), "row": torch.arange(8)}


class Given(nn.Module):
    """A model that returns what it was made with."""

    def __init__(self, output):
        super().__init__()
        self.output = output

    def forward(self, image):
        return self.output


@pytest.mark.parametrize(
    ("name", "loss"),
    [*((name, "l1") for name in NETWORKS), *(("edsr", loss) for loss in LOSSES[1:])],
)
def test_loss_falls_on_eight_images(name, loss):
    task, batch = make(loss=loss, width=16), eight()
    model = task.build_model(name).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    losses = []
    for _ in range(30):
        value = task.training_step(model, batch)["loss"]
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        losses.append(value.item())
    assert losses[-1] < 0.95 * losses[0]


@pytest.mark.parametrize("scale", [2, 4])
@torch.no_grad()
def test_predictions_of_halves_are_those_of_the_whole(scale):
    task, batch = make(scale), eight(scale)
    model = task.build_model("srresnet").eval()
    nn.init.normal_(model.network[-1].weight, std=0.1)
    whole = task.infer(model, batch)
    parts = [slice(3), slice(3, 8)]
    halves = [task.infer(model, {key: one[part] for key, one in batch.items()}) for part in parts]
    assert {key: tuple(one.shape) for key, one in whole.items()} == {
        **dict.fromkeys(("loss", "psnr", "ssim", "mse"), (8,)),
        "sr": (8, 1, 12 * scale, 12 * scale),
    }
    for key, column in whole.items():
        found = torch.cat([half[key] for half in halves])
        torch.testing.assert_close(found, column, rtol=1e-4, atol=1e-5)
    assert set(task.predict(model, batch)) == {"loss", "psnr", "ssim", "mse"}


@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_state_round_trips_through_a_file(name, tmp_path):
    task, batch = make(), eight()
    model = task.build_model(name)
    nn.init.normal_(model.network[-1].weight, std=0.1)
    task.training_step(model.train(), batch)  # moves the batch-norm statistics
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    other = task.build_model(name)
    other.load_state_dict(load_file(tmp_path / "model.safetensors"))
    expected, found = (task.infer(each.eval(), batch) for each in (model, other))
    assert all(torch.equal(expected[key], found[key]) for key in expected)


@torch.no_grad()
def test_step_zero_is_bicubic_in_the_units_of_the_store():
    task, batch = make(), eight()
    found = task.infer(task.build_model("edsr").eval(), batch)
    expected = bicubic(batch["image"] * STD + MEAN, 2)
    torch.testing.assert_close(found["sr"], expected, atol=1e-6, rtol=0)


@torch.no_grad()
def test_metrics_are_in_the_units_of_the_store():
    task, batch = make(), eight()
    output = batch["target"] + 0.1 * torch.randn_like(batch["target"])
    found = task.predict(Given(output), batch)
    sr, hr = (images * STD + MEAN for images in (output, batch["target"]))
    mse = (sr - hr).square().mean(dim=(1, 2, 3))
    torch.testing.assert_close(found["mse"], mse)
    torch.testing.assert_close(found["psnr"], -10 * mse.log10())
    torch.testing.assert_close(found["ssim"], ssim(sr, hr).float())
    summary = task.summarise(
        np.zeros(8, np.int64), {key: one.numpy() for key, one in found.items()}
    )
    assert summary == {
        key: pytest.approx(found[key].mean().item()) for key in ("loss", "psnr", "ssim")
    }


@torch.no_grad()
def test_losses_have_their_closed_forms():
    batch = eight()
    output = batch["target"] + 0.3 * torch.randn_like(batch["target"])
    l1 = nn.functional.l1_loss(output, batch["target"])
    spectra = [np.abs(np.fft.rfft2(one.numpy(), norm="ortho")) for one in (output, batch["target"])]
    images = [one * STD + MEAN for one in (output, batch["target"])]
    expected = {
        "l1": l1.item(),
        "l2": nn.functional.mse_loss(output, batch["target"]).item(),
        "l1_ssim": (l1 + 0.1 * (1 - ssim(*images).mean())).item(),
        "fourier": l1.item() + 0.1 * np.abs(spectra[0] - spectra[1]).mean(),
    }
    found = {
        loss: make(loss=loss).training_step(Given(output), batch)["loss"].item() for loss in LOSSES
    }
    assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("scale", [2, 4])
def test_patches_of_both_halves_are_of_one_place(scale):
    y, x = torch.meshgrid(torch.arange(12.0), torch.arange(12.0), indexing="ij")
    image = (100 * y + x).expand(64, 1, 12, 12)
    target = image.repeat_interleave(scale, dim=2).repeat_interleave(scale, dim=3)
    patch, target_patch = make(scale, patch=8)._patches(image, target)
    assert patch.shape == (64, 1, 8, 8)
    assert target_patch.shape == (64, 1, 8 * scale, 8 * scale)
    torch.testing.assert_close(nn.functional.avg_pool2d(target_patch, scale), patch)
    assert len(patch[:, 0, 0, 0].unique()) > 15  # of 5 x 5 places


def test_scale_that_fits_no_network_is_refused():
    with pytest.raises(ConfigError, match=r"are 1 × 12 × 12, high-resolution ones 1 × 36 × 36"):
        make(target_side=36)


@torch.no_grad()
def test_new_images_get_what_files_hold_without_a_target():
    task, batch = make(), eight()
    model = task.build_model("rcan").eval()
    found = task.apply(model, {"image": batch["image"]})
    assert list(found) == ["sr"]
    assert torch.equal(found["sr"], task.infer(model, batch)["sr"])


def test_trained_network_opens_without_the_loss_it_was_trained_by():
    settings = Settings(loss="mine@0123456789ab", width=8, patch=12)
    assert settings.for_inference() == Settings(width=8, patch=12)
