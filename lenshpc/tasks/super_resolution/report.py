"""The report of super-resolution: gain over bicubic, spectra, pictures, uncertainty."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict
from typing import Any

from lenshpc.report.common import common_sections, format_overview, partial_banner
from lenshpc.report.content import Block, Column, Headline, Prose, Report, Row, Section, Table
from lenshpc.report.format import format_coverage, format_number
from lenshpc.report.methods import BOOTSTRAP
from lenshpc.report.references import cite
from lenshpc.report.summary import summarise, without_nan
from lenshpc.report.verdict import find_verdict
from lenshpc.run.results import RunResults
from lenshpc.statistics.results import LEVEL, NUM_RESAMPLES
from lenshpc.store import Store
from lenshpc.tasks.super_resolution.evidence import weigh_images
from lenshpc.tasks.super_resolution.images import RunImages
from lenshpc.tasks.super_resolution.judge import (
    EnlargementScores,
    Quality,
    ResultRow,
    RunEvaluation,
)
from lenshpc.tasks.super_resolution.pictures import draw_cases
from lenshpc.tasks.super_resolution.spectra import draw_calibration, draw_spectra, power_error

LOOKS = {"model": "", "ensemble": "strong", "combination": "", "baseline": "weak"}
TITLES = {
    "psnr": ("PSNR (dB)", 2),
    "gain_db": ("Above bicubic (dB)", 2),
    "ssim": ("SSIM", 4),
    "ring_shift_px": ("Ring-peak shift (px)", 3),
}
ERRORS = {"mse": "MSE", "profile_mse": "Profile MSE"}
NOTES = (
    "Each measure is computed for each image and then averaged over images; pixels are in the "
    "units of the store, with a data range of 1, and nothing is clipped. SSIM: Gaussian window "
    "of 11 px, sigma 1.5. Bicubic, nearest, bilinear and Lanczos are OpenCV's interpolations.",
    "Ring-peak shift: distance in high-resolution pixels between the peaks of the azimuthal flux "
    "of the image and of the true one. Profile MSE: mean squared difference of azimuthal means.",
    "Test images are the mean over a model's members (folds and seeds); the ensemble is the mean "
    "over models. Nothing was chosen on test rows. An out-of-fold image is made by members that "
    "did not train on it, but their best epoch was chosen on it.",
    f"Intervals: {LEVEL:.0%} percentile intervals over {NUM_RESAMPLES:,} resamples of the images. "
    "They include the scatter from the choice of images, not the scatter between trainings.",
    "The true images contain noise that nothing can predict, which limits the PSNR of any "
    "method: see the noise floor in the power spectra.",
)
METHOD = (
    "Enlarged test images were averaged over the trainings of a model and over models. We give "
    f"the peak signal-to-noise ratio (PSNR) and SSIM{cite('statistic/ssim')} of each image, and "
    f"the gain over bicubic interpolation of the same image. {BOOTSTRAP}"
)


def build(results: RunResults, found: RunEvaluation) -> Report:
    """Return the report of a run that enlarges images."""
    images, scores = found.images, found.scores
    content = _content(results, scores, images.store)
    return Report(
        title=results.run.name,
        reading=format_overview(content, f", enlarged to {_format_shape(images.shape)}"),
        banners=partial_banner(content),
        headline=_headline(scores),
        overview=_lines_table(scores, "test"),
        sections=(*_sections(results, scores, images), *common_sections(results, content)),
        content=content,
        predictions=scores.rows,
        verdict=find_verdict(weigh_images(results, found)),
        method=METHOD,
    )


def _format_shape(shape: Iterable[int]) -> str:
    return " × ".join(map(str, shape))


def _content(results: RunResults, scores: EnlargementScores, store: Store) -> Mapping[str, Any]:
    """Return what report.json holds."""
    head, truth = scores.line(scores.headline), scores.truth
    content: Mapping[str, Any] = without_nan(
        {
            **summarise(results),
            "target_shape": store.target_shape,
            "headline": {"name": head.name, **asdict(head.test)},
            "models": [_model(line, scores) for line in scores.lines],
            "truth": {
                "frequency": truth.frequency.tolist(),
                "power": truth.power.tolist(),
                "noise": truth.noise,
                "knee": truth.knee,
            },
            "merged": str(results.merged),
            "interval": {"level": LEVEL, "num_resamples": NUM_RESAMPLES, "kind": "images"},
            "notes": NOTES,
        }
    )
    return content


def _model(line: ResultRow, scores: EnlargementScores) -> dict[str, Any]:
    spectrum, calibration = line.spectrum, line.calibration
    return {
        "name": line.name,
        "kind": line.kind,
        "oof": asdict(line.oof),
        "test": asdict(line.test),
        "members_psnr": line.members_psnr,
        "ensemble_gain_db": line.ensemble_gain_db,
        "power_error": power_error(line, scores.truth),
        "ratio": spectrum.ratio.tolist(),
        "correlation": spectrum.correlation.tolist(),
        "calibration": {
            "num_members": calibration.num_members,
            "counts": calibration.counts.tolist(),
            "predicted": calibration.predicted.tolist(),
            "observed": calibration.observed.tolist(),
            "within_one": calibration.within_one,
            "within_two": calibration.within_two,
            "rank_correlation": calibration.rank_correlation,
        }
        if calibration
        else None,
    }


def _headline(scores: EnlargementScores) -> Headline:
    head = scores.line(scores.headline)
    whose = "the ensemble" if head.name == "ensemble" else head.name
    low, high = head.test.intervals["gain_db"]
    covered = format_coverage(head.test.num_covered, head.test.num_rows)
    return Headline(
        label=f"Test PSNR of {whose} above bicubic",
        measure="PSNR",
        value=f"{head.test.gain_db:+.2f} dB",
        range=f"{LEVEL:.0%} interval {low:+.2f} to {high:+.2f}, {covered} test images",
    )


def _sections(
    results: RunResults, scores: EnlargementScores, images: RunImages
) -> Iterator[Section]:
    yield Section(title="Models", blocks=tuple(_models(scores)))
    results.say("drawing the spectra")
    spectra: tuple[Block, ...] = (*draw_spectra(scores), _spectra_table(scores))
    yield Section(title="Power spectra", blocks=spectra)
    results.say("drawing the best and the worst images")
    cases: tuple[Block, ...] = (*draw_cases(scores, images), Prose(text=_format_merged(results)))
    yield Section(title="Images", blocks=cases)
    uncertain = tuple(draw_calibration(scores))
    if uncertain:
        table = _calibration_table(scores)
        yield Section(title="Spread of members as uncertainty", blocks=(*uncertain, table))


def _format_merged(results: RunResults) -> str:
    return (
        f"The merged images of all evaluated rows are the array sr of {results.merged}, in "
        "the order of the report's predictions.parquet."
    )


def _models(scores: EnlargementScores) -> Iterator[Block]:
    yield _lines_table(scores, "test", "On the test rows")
    yield _lines_table(scores, "oof", "Out-of-fold")
    yield _errors_table(scores)
    averaged = _ensembles_table(scores)
    if averaged.rows:
        yield averaged


def _lines_table(scores: EnlargementScores, split: str, title: str = "") -> Table:
    def cells(line: ResultRow) -> Iterator[str]:
        quality: Quality = getattr(line, split)
        yield from (format_figure(quality, key, digits) for key, (_, digits) in TITLES.items())
        yield format_coverage(quality.num_covered, quality.num_rows)

    heads = (*(name for name, _ in TITLES.values()), "Rows")
    return _table(scores.lines, heads, cells, title)


def _errors_table(scores: EnlargementScores) -> Table:
    def cells(line: ResultRow) -> Iterator[str]:
        for key in ERRORS:
            low, high = line.test.intervals[key]
            yield f"{getattr(line.test, key):.3g} [{low:.3g}, {high:.3g}]"

    return _table(scores.lines, ERRORS.values(), cells, "Squared errors, test rows")


def format_figure(quality: Quality, key: str, digits: int) -> str:
    """Return a figure with its interval; none for bicubic's gain over itself."""
    value = format_number(getattr(quality, key), digits)
    low, high = (format_number(bound, digits) for bound in quality.intervals[key])
    return value if low == high else f"{value} [{low}, {high}]"


