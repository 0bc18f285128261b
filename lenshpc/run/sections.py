"""The sections of a recipe that all tasks share: images, training, resources."""

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, Literal, Self

from pydantic import Field, PrivateAttr, model_validator

from lenshpc.config import Count, Frozen, NonNegative, Positive, Side
from lenshpc.run.augmentations import D4, Augmentation
from lenshpc.run.optimizers import WITH_MOMENTUM, find_fault

# Less is 0M to sbatch, which stands for all memory of a node.
Memory = Annotated[float, Field(ge=0.0005, le=1e6, description="GB")]
Minutes = Annotated[int, Field(ge=1, le=527_040)]  # a year
Times = Annotated[int, Field(ge=0, le=10**6)]
# Keys of `Train` that change neither a weight nor a prediction: no fingerprint covers them.
OPERATION = frozenset({"evaluation_batch", "checkpoint_min", "timeout_min", "profile"})
# Keys of `Train` that one scheduler reads.
SCHEDULED = MappingProxyType({"cycles": "cosine", "step_epochs": "step", "step_factor": "step"})
# Schedulers that take no warm-up, and why.
WARMED = MappingProxyType({"plateau": "has no warm-up", "one_cycle": "warms up by itself"})


class Data(Frozen):
    """How images reach the network."""

    crop: Side | None = Field(
        default=None, description="side in pixels of the middle of each image, all that is used"
    )
    image_size: Side | None = Field(
        default=None, description="side in pixels after resizing; the store's own when absent"
    )
    stretch: Literal["none", "sqrt", "asinh", "log"] = Field(
        default="none", description="of the pixels, before they are normalised"
    )
    normalise: Literal["fold", "imagenet", "image", "none"] = Field(
        default="fold", description="fold: mean and std of the fold's own training rows"
    )
    grey_to_rgb: bool = Field(default=False, description="hand one channel to networks as three")
    mask_channels: bool = Field(
        default=False, description="hand the masks of filled pixels to networks, a channel each"
    )
    augment: tuple[Augmentation, ...] = (D4(kind="d4"),)
    augment_minority: tuple[Augmentation, ...] = Field(
        default=(), description="further steps for all classes but the largest"
    )
    loading: Literal["auto", "resident", "stream"] = Field(
        default="auto", description="resident: held in RAM or on the GPU; stream: read in blocks"
    )
    sampling: Literal["natural", "balanced"] = Field(
        default="natural", description="balanced: an epoch draws the classes equally often"
    )
    label_fraction: Annotated[float, Field(gt=0, le=1)] = Field(
        default=1.0, description="part of each class's training rows that is used"
    )

    def in_memory(
        self, image_shape: tuple[int, int, int], dtype: str
    ) -> tuple[tuple[int, int, int], str]:
        """Return the (C, H, W) and dtype in which a store's images are held.

        They are cropped, then resized. Whole bytes stay bytes unless they are resized; all else is
        the float32 that models see.
        """
        channels, *sides = image_shape
        if self.crop:
            sides = [self.crop] * 2
        wanted = [self.image_size] * 2 if self.image_size else sides
        held = "uint8" if dtype == "uint8" and wanted == sides else "float32"
        return (channels, wanted[0], wanted[1]), held

    def image_bytes(self, image_shape: tuple[int, int, int], dtype: str) -> int:
        """Return the bytes in which an image of a store is held, and its mask if that is used."""
        import numpy as np

        shape, held = self.in_memory(image_shape, dtype)
        return math.prod(shape) * (np.dtype(held).itemsize + self.mask_channels)

    def zoom(self, image_shape: tuple[int, int, int]) -> float:
        """Return the side of a pixel that models see, in pixels of a store's square images."""
        side = self.crop or image_shape[1]
        return side / (self.image_size or side)

    def model_shape(self, held_shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """Return the (C, H, W) that networks see of images held as `held_shape`."""
        channels, height, width = held_shape
        masks = channels if self.mask_channels else 0
        return self.num_image_channels(channels) + masks, height, width

    def num_image_channels(self, channels: int) -> int:
        """Return how many channels of light networks see of images that have `channels`."""
        return 3 if self.grey_to_rgb else channels


class Train(Frozen):
    """How a member is trained."""

    epochs: Count = 15
    batch_size: Count = Field(default=32, description="images a step, over all processes")
    accumulate: Count = Field(
        default=1, description="parts in which a process takes its share of a step, one by one"
    )
    optimizer: str = Field(default="adamw", description="one of torch's or timm's, by timm's name")
    momentum: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.9, description="of optimisers that have one, such as sgd"
    )
    lr: Positive | None = Field(default=1e-4, description="null where lr_per_256 is given")
    lr_per_256: Positive | None = Field(
        default=None, description="instead of lr: the rate of a batch of 256, scaled to batch_size"
    )
    weight_decay: NonNegative = 1e-4
    layer_decay: Annotated[float, Field(gt=0, le=1)] | None = Field(
        default=None, description="factor of lr from each layer of the network to the one below"
    )
    freeze: tuple[Annotated[str, Field(min_length=1)], ...] = Field(
        default=(), description="parts of the network that do not learn, by name; * stands for any"
    )
    scheduler: Literal["constant", "cosine", "one_cycle", "step", "plateau"] = "cosine"
    schedule_epochs: Count | None = Field(
        default=None, description="over which a schedule goes; as many as epochs if absent"
    )
    cycles: Count = Field(default=1, description="of scheduler cosine; each begins at lr again")
    step_epochs: Count = Field(default=10, description="between two reductions of scheduler step")
    step_factor: Annotated[float, Field(gt=0, lt=1)] = Field(
        default=0.1, description="of lr at each of them"
    )
    warmup_epochs: Annotated[int, Field(ge=0, le=10**9)] = 0
    plateau_patience: Count = 2
    patience: Count | None = Field(default=None, description="early stopping, in epochs")
    monitor: str | None = Field(
        default=None, description="validation metric that picks the epoch; the task's own if absent"
    )
    clip_norm: NonNegative = Field(default=0.0, description="0 does not clip")
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.0, description="of a moving average of the weights, used in their place; 0: none"
    )
    swa_epochs: Count | None = Field(
        default=None, description="last epochs whose weights are averaged, and used in their place"
    )
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    tf32: bool = Field(default=True, description="fp32 products in TF32 where a GPU has it")
    deterministic: bool = Field(
        default=False, description="only algorithms that give the same bits each time; slower"
    )
    channels_last: bool | None = Field(
        default=None, description="memory layout of images and weights; on a GPU if absent"
    )
    compile: Literal["none", "default", "reduce-overhead", "max-autotune"] = Field(
        default="none", description="mode of torch.compile"
    )
    activation_checkpointing: bool = Field(
        default=False, description="compute activations again backwards: less memory, more time"
    )
    sync_batchnorm: bool = Field(
        default=False, description="batch norm over the batch of all processes, not of each"
    )
    strategy: Literal["auto", "single", "ddp", "deepspeed"] = "auto"
    zero_stage: Literal[1, 2, 3] = 2
    offload: Literal["none", "optimizer", "parameters"] = Field(
        default="none", description="what ZeRO keeps in the memory of the host"
    )
    evaluation_batch: Count | None = Field(
        default=None, description="images that a process predicts at once; by memory if absent"
    )
    checkpoint_min: NonNegative = Field(
        default=0.0, description="minutes between checkpoints; 0: one after each epoch"
    )
    timeout_min: Minutes = Field(
        default=30, description="after which a process that waits for another one gives up"
    )
    profile: bool = Field(default=False, description="a trace of ten steps, in the run's folder")

    @model_validator(mode="after")
    def _goes_together(self) -> Self:
        if self.offload != "none" and self.strategy != "deepspeed":
            raise ValueError(
                f"train.offload {self.offload} is for ZeRO, and train.strategy is {self.strategy}; "
                "use --set train.strategy=deepspeed"
            )
        if self.zero_stage != 2 and self.strategy != "deepspeed":
            raise ValueError(
                f"train.zero_stage {self.zero_stage} is for ZeRO, and train.strategy is "
                f"{self.strategy}; use --set train.strategy=deepspeed"
            )
        if self.offload == "parameters" and self.zero_stage != 3:
            raise ValueError(
                "train.offload parameters is for ZeRO-3, which partitions them, and "
                f"train.zero_stage is {self.zero_stage}; use --set train.zero_stage=3"
            )
        if self.offload != "none" and self.optimizer != "adamw":
            raise ValueError(
                f"train.offload computes AdamW on the host, and train.optimizer is "
                f"{self.optimizer}; use --set train.optimizer=adamw"
            )
        if self.deterministic and self.compile == "max-autotune":
            raise ValueError(
                "train.compile max-autotune picks what is fastest when it runs, so results can "
                "differ in their last bits, which train.deterministic forbids; use --set "
                "train.compile=default"
            )
        if self.activation_checkpointing and self.compile != "none":
            raise ValueError(
                "train.compile decides by itself what is recomputed in the backward pass, and so "
                "does train.activation_checkpointing; use --set train.compile=none, or remove "
                "train.activation_checkpointing"
            )
        return self

    @model_validator(mode="before")
    @classmethod
    def _has_no_lr_of_its_own(cls, value: Any) -> Any:
        # So that the default, which nobody has asked for, is not taken for one of two rates.
        given = isinstance(value, Mapping) and value.get("lr_per_256") is not None
        return {"lr": None, **value} if given else value

    @model_validator(mode="after")
    def _has_one_rate(self) -> Self:
        if (self.lr is None) == (self.lr_per_256 is None):
            raise ValueError(
                f"train.lr {self.lr} and train.lr_per_256 {self.lr_per_256}: give one of the two, "
                "and set the other to null, as by --set train.lr=null"
            )
        return self

    @model_validator(mode="after")
    def _knows_its_optimizer(self) -> Self:
        fault = find_fault(self.optimizer)
        if fault:
            raise ValueError(f"train.optimizer: {fault}")
        if self._was_changed("momentum") and self.optimizer not in WITH_MOMENTUM:
            raise ValueError(
                f"train.momentum {self.momentum}: optimizer {self.optimizer} has none; remove it, "
                "or use one that has, such as sgd"
            )
        return self

    @model_validator(mode="after")
    def _knows_its_schedule(self) -> Self:
        for key, scheduler in SCHEDULED.items():
            if self._was_changed(key) and self.scheduler != scheduler:
                raise ValueError(
                    f"train.{key} {getattr(self, key)} belongs to scheduler {scheduler}, and "
                    f"train.scheduler is {self.scheduler}; remove it"
                )
        if self.warmup_epochs and self.scheduler in WARMED:
            raise ValueError(
                f"train.scheduler {self.scheduler} {WARMED[self.scheduler]}, and "
                f"train.warmup_epochs is {self.warmup_epochs}; use --set train.warmup_epochs=0"
            )
        return self

    @model_validator(mode="after")
    def _fits_its_epochs(self) -> Self:
        if self.length < self.epochs:
            raise ValueError(
                f"train.schedule_epochs {self.length} must not be fewer than train.epochs "
                f"{self.epochs}"
            )
        if self.warmup_epochs >= self.epochs:
            raise ValueError(
                f"train.warmup_epochs {self.warmup_epochs} must be fewer than train.epochs "
                f"{self.epochs}; use --set train.warmup_epochs={self.epochs - 1}"
            )
        return self

    @model_validator(mode="after")
    def _averages_in_one_way(self) -> Self:
        if self.swa_epochs is None:
            return self
        if self.ema_decay:
            raise ValueError(
                "train.swa_epochs and train.ema_decay both average weights; remove one of them"
            )
        if self.strategy == "deepspeed" and self.zero_stage == 3:
            raise ValueError(
                "train.swa_epochs averages whole weights, which ZeRO-3 partitions; use --set "
                "train.zero_stage=2"
            )
        if self.patience is not None:
            raise ValueError(
                "train.swa_epochs averages the last epochs, and train.patience may end the "
                "training before them; use --set train.patience=null"
            )
        if self.swa_epochs > self.length:
            raise ValueError(
                f"train.swa_epochs {self.swa_epochs} must not be more than the epochs, "
                f"{self.length}"
            )
        return self

    def _was_changed(self, key: str) -> bool:
        return bool(getattr(self, key) != type(self).model_fields[key].default)

    @property
    def rate(self) -> float:
        """Return the learning rate at its highest, of a step on the whole batch."""
        if self.lr_per_256 is not None:
            return self.lr_per_256 * self.batch_size / 256
        return self.lr or 0.0  # one of the two is given

    @property
    def length(self) -> int:
        """Return the number of epochs over which what changes with time does so."""
        return self.schedule_epochs or self.epochs


