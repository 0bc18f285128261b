"""Write a run's network as a feature extractor.

Usage: python -m lenshpc.tasks.diffusion.freeze RUN MEMBER OUT
"""

import sys
from pathlib import Path

from torch import nn

from lenshpc.engine.load import load_model
from lenshpc.errors import ConfigError
from lenshpc.files import sha256
from lenshpc.models.backbones import Backbone
from lenshpc.models.encoder import encoder_of
from lenshpc.models.vit import Vit
from lenshpc.run.completion import read_facts
from lenshpc.run.paths import find_run
from lenshpc.run.plan import load_plan
from lenshpc.tasks.diffusion.extractors import backbone_of, freeze
from lenshpc.tasks.diffusion.feature_extractors import Card


def freeze_member(run: str, index: int, path: Path) -> str:
    """Write the network of a finished classifier or pre-training; return the file's SHA-256."""
    paths = find_run(run)
    plan = load_plan(paths)
    model, member = load_model(run, index), plan.members[index]
    recipe = plan.recipe_of(member)
    method, data = recipe.method, recipe.data
    learnt = [plan.classes[label] for label in method.learnt_labels(plan.classes)]
    done = read_facts(paths, member)
    held, _ = data.in_memory(plan.image_shape, "float32")
    card = Card(
        network=member.network,
        image_shape=data.model_shape(held),
        part=data.crop / min(plan.image_shape[1:]) if data.crop else 1.0,
        num_outputs=method.num_outputs(len(learnt)),
        stretch=data.stretch,
        mean=done["mean"],
        std=done["std"],
        trained_on=f"{plan.dataset} ({', '.join(learnt)})",
        vit=getattr(method, "vit", Vit()),
    )
    freeze(with_features(model, card), card, path)
    return sha256(path)


def with_features(model: nn.Module, card: Card) -> Backbone:
    """Return a classifier, or the encoder of a pre-training under a last layer that nobody asks."""
    if isinstance(model, Backbone):
        return model
    encoder = encoder_of(model)
    if encoder is None or card.network != "mae_vit":
        raise ConfigError(
            f"{card.network} provides no features; give a run of a classification or a pre-training"
        )
    backbone = backbone_of(card)
    backbone.network.encoder.load_state_dict(encoder.state_dict())
    return backbone


if __name__ == "__main__":
    print(freeze_member(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])))  # noqa: T201
