"""Serve trainings of one network, an epoch a line: python trainers.py WHOSE NETWORK FOLDER WORKERS.

FOLDER has `images`, the .npy files of all but lenshpc, and `store`, the same images. Every epoch
ends as its users have it end: the validation rows predicted, their AUC, a checkpoint written.
"bare" takes as many steps and predicts as many images of one batch, and does nothing else.
A step computes on one core; WORKERS are the processes of a DataLoader.
"""

import json
import os
import random
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from images import labelled_files
from layer import Layer
from measure import BATCH_SIZE, IMAGE_SHAPE, Cost, cpu_seconds
from members import write_plan
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from lenshpc.engine.checkpoint import MemberProgress
from lenshpc.engine.member import run_member
from lenshpc.engine.signals import Signals
from lenshpc.models.backbones import build, whole
from lenshpc.models.importing import declare_missing_torchvision_ops
from lenshpc.registry import TaskSpec
from lenshpc.run.planning import plan_run
from lenshpc.run.recipe import Recipe
from lenshpc.run.sections import Train
from lenshpc.store import open_store
from lenshpc.tasks.classification.settings import Classification

declare_missing_torchvision_ops()  # for Lightning

HOLDOUT_PARTS = 10  # lenshpc validates this part of the rows of one fold, so all do
LAYER = f"{Path(__file__).parent / 'layer.py'}:Layer"
RATE = 1e-4


class Turns:
    """A line of standard input is an epoch; its answer is what the epoch took."""

    def __init__(self, num_images: int) -> None:
        self._num_images = num_images
        self._answers = os.fdopen(os.dup(1), "w")
        sys.stdout = sys.stderr  # where libraries may print
        self._await()

    def end(self) -> None:
        """Answer for an epoch that has ended, and return when the next one is asked for."""
        cost = Cost(time.perf_counter() - self._began, cpu_seconds() - self._cpu_began)
        answer = {**asdict(cost), "num_images": self._num_images}
        print(json.dumps(answer), file=self._answers, flush=True)
        self._await()

    def _await(self) -> None:
        if not sys.stdin.readline():
            os._exit(0)  # no training is to be ended well here
        self._began, self._cpu_began = time.perf_counter(), cpu_seconds()


class Files(Dataset[Any]):
    """Loose .npy files, flipped and turned by albumentations, as notebooks have them."""

    def __init__(self, files: list[tuple[Path, int]], *, augmented: bool) -> None:
        import albumentations
        from albumentations.pytorch import ToTensorV2

        changes = (
            [
                albumentations.HorizontalFlip(),
                albumentations.VerticalFlip(),
                albumentations.RandomRotate90(),
            ]
            if augmented
            else []
        )
        self._files, self._change = files, albumentations.Compose([*changes, ToTensorV2()])

    def __len__(self) -> int:
        """Return the number of files."""
        return len(self._files)

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        """Return image and label."""
        file, label = self._files[row]
        return self._change(image=np.load(file).transpose(1, 2, 0))["image"], label


def split_files(folder: Path) -> tuple[list[tuple[Path, int]], list[tuple[Path, int]]]:
    """Return the files that are trained on, and those that validate."""
    found = sorted(labelled_files(folder / "images"))
    random.Random(0).shuffle(found)  # noqa: S311
    num_held = len(found) // HOLDOUT_PARTS
    return found[num_held:], found[:num_held]


def open_loaders(folder: Path, workers: int) -> tuple[DataLoader[Any], DataLoader[Any]]:
    """Return the loaders of training and of validation."""
    train, val = split_files(folder)
    options = {"num_workers": workers, "persistent_workers": workers > 0}
    return (
        DataLoader(
            Files(train, augmented=True), BATCH_SIZE, shuffle=True, drop_last=True, **options
        ),
        DataLoader(Files(val, augmented=False), BATCH_SIZE, **options),
    )


def make_network(name: str) -> nn.Module:
    """Return the network that lenshpc's task makes by that name."""
    if name == LAYER:
        spec = TaskSpec(
            settings=Classification(),
            train=Train(),
            classes=("nonlens", "lens"),
            class_counts=(1, 1),
            image_shape=IMAGE_SHAPE,
        )
        return whole(Layer(spec))
    return build(name, image_shape=IMAGE_SHAPE, num_outputs=2)


