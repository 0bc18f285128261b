"""The report of a physics-guided run: that of the classes, and of the lenses behind them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes

from lenshpc.errors import LensHpcError
from lenshpc.report.common import open_or_tell
from lenshpc.report.content import (
    Block,
    Column,
    Figure,
    Gallery,
    Picture,
    Prose,
    Report,
    Row,
    Section,
    Table,
)
from lenshpc.report.figures import INK, add_legend, draw_figure, look_of
from lenshpc.report.format import format_number
from lenshpc.report.pictures import colours, encode_png, stretch_of
from lenshpc.run.results import RunResults
from lenshpc.tasks.physics_guided.judge import GuidedEvaluation, Lenses
from lenshpc.tasks.physics_guided.lens_parameters import (
    EINSTEIN_RADIUS,
    LOSS,
    EstimateErrors,
    LensEstimates,
)
from lenshpc.tasks.supervised.report import Extra
from lenshpc.tasks.supervised.report import build as build_supervised

Floats = npt.NDArray[np.floating]

NUM_PICTURES = 3  # of each class
MAX_CLASSES = 6
MAX_POINTS = 600  # drawn of each class
NUM_BINS = 30
WORDS = {EINSTEIN_RADIUS: "θ_E (″)", "gamma1": "γ₁", "gamma2": "γ₂"}
NOTE = (
    "Bias is the mean of estimate minus truth. The true θ_E is that of the smooth halo; "
    "substructure adds up to its mass fraction in θ_E², so a smooth lens model that fits all the "
    "mass lies above it. R² is 1 minus the mean squared error divided by the variance of the "
    "truth."
)


def build(results: RunResults, found: GuidedEvaluation) -> Report:
    """Return the report of a run of physics-guided classification."""
    extra = Extra(
        sections=tuple(_lenses_section(results, found.lenses)),
        content=_lenses_content(found.lenses),
    )
    return build_supervised(results, found.classes, extra)


def _lenses_content(lenses: Lenses | None) -> dict[str, Any]:
    """Return what report.json holds of the lenses; nothing of a run that has none."""
    if lenses is None:
        return {}
    testing = (lenses.estimates.rows["split"] == "test").to_numpy()
    losses = {
        model: float(np.nanmean(found[LOSS][testing]))
        for model, found in lenses.estimates.models.items()
    }
    agreements = [asdict(one) for one in lenses.agreements]
    return {"lens_parameters": {"physics_loss": losses, "agreement": agreements}}


def _lenses_section(results: RunResults, lenses: Lenses | None) -> Iterator[Section]:
    """Yield the section of a run whose members say something of lenses."""
    if lenses is None:
        return
    what = "No comparison with the truth, and no pictures"
    store, absent = open_or_tell(results, what)
    blocks = _blocks(results, lenses, with_pictures=store is not None)
    yield Section(title="Lens parameters", blocks=(*blocks, *absent))


def _blocks(results: RunResults, lenses: Lenses, *, with_pictures: bool) -> Iterator[Block]:
    results.say("drawing the lens parameters")
    if lenses.agreements:
        yield _agreement_table(lenses.agreements)
        yield Prose(text=NOTE)
    for at, (model, found) in enumerate(lenses.estimates.models.items()):
        estimate = found[EINSTEIN_RADIUS].to_numpy()
        rows, classes = lenses.estimates.rows, results.plan.classes
        yield _distributions(f"theta_e_{at}", model, rows, estimate, classes)
        truth = lenses.truth.get(EINSTEIN_RADIUS)
        if truth is not None and len(np.unique(truth[np.isfinite(truth)])) > 1:
            yield _against(f"theta_e_truth_{at}", model, rows, (truth, estimate), classes)
    if with_pictures:
        yield from _pictures(results, lenses.estimates)


def _agreement_table(agreements: Sequence[EstimateErrors]) -> Table:
    words, numbers = ("Model", "Parameter", "Rows"), ("Images", "MAE", "Bias", "R²")
    return Table(
        title="Estimate against truth",
        columns=(
            *(Column(title=title, words=True) for title in words),
            *(Column(title=title) for title in numbers),
        ),
        rows=tuple(
            Row(
                cells=(
                    one.model,
                    WORDS[one.parameter],
                    one.part,
                    f"{one.num:,}",
                    *map(format_number, (one.mae, one.bias, one.r2)),
                )
            )
            for one in agreements
        ),
    )


def _distributions(
    name: str, model: str, rows: pd.DataFrame, estimate: Floats, classes: Sequence[str]
) -> Figure:
    asked = (rows["split"] == "test").to_numpy() & np.isfinite(estimate)
    edges = np.histogram_bin_edges(estimate[asked], NUM_BINS)

    def draw(axes: Axes) -> None:
        for label, kind in enumerate(classes):
            mine = estimate[asked & (rows["label"] == label).to_numpy()]
            if len(mine):
                axes.hist(
                    mine, list(edges), density=True, histtype="step", label=kind, **look_of(label)
                )
        axes.set(xlabel="Estimated θ_E (″)", ylabel="Density of test images")
        axes.set_title(f"Einstein radii by {model}", color=INK)
        add_legend(axes)

    return draw_figure(name, f"Einstein radii that {model} estimates of test images.", draw)


def _against(
    name: str,
    model: str,
    rows: pd.DataFrame,
    pair: tuple[Floats, Floats],
    classes: Sequence[str],
) -> Figure:
    truth, estimate = pair
    asked = (rows["split"] == "test").to_numpy() & np.isfinite(truth) & np.isfinite(estimate)

    def draw(axes: Axes) -> None:
        for label, kind in enumerate(classes):
            mine = np.flatnonzero(asked & (rows["label"] == label).to_numpy())
            shown = np.random.default_rng(0).permutation(mine)[:MAX_POINTS]
            color = look_of(label)["color"]
            axes.scatter(truth[shown], estimate[shown], s=6, color=color, alpha=0.5, label=kind)
        low, high = np.nanmin(truth[asked]), np.nanmax(truth[asked])
        axes.plot([low, high], [low, high], color=INK, linewidth=0.8)
        axes.set(xlabel="True θ_E (″)", ylabel="Estimated θ_E (″)")
        axes.set_title(f"Einstein radii by {model}: truth and estimate", color=INK)
        add_legend(axes)

    caption = (
        f"True and estimated Einstein radii of test images by {model}, at most {MAX_POINTS} of "
        "each class; on the line both are equal."
    )
    return draw_figure(name, caption, draw)


def _pictures(results: RunResults, estimates: LensEstimates) -> Iterator[Block]:
    """Yield images redrawn by the first member with lenses, of test rows drawn at random."""
    if "reconstruct" not in results.tools:
        return
    model, member = next(iter(estimates.members.items()))
    testing = estimates.rows[estimates.rows["split"] == "test"]
    shown = (
        testing[testing["label"] < MAX_CLASSES]
        .groupby("label")
        .sample(frac=1, random_state=0)
        .groupby("label")
        .head(NUM_PICTURES)
    )
    results.say("redrawing images through their lenses")
    try:
        found = results.tools["reconstruct"](member, shown["row"].to_numpy())
    except LensHpcError as error:
        yield Prose(text=f"No pictures of sources: {error}.")
        return
    whose = f"{model}, fold {member.fold}, seed {member.seed}"
    yield _gallery(shown, found, results.plan.classes, whose)


def _gallery(
    shown: pd.DataFrame, found: Mapping[str, Floats], classes: Sequence[str], whose: str
) -> Gallery:
    left = found["light"] - found["render"]
    reach = float(np.quantile(np.abs(left), 0.995)) or 1.0
    stretch = stretch_of(found["light"][:, None])
    panels = []
    for at, row in enumerate(shown.to_dict("records")):
        name = f"{row['id']} ({classes[row['label']]})"
        drawn = {
            classes[row["label"]]: colours(stretch.levels(found["light"][at][None])),
            "redrawn": colours(stretch.levels(found["render"][at][None])),
            "residual": _colour_signed(left[at] / reach),
            "source": colours(stretch.levels(found["source"][at][None])),
        }
        panels.append(
            tuple(
                Picture(png=encode_png(pixels), text=f"{name}: {what}", caption=what)
                for what, pixels in drawn.items()
            )
        )
    return Gallery(
        name="redrawn",
        title="Images redrawn through their lenses",
        caption=f"By {whose}: the ring of the image, the same redrawn, the residual (red: missing "
        f"light, blue: too much; full colour is {reach:.3g} in the units that the network "
        "sees), and the source. All have the same asinh stretch; the source is enlarged.",
        panels=tuple(panels),
    )


def _colour_signed(values: Floats) -> npt.NDArray[np.uint8]:
    """Return values in [-1, 1] as colours (H, W, 3), blue to red."""
    return np.asarray(255 * colormaps["RdBu_r"]((values + 1) / 2)[..., :3], np.uint8)
