"""Changed bytes, as disks, networks or somebody make them, within bounds of memory and time."""

import faulthandler
import re
import resource
import struct
from contextlib import contextmanager
from functools import reduce
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from tries import tried

MEMORY_BYTES, SECONDS = 2**30, 600
# Most places are near the beginning, where headers are.
PLACES = st.one_of(st.integers(0, 127), st.integers(0, 2**13))
NUMBERS = st.sampled_from(
    ["0", "-1", "1", "7", "2147483648", "4294967295", "99999999999", "9" * 25, "9" * 99, "1e308"]
)
INTEGERS = st.sampled_from([0, 1, 0x7F, 0xFF, 2**15, 2**31 - 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1])
EDITS = st.lists(
    st.one_of(
        st.tuples(st.just("flip"), PLACES, st.integers(0, 7)),
        st.tuples(st.just("write"), PLACES, st.binary(min_size=1, max_size=8)),
        st.tuples(st.just("insert"), PLACES, st.binary(min_size=1, max_size=8)),
        st.tuples(st.just("delete"), PLACES, st.integers(1, 64)),
        st.tuples(st.just("repeat"), PLACES, st.integers(1, 64)),
        st.tuples(st.just("cut"), PLACES, st.none()),
        st.tuples(st.just("number"), st.integers(0, 40), NUMBERS),
        st.tuples(st.just("integer"), PLACES, st.tuples(st.sampled_from("<>"), INTEGERS)),
    ),
    min_size=1,
    max_size=4,
)


def change(content, what, place, value):
    """Return the content after one edit."""
    at = place % (len(content) + 1)
    before, after = content[:at], content[at:]
    if what == "number":
        found = list(re.finditer(rb"\d+", content))
        if not found:
            return content
        one = found[place % len(found)]
        return content[: one.start()] + value.encode() + content[one.end() :]
    if what == "integer":
        order, number = value
        value = struct.pack(f"{order}{'Q' if number >= 2**32 else 'I'}", number)
    if what in {"write", "integer"}:
        return before + value + after[len(value) :]
    if what == "flip":
        return before + bytes(byte ^ 1 << value for byte in after[:1]) + after[1:]
    if what == "delete":
        return before + after[value:]
    if what == "repeat":
        return before + after[:value] + after
    return before + (value or b"") if what == "cut" else before + value + after


@contextmanager
def limiting(num_bytes=MEMORY_BYTES):
    """Allow so much more memory than is taken now, and so many seconds."""
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (taken + num_bytes, hard))
    faulthandler.dump_traceback_later(SECONDS, exit=True)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def try_changes(sound, num_tries, attempt):
    """Call `attempt` with so many changed versions of a content."""
    versions = EDITS.map(lambda edits: reduce(lambda left, edit: change(left, *edit), edits, sound))
    with limiting():
        tried(num_tries)(given(versions)(attempt))()


def assert_refused(path, error):
    """Fail unless an error is one line that begins with the file, is true, and destroys nothing."""
    text = str(error)
    assert text.startswith(str(path))
    assert "\n" not in text
    # HDF5 asks for the address space that a header declares before it looks how long the file is:
    # it gets none under the limit, and elsewhere never touches it.
    assert "memory" not in text.lower().replace("memory allocation failed for on disk image", "")
    assert "remove" not in text
    assert len(text) < 1000
