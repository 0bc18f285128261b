"""Judge generated images: how far their sets lie from real ones, beside a floor and a control.

Each member is judged against its held-out fold and against test rows; a model, on test rows, is the
mixture of its members, which take turns at the rows. Shapes: n rows, C channels, H by W pixels, D
features, K numbers of an image.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from lenshpc.data.decoded import Decoded
from lenshpc.run.completion import refusal_of
from lenshpc.run.paths import RunPaths
from lenshpc.run.plan import Member, Plan, scored_rows
from lenshpc.run.predictions import read_array, read_predictions
from lenshpc.run.results import RunResults
from lenshpc.statistics.frechet import Floats, MeanStd, frechet, halvings, kid, over_halves
from lenshpc.statistics.frechet import wasserstein as wasserstein_of
from lenshpc.statistics.image_metrics import Frequencies, blur, fourier_transform
from lenshpc.statistics.radial import radial_profile
from lenshpc.store import Store
from lenshpc.tasks.diffusion import feature_extractors
from lenshpc.tasks.diffusion.memorisation import Memorisation, measure_memorisation
from lenshpc.tasks.diffusion.settings import Diffusion

GENERATED, REAL, CONTROL = IMAGES = ("sample", "real", "blurred")
STATISTICS = ("pixels", "radial profile", "power spectrum")
NUM_PIXELS = 512  # of an image, the same of all, that stand for its histogram
ROWS_A_FEATURE = 10  # below this many a covariance is poorly known

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class ImageSets:
    """Sets of equally many images by kind: their pixels, their features by name of a distance."""

    rows: pd.DataFrame
    pixels: Mapping[str, Floats]
    features: Mapping[str, Mapping[str, Floats]]


@dataclass(frozen=True, kw_only=True)
class Measure:
    """A distance of generated images from real ones, beside those of real and of blurred images.

    `generated`, `floor` and `control` are each of one half of the rows from the other half of the
    real ones; `whole` is the generated images' over all rows, where it is told apart.
    """

    name: str
    generated: MeanStd
    floor: MeanStd
    control: MeanStd
    whole: float | None = None
    num_features: int | None = None

    @property
    def over_floor(self) -> float:
        """Return how many times the floor the distance is."""
        return self.generated.mean / self.floor.mean if self.floor.mean > 0 else float("nan")


@dataclass(frozen=True, kw_only=True)
class ResultRow:
    """One set of generated images, judged against as many real ones of a split."""

    name: str
    kind: str
    split: str
    num_rows: int
    measures: tuple[Measure, ...]

    def measure(self, name: str) -> Measure | None:
        """Return the measure of that name, if it was taken."""
        return next((one for one in self.measures if one.name == name), None)


@dataclass(frozen=True, kw_only=True)
class Curves:
    """Azimuthal mean power (K,) over frequency and mean radial profile (R,), by kind of images."""

    frequency: Floats
    power: Mapping[str, Floats]
    profile: Mapping[str, Floats]


@dataclass(frozen=True, kw_only=True)
class GenerationScores:
    """All that is said of a run's images: lines of models and members, and the headline's curves.

    `images` are the headline's, of test rows.
    """

    headline: str
    lines: tuple[ResultRow, ...]
    images: ImageSets
    curves: Curves

    @property
    def head(self) -> ResultRow:
        """Return the headline's line."""
        return next(one for one in self.lines if one.name == self.headline)


@dataclass(frozen=True, kw_only=True)
class RunEvaluation:
    """What was measured of the images of a run, and whether the headline's are copies."""

    scores: GenerationScores
    memory: Memorisation


def evaluate(results: RunResults) -> RunEvaluation:
    """Return the evaluation of a run that generates images."""
    plan, splits, store = results.plan, results.splits, results.store
    scores = score_images(results.run, plan, splits, store, results.missing, say=results.say)
    results.say("looking for training images among the generated ones")
    # against all rows that the headline's members trained on
    # All dev rows: together the members have trained on each of them.
    training = splits.loc[splits["split"] == "dev", "row"].to_numpy()
    images = Decoded(store, plan.recipe.of(scores.headline).data)
    pixels = scores.images.pixels
    memory = measure_memorisation(pixels[GENERATED], pixels[REAL], training, images)
    return RunEvaluation(scores=scores, memory=memory)


def score_images(
    run: RunPaths,
    plan: Plan,
    splits: pd.DataFrame,
    store: Store,
    missing: Collection[Member] = (),
    *,
    say: Say = lambda _: None,
) -> GenerationScores:
    """Return the scores of a run's images; the first model that has any is its headline."""
    lines: list[ResultRow] = []
    heads: dict[str, ImageSets] = {}
    for model, members in plan.ensembles(missing).items():
        tests = []
        for member in members:
            say(f"comparing the images of member {member.index} with real ones")
            # The table says which image is whose, so its rows are checked before any is read.
            read_predictions(run, plan, splits, member, ())
            for split in ("oof", "test"):
                images = read_images(run, plan, splits, store, member, split)
                lines.append(_line(member.name, "member", split, images))
            tests.append(images)
        if members:
            heads[model] = mix_members(tests)
            several = len(members) > 1  # one member's images are the model's, and measured already
            line = _line(model, "model", "test", heads[model]) if several else lines[-1]
            lines.append(replace(line, name=model, kind="model"))
    headline, images = next(iter(heads.items()))
    return GenerationScores(
        headline=headline, lines=tuple(lines), images=images, curves=curves_of(images)
    )


