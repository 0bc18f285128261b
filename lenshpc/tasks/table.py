"""The table of task names."""

from collections.abc import Callable

from lenshpc.tasks.base import Task, TaskSpec
from lenshpc.tasks.classification import Classification

TASKS: dict[str, Callable[[TaskSpec], Task]] = {
    "lens-finding": Classification,
    "multiclass": Classification,
}
