"""The rows of one member: which train and which validate, and how they become batches."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from lenshpc.data.augment import Augmenter
from lenshpc.data.batches import BatchSource, Preparation, Targets, Views
from lenshpc.data.decoded import Array, Decoded
from lenshpc.data.normalisation import normalisation
from lenshpc.data.order import Labels, Rows, TrainingOrder, UnlabelledOrder, window_rows
from lenshpc.data.prefetch import prepare_ahead
from lenshpc.data.readers import ImageReader, open_readers
from lenshpc.data.smote import NO_PAIRS, SyntheticPairs, synthesise
from lenshpc.registry import Batch
from lenshpc.run.plan import Member, Plan, scored_rows
from lenshpc.run.recipe import Recipe
from lenshpc.run.splits import training_rows
from lenshpc.store import Store


@dataclass(frozen=True, kw_only=True)
class Unlabelled:
    """Rows without a label: their order, and how their strong view is changed."""

    order: UnlabelledOrder
    strong: Augmenter


@dataclass(frozen=True, kw_only=True)
class FoldData:
    """The rows of one member, and how to read them; `scored` are those that it predicts."""

    store: Store
    source: BatchSource
    training: TrainingOrder
    val_rows: Rows
    scored: pd.DataFrame
    augmenter: Augmenter
    unlabelled: Unlabelled | None = None

    def training_batches(
        self, epoch: int, *, rank: int, world_size: int, done: int
    ) -> Iterator[Batch]:
        """Return this rank's share of each step of an epoch after the first `done`."""
        # Resuming at a step is cutting the list: that rests on the whole epoch being computed from
        # (seed, epoch), whatever was done.
        visits = self.training.batches(epoch, rank=rank, world_size=world_size)[done:]
        views = None
        if self.unlabelled is not None:
            order, strong = self.unlabelled.order, self.unlabelled.strong
            steps = len(visits) + done
            others = order.batches(epoch, steps, rank=rank, world_size=world_size)[done:]
            views = Views(visits=others, weak=self.augmenter, strong=strong)
        batches = self.source.batches(visits, self.augmenter, epoch, views)
        return prepare_ahead(batches, self.source.device)


@contextmanager
def open_fold(
    plan: Plan, member: Member, splits: pd.DataFrame, store: Store, device: torch.device
) -> Iterator[FoldData]:
    """Yield the rows of a member's fold; the node's copy of the images is held meanwhile."""
    recipe, dev = plan.recipe_of(member), splits[splits["split"] == "dev"]
    settings = recipe.data
    # The split's seed and not the member's: members of all seeds learn from the same part of the
    # labels.
    kept = training_rows(splits, member.fold, settings.label_fraction, recipe.split_seed)
    rows = kept["row"].to_numpy()
    arrays = {name: Decoded(store, settings, name) for name in _list_arrays(recipe)}
    decoded, halves = arrays["images"], arrays.get("targets")
    # Held until the member ends: the file is removed by the last process that lets go of it.
    with open_readers([*arrays.values()], device) as opened:
        readers = dict(zip(arrays, opened, strict=True))
        reader = readers["images"]
        pairs, labels = _with_synthetic(recipe, member, store, rows, reader)
        training = TrainingOrder(
            rows=np.concatenate([rows, np.arange(store.num_rows, len(labels))]),
            labels=labels,
            batch_size=recipe.train.batch_size,
            seed=member.seed,
            sampling=settings.sampling,
            window=window_rows(decoded.image_bytes) if settings.loading == "stream" else None,
        )
        source = BatchSource(
            reader=reader,
            labels=labels,
            # Of `rows`, this fold's genuine training rows: validation and test must not reach the
            # normalisation.
            preparation=_preparation(decoded, reader, rows),
            device=device,
            pairs=pairs,
            targets=Targets(reader=readers["targets"], scale=halves.scale) if halves else None,
            masks=readers.get("masks"),
        )
        # By what is trained on, synthetic rows included, so that classes which SMOTE has filled up
        # count as they are.
        common = np.bincount(labels[training.rows]).argmax()
        rare = (labels >= 0) & (labels != common)
        yield FoldData(
            store=store,
            source=source,
            training=training,
            val_rows=dev.loc[dev["fold"] == member.fold, "row"].to_numpy(),
            scored=scored_rows(plan, splits, member),
            augmenter=Augmenter(settings.augment, member.seed, settings.augment_minority, rare),
            unlabelled=_build_unlabelled(recipe, member, splits, len(labels)),
        )


def _list_arrays(recipe: Recipe) -> list[Array]:
    """Return the arrays of pixels that a recipe's members read."""
    wanted: dict[Array, bool] = {
        "images": True,
        "targets": recipe.method.needs_targets,
        "masks": recipe.data.mask_channels,
    }
    return [name for name, is_read in wanted.items() if is_read]


def _with_synthetic(
    recipe: Recipe, member: Member, store: Store, rows: Rows, reader: ImageReader
) -> tuple[SyntheticPairs, Labels]:
    """Return the fold's synthetic rows, and the labels of the store's rows and then of these."""
    labels = store.column("label").astype(np.int64)
    settings = recipe.method.synthetic
    if settings is None:
        return NO_PAIRS, labels

    def read(some: Rows) -> npt.NDArray[np.float32]:
        (pixels,) = reader.read([some])
        return pixels.cpu().numpy().astype(np.float32)

    # From the training rows of this fold alone: a parent in the validation fold would leak its
    # pixels.
    pairs, made = synthesise(
        rows, labels[rows], read, settings, num_rows=store.num_rows, seed=member.seed
    )
    return pairs, np.concatenate([labels, made])


def _preparation(decoded: Decoded, reader: ImageReader, rows: Rows) -> Preparation:
    settings = decoded.settings
    mean, std = normalisation(decoded, reader, rows)
    repeats = 3 if settings.grey_to_rgb else 1
    if len(mean) < repeats:
        mean, std = np.repeat(mean, repeats), np.repeat(std, repeats)
    return Preparation(
        scale=decoded.scale,
        mean=mean,
        std=std,
        stretch=settings.stretch,
        each_image=settings.normalise == "image",
        repeats=repeats,
    )


def _build_unlabelled(
    recipe: Recipe, member: Member, splits: pd.DataFrame, num_labels: int
) -> Unlabelled | None:
    consistency, data = recipe.method.unlabelled, recipe.data
    if consistency is None:
        return None
    order = UnlabelledOrder(
        rows=splits.loc[splits["split"] == "unlabelled", "row"].to_numpy(),
        # As many as the labelled order counts by, or visits of the two would be taken apart
        # differently.
        num_labels=num_labels,
        num_a_step=recipe.train.batch_size * consistency.ratio,
        seed=member.seed,
    )
    strong = Augmenter((*data.augment, *consistency.strong), member.seed)
    return Unlabelled(order=order, strong=strong)
