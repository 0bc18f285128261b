"""Judge super-resolved images: members' images merged block by block, measured, averaged.

Shapes: N evaluated rows, n rows of a block, M members, C channels, H by W high-resolution pixels.
No more than a block of rows is held; the merged images of the headline go to a zarr array.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from lenshpc.files import flush_tree, replacing_folder
from lenshpc.run.predictions import ENSEMBLE
from lenshpc.run.results import RunResults
from lenshpc.statistics import image_metrics
from lenshpc.statistics.bootstrap import draw, interval
from lenshpc.statistics.calibration import Calibration, CalibrationSums
from lenshpc.statistics.image_metrics import Floats, Frequencies, Power, Transform
from lenshpc.statistics.measures import MeanMeasure, RowValues
from lenshpc.statistics.radial import radial_profile
from lenshpc.statistics.resamples import Resamples
from lenshpc.statistics.results import NUM_RESAMPLES, Intervals, Kind
from lenshpc.tasks.super_resolution.images import CHUNK_ROWS, RunImages, Stack, open_images

BICUBIC = "bicubic"
MEASURES = ("psnr", "ssim", "mse", "ring_shift_px", "profile_mse")
COMPARED = (
    MeanMeasure(name="PSNR (dB)"),
    MeanMeasure(name="SSIM"),
    MeanMeasure(name="MSE", best=-1),
    MeanMeasure(name="ring's distance (px)", best=-1),
    MeanMeasure(name="profile's MSE", best=-1),
)
GAIN = "gain_db"

Flags = npt.NDArray[np.bool_]
Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Quality:
    """Means over the images that are covered, with intervals by the name of a field.

    `gain_db` is the mean over images of the PSNR above bicubic's of the same image; `ring_shift_px`
    the mean distance of the ring's peak from the true one; `profile_mse` the mean squared
    difference of azimuthal means.
    """

    num_rows: int
    num_covered: int
    psnr: float
    ssim: float
    mse: float
    ring_shift_px: float
    profile_mse: float
    gain_db: float
    intervals: Intervals


@dataclass(frozen=True, kw_only=True)
class Spectrum:
    """A line's power over frequency, its ratio to the true one, its correlation with it."""

    power: Floats
    ratio: Floats
    correlation: Floats


@dataclass(frozen=True, kw_only=True)
class ResultRow:
    """One line of the report's table; `members_psnr` is the mean of single members' test PSNR."""

    name: str
    kind: Kind
    oof: Quality
    test: Quality
    spectrum: Spectrum
    calibration: Calibration | None = None
    members_psnr: float | None = None

    @property
    def ensemble_gain_db(self) -> float | None:
        """Return what averaging images gains over a single member."""
        return None if self.members_psnr is None else self.test.psnr - self.members_psnr


@dataclass(frozen=True, kw_only=True)
class TrueSpectrum:
    """The spectrum of the true test images: its noise floor, and where the signal ends in it."""

    frequency: Floats
    power: Floats
    noise: float
    knee: float


@dataclass(frozen=True, kw_only=True)
class EnlargementScores:
    """All that is said of a run's images; `rows` has every line's measures of every image."""

    headline: str
    lines: tuple[ResultRow, ...]
    truth: TrueSpectrum
    rows: pd.DataFrame

    def line(self, name: str) -> ResultRow:
        """Return the line of that name."""
        return next(line for line in self.lines if line.name == name)


@dataclass(frozen=True, kw_only=True)
class RunEvaluation:
    """The members' images, and what was measured of them."""

    images: RunImages
    scores: EnlargementScores


def evaluate(results: RunResults) -> RunEvaluation:
    """Return the evaluation of a run that enlarges images, and leave its merged images."""
    images = open_images(results.run, results.plan, results.splits, results.store, results.missing)
    scores = score_images(images, results.merged, say=results.say)
    return RunEvaluation(images=images, scores=scores)


def measure_rows(results: RunResults) -> RowValues:
    """Return what is measured of each image, by which runs are compared; nothing is written."""
    images = open_images(results.run, results.plan, results.splits, results.store)
    tally = _Tally(images)
    for block in images.blocks():
        tally.add(block)
        results.say(f"measuring images, {block.stop:,} of {len(images.rows):,} rows")
    lines = [name for name in tally.measures if name == ENSEMBLE or name in images.models]
    return RowValues(
        rows=images.rows.assign(label=0),
        measures=COMPARED,
        headline=images.headline,
        values={name: tuple(tally.measures[name][key] for key in MEASURES) for name in lines},
        parts={name: images.combined if name == ENSEMBLE else (name,) for name in lines},
    )


