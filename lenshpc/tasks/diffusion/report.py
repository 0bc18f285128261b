"""The report of generated images: distances over their floor, pictures, memorisation, a walk."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from lenshpc.data.decoded import Decoded
from lenshpc.errors import LensHpcError
from lenshpc.report.common import common_sections, format_overview, partial_banner
from lenshpc.report.content import (
    Block,
    Column,
    Headline,
    KeyValues,
    Notes,
    Prose,
    Report,
    Row,
    Section,
    Table,
)
from lenshpc.report.format import flatten, format_number
from lenshpc.report.references import cite
from lenshpc.report.summary import summarise, without_nan
from lenshpc.report.verdict import find_verdict
from lenshpc.run.results import RunResults
from lenshpc.tasks.diffusion import feature_extractors
from lenshpc.tasks.diffusion.evidence import weigh_drawings
from lenshpc.tasks.diffusion.judge import (
    ROWS_A_FEATURE,
    STATISTICS,
    GenerationScores,
    Measure,
    ResultRow,
    RunEvaluation,
)
from lenshpc.tasks.diffusion.memorisation import Memorisation
from lenshpc.tasks.diffusion.pictures import draw_curves, draw_grids, draw_nearest, draw_walk
from lenshpc.tasks.diffusion.settings import Diffusion

Networks = Mapping[str, dict[str, Any]]  # name of a distance → what its features are of
LOOKS = {"model": "strong", "member": ""}
UNITS = {
    "pixels": "Pixels (store's units)",
    "radial profile": "Radial profile (store's units)",
    "power spectrum": "Power spectrum (dex)",
}
NOTES = (
    "FD: Fréchet distance between Gaussians fitted to features of both sets of images, by a "
    "frozen network that ships with lenshpc. It is not the FID, which uses the Inception network "
    "and is shown only if method.inception names that network's weights; the two cannot be "
    "compared. KID: kernel distance in the same features, unbiased, with the std over 100 "
    "subsets.",
    "Each distance is between one half of the generated rows and the other half of the real "
    "rows, as mean and std over 5 random halvings. The floor is the distance between real images "
    "and other real images: no generator can be expected below it. The control is real images "
    "that were reduced to half their size and enlarged again. All three use equally many rows, "
    "since such distances depend on the number; 'all rows' compares the generated images of all "
    "rows with all real ones.",
    "Pixels, radial profile, power spectrum: mean Wasserstein-1 distance of pixels, of the "
    "azimuthal mean at each radius, and of the logarithm of the power in each ring of frequency.",
    "A member is compared with its held-out fold, whose loss chose its epoch, and with test "
    "rows. A model's line is the mixture of its members, which take turns at the test rows.",
    "The noise depends only on the row, so images do not depend on batch, rank or number of jobs.",
)
METHOD = (
    f"Images were drawn by denoising diffusion{cite('method/diffusion')}. Sets of generated and "
    "of real test images were compared by the Fréchet distance of features"
    f"{cite('statistic/frechet')} of a frozen classifier of lenses and the kernel distance"
    f"{cite('statistic/kid')}, each over five random halvings, beside the distance of two halves "
    "of the real images and that of blurred ones."
)


def build(results: RunResults, found: RunEvaluation) -> Report:
    """Return the report of a run that generates images."""
    run, scores, memory = results.run, found.scores, found.memory
    recipe = results.plan.recipe.of(scores.headline)
    images = Decoded(results.store, recipe.data)
    networks = feature_extractors.describe_all(Diffusion.of(recipe.method).inception)
    content = _content(results, scores, memory, networks)
    return Report(
        title=run.name,
        reading=format_overview(content, ""),
        banners=partial_banner(content),
        headline=_headline(scores),
        overview=_lines_table(_lines(scores, "test")),
        sections=(
            Section(title="Distances", blocks=tuple(_distances(scores, networks))),
            Section(title="Generated and real", blocks=tuple(_pictures(scores))),
            Section(title="Memorisation", blocks=tuple(_memory(memory, scores, images))),
            Section(title="Walk through the noise", blocks=tuple(_walk(results))),
            *common_sections(results, content),
        ),
        content=content,
        predictions=scores.images.rows[["row", "id", "label", "split"]],
        verdict=find_verdict(weigh_drawings(results, found, _main(scores.head))),
        method=METHOD,
    )


def _lines(scores: GenerationScores, split: str) -> list[ResultRow]:
    return [line for line in scores.lines if line.split == split]


def _main(line: ResultRow) -> Measure:
    """Return the measure that stands for a line: the first network's, or else the spectra's."""
    found = [line.measure(name) for name in (*feature_extractors.FILES, STATISTICS[-1])]
    return next(one for one in found if one is not None)


def _headline(scores: GenerationScores) -> Headline:
    head, measure = scores.head, _main(scores.head)
    return Headline(
        label=f"Test {measure.name} of {head.name} over that of real images",
        measure=measure.name,
        value=f"{measure.over_floor:.2f} ×",
        range=f"{_format_measure(measure, 'generated')} over a floor of "
        f"{_format_measure(measure, 'floor')}; blurred images: "
        f"{_format_measure(measure, 'control')}; {head.num_rows // 2:,} images on each side",
    )


def _format_measure(measure: Measure, which: str) -> str:
    spread = getattr(measure, which)
    return f"{spread.mean:.3g} ± {spread.std:.2g}"


def _distances(scores: GenerationScores, networks: Networks) -> Iterator[Block]:
    yield _lines_table(_lines(scores, "test"), "On the test rows")
    yield _lines_table(_lines(scores, "oof"), "Against the held-out fold")
    yield _measures_table(scores.head)
    yield from _networks(scores.head, networks)


def _networks(head: ResultRow, networks: Networks) -> Iterator[Block]:
    """Yield what the features are of, which networks are not there, and whether rows suffice."""
    for name, file in feature_extractors.FILES.items():
        if name not in networks:
            yield Prose(text=f"No {name}: the file {file} of its network is not installed.")
    for name, described in networks.items():
        yield KeyValues(title=f"Network of {name}", pairs=tuple(flatten(described)))
    few = [
        f"{one.name} uses {head.num_rows // 2:,} images on each side and {one.num_features:,} "
        f"features; at least {ROWS_A_FEATURE} images per feature are needed, so it is too large "
        "by an unknown amount, and so is its floor."
        for one in head.measures
        if one.whole is not None and head.num_rows // 2 < ROWS_A_FEATURE * (one.num_features or 0)
    ]
    if few:
        yield Notes(lines=tuple(few))


def _lines_table(lines: Iterable[ResultRow], title: str = "") -> Table:
    lines = list(lines)
    names = [one.name for one in lines[0].measures] if lines else []
    rows = (
        Row(
            cells=(
                line.name,
                *(_format_measure(one, "generated") for one in line.measures),
                f"{line.num_rows:,}",
            ),
            look=LOOKS[line.kind],
        )
        for line in lines
    )
    heads = ("Images of", *(UNITS.get(name, name) for name in names), "Rows")
    return _table(title, heads, rows)


def _measures_table(head: ResultRow) -> Table:
    rows = (
        Row(
            cells=(
                UNITS.get(one.name, one.name),
                *(_format_measure(one, which) for which in ("generated", "floor", "control")),
                format_number(one.over_floor, 2),
                format_number(one.whole, 3),
            )
        )
        for one in head.measures
    )
    title = f"{head.name} on {head.num_rows:,} test rows, {head.num_rows // 2:,} on each side"
    heads = ("Distance", "Generated", "Real (floor)", "Blurred (control)", "Over floor", "All rows")
    return _table(title, heads, rows)


def _table(title: str, heads: Iterable[str], rows: Iterable[Row]) -> Table:
    columns = tuple(Column(title=head) for head in heads)
    return Table(title=title, columns=columns, rows=tuple(rows))


def _pictures(scores: GenerationScores) -> Iterator[Block]:
    yield from draw_grids(scores)
    yield from draw_curves(scores.curves)


def _memory(memory: Memorisation, scores: GenerationScores, images: Decoded) -> Iterator[Block]:
    named = {"Generated": memory.generated, "Held-out real (test rows)": memory.held_out}
    rows = (
        Row(cells=(name, *(f"{np.quantile(one.distance, q):.4g}" for q in (0, 0.05, 0.5, 0.95))))
        for name, one in named.items()
    )
    heads = ("Nearest training image of", "Smallest", "5 %", "Median", "95 %")
    yield _table(f"Against {memory.num_training:,} training images", heads, rows)
    yield Prose(
        text=f"{memory.share_close:.1%} of generated images are closer to a training image than "
        f"the closest 5 % of held-out ones are; their median distance is {memory.ratio:.2f} times "
        "the held-out images'. Copies would bring the first far above 5 %, the second far below "
        "1. Root mean square of pixels at 32 px or less, the nearest of all turns and flips."
    )
    yield draw_nearest(memory, scores, images)


def _walk(results: RunResults) -> Iterator[Block]:
    if "walk" not in results.tools or not results.trainings:
        return
    results.say("walking through the noise")
    try:
        yield draw_walk(results.tools["walk"](results.trainings[0].member))
    except LensHpcError as error:
        yield Prose(text=f"No walk through the noise: {error}.")


def _content(
    results: RunResults, scores: GenerationScores, memory: Memorisation, networks: Networks
) -> Mapping[str, Any]:
    """Return what report.json holds."""
    head, main, curves = scores.head, _main(scores.head), scores.curves
    as_lists: Callable[[Mapping[str, Any]], dict[str, Any]] = lambda one: {  # noqa: E731
        name: values.tolist() for name, values in one.items()
    }
    content: Mapping[str, Any] = without_nan(
        {
            **summarise(results),
            "headline": {
                "num_rows": head.num_rows,
                **_measure(main),
                "name": head.name,
                "measure": main.name,
            },
            "lines": [
                {**asdict(one), "measures": [_measure(each) for each in one.measures]}
                for one in scores.lines
            ],
            "networks": networks,
            "memorisation": {
                "num_training": memory.num_training,
                "num_generated": len(memory.generated.distance),
                "ratio": memory.ratio,
                "share_close": memory.share_close,
            },
            "spectra": {
                "frequency": curves.frequency.tolist(),
                "power": as_lists(curves.power),
                "profile": as_lists(curves.profile),
            },
            "notes": NOTES,
        }
    )
    return content


def _measure(one: Measure) -> dict[str, Any]:
    return {**asdict(one), "over_floor": one.over_floor}
