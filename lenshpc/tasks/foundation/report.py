"""The report of a pre-training: errors on hidden patches, pictures, a map of the features."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from lenshpc.data.decoded import Decoded
from lenshpc.report.common import common_sections, format_overview, open_or_tell, partial_banner
from lenshpc.report.content import (
    Block,
    Column,
    Gallery,
    Headline,
    KeyValues,
    Picture,
    Report,
    Row,
    Section,
    Table,
)
from lenshpc.report.embedding import MIN_ROWS, draw_embedding, draw_rows, map_embedding
from lenshpc.report.format import format_interval, format_number
from lenshpc.report.methods import BOOTSTRAP
from lenshpc.report.pictures import Stretch, colours, encode_png, stretch_of
from lenshpc.report.references import cite
from lenshpc.report.summary import summarise, without_nan
from lenshpc.report.verdict import find_verdict
from lenshpc.run.plan import Plan
from lenshpc.run.predictions import read_array
from lenshpc.run.results import RunResults, Training
from lenshpc.statistics.results import LEVEL, NUM_RESAMPLES, Floats
from lenshpc.store import Store
from lenshpc.tasks.foundation.evidence import weigh_errors
from lenshpc.tasks.foundation.judge import LEARNT, ResultRow, RunEvaluation
from lenshpc.tasks.foundation.settings import Foundation

NUM_SHOWN = 8
HIDDEN_GREY = 128


def build(results: RunResults, found: RunEvaluation) -> Report:
    """Return the report of a run that learnt to draw hidden patches."""
    plan, merged, lines = results.plan, found.merged, found.lines
    content = _content(results, lines)
    return Report(
        title=results.run.name,
        reading=format_overview(
            content, f", pre-training on {', '.join(_learnable_classes(plan))}"
        ),
        banners=partial_banner(content),
        headline=_headline(lines[0]),
        overview=errors_table([line for line in lines if line.rows == LEARNT]),
        sections=(*_sections(results, lines, merged), *common_sections(results, content)),
        content=content,
        predictions=merged.drop(columns=["group", "fold"]),
        verdict=find_verdict(weigh_errors(results, found)),
        method=_describe(plan),
    )


def _learnable_classes(plan: Plan) -> list[str]:
    return [plan.classes[label] for label in plan.recipe.method.learnt_labels(plan.classes)]


def _headline(line: ResultRow) -> Headline:
    low, high = format_number(line.ratio_low, 3), format_number(line.ratio_high, 3)
    return Headline(
        label=f"Test error of {line.model} on hidden patches, beside the better filling's",
        measure="error",
        value=f"{format_number(line.ratio, 3)} ×",
        range=f"{LEVEL:.0%} interval {low} to {high}, {line.num_rows:,} test images",
    )


def _content(results: RunResults, lines: Sequence[ResultRow]) -> Mapping[str, Any]:
    """Return what report.json holds."""
    content: Mapping[str, Any] = without_nan(
        {
            **summarise(results),
            "headline": asdict(lines[0]),
            "lines": [asdict(line) for line in lines],
            "learnt": _learnable_classes(results.plan),
            "interval": {"level": LEVEL, "num_resamples": NUM_RESAMPLES, "kind": "stratified"},
            "notes": list(format_notes(results.plan)),
        }
    )
    return content


def format_notes(plan: Plan) -> Iterator[str]:
    """Yield what a reader must know to believe the figures."""
    method = Foundation.of(plan.recipe.method)
    yield (
        f"Learnt: {', '.join(_learnable_classes(plan))}, outside the test split. Rows of other "
        "classes are excluded, and test rows are predicted once, with the best weights. The "
        "epoch was chosen by the loss on the validation fold."
    )
    space = "less its mean, over its std" if method.norm_pixels else "as the network sees it"
    yield (
        f"An error is the mean square over the hidden {method.mask_ratio:.0%} of the patches, "
        f"each {space}. Every image has one mask, the same for all members and for both fillings: "
        "the mean of the visible pixels, and smooth interpolation (Laplace's equation between "
        "them)."
    )
    if method.norm_pixels:
        yield "The fillings are given the mean and std of each hidden patch, as the pictures are."
    yield (
        f"Intervals: {LEVEL:.0%} percentile intervals over {NUM_RESAMPLES:,} resamples of the "
        "rows. They include the scatter from the choice of rows, not the scatter between "
        "trainings."
    )


def _describe(plan: Plan) -> str:
    """Return what was done to pre-train, for the paragraph on methods."""
    ratio = Foundation.of(plan.recipe.method).mask_ratio
    return (
        f"The encoder was pre-trained by drawing {ratio:.0%} of the patches of an image, which "
        f"were hidden{cite('network/mae')}. We give the squared error on hidden patches of test "
        f"images over that of the better of two fillings without a network. {BOOTSTRAP}"
    )


def _sections(
    results: RunResults, lines: Sequence[ResultRow], merged: pd.DataFrame
) -> Iterator[Section]:
    """Yield the sections that are of this task alone."""
    yield Section(title="Errors on hidden patches", blocks=(errors_table(lines),))
    rows = merged[(merged["model"] == lines[0].model) & (merged["split"] == "test")]
    results.say("drawing what was hidden")
    store, absent = open_or_tell(results, "No images")
    pictures: tuple[Block, ...] = absent
    if store is not None:
        pictures = (_gallery(results, results.trainings[0], store, rows),)
    yield Section(title="Hidden, drawn, true", blocks=pictures)
    if len(rows) >= MIN_ROWS:
        results.say("mapping the embeddings")
        yield Section(title="Features", blocks=(_map(results, results.trainings[0], rows),))
    yield Section(title="The encoders as files", blocks=(_exports(results),))


def errors_table(lines: Sequence[ResultRow]) -> Table:
    """Return the errors of some lines."""
    rows = (
        Row(
            cells=(
                line.model,
                {"oof": "out-of-fold"}.get(line.split, line.split),
                line.rows,
                format_interval(line.error, line.error_low, line.error_high),
                format_number(line.mean_error),
                format_number(line.smooth_error),
                format_interval(line.ratio, line.ratio_low, line.ratio_high),
                f"{line.num_rows:,}",
            ),
            look="strong" if line.rows == LEARNT and line.split == "test" else "",
        )
        for line in lines
    )
    words = ("Model", "Rows", "Of")
    figures = ("Error [interval]", "Mean of the seen", "Smooth", "Error / the better", "Images")
    return Table(
        columns=(
            *(Column(title=title, words=True) for title in words),
            *(Column(title=title) for title in figures),
        ),
        rows=tuple(rows),
    )


def _gallery(results: RunResults, training: Training, store: Store, rows: pd.DataFrame) -> Gallery:
    plan, member = results.plan, training.member
    shown = rows.iloc[draw_rows(rows["label"].to_numpy(), NUM_SHOWN)]
    numbers = shown["row"].to_numpy()
    images = Decoded(store, plan.recipe.data).images(numbers)
    drawn, masks = (
        read_array(results.run, member, name, numbers) for name in ("reconstruction", "mask")
    )
    stretch = stretch_of(images)
    panels = (
        _panel(
            f"{one['id']} ({plan.classes[one['label']]})",
            images[at],
            np.asarray(drawn[at], np.float32),
            masks[at] == 1,
            stretch,
        )
        for at, one in enumerate(shown.to_dict("records"))
    )
    return Gallery(
        name="hidden",
        title=f"Test images drawn by {member.name}",
        caption="What was visible (hidden patches are grey), what was drawn with the visible "
        "patches copied from the image, and the image, with the same stretch.",
        panels=tuple(panels),
    )


def _panel(
    name: str, image: Floats, drawn: Floats, mask: npt.NDArray[np.bool_], stretch: Stretch
) -> tuple[Picture, ...]:
    true = colours(stretch.levels(image))
    seen = np.where(mask[..., None], np.uint8(HIDDEN_GREY), true)
    pictures = {"seen": seen, "drawn": colours(stretch.levels(drawn)), "image": true}
    return tuple(
        Picture(png=encode_png(pixels), text=f"{name}: {what}", caption=what)
        for what, pixels in pictures.items()
    )


def _map(results: RunResults, training: Training, rows: pd.DataFrame) -> Block:
    """Return the map of the first member's features of test images; it was told no class."""
    drawn = rows.iloc[draw_rows(rows["label"].to_numpy())]
    features = read_array(results.run, training.member, "embedding", drawn["row"].to_numpy())
    shown = map_embedding(np.asarray(features, np.float64))
    whose = f"the encoder of {training.member.name}, which was trained without labels"
    return draw_embedding(shown, drawn["label"].to_numpy(), results.plan.classes, whose)


def _exports(results: RunResults) -> KeyValues:
    """Return where each member's weights lie, and how a run goes on from them."""
    weights = {
        one.member.name: str(results.run.member(one.member.name).weights)
        for one in results.trainings
    }
    told = {"go on from it": f"lenshpc submit … --init-from {results.run.name}", **weights}
    return KeyValues(title="Weights; the encoder's begin with encoder.", pairs=tuple(told.items()))