def score_images(
    images: RunImages, merged: Path, *, say: Say = lambda _: None
) -> EnlargementScores:
    """Measure all lines; the headline's images replace the zarr array `sr` of the folder `merged`.

    Its rows are those of `EnlargementScores.rows`; `row` has the store's row of each.
    """
    tally = _Tally(images)
    with replacing_folder(merged) as draft:
        out = _create(draft, images)
        for block in images.blocks():
            # Blocks are whole shards: a shard written twice would be unpacked and packed again.
            out[block] = tally.add(block)
            say(f"merging and measuring images, {block.stop:,} of {len(images.rows):,} rows")
        # Before the rename that `replacing_folder` does next.
        flush_tree(draft)
    return tally.scores()


def _create(folder: Path, images: RunImages) -> Any:
    """Return a new array, a block a shard, beside the rows of the store."""
    import zarr

    rows = images.rows["row"].to_numpy()
    zarr.create_array(folder, name="row", data=rows)
    return zarr.create_array(
        folder,
        name="sr",
        shape=(len(rows), *images.shape),
        chunks=(CHUNK_ROWS, *images.shape),
        shards=(images.block_rows, *images.shape),
        dtype=np.float32,
    )


@dataclass(frozen=True)
class _True:
    """A block's high-resolution images, with what every line is compared with."""

    images: Floats
    profiles: Floats
    rings: Floats
    transform: Transform
    testing: Flags


def _true(images: Floats, testing: Flags) -> _True:
    profiles = radial_profile(images.mean(axis=1))
    return _True(
        images=images,
        profiles=profiles,
        rings=image_metrics.ring_radius(profiles),
        transform=image_metrics.fourier_transform(images),
        testing=testing,
    )


@dataclass
class _Tally:
    """The measures of all rows and the sums over test rows, grown block by block."""

    images: RunImages
    measures: dict[str, dict[str, Floats]] = field(default_factory=dict)
    powers: dict[str, Power] = field(default_factory=dict)
    spreads: dict[str, CalibrationSums] = field(default_factory=dict)

    def add(self, block: slice) -> Floats:
        """Measure a block; return the headline's images of it."""
        low, high = self.images.pairs(block)
        true = _true(high, (self.images.rows["split"] == "test").to_numpy()[block])
        for name, enlarge in image_metrics.interpolations().items():
            self._measure(name, block, enlarge(low, self.images.shape[1:]), true)
        merged = self.images.merge(block)
        for name, stack in merged.items():
            self._measure(name, block, stack.mean, true)
            self._compare(name, stack, true)
        return merged[self.images.headline].mean

    def _compare(self, name: str, stack: Stack, true: _True) -> None:
        """Note the spread of members of test rows beside the error of their mean."""
        several = true.testing & (stack.count > 1)
        if several.any():
            spread = self.spreads.setdefault(name, CalibrationSums(int(stack.count.max())))
            spread.add(stack.std[several], (stack.mean - true.images)[several])

    def _measure(self, name: str, block: slice, found: Floats, true: _True) -> None:
        """Note the measures of a line's images of a block; NaN where it has none."""
        # A row has all its pixels or none, so one tells.
        covered = np.isfinite(found[:, 0, 0, 0])
        profiles = radial_profile(found.mean(axis=1))
        mse = ((found - true.images) ** 2).mean(axis=(1, 2, 3), dtype=np.float64)
        values = {
            "psnr": image_metrics.psnr(mse),
            "ssim": image_metrics.ssim(found, true.images),
            "mse": mse,
            "ring_shift_px": np.abs(image_metrics.ring_radius(profiles) - true.rings),
            "profile_mse": ((profiles - true.profiles) ** 2).mean(axis=1),
        }
        empty = {key: np.full(len(self.images.rows), np.nan) for key in MEASURES}
        columns = self.measures.setdefault(name, empty)
        for key, value in values.items():
            columns[key][block] = np.where(covered, value, np.nan)
        some = true.testing & covered
        own, of_true = image_metrics.fourier_transform(found[some]), true.transform[some]
        power = image_metrics.power(own, of_true)
        self.powers[name] = self.powers[name].plus(power) if name in self.powers else power

    def scores(self) -> EnlargementScores:
        """Return the lines with their means and intervals."""
        rings = Frequencies(self.images.shape[1:])
        resamples = _resamples(self.images.rows)
        gains = self._gains()
        lines = (
            ResultRow(
                name=name,
                kind=_kind(name, self.images.models),
                **{
                    split: _quality(split, self.images.rows, columns, gains[name], resamples[split])
                    for split in ("oof", "test")
                },
                spectrum=_spectrum(rings, self.powers[name]),
                calibration=self.spreads[name].calibration() if name in self.spreads else None,
                members_psnr=self._members_psnr(name),
            )
            for name, columns in self.measures.items()
        )
        return EnlargementScores(
            headline=self.images.headline,
            lines=tuple(lines),
            truth=_truth(rings, self.powers[BICUBIC]),
            rows=self._table(),
        )

    def _gains(self) -> dict[str, Floats]:
        base = self.measures[BICUBIC]["psnr"]
        return {name: columns["psnr"] - base for name, columns in self.measures.items()}

    def _members_psnr(self, name: str) -> float | None:
        """Return the mean test PSNR of a line's single members, if it is a mean of several."""
        models = self.images.models
        chosen = (
            self.images.combined if name == ENSEMBLE else [one for one in models if one == name]
        )
        found = [member.test_psnr for model in chosen for member in models[model]]
        return float(np.mean(found)) if len(found) > 1 else None

    def _table(self) -> pd.DataFrame:
        """Return row, id, split and a column a line and measure, such as `edsr:psnr`."""
        columns = {
            f"{name}:{key}": values
            for name, measured in self.measures.items()
            for key, values in measured.items()
        }
        return pd.concat([self.images.rows[["id", "row", "split"]], pd.DataFrame(columns)], axis=1)


