"""Serve training and sampling of diffusion models: python generators.py WHOSE SIDE BATCH.

A line is `train N` (steps) or `sample N` (DDIM steps of one batch); the answer counts images. It
runs in the rivals' environment too. All three: cosine schedule, v prediction, AdamW, 19
million parameters on four levels with two residual blocks each; bf16 autocast on a GPU.
"""

import sys
from collections.abc import Callable
from typing import Any

import torch
from measure import serve
from torch import Tensor, nn

WIDTH, MULTIPLIERS, BLOCKS = 64, (1, 2, 2, 4), 2
LUCIDRAINS_WIDTH = 80  # of which that network has as many parameters as the others: 19 million
NUM_LEVELS = 1000
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")

# The registration lives as long as this object.
_TORCHVISION = torch.library.Library("torchvision", "FRAGMENT")
if DEVICE.type == "cpu" and not hasattr(torch.ops.torchvision, "nms"):
    # beside a CPU build of torch, torchvision lacks its operators (pytorch/vision#9085)
    _TORCHVISION.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _TORCHVISION.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

Parts = tuple[nn.Module, Callable[[Tensor], Tensor], Callable[[int, int], Any]]


def lenshpc(side: int) -> Parts:
    """Return network, loss and sampling of this package."""
    from lenshpc.engine.load import make_task
    from lenshpc.registry import TaskSpec
    from lenshpc.run.sections import Train
    from lenshpc.tasks.diffusion.settings import Diffusion

    def task(steps: int) -> Any:
        method = Diffusion(
            width=WIDTH, multipliers=MULTIPLIERS, blocks=BLOCKS, sampling_steps=steps
        )
        shape = (1, side, side)
        return make_task(
            "diffusion",
            TaskSpec(
                settings=method,
                train=Train(),
                classes=("lens",),
                class_counts=(1,),
                image_shape=shape,
                mean=(0.5,),
                std=(0.5,),
            ),
        )

    training = task(1)
    model = training.build_model("unet")
    return (
        model,
        lambda images: training.training_step(model, {"image": images})["loss"],
        lambda num, steps: task(steps).draw(model, 0, 0, torch.arange(num, device=DEVICE)),
    )


def lucidrains(side: int) -> Parts:
    """Return those of denoising-diffusion-pytorch."""
    from denoising_diffusion_pytorch import GaussianDiffusion, Unet

    network = Unet(LUCIDRAINS_WIDTH, dim_mults=MULTIPLIERS, channels=1)

    def process(steps: int) -> Any:
        return GaussianDiffusion(
            network,
            image_size=side,
            timesteps=NUM_LEVELS,
            sampling_timesteps=steps,
            objective="pred_v",
            beta_schedule="cosine",
        ).to(DEVICE)

    training = process(NUM_LEVELS // 2)
    return (
        network,
        lambda images: training((images + 1) / 2),
        lambda num, steps: process(steps).sample(batch_size=num),
    )


def diffusers(side: int) -> Parts:
    """Return those of diffusers, the loop being that of its DDIMPipeline."""
    from diffusers import DDIMScheduler, UNet2DModel

    kinds = ["" if side >> level > 20 else "Attn" for level in range(len(MULTIPLIERS))]
    network = UNet2DModel(
        sample_size=side,
        in_channels=1,
        out_channels=1,
        layers_per_block=BLOCKS,
        block_out_channels=tuple(WIDTH * one for one in MULTIPLIERS),
        down_block_types=tuple(f"{kind}DownBlock2D" for kind in kinds),
        up_block_types=tuple(f"{kind}UpBlock2D" for kind in reversed(kinds)),
    )
    scheduler = DDIMScheduler(
        NUM_LEVELS, beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction"
    )

    def loss(images: Tensor) -> Tensor:
        noise = torch.randn_like(images)
        level = torch.randint(NUM_LEVELS, (len(images),), device=images.device)
        output = network(scheduler.add_noise(images, noise, level), level).sample
        target = scheduler.get_velocity(images, noise, level)
        return nn.functional.mse_loss(output.float(), target)

    def sample(num: int, steps: int) -> Tensor:
        scheduler.set_timesteps(steps)
        images = torch.randn(num, 1, side, side, device=DEVICE)
        for level in scheduler.timesteps:
            images = scheduler.step(network(images, level).sample, level, images).prev_sample
        return images

    return network, loss, sample


SERVED = {one.__name__: one for one in (lenshpc, lucidrains, diffusers)}


def served(whose: str, side: int, batch: int) -> Callable[[str], int]:
    """Return what does a line's work and counts its images."""
    torch.manual_seed(0)
    network, loss, sample = SERVED[whose](side)
    network.to(DEVICE)
    print(f"{sum(one.numel() for one in network.parameters()) / 1e6:.1f}", file=sys.stderr)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4)
    images = torch.rand(batch, 1, side, side, device=DEVICE) * 2 - 1

    def run(line: str) -> int:
        what, number = line.split()
        with torch.autocast(DEVICE.type, torch.bfloat16, enabled=DEVICE.type == "cuda"):
            if what == "sample":
                network.eval()
                with torch.no_grad():
                    sample(batch, int(number))
                return _finished(batch)
        network.train()
        for _ in range(int(number)):
            with torch.autocast(DEVICE.type, torch.bfloat16, enabled=DEVICE.type == "cuda"):
                value = loss(images)
            optimizer.zero_grad(set_to_none=True)
            value.backward()
            optimizer.step()
        return _finished(batch * int(number))

    return run


def _finished(num: int) -> int:
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
    return num


if __name__ == "__main__":
    if DEVICE.type == "cpu":
        torch.set_num_threads(1)
    serve(served(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