def train_bare(name: str, folder: Path, workers: int) -> None:
    """Take the steps on one batch, and predict one batch, over and over."""
    del workers
    train, val = split_files(folder)
    model, loss_of = make_network(name), nn.CrossEntropyLoss()
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, fused=True)  # as ours
    image, label = torch.rand(BATCH_SIZE, *IMAGE_SHAPE), torch.arange(BATCH_SIZE) % 2
    turns = Turns(count_images(train))
    while True:
        model.train()
        for _ in range(len(train) // BATCH_SIZE):
            loss_of(model(image), label).backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        model.eval()
        with torch.no_grad():
            for _ in range(len(val) // BATCH_SIZE):
                model(image)
        turns.end()


def train_lenshpc(name: str, folder: Path, workers: int) -> None:
    """Train a member as its job does."""
    del workers
    train, _ = split_files(folder)
    recipe = Recipe(
        name=f"bench{os.getpid()}",
        task="lens-finding",
        models=(name,),
        folds=1,
        train={"epochs": 10_000, "batch_size": BATCH_SIZE, "lr": RATE},
        resources={"gpus_per_node": 0},
    )
    planned = plan_run(recipe, open_store(folder / "store"), folder / "runs")
    write_plan(planned)
    turns = Turns(count_images(train))

    def end(_: MemberProgress) -> bool:
        turns.end()
        return False

    run_member(planned.paths, 0, Signals(), end)


def train_lightning(name: str, folder: Path, workers: int) -> None:
    """Train by a Trainer, with a checkpoint to go on from after each epoch."""
    import lightning
    from lightning.pytorch.callbacks import Callback, ModelCheckpoint
    from lightning.pytorch.loggers import CSVLogger
    from torchmetrics.classification import BinaryAUROC

    class Network(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model, self.loss_of, self.auc = (
                make_network(name),
                nn.CrossEntropyLoss(),
                BinaryAUROC(),
            )

        def training_step(self, batch: Any, _: int) -> Tensor:
            loss = self.loss_of(self.model(batch[0]), batch[1])
            self.log("train_loss", loss)
            return loss

        def validation_step(self, batch: Any, _: int) -> None:
            logits = self.model(batch[0])
            self.auc.update(logits.softmax(dim=1)[:, 1], batch[1])
            self.log("val_loss", self.loss_of(logits, batch[1]))
            self.log("val_auc", self.auc)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.AdamW(self.parameters(), lr=RATE)

    class Turning(Callback):
        def on_train_epoch_start(self, trainer: Any, _: Any) -> None:
            if trainer.current_epoch:
                turns.end()

    train, val = open_loaders(folder, workers)
    checkpoint = ModelCheckpoint(
        folder / "lightning", monitor="val_auc", mode="max", save_last=True
    )
    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=-1,
        callbacks=[checkpoint, Turning()],
        logger=CSVLogger(folder / "lightning"),
        enable_progress_bar=False,
        num_sanity_val_steps=0,
    )
    turns = Turns(count_images(train.dataset))
    trainer.fit(Network(), train, val)


def train_accelerate(name: str, folder: Path, workers: int) -> None:
    """Train by the loop of Accelerate's documentation, its state saved after each epoch."""
    from accelerate import Accelerator
    from sklearn.metrics import roc_auc_score

    accelerator = Accelerator(cpu=True)
    model, loss_of = make_network(name), nn.CrossEntropyLoss()
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE)
    files, val_files = open_loaders(folder, workers)
    model, optimizer, train, val = accelerator.prepare(model, optimizer, files, val_files)
    turns = Turns(count_images(files.dataset))
    while True:
        model.train()
        total = 0.0
        for image, label in train:
            optimizer.zero_grad()
            loss = loss_of(model(image), label)
            accelerator.backward(loss)
            optimizer.step()
            total += loss.item()
        model.eval()
        scores, labels = [], []
        for image, label in val:
            with torch.no_grad():
                logits = model(image)
            found, known = accelerator.gather_for_metrics((logits.softmax(dim=1)[:, 1], label))
            scores.append(found)
            labels.append(known)
        roc_auc_score(torch.cat(labels), torch.cat(scores))
        accelerator.save_state(str(folder / "accelerate"))
        turns.end()


def count_images(files: Any) -> int:
    """Return how many images the whole steps of an epoch have."""
    return len(files) // BATCH_SIZE * BATCH_SIZE


SERVED: dict[str, Callable[[str, Path, int], None]] = {
    "bare": train_bare,
    "lenshpc": train_lenshpc,
    "Lightning": train_lightning,
    "Accelerate": train_accelerate,
}

if __name__ == "__main__":
    torch.set_num_threads(1)  # as in a rank of lenshpc on CPUs
    SERVED[sys.argv[1]](sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]))