def _kind(name: str, models: Mapping[str, object]) -> Kind:
    return "model" if name in models else "ensemble" if name == ENSEMBLE else "baseline"


def _resamples(rows: pd.DataFrame) -> dict[str, Resamples]:
    """Return the resamples of out-of-fold and test rows, by groups where the store has them."""
    parts = {split: rows[rows["split"] == split] for split in ("oof", "test")}
    return {
        split: draw(
            np.zeros(len(some), np.int64),
            some["group"].to_numpy(object) if "group" in some else None,
            num_resamples=NUM_RESAMPLES,
            seed=0,
        )
        for split, some in parts.items()
    }


def _quality(
    split: str,
    rows: pd.DataFrame,
    columns: Mapping[str, Floats],
    gains: Floats,
    resamples: Resamples,
) -> Quality:
    mine = (rows["split"] == split).to_numpy()
    values = np.stack([*(columns[key][mine] for key in MEASURES), gains[mine]], axis=1)
    covered: Flags = np.asarray(np.isfinite(values).all(axis=1))
    sums = resamples.of(covered).sum_values(
        np.column_stack([values[covered], np.ones(covered.sum())])
    )
    with np.errstate(invalid="ignore"):
        draws = sums[:, :-1] / sums[:, -1:]
    means = values[covered].mean(axis=0) if covered.any() else np.full(values.shape[1], np.nan)
    names = (*MEASURES, GAIN)
    return Quality(
        num_rows=len(values),
        num_covered=int(covered.sum()),
        **dict(zip(names, map(float, means), strict=True)),
        intervals={name: interval(one) for name, one in zip(names, draws.T, strict=True)},
    )


def _truth(rings: Frequencies, found: Power) -> TrueSpectrum:
    """Return the spectrum of the true images that a line which covers all was compared with."""
    mean = found.true / found.num
    spectrum, noise = rings.mean(mean), rings.noise(mean)
    knee = rings.knee(spectrum, noise)
    return TrueSpectrum(frequency=rings.frequency, power=spectrum, noise=noise, knee=knee)


def _spectrum(rings: Frequencies, found: Power) -> Spectrum:
    own, true, cross = (rings.mean(one) for one in (found.own, found.true, found.cross))
    with np.errstate(divide="ignore", invalid="ignore"):
        correlation = cross / np.sqrt(own * true)
        return Spectrum(power=own / found.num, ratio=own / true, correlation=correlation)
