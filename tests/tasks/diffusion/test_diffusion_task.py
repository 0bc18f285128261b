"""What the diffusion task promises to the engine; sampling against what is known exactly."""

import math

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from scipy import stats
from torch import nn

from lenshpc.engine.load import make_task
from lenshpc.registry import TaskSpec
from lenshpc.run.sections import Train
from lenshpc.statistics.image_metrics import blur
from lenshpc.tasks.diffusion.feature_extractors import array_name, find_shipped
from lenshpc.tasks.diffusion.features import Blur
from lenshpc.tasks.diffusion.sampling import Sampler, SeededNoise
from lenshpc.tasks.diffusion.settings import Diffusion as Settings
from lenshpc.tasks.diffusion.task import EVALUATION, SAMPLES

IMAGES = ("sample", "real", "blurred")
MEAN, STD = 0.25, 0.125
SMALL = {"width": 8, "multipliers": (1, 2), "blocks": 1, "sampling_steps": 5}
GUIDED = {"guidance": {"dropout": 0.1, "scale": 2.0}}
CASES = {
    "plain": {},
    "epsilon": {"prediction": "epsilon", "schedule": "linear"},
    "min-snr": {"min_snr_gamma": 5.0, "zero_terminal_snr": True},
    "guided": GUIDED,
    "ancestral": {"sampler": "ancestral"},
}

pytestmark = pytest.mark.usefixtures("seeded")


def make(side=16, **method):
    spec = TaskSpec(
        settings=Settings(**(SMALL | method)),
        train=Train(),
        classes=("no", "sub"),
        class_counts=(4, 4),
        image_shape=(1, side, side),
        mean=(MEAN,),
        std=(STD,),
    )
    return make_task("diffusion", spec)


def eight(side=16):
    label = torch.arange(8) % 2
    return {"image": torch.randn(8, 1, side, side), "label": label, "row": torch.arange(8) + 3}


def woken(task):
    """Return a network whose zeroed layers give something."""
    model = task.build_model("unet")
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.05)
    return model.eval()


@pytest.mark.parametrize("case", CASES)
def test_loss_falls_on_eight_images(case):
    task, batch = make(8, **CASES[case]), eight(8)
    batch["image"] = torch.where(batch["label"].bool(), 2.0, -2.0)[:, None, None, None].expand_as(
        batch["image"]
    )
    model = task.build_model("unet").train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    with torch.no_grad():
        before = task.predict(model, batch)["loss"].mean()
    for _ in range(25):
        loss = task.training_step(model, batch)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        assert task.predict(model, batch)["loss"].mean() < 0.7 * before


@torch.no_grad()
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("function", ["predict", "infer"])
def test_predictions_of_parts_are_those_of_the_whole(case, function):
    task, batch = make(**CASES[case]), eight()
    model = woken(task)
    whole = getattr(task, function)(model, batch)
    parts = [
        getattr(task, function)(model, {key: value[some] for key, value in batch.items()})
        for some in ([6, 1], [0], [7, 2, 3, 4, 5])
    ]
    for key, column in whole.items():
        found = torch.cat([part[key] for part in parts])
        torch.testing.assert_close(found, column[[6, 1, 0, 7, 2, 3, 4, 5]], atol=2e-3, rtol=1e-3)


@torch.no_grad()
def test_files_keep_image_and_features():
    found = make().infer(woken(make()), eight())
    names = [array_name(name, which) for name, _ in find_shipped() for which in IMAGES]
    assert list(found) == ["loss", "sample", *names]
    assert found["sample"].shape == (8, 1, 16, 16)
    assert {found[name].ndim for name in names} == {2}
    assert found["sample"].dtype == torch.float16
    assert found["sample"].min() >= 0
    assert found["sample"].max() <= 1


@torch.no_grad()
def test_validation_loss_does_not_depend_on_the_random_state():
    task, batch = make(), eight()
    model = woken(task)
    losses = []
    for seed in range(2):
        torch.manual_seed(seed)
        losses.append(task.predict(model, batch)["loss"])
    assert torch.equal(*losses)


@torch.no_grad()
def test_draws_are_functions_of_purpose_seed_and_row():
    task = make(sampler="ancestral")
    model = woken(task)
    rows = torch.tensor([5, 6])
    first = task.draw(model, SAMPLES, 0, rows)
    other = task.draw(model, SAMPLES, 0, rows[1:])
    torch.testing.assert_close(other[0], first[1], atol=1e-4, rtol=0)
    for purpose, seed in ((EVALUATION, 0), (SAMPLES, 1)):
        assert not torch.allclose(task.draw(model, purpose, seed, rows), first)


