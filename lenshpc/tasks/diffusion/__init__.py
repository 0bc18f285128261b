"""New images drawn from noise, and how near they come to real ones."""

from lenshpc.registry import TaskKind
from lenshpc.tasks.diffusion.settings import Diffusion

DIFFUSION = TaskKind(
    settings=Diffusion,
    task="lenshpc.tasks.diffusion.task:Denoising",
    evaluate="lenshpc.tasks.diffusion.judge:evaluate",
    report="lenshpc.tasks.diffusion.report:build",
    recipe="diffusion",
    generator="lenshpc.tasks.diffusion.generate:open_generator",
    tools={"walk": "lenshpc.tasks.diffusion.generate:walk"},
)
