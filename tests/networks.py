"""Networks that tell classes apart, built as a member builds them."""

from lenshpc.registry import TaskSpec
from lenshpc.run.sections import Train
from lenshpc.tasks.classification.settings import Classification
from lenshpc.tasks.supervised.task import SupervisedTask


def build(name, *, image_shape, num_outputs, **settings):
    """Return a network for (C, H, W) images; `settings` are those of a classification."""
    loss = "bce" if num_outputs == 1 else "cross_entropy"
    spec = TaskSpec(
        settings=Classification(loss=loss, **settings),
        train=Train(),
        classes=tuple(f"class{k}" for k in range(max(2, num_outputs))),
        class_counts=(1,) * max(2, num_outputs),
        image_shape=image_shape,
    )
    return SupervisedTask(spec).build_model(name)
