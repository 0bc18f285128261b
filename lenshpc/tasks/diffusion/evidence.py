"""What a diffusion model's verdict rests on: its distance beside blurred images', and copies."""

from math import hypot, nan

from lenshpc.report.verdict import Check, Estimate, Evidence
from lenshpc.run.results import RunResults
from lenshpc.tasks.diffusion.judge import ROWS_A_FEATURE, Measure, RunEvaluation
from lenshpc.tasks.diffusion.memorisation import Memorisation

EXPECTED_CLOSE = 0.05  # of images of the same kind; the closest 5 % of held-out ones decide
SOME_CLOSE, MANY_CLOSE = 0.1, 0.5
SMALL, LARGE = 0.1, 0.5  # of a distance over its floor


def weigh_drawings(results: RunResults, found: RunEvaluation, main: Measure) -> Evidence:
    """Return what is to be said of the headline of a run that generates images.

    The scatter is that of the halvings; there is no interval of the rows, and no out-of-fold
    figure: distances of sets of other sizes cannot be set beside each other.
    """
    head, floor = found.scores.head, main.floor.mean
    blurred = Estimate.of(
        (main.control.mean - main.generated.mean) / floor if floor > 0 else nan,
        hypot(main.control.std, main.generated.std) / floor if floor > 0 else nan,
        "real images, blurred",
    )
    return Evidence(
        subject=head.name,
        measure=f"{main.name} over that of real images",
        test=Estimate(value=main.over_floor, low=nan, high=nan),
        small=SMALL,
        large=LARGE,
        wide=nan,
        best=-1,
        digits=2,
        num_rows=head.num_rows // 2,
        rows="test images on each side",
        least=ROWS_A_FEATURE * (main.num_features or 2),
        baselines=(blurred,),
        num_missing=len(results.missing),
        further=(check_copies(found.memory),),
    )


def check_copies(memory: Memorisation) -> Check:
    """Judge whether generated images lie closer to training images than held-out ones do."""
    share = memory.share_close
    told = (
        f"{share:.0%} of the generated images lie closer to a training image than the closest "
        f"{EXPECTED_CLOSE:.0%} of held-out ones"
    )
    if share > SOME_CLOSE:
        text = f"Training images were copied: {told}."
        return Check(name="copies", colour="red" if share > MANY_CLOSE else "amber", text=text)
    return Check(name="copies", colour="green", text=f"Nothing was copied: {told}.")
