"""What pre-training promises to the engine, and what it keeps of each row."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from lenshpc.data.stretch import stretch, unstretch
from lenshpc.engine.load import make_task
from lenshpc.registry import TaskSpec
from lenshpc.run.sections import Train
from lenshpc.tasks.foundation.settings import Foundation as Settings

pytestmark = pytest.mark.usefixtures("seeded")
VIT = {"patch": 4, "width": 24, "depth": 2, "heads": 2}


def make(norm_pixels=False, **spec):
    method = Settings(
        vit=VIT, decoder_width=16, decoder_depth=1, decoder_heads=2, norm_pixels=norm_pixels
    )
    facts = {"classes": ("a", "b"), "class_counts": (8, 0), "image_shape": (1, 18, 20)}
    return make_task("foundation", TaskSpec(settings=method, train=Train(), **{**facts, **spec}))


def eight():
    x = torch.arange(20.0).expand(18, 20)
    image = torch.stack([torch.sin(x / (2 + k) + k) for k in range(8)])[:, None]
    return {"image": image, "label": torch.zeros(8, dtype=torch.long), "row": 3 * torch.arange(8)}


@pytest.mark.parametrize("norm_pixels", [False, True])
def test_loss_falls_on_eight_images(norm_pixels):
    task, batch = make(norm_pixels), eight()
    model = task.build_model("mae_vit").train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(60):
        loss = task.training_step(model, batch)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])


@torch.no_grad()
@pytest.mark.parametrize("function", ["predict", "infer"])
def test_predictions_of_halves_are_those_of_the_whole(function):
    task, batch = make(), eight()
    model = task.build_model("mae_vit").eval()
    whole = getattr(task, function)(model, batch)
    halves = [
        getattr(task, function)(model, {key: value[part] for key, value in batch.items()})
        for part in (slice(4), slice(4, 8))
    ]
    for key, column in whole.items():
        joined = torch.cat([half[key] for half in halves])
        torch.testing.assert_close(joined, column, rtol=1e-3, atol=1e-3)


@torch.no_grad()
def test_columns_are_those_that_the_files_keep():
    task, batch = make(mean=(0.3,), std=(0.5,)), eight()
    model = task.build_model("mae_vit").eval()
    found = task.infer(model, batch)
    assert {name: tuple(column.shape) for name, column in found.items()} == {
        "loss": (8,),
        "mean_error": (8,),
        "smooth_error": (8,),
        "reconstruction": (8, 1, 18, 20),
        "mask": (8, 18, 20),
        "embedding": (8, 24),
    }
    torch.testing.assert_close(found["loss"], task.predict(model, batch)["loss"])
    seen = found["mask"][:, None] == 0
    there = (0.3 + 0.5 * batch["image"]).half()
    torch.testing.assert_close(found["reconstruction"][seen], there[seen])
    assert task.summarise(batch["label"].numpy(), {"loss": found["loss"].numpy()}) == {
        "loss": pytest.approx(found["loss"].mean().item())
    }


@torch.no_grad()
def test_mask_depends_on_the_row_alone():
    task, batch = make(), eight()
    model = task.build_model("mae_vit").eval()
    masks = task.infer(model, batch)["mask"]
    again = task.infer(model, {**batch, "image": batch["image"].flip(0)})["mask"]
    assert torch.equal(masks, again)
    assert len({mask.numpy().tobytes() for mask in masks}) == 8


@torch.no_grad()
def test_state_round_trips_and_names_the_encoder(tmp_path):
    task, batch = make(), eight()
    model = task.build_model("mae_vit").eval()
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    state = load_file(tmp_path / "model.safetensors")
    other = task.build_model("mae_vit").eval()
    other.load_state_dict(state)
    assert torch.equal(task.predict(other, batch)["loss"], task.predict(model, batch)["loss"])
    encoder = {key.removeprefix("encoder.") for key in state if key.startswith("encoder.")}
    assert encoder == set(model.encoder.state_dict())


@pytest.mark.parametrize("kind", ["none", "sqrt", "asinh", "log"])
def test_stretch_is_undone(kind):
    pixels = torch.linspace(0, 3, 50)
    torch.testing.assert_close(unstretch(stretch(pixels, kind), kind), pixels)


@torch.no_grad()
def test_new_images_get_the_embedding_that_files_hold():
    task, batch = make(), eight()
    model = task.build_model("mae_vit").eval()
    found = task.apply(model, {"image": batch["image"]})
    assert list(found) == ["embedding"]
    assert torch.equal(found["embedding"], task.infer(model, batch)["embedding"])
