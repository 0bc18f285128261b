"""How hard lenses are to find: settings between an easy set and one as hard as the sky."""

from pydantic import TypeAdapter, ValidationError

from lenshpc.errors import ConfigError
from lenshpc.prep.dataset import Dataset
from lenshpc.prep.simulation.survey import DIFFICULTIES, LOOKALIKES, Difficulty, Survey

_EASY_GAIN = 10.0  # of the signal-to-noise of arcs


def ease(survey: Survey) -> Survey:
    """Return the settings at their `difficulty`: as they stand for 1 (`sky`), eased below.

    For 0 (`easy`), arcs have ten times the signal-to-noise, seeing and depth are the same for all
    images, and nothing has the shape of arcs but arcs; between, the first goes geometrically and
    the others linearly.
    """
    given = survey.difficulty
    hard = DIFFICULTIES[given] if isinstance(given, str) else given
    gain = _EASY_GAIN ** (1 - hard)
    low, high = survey.arc_snr
    shares = {
        kind: share * (hard if kind in LOOKALIKES else 1.0)
        for kind, share in survey.nonlens_kinds.items()
    }
    total = sum(shares.values())
    return survey.model_copy(
        update={
            "arc_snr": (low * gain, high * gain),
            "nonlens_kinds": {kind: share / total for kind, share in shares.items()},
            "psf_scatter_dex": survey.psf_scatter_dex * hard,
            "depth_scatter_mag": survey.depth_scatter_mag * hard,
        }
    )


def with_difficulty(dataset: Dataset, given: str | float | None) -> Dataset:
    """Return the dataset at another difficulty, `easy`, `sky` or 0 to 1, or as it is for None."""
    if given is None:
        return dataset
    if not isinstance(dataset.simulate, Survey):
        raise ConfigError(
            f"{dataset.name} is not simulated by model survey; difficulty belongs to it alone"
        )
    try:
        number = given if given in DIFFICULTIES else _NUMBER.validate_python(given)
    except ValidationError:
        raise ConfigError(
            f"difficulty {str(given)[:60]!r}: expected {', '.join(DIFFICULTIES)} or 0 to 1"
        ) from None
    settings = dataset.simulate.model_copy(update={"difficulty": number})
    return dataset.model_copy(update={"simulate": settings})


_NUMBER: TypeAdapter[float] = TypeAdapter(Difficulty)
