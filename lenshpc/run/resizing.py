"""A run that goes on with another number of nodes or GPUs: when that is the same training.

The global batch stays as it is, and is shared out anew. So the mean gradient is the same, but for
rounding and for what each rank draws by itself (dropout, mixing); a layer that looks at its rank's
share of the batch would be another layer.
"""

import json
import struct
from collections.abc import Iterator
from pathlib import Path

from lenshpc.errors import ConfigError, DataError, read_error
from lenshpc.files import write_sealed
from lenshpc.run.paths import RunPaths
from lenshpc.run.plan import Plan, load_plan
from lenshpc.run.sizes import Size, with_size

BATCH_NORM = ".running_mean"  # the end of what each batch-norm layer keeps


def resize(run: RunPaths, plan: Plan, nodes: int | None, gpus_per_node: int | None) -> Plan:
    """Note another size of a run's members, and return the Plan with it.

    ConfigError where the training would be another one.
    """
    now = plan.recipe.resources
    size = Size(
        nodes=now.nodes if nodes is None else nodes,
        gpus_per_node=now.gpus_per_node if gpus_per_node is None else gpus_per_node,
        tasks_per_node=now.tasks_per_node,
    )
    batch, world = plan.recipe.train.batch_size, size.num_processes
    if not world or batch % world:
        raise ConfigError(
            f"train.batch_size {batch} cannot be divided among {world} processes; give nodes and "
            f"GPUs whose product divides {batch}"
        )
    resized = with_size(plan.recipe, size, f"run {run.name} in another size")
    if resized.resources.world_size != now.world_size:
        _check_shares(run, plan)
    write_sealed(run.size, size.model_dump())
    return load_plan(run)


def _check_shares(run: RunPaths, plan: Plan) -> None:
    """Refuse another number of processes where that would change more than rounding."""
    if plan.recipe.train.sync_batchnorm:  # it looks at the whole batch
        return
    for member in plan.members:
        weights = next(iter(_find_weights(run.member(member.name).root)), None)
        if weights is None:
            why = "no weights yet, so nobody can tell whether it has batch norm"
        elif any(name.endswith(BATCH_NORM) for name in _list_tensors(weights)):
            why = "batch norm, which looks at each process's share of the batch alone"
        else:
            continue
        raise ConfigError(
            f"{member.model} of run {run.name} has {why}; give nodes and GPUs that multiply to "
            f"{plan.recipe.resources.world_size} processes, or submit the recipe with the new size"
        )


def _find_weights(folder: Path) -> Iterator[Path]:
    yield from folder.glob("model.safetensors")
    yield from folder.glob("checkpoint/best-*.safetensors")


def _list_tensors(path: Path) -> list[str]:
    """Return the names of the tensors in a file of safetensors, of whose numbers none is read."""
    try:
        with path.open("rb") as file:
            (size,) = struct.unpack("<Q", file.read(8))
            return list(json.loads(file.read(min(size, 100_000_000))))
    except OSError as error:
        raise read_error(path, error) from error
    except (ValueError, struct.error) as error:
        raise DataError(f"{path} is damaged: it has no table of tensors") from error
