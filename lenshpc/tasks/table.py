"""The tasks by the kind of their method; only the one that is asked for is imported."""

from lenshpc.methods.classification import Classification as Settings
from lenshpc.tasks.base import Task, TaskSpec


def make_task(spec: TaskSpec) -> Task:
    """Return the task of a method."""
    match spec.method.kind:
        case "classification" if _is_guided(spec):
            from lenshpc.tasks.physics_guided import PhysicsGuided

            return PhysicsGuided(spec)
        case "classification":
            from lenshpc.tasks.classification import Classification

            return Classification(spec)
        case "anomaly":
            from lenshpc.tasks.anomaly import Anomaly

            return Anomaly(spec)
        case "super_resolution":
            from lenshpc.tasks.super_resolution import SuperResolution

            return SuperResolution(spec)
        case "foundation":
            from lenshpc.tasks.foundation import Foundation

            return Foundation(spec)
        case "diffusion":
            from lenshpc.tasks.diffusion import Diffusion

            return Diffusion(spec)


def _is_guided(spec: TaskSpec) -> bool:
    return isinstance(spec.method, Settings) and spec.method.physics is not None
