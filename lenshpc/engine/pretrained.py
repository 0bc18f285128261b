"""The weights of a pre-training, from which a member starts."""

from torch import Tensor, nn

from lenshpc.engine.load import read_weights
from lenshpc.errors import ConfigError, DataError, IncompleteError, one_line
from lenshpc.models.encoder import encoder_of
from lenshpc.run.completion import is_done, resume_command
from lenshpc.run.paths import RunPaths
from lenshpc.run.plan import Member, load_plan, origin_of
from lenshpc.run.recipe import Recipe

PREFIX = "encoder."


def start_from(model: nn.Module, recipe: Recipe, member: Member) -> None:
    """Load the encoder of the recipe's pre-training into a network; nothing where it names none."""
    run = origin_of(recipe)
    if run is None:
        return
    encoder = encoder_of(model)
    assert encoder is not None  # noqa: S101 - for mypy: recipes with other networks are refused
    # Of the same seed where there is one, so that the scatter over seeds holds that of pre-training
    # too.
    weights = load_pretrained(run, recipe.init_fingerprint, member.seed)
    own = {
        key.removeprefix(PREFIX): value for key, value in weights.items() if key.startswith(PREFIX)
    }
    try:
        # Strict: a key that is absent would stay at its random value, and nobody would notice.
        encoder.load_state_dict(own)
    except RuntimeError as error:
        first = one_line(error)[:160]
        raise ConfigError(
            f"the encoder of run {run.name} is not that of {member.network} ({first}); give both "
            "the same method.vit and images of as many channels"
        ) from error


def load_pretrained(run: RunPaths, fingerprint: str | None, seed: int) -> dict[str, Tensor]:
    """Return the weights of a run's first member with that seed, or else of its first."""
    plan = load_plan(run)
    # The path alone says nothing: the folder may have been made anew since, by a recipe that saw
    # the test rows.
    if plan.fingerprint() != fingerprint:
        raise DataError(
            f"{run.root} is no longer the run that this one was submitted to start from; "
            "submit the recipe again"
        )
    member = next((one for one in plan.members if one.seed == seed), plan.members[0])
    if not is_done(run, plan, member):
        raise IncompleteError(
            f"member {member.index} of run {run.name}, whose weights are to be the first ones, is "
            f"not done; finish it with: {resume_command(run)}"
        )
    return read_weights(run, member)
