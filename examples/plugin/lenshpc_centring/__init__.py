"""Find the lens in a cut-out that is not centred on it: a task, a network and a loss for lenshpc.

Each image holds a lens in its middle. The task cuts out a smaller one, off the middle by a random
number of pixels, and a network tells the place (pixels down, pixels right) of the lens in it.
torch is imported where a job runs, so `lenshpc submit` does without it.
"""

import numpy as np
from pydantic import Field, PositiveInt
from scipy.ndimage import center_of_mass

from lenshpc.errors import ConfigError
from lenshpc.registry import TaskKind, TaskSettings, build_component
from lenshpc.report.common import common_sections, partial_banner
from lenshpc.report.content import Headline, Report, Section, Table
from lenshpc.report.figures import draw_figure
from lenshpc.report.summary import summarise

WAYS = ["network", "centroid", "middle"]
NOTES = ["Errors are mean distances in pixels, ± 1.96 standard errors. Each image is cut once."]


class Centring(TaskSettings):
    """What stands under `method` in a recipe."""

    family = "centring"
    monitors = {"error_px": -1, "loss": -1}
    loss_keys = ("loss",)
    max_offset_px: PositiveInt = Field(default=8, description="the largest, along each axis")
    loss: str = Field(default="huber", description="by name, or FILE.py:NAME")

    def num_outputs(self, num_classes):
        return 2

    def check_store(self, recipe, facts):
        if self.max_offset_px > (most := min(facts.held_shape[1:]) // 4):
            raise ConfigError(f"method.max_offset_px is for larger images; use {most} or less")


class FindLens:
    """Cut images off their middles, and learn where the lens is."""

    num_phases = 1

    def __init__(self, spec):
        self.spec, self.most = spec, spec.settings.max_offset_px
        self.loss = build_component("losses", spec, spec.settings.loss)

    def build_model(self, name):
        return build_component("networks", self.spec, name)

    def training_step(self, model, batch):
        place = batch["row"].new_empty(len(batch["row"]), 2).random_(-self.most, self.most + 1)
        return {"loss": self.loss(model(self.cut(batch["image"], place)), place).mean()}

    def predict(self, model, batch):
        image, place = self.scored(batch)
        found = model(image).float()
        return {"error_px": (found - place).norm(dim=1), "loss": self.loss(found, place)}

    def infer(self, model, batch):
        image, place = self.scored(batch)
        found = {"network": model(image).float(), "centroid": centroid(image), "middle": 0}
        return {way: (found[way] - place).float().norm(dim=1) for way in WAYS}

    def summarise(self, labels, predictions):
        return {name: float(values.mean()) for name, values in predictions.items()}

    def scored(self, batch):
        """Return cut-outs and places (B, 2) that depend on the images' rows alone."""
        rngs = map(np.random.default_rng, batch["row"].tolist())
        places = np.array([rng.integers(-self.most, self.most + 1, size=2) for rng in rngs])
        place = batch["row"].new_tensor(places)
        return self.cut(batch["image"], place), place

    def cut(self, image, place):
        """Return cut-outs (B, C, H - 2m, W - 2m) in which the lenses are at the places."""
        import torch

        pairs, m = zip(image, place.tolist(), strict=True), self.most
        return torch.stack([one.roll(shift, (1, 2)) for one, shift in pairs])[:, :, m:-m, m:-m]


def centroid(image):
    """Return the centre of the light above the median, (B, 2)."""
    light = [np.clip(one - np.median(one), 0, None) for one in image.mean(dim=1).cpu().numpy()]
    return image.new_tensor([center_of_mass(one) for one in light]) - (len(light[0]) - 1) / 2


def small_cnn(spec):
    """Return a network for the images of a TaskSpec."""
    from torch import nn

    layers = []
    for inner, outer in ((spec.image_shape[0], 16), (16, 32), (32, 64)):
        layers += [nn.Conv2d(inner, outer, 3, 2, 1), nn.BatchNorm2d(outer), nn.ReLU()]
    last = nn.Linear(64 * 4 * 4, spec.num_outputs)
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(4), nn.Flatten(), last)


def huber(spec):
    """Return a loss: found (B, 2) and true places (B, 2) → a number an image (B,)."""
    from torch.nn.functional import huber_loss

    return lambda found, true: huber_loss(found, true.float(), reduction="none").sum(dim=1)


def evaluate(results):
    """Return the errors by model and image, then their means and margins, test images first."""
    table = results.predictions().groupby(["split", "model", "row", "id"], as_index=False).mean()
    groups = table.sort_values("split", ascending=False).groupby(["split", "model"], sort=False)
    return table, groups[WAYS].mean(), 1.96 * groups[WAYS].sem()


def build(results, judged):
    """Return the page: the means, how the errors are distributed, and what every report has."""
    table, means, margins = judged
    lines = means.reset_index().to_dict("records")
    content = {**summarise(results), "lines": lines, "notes": NOTES}
    words = means.map("{:.2f} ± ".format) + margins.map("{:.2f}".format)
    overview = Table.of(("Images", "Model", *WAYS), words.reset_index().to_numpy())

    def draw(axes):
        for way in WAYS:
            axes.ecdf(table.loc[table["split"] == "test", way], label=way)
        axes.set(xlabel="Error (pixels)", ylabel="Share of the test images below")
        axes.legend()

    blocks = (overview, draw_figure("errors", "Errors of all models on test images.", draw))
    return Report(
        title=results.run.name,
        reading="Lenses found by a network, by the centroid of the light, or always in the middle.",
        banners=partial_banner(content),
        headline=Headline(label="Mean test error in pixels", value=words["network"].iloc[0]),
        overview=overview,
        sections=(Section(title="Errors", blocks=blocks), *common_sections(results, content)),
        content=content,
        predictions=table,
    )


CENTRING = TaskKind(
    settings=Centring,
    task="lenshpc_centring:FindLens",
    evaluate="lenshpc_centring:evaluate",
    report="lenshpc_centring:build",
    recipe="lenshpc_centring:centring.yaml",
)