def read_images(
    run: RunPaths, plan: Plan, splits: pd.DataFrame, store: Store, member: Member, split: str
) -> ImageSets:
    """Return what a member drew for the rows of a split, and the real images of these."""
    inception = Diffusion.of(plan.recipe_of(member).method).inception
    rows = scored_rows(plan, splits, member)
    rows = rows[rows["split"] == split].reset_index(drop=True)
    places = rows["row"].to_numpy()

    def read(name: str) -> Floats:
        values = read_array(run, member, name, places).astype(np.float32)
        if not np.isfinite(values).all():
            raise refusal_of(run, member, f"has an array {name!r} that is not finite everywhere")
        return values

    real = Decoded(store, plan.recipe_of(member).data).images(places)
    return ImageSets(
        rows=rows,
        pixels={GENERATED: read(GENERATED), REAL: real, CONTROL: blur(real)},
        features={
            name: {which: read(feature_extractors.array_name(name, which)) for which in IMAGES}
            for name in feature_extractors.distances(inception)
        },
    )


def mix_members(parts: list[ImageSets]) -> ImageSets:
    """Return images of members of the same rows, taking turns: row i is that of member i mod M."""
    first = parts[0]
    # A mixture and not a mean of images: a mean of two draws is a draw of neither.
    turn = np.arange(len(first.rows)) % len(parts)

    def mix(of: Callable[[ImageSets], Floats]) -> Floats:
        values = of(first).copy()
        for at, part in enumerate(parts):
            values[turn == at] = of(part)[turn == at]
        return values

    return ImageSets(
        rows=first.rows,
        pixels={**first.pixels, GENERATED: mix(lambda one: one.pixels[GENERATED])},
        features={
            name: {which: mix(lambda one, n=name, w=which: one.features[n][w]) for which in kinds}  # type: ignore[misc]
            for name, kinds in first.features.items()
        },
    )


def _line(name: str, kind: str, split: str, images: ImageSets) -> ResultRow:
    measures = (*_feature_measures(images), *_statistics(images.pixels))
    return ResultRow(
        name=name, kind=kind, split=split, num_rows=len(images.rows), measures=tuple(measures)
    )


def _feature_measures(images: ImageSets) -> Iterator[Measure]:
    """Yield the Fréchet distance and KID in the features of each network."""
    for name, kinds in images.features.items():
        drawn, real, control = (kinds[which] for which in IMAGES)
        yield Measure(
            name=name,
            generated=over_halves(frechet, drawn, real),
            floor=over_halves(frechet, real, real),
            control=over_halves(frechet, control, real),
            whole=frechet(drawn, real),
            num_features=real.shape[1],
        )
        first, second = halvings(len(real))[0]
        yield Measure(
            name=feature_extractors.kernel_distance(name),
            generated=kid(drawn[first], real[second]),
            floor=kid(real[first], real[second]),
            control=kid(control[first], real[second]),
            num_features=real.shape[1],
        )


def _statistics(pixels: Mapping[str, Floats]) -> Iterator[Measure]:
    """Yield Wasserstein-1 distances of numbers that need no network."""
    numbers = {which: _numbers(pixels[which]) for which in IMAGES}
    for name in STATISTICS:
        drawn, real, control = (numbers[which][name] for which in IMAGES)
        apart = _pixel_distance if name == "pixels" else wasserstein_of
        yield Measure(
            name=name,
            generated=over_halves(apart, drawn, real),
            floor=over_halves(apart, real, real),
            control=over_halves(apart, control, real),
        )


def _pixel_distance(one: Floats, other: Floats) -> float:
    return wasserstein_of(one.reshape(-1, 1), other.reshape(-1, 1))


def _numbers(images: Floats) -> dict[str, Floats]:
    """Return numbers (n, K) of each image: pixels, radial profile, log10 of the power."""
    flat = images.reshape(len(images), -1)
    chosen = np.random.default_rng(0).permutation(flat.shape[1])[:NUM_PIXELS]
    power = np.log10(np.maximum(powers(images), np.finfo(np.float32).tiny))
    found = (flat[:, chosen], radial_profile(images.mean(axis=1)), power)
    return dict(zip(STATISTICS, found, strict=True))


def powers(images: Floats) -> Floats:
    """Return the azimuthal mean power (n, K) of each image under a Hann window."""
    rings = Frequencies((images.shape[2], images.shape[3]))
    return np.stack(
        [rings.mean((np.abs(fourier_transform(one[None])[0]) ** 2).mean(axis=0)) for one in images]
    )


def curves_of(images: ImageSets) -> Curves:
    """Return the mean spectrum and profile of each kind."""
    height, width = images.pixels[REAL].shape[2:]
    rings = Frequencies((height, width))
    return Curves(
        frequency=rings.frequency,
        power={name: powers(one).mean(axis=0) for name, one in images.pixels.items()},
        profile={
            name: radial_profile(one.mean(axis=1)).mean(axis=0)
            for name, one in images.pixels.items()
        },
    )