def _ensembles_table(scores: EnlargementScores) -> Table:
    averaged = [line for line in scores.lines if line.members_psnr is not None]

    def cells(line: ResultRow) -> Iterator[str]:
        figures = (line.members_psnr, line.test.psnr, line.ensemble_gain_db)
        yield from (format_number(figure, 2) for figure in figures)

    heads = ("Single members' PSNR (dB)", "PSNR of their mean", "Gain of averaging (dB)")
    return _table(averaged, heads, cells, "Averaged images")


def _spectra_table(scores: EnlargementScores) -> Table:
    truth = scores.truth
    knee = int((truth.frequency < truth.knee).sum())

    def cells(line: ResultRow) -> Iterator[str]:
        yield format_number(power_error(line, truth), 3)
        correlation = line.spectrum.correlation
        yield format_number(float(correlation[:knee].mean()) if knee else None, 3)
        yield format_number(float(correlation[min(knee, len(correlation) - 1)]), 3)

    heads = ("Mean |P/P true − 1| up to the knee", "Mean correlation up to it", "Correlation there")
    return _table(scores.lines, heads, cells, f"Up to {truth.knee:.3f} cycles a pixel")


def _calibration_table(scores: EnlargementScores) -> Table:
    spread = [line for line in scores.lines if line.calibration is not None]

    def cells(line: ResultRow) -> Iterator[str]:
        if (found := line.calibration) is not None:
            yield str(found.num_members)
            yield from (f"{share:.1%}" for share in (found.within_one, found.within_two))
            yield format_number(found.rank_correlation, 3)

    heads = ("Members", "Errors within 1 spread", "within 2", "Rank correlation of images")
    return _table(spread, heads, cells, "Calibration")


def _table(
    lines: Iterable[ResultRow],
    heads: Iterable[str],
    cells: Callable[[ResultRow], Iterable[str]],
    title: str,
) -> Table:
    rows = (Row(cells=(line.name, *cells(line)), look=LOOKS[line.kind]) for line in lines)
    columns = tuple(Column(title=head) for head in ("Model", *heads))
    return Table(title=title, columns=columns, rows=tuple(rows))
