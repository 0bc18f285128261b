"""A classification whose features must also give the lens that drew the image."""

from lenshpc.registry import TaskKind
from lenshpc.tasks.physics_guided.settings import PhysicsGuided

PHYSICS_GUIDED = TaskKind(
    settings=PhysicsGuided,
    task="lenshpc.tasks.physics_guided.task:make_task",
    evaluate="lenshpc.tasks.physics_guided.judge:evaluate",
    report="lenshpc.tasks.physics_guided.report:build",
    recipe="physics_guided",
    readout="lenshpc.tasks.physics_guided.readout:LensReadout",
    measure="lenshpc.tasks.supervised.judge:measure_rows",
    tools={
        "explain": "lenshpc.tasks.supervised.explain:grad_cam",
        "reconstruct": "lenshpc.tasks.physics_guided.reconstruct:reconstruct",
    },
)
