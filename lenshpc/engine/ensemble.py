"""A trained ensemble as one module of torch: from pixels as they are stored to the answer.

All is inside: crop, resizing, stretch, each member's normalisation, test-time symmetries, the mean
over members and the combination. Shapes: B images, C channels, H by W pixels.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from lenshpc.data.batches import Held, Preparation
from lenshpc.data.decoded import middle
from lenshpc.data.filling import Filling
from lenshpc.data.resize import Resize, ResizeMasks
from lenshpc.engine.load import inference_spec, make_task, parse_weights
from lenshpc.engine.precision import autocast
from lenshpc.errors import ConfigError, DataError
from lenshpc.registry import (
    Request,
    is_kept_file,
)
from lenshpc.run.sections import Data
from lenshpc.run.trained import (
    EnsembleSpec,
    TrainedEnsemble,
    TrainedMember,
    check_images,
    make_readout,
)

BATCH_ROWS = {"cpu": 64, "cuda": 256}
Progress = Callable[[int, int], None]


class Hold(nn.Module):
    """Pixels as stored to images as they are held in memory: cropped, resized, float32."""

    def __init__(self, data: Data, spec: EnsembleSpec) -> None:
        super().__init__()
        (_, *after), held = data.in_memory(spec.image_shape, spec.dtype)
        _, *sides = spec.image_shape
        self._crop = data.crop
        before = [data.crop] * 2 if data.crop else sides
        sizes = (before[0], before[1]), (after[0], after[1])
        self.resize: nn.Module = nn.Identity() if before == after else Resize(*sizes)
        self.resize_masks: nn.Module = nn.Identity() if before == after else ResizeMasks(*sizes)
        # Bytes that are resized are brought to floats first; bytes that stay are scaled later.
        self._factor, self.scale = (1.0, spec.scale) if held == "uint8" else (spec.scale, 1.0)

    def forward(self, pixels: Tensor, masks: Tensor | None) -> Held:
        """Return images (B, C, H', W') that `scale` turns into the store's floats, and masks."""
        if self._crop:
            pixels = middle(pixels, self._crop)
            masks = None if masks is None else middle(masks, self._crop)
        images = pixels.float()
        if self._factor != 1:
            images = images * self._factor
        return Held(self.resize(images), None if masks is None else self.resize_masks(masks))


class MemberNetwork(nn.Module):
    """One member: from held images to what it says of them."""

    def __init__(self, trained: TrainedEnsemble, member: TrainedMember, scale: float) -> None:
        super().__init__()
        recipe = trained.spec.recipe_of(member)
        self._train, self._scale = recipe.train, scale
        self._takes_masks = recipe.data.mask_channels
        task_spec = inference_spec(
            recipe,
            classes=trained.spec.classes,
            image_shape=trained.spec.image_shape,
            target_shape=trained.spec.target_shape,
            mean=member.mean,
            std=member.std,
            code=trained.code,
        )
        self._task: Any = make_task(recipe.task, task_spec)
        self._prepare = Preparation(
            scale=scale,
            mean=np.array(member.mean, np.float32),
            std=np.array(member.std, np.float32),
            stretch=recipe.data.stretch,
            each_image=recipe.data.normalise == "image",
            repeats=3 if recipe.data.grey_to_rgb else 1,
        )
        self.network: nn.Module = self._task.build_model(member.network)
        path = trained.weights[member.index]
        weights = parse_weights(trained.read_weights(member), str(path))
        try:
            self.network.load_state_dict(weights)
        except RuntimeError as error:
            raise DataError(f"{path} does not hold weights of {member.network}") from error

    def forward(self, held: Held) -> dict[str, Tensor]:
        """Return the task's values of each image, (B,) or (B, …)."""
        # A copy: what prepares writes in place, and other members see the same images.
        image = self._prepare(held.pixels.clone(), self._scale)
        if self._takes_masks and held.masks is not None:
            image = torch.cat([image, held.masks], dim=1)
        with self._autocast(image.device):
            found: dict[str, Tensor] = self._task.apply(self.network, {"image": image})
        return found

    def _autocast(self, device: torch.device) -> AbstractContextManager[Any]:
        return autocast(self._train, device)


