"""How often a property is tried: with the same examples each time, however long one takes."""

import resource

from hypothesis import HealthCheck, given, settings

ROOM_KIB = 1 << 20  # what the memory of the process may grow by


def tried(number):
    """Return a decorator that tries a test so often."""
    return settings(
        max_examples=number,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )


def try_in_bounds(number, strategy, check):
    """Call `check` with so many values of a strategy; the memory that is held stays bounded."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    tried(number)(given(strategy)(check))()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < ROOM_KIB
