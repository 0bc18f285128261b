"""Settings of lens finding and any other classification."""

from lenshpc.tasks.supervised.settings import Supervised


class Classification(Supervised):
    """Two or more classes; of two, the second is the positive one."""
