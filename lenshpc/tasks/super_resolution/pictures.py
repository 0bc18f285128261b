"""Pictures of super-resolved images: what went in, what came out, what is true, what is wrong."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from matplotlib import colormaps

from lenshpc.report.content import Gallery, Picture
from lenshpc.report.pictures import Bytes, Stretch, colours, encode_png, stretch_of
from lenshpc.statistics import image_metrics
from lenshpc.tasks.super_resolution.images import RunImages
from lenshpc.tasks.super_resolution.judge import BICUBIC, EnlargementScores

NUM_CASES = 4
RESIDUAL_QUANTILE = 0.998

Floats = npt.NDArray[np.floating]


def draw_cases(scores: EnlargementScores, images: RunImages) -> Iterator[Gallery]:
    """Yield the test images that gain most, least and as most do, each with its residuals."""
    rows = scores.rows
    gains = rows[f"{scores.headline}:psnr"] - rows[f"{BICUBIC}:psnr"]
    order = gains[rows["split"] == "test"].dropna().sort_values(ascending=False).index.to_numpy()
    middle = max(0, (len(order) - NUM_CASES) // 2)
    cases = {
        "best": ("Largest gains over bicubic", order[:NUM_CASES]),
        "typical": ("Median gains", order[middle : middle + NUM_CASES]),
        "worst": ("Smallest gains", order[::-1][:NUM_CASES]),
    }
    for name, (title, places) in cases.items():
        if len(places):
            panels = _panels(scores, images, places, gains.to_numpy()[places])
            yield Gallery(
                name=f"images_{name}", title=title, caption=_format_caption(scores), panels=panels
            )


def _format_caption(scores: EnlargementScores) -> str:
    return (
        f"Low resolution, bicubic, {scores.headline}, true; residuals (image minus true, red "
        "above, blue below, one scale per panel) of bicubic and of the model; the spread over "
        "members, if there are several."
    )


def _panels(
    scores: EnlargementScores, images: RunImages, places: npt.NDArray[np.int64], gains: Floats
) -> tuple[tuple[Picture, ...], ...]:
    """Return a panel a test image, all on one stretch."""
    low, high = images.pairs(places)
    bicubic = image_metrics.interpolations()[BICUBIC](low, images.shape[1:])
    stack = images.merge(places)[scores.headline]
    stretch, ids = stretch_of(high), scores.rows["id"].to_numpy()[places]
    return tuple(
        tuple(
            Picture(png=encode_png(pixels), text=f"{name}: {what}", caption=what)
            for what, pixels in _draw_panels(
                stretch, low[at], bicubic[at], stack.mean[at], high[at], stack.std[at], gain
            )
        )
        for at, (name, gain) in enumerate(zip(ids, gains, strict=True))
    )


def _draw_panels(
    stretch: Stretch,
    low: Floats,
    bicubic: Floats,
    found: Floats,
    high: Floats,
    std: Floats,
    gain: float,
) -> Iterator[tuple[str, Bytes]]:
    """Yield the pictures of one panel with what they are."""
    scale = high.shape[-1] // low.shape[-1]
    low = low.repeat(scale, axis=1).repeat(scale, axis=2)
    images = {"low resolution": low, "bicubic": bicubic, f"{gain:+.2f} dB": found, "true": high}
    for what, image in images.items():
        yield what, colours(stretch.levels(image))
    residuals = [(image - high).mean(axis=0) for image in (bicubic, found)]
    limit = float(np.quantile(np.abs(residuals[0]), RESIDUAL_QUANTILE)) or 1.0
    for what, residual in zip(("bicubic − true", "model − true"), residuals, strict=True):
        yield what, _apply_colour_map("RdBu_r", 0.5 + 0.5 * residual / limit)
    if np.isfinite(std).all():
        spread = std.mean(axis=0)
        yield "spread", _apply_colour_map("inferno", spread / (float(spread.max()) or 1.0))


def _apply_colour_map(name: str, values: Floats) -> Bytes:
    """Return pixels (H, W, 3) of values (H, W) between 0 and 1."""
    return np.asarray(255 * colormaps[name](np.clip(values, 0, 1))[..., :3], dtype=np.uint8)