@torch.no_grad()
def test_state_round_trips_through_a_file(tmp_path):
    task, batch = make(**GUIDED), eight()
    model = woken(task)
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    other = task.build_model("unet")
    other.load_state_dict(load_file(tmp_path / "model.safetensors"))
    expected, found = (task.predict(each.eval(), batch) for each in (model, other))
    assert torch.equal(expected["loss"], found["loss"])


class Optimal(nn.Module):
    """The best prediction where every image is `constant`: what is not it is noise."""

    def __init__(self, schedule, constant):
        super().__init__()
        self.schedule, self.constant = schedule, constant

    def forward(self, noisy, level):
        signal, sigma = self.schedule._parts(level, noisy)
        noise = (noisy - signal * self.constant) / sigma
        return self.schedule.target(torch.full_like(noisy, self.constant), noise, level)


@pytest.mark.parametrize("case", ["plain", "epsilon", "min-snr", "ancestral"])
def test_best_network_draws_the_only_image_there_is(case):
    task = make(**CASES[case])
    image = task.decode(Optimal(task._schedule, 0.3), torch.randn(2, 1, 16, 16))
    expected = torch.full((2, 1, 16, 16), 0.3 * STD / 0.5 + MEAN)
    torch.testing.assert_close(image, expected, atol=1e-3, rtol=0)


class Told(nn.Module):
    """Gives 1 where it is told a class, else 0."""

    def forward(self, noisy, level, label=None):
        return torch.full_like(noisy, 0.0 if label is None else 1.0)


@pytest.mark.parametrize(("scale", "expected"), [(0.0, 0), (1.0, 1), (2.5, 2.5)])
def test_guidance_moves_away_from_the_hidden_class(scale, expected):
    sampler = Sampler(schedule=make()._schedule, kind="ddim", num_steps=2, scale=scale)
    zeros = torch.zeros(2, 1, 4, 4)
    output = sampler._output(Told(), zeros, torch.zeros(2).long(), torch.zeros(2).long())
    assert output.unique().tolist() == [expected]


def test_noise_is_normal_and_levels_are_uniform():
    noise = SeededNoise((0,), torch.arange(4000))
    levels = noise.levels(4)
    assert np.bincount(levels).tolist() == pytest.approx([1000] * 4, abs=100)
    drawn = torch.cat([noise.draw((1, 4, 4)) for _ in range(2)], dim=1).flatten(1)
    assert stats.kstest(drawn[:, :16].flatten(), "norm").pvalue > 0.01
    correlations = np.corrcoef(drawn.T.numpy()) - np.eye(32)
    assert np.abs(correlations).max() < 5 / 4000**0.5


def test_noise_of_a_row_is_split_mix_of_its_key():
    """By Python's own integers, from the paper's constants."""
    numbers = SeededNoise((3, 1), torch.tensor([7])).draw((1, 1, 4))
    key = 0
    for part in (3, 1, 7, 0):  # seed, row, first draw
        key = mix(key + (part + 1) * GOLDEN)
    bits = [mix(key ^ mix(place * GOLDEN)) for place in (1, 2)]
    radius = [math.sqrt(-2 * math.log(((one >> 40) + 1) / 2**24)) for one in bits]
    angle = [2 * math.pi * (one & 0xFFFFFF) / 2**24 for one in bits]
    expected = [
        one * turn(other)
        for turn in (math.cos, math.sin)
        for one, other in zip(radius, angle, strict=True)
    ]
    assert numbers.flatten().tolist() == pytest.approx(expected, abs=1e-5)


GOLDEN, WORD = 0x9E3779B97F4A7C15, 2**64


def mix(value):
    value %= WORD
    value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 % WORD
    value = (value ^ value >> 27) * 0x94D049BB133111EB % WORD
    return value ^ value >> 31


@pytest.mark.parametrize("sides", [(16, 16), (17, 12), (2, 3)])
def test_blur_is_that_of_the_report(sides):
    images = torch.randn(3, 2, *sides)
    found = Blur(sides)(images)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found, blur(images.numpy()), atol=2e-6, rtol=0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"zero_terminal_snr": True, "prediction": "epsilon"}, "use prediction: v"),
        ({"schedule": "linear", "num_steps": 500, "sampling_steps": 5}, "use cosine"),
        ({"sampling_steps": 2000}, "lower them"),
        ({"pixel_range": (1, 0)}, "is empty"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(changes, message):
    with pytest.raises(ValidationError, match=message):
        Settings(**changes)