class Requeues(Frozen):
    """How often a member's job is sent again by itself, by what ended it."""

    timeout: Times = 20
    preemption: Times = 100
    crash: Times = 2


class Resources(Frozen):
    """What one member asks of the cluster."""

    nodes: Annotated[int, Field(ge=1, le=100_000)] = 1
    gpus_per_node: Annotated[int, Field(ge=0, le=1000)] = Field(
        default=1, description="GPUs, with a process each; 0: the member runs on CPUs"
    )
    tasks_per_node: Annotated[int, Field(ge=1, le=1000)] | None = Field(
        default=None, description="processes of a member on CPUs; 1 if absent"
    )
    cpus_per_gpu: Count = Field(default=4, description="cores of a process, with or without a GPU")
    mem_gb_per_gpu: Memory = Field(default=16.0, description="GB of a process, likewise")
    time_min: Minutes = 240
    max_requeues: Requeues = Requeues()
    _shares: dict[str, int] | None = PrivateAttr(default=None)

    @model_validator(mode="after")
    def _has_one_number_of_processes(self) -> Self:
        if self.tasks_per_node is not None and self.gpus_per_node:
            raise ValueError(
                f"tasks_per_node {self.tasks_per_node} is for members on CPUs, and gpus_per_node "
                f"{self.gpus_per_node} gives each GPU its process; remove it, or use "
                "gpus_per_node 0"
            )
        return self

    @property
    def signal_delay_s(self) -> int:
        """Return how long before its time limit a member is told to save."""
        # At most a quarter of the time limit: a short job would be told to stop as it begins.
        return min(90, 15 * self.time_min)

    @property
    def world_size(self) -> int:
        """Return the number of processes."""
        return self.nodes * self.processes_per_node

    @property
    def processes_per_node(self) -> int:
        """Return the number of processes on a node: one a GPU, or `tasks_per_node` on CPUs."""
        return self.gpus_per_node or self.tasks_per_node or 1

    @property
    def shares(self) -> dict[str, int]:
        """Return what decides the shares of a batch, and so the sums over them: it is hashed."""
        # Processes under the name that they had when each had a GPU, as fingerprints are to stay:
        # what computes a share, one GPU or another or a CPU, is not hashed.
        return self._shares or {"nodes": self.nodes, "gpus_per_node": self.processes_per_node}

    def keep_shares(self, shares: dict[str, int]) -> "Resources":
        """Return the same with the shares of another size, in which the training was planned."""
        kept = self.model_copy()
        kept._shares = shares
        return kept

    def format_node(self, *, on_gpus: bool) -> str:
        """Return what a member has on a node, for people: `4 GPU(s)`, `4 process(es) on CPUs`."""
        kind = "GPU(s)" if on_gpus else "process(es) on CPUs"
        return f"{self.processes_per_node} {kind}"
