"""The tasks by the kind of their method; only the one that is asked for is imported."""

from lenshpc.tasks.base import Task, TaskSpec
from lenshpc.tasks.supervised.settings import Classification as Settings


def make_task(spec: TaskSpec) -> Task:
    """Return the task of a method."""
    match spec.method.kind:
        case "classification" if _is_guided(spec):
            from lenshpc.tasks.physics_guided.task import PhysicsGuided

            return PhysicsGuided(spec)
        case "classification":
            from lenshpc.tasks.supervised.task import Classification

            return Classification(spec)
        case "anomaly":
            from lenshpc.tasks.anomaly.task import Anomaly

            return Anomaly(spec)
        case "super_resolution":
            from lenshpc.tasks.super_resolution.task import SuperResolution

            return SuperResolution(spec)
        case "foundation":
            from lenshpc.tasks.foundation.task import Foundation

            return Foundation(spec)
        case "diffusion":
            from lenshpc.tasks.diffusion.task import Diffusion

            return Diffusion(spec)


def _is_guided(spec: TaskSpec) -> bool:
    return isinstance(spec.method, Settings) and spec.method.physics is not None
