"""Write a run's classifier as a frozen network: python -m lenshpc.engine.freeze RUN MEMBER OUT."""

import sys
from pathlib import Path

from lenshpc.engine.load import load_model
from lenshpc.errors import ConfigError
from lenshpc.files import read_json, sha256
from lenshpc.frozen import Card
from lenshpc.methods.classification import Classification
from lenshpc.models.backbones import Backbone
from lenshpc.models.frozen import freeze
from lenshpc.paths import find_run
from lenshpc.plan import load_plan


def freeze_member(run: str, index: int, path: Path) -> str:
    """Write the network of a finished member of a classification; return the file's SHA-256."""
    paths = find_run(run)
    plan = load_plan(paths)
    model, member = load_model(run, index), plan.members[index]
    recipe = plan.recipe_of(member)
    method, data = recipe.method, recipe.data
    if not isinstance(model, Backbone) or not isinstance(method, Classification):
        raise ConfigError(
            f"run {paths.name} is of task {plan.recipe.task}, whose networks give no features; "
            "name a classification"
        )
    done = read_json(paths.member(member.name).done)
    held, _ = data.in_memory(plan.image_shape, "float32")
    card = Card(
        network=member.network,
        image_shape=data.model_shape(held),
        num_outputs=1 if method.loss == "bce" else len(plan.classes),
        stretch=data.stretch,
        mean=done["mean"],
        deviation=done["deviation"],
        trained_on=f"{plan.dataset} ({', '.join(plan.classes)})",
    )
    freeze(model, card, path)
    return sha256(path)


if __name__ == "__main__":
    print(freeze_member(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])))  # noqa: T201
