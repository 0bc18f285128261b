"""The size of a run's members where it is no longer the one that they were planned with."""

from lenshpc.config import Frozen, validate
from lenshpc.errors import read_error
from lenshpc.files import read_sealed
from lenshpc.run.paths import RunPaths
from lenshpc.run.recipe import Recipe


class Size(Frozen):
    """How many processes a member has, and where; as in `resources`."""

    nodes: int
    gpus_per_node: int
    tasks_per_node: int | None = None

    @property
    def num_processes(self) -> int:
        """Return the number of processes of a member."""
        return self.nodes * (self.gpus_per_node or self.tasks_per_node or 1)


def read_size(run: RunPaths) -> Size | None:
    """Return the size that `resume` has given a run; None where it has that of its Plan."""
    try:
        return validate(Size, read_sealed(run.size), str(run.size))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise read_error(run.size, error) from error


def with_size(recipe: Recipe, size: Size, source: str) -> Recipe:
    """Return a recipe of another size, with the shares that decide its fingerprints as they were.

    ConfigError names `source` where it is no valid recipe, as where the batch cannot be shared out.
    """
    value = recipe.model_dump()
    value["resources"] |= size.model_dump()
    resources = validate(Recipe, value, source).resources.keep_shares(recipe.resources.shares)
    return recipe.model_copy(update={"resources": resources})