class Ensemble(nn.Module):
    """A trained ensemble: pixels (B, C, H, W) as a store holds them in, the task's answer out.

    Where the training's bad pixels were filled, so are those of `pixels`, and masks found by them.
    Of a classification the answer is the probabilities (B, K) that the run's own predictions have,
    float64. `spec` says what the images have to be, `readout` what is made of the members' values.
    """

    def __init__(
        self,
        trained: TrainedEnsemble,
        *,
        request: Request | None = None,
        trust_code: bool = False,
    ) -> None:
        super().__init__()
        _check_code(trained, trust_code=trust_code)
        self.spec = spec = trained.spec
        self.readout = make_readout(trained, request or Request())
        self.filling = None if spec.fill is None else Filling(spec.fill)
        held = [spec.recipe_of(member).data for member in spec.members]
        kinds = [(data.crop, data.image_size) for data in held]
        # Members whose images are held alike share them.
        first = {kind: kinds.index(kind) for kind in kinds}
        self._places = [[*first].index(kind) for kind in kinds]
        holds = [Hold(held[at], spec) for at in first.values()]
        self.holds = nn.ModuleList(holds)
        self.members = nn.ModuleList(
            MemberNetwork(trained, member, holds[at].scale)
            for member, at in zip(spec.members, self._places, strict=True)
        )
        self.eval()

    def outputs(self, pixels: Tensor) -> list[dict[str, Tensor]]:
        """Return what each member says, in the order of `spec.members`."""
        # Of any float: what a half-precision image means is the same.
        dtype = "float32" if pixels.is_floating_point() else str(pixels.dtype).partition(".")[2]
        check_images(self.spec, tuple(pixels.shape[1:]), np.dtype(dtype))
        filled, masks = (pixels, None) if self.filling is None else self.filling(pixels)
        held = [hold(filled, masks) for hold in self.holds]
        return [member(held[at]) for member, at in zip(self.members, self._places, strict=True)]

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the answer (B, …)."""
        answer: Tensor = self.readout.answer(self.outputs(pixels))
        return answer

    def predict(
        self, images: npt.ArrayLike, *, progress: Progress = lambda *_: None
    ) -> npt.NDArray[Any]:
        """Return the answer of images (N, C, H, W), batch by batch; one (C, H, W) or (H, W) too.

        ConfigError where they are not as the images of the training were.
        """
        pixels = as_images(self.spec, images)
        found = []
        for batch in self._batches(pixels):
            with torch.inference_mode():
                found.append(self(batch).cpu().numpy())
            progress(sum(map(len, found)), len(pixels))
        return np.concatenate(found)

    def columns(self, pixels: npt.NDArray[Any]) -> list[dict[str, npt.NDArray[Any]]]:
        """Return what each member says of pixels (N, C, H, W), as numpy arrays."""
        parts: list[list[dict[str, Tensor]]] = []
        for batch in self._batches(pixels):
            with torch.inference_mode():
                parts.append(self.outputs(batch))
        return [_join([part[at] for part in parts]) for at in range(len(self.members))]

    def _batches(self, pixels: npt.NDArray[Any]) -> Iterator[Tensor]:
        device = self.device
        num = BATCH_ROWS.get(device.type, BATCH_ROWS["cuda"])
        for start in range(0, len(pixels), num):
            # A copy: torch warns of a tensor on read-only memory, which mapped files are.
            yield torch.from_numpy(np.array(pixels[start : start + num])).to(device)

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode, whatever a module around it is put into.

        Batch norm would answer by what else is in a batch, and forget what it has learnt.
        """
        del mode
        return super().train(mode=False)

    @property
    def device(self) -> torch.device:
        """Return where the networks lie."""
        return next(self.parameters()).device


def as_images(spec: EnsembleSpec, images: npt.ArrayLike) -> npt.NDArray[Any]:
    """Return images as (N, C, H, W) in the dtype of the training's; ConfigError of others."""
    pixels = np.asarray(images)
    if pixels.ndim == 2:
        pixels = pixels[None]
    if pixels.ndim == 3:
        pixels = pixels[None] if pixels.shape[0] == spec.image_shape[0] else pixels[:, None]
    check_images(spec, pixels.shape[1:], pixels.dtype)
    if not len(pixels):
        raise ConfigError("no images were given; give at least one")
    return pixels.astype(spec.dtype, copy=False)


def _check_code(trained: TrainedEnsemble, *, trust_code: bool) -> None:
    """Refuse to import networks of a file that came with somebody's export."""
    spec = trained.spec
    own = sorted({one.network for one in spec.members if is_kept_file(one.network)})
    if own and trained.is_foreign and not trust_code:
        raise ConfigError(
            f"{spec.name} has networks in files of its own ({', '.join(own)}), and using them "
            "executes that code; read code/files/ in it first, then add --trust-code "
            "(trust_code=True)"
        )


def _join(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, npt.NDArray[Any]]:
    return {name: torch.cat([part[name] for part in parts]).cpu().numpy() for name in parts[0]}
