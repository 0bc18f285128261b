"""NVIDIA's tools are understood: all fixtures here are synthetic, after their documents.

The tables of dcgmi follow NVIDIA's DCGM user guide, the lines of nvidia-smi its manual page.
"""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tries import tried

from lenshpc.launch import health
from lenshpc.launch.health import (
    FIELDS,
    ROWS,
    Complaints,
    find_complaints,
    find_driver,
    name_values,
    read_torch,
    require_driver,
)

HEALTHY = """\
Health Monitor Report
+------------------+---------------------------------------------------------+
| Overall Health:    Healthy                                                 |
+==================+=========================================================+
"""
SICK = """\
Health Monitor Report
+----------------+-----------------------------------------------------------+
| Group 0        | Overall Health: Failure                                   |
+================+===========================================================+
| GPU ID: 0      | Failure                                                   |
|                | Memory system: Failure - Double-bit ECC errors            |
| GPU ID: 1      | Warning                                                   |
|                | PCIe system: Warning - Detected more than 8 PCIe replays  |
+----------------+-----------------------------------------------------------+
"""
DIAGNOSIS = """\
Successfully ran diagnostic for group.
+---------------------------+------------------------------------------------+
| Diagnostic                | Result                                         |
+===========================+================================================+
|-----  Deployment  --------+------------------------------------------------|
| Denylist                  | Pass                                           |
| CUDA Main Library         | Fail                                           |
| Persistence Mode          | Warn                                           |
| Graphics Processes        | Skip                                           |
+---------------------------+------------------------------------------------+
"""
ODD = ["|", "||", "0, 1.2, 3, Yes, Active", f"{'9' * 5000}, 1, {'9' * 5000}, Yes, Active"]
ODD += ["a=b=c, =,", "Kernel Module", f"Kernel Module {'9' * 5000}.1", "cuda = '", "١٢, ١, ١, ١, ١"]
UNREACHED = "Error: unable to establish a connection to the specified host: localhost\n"


@pytest.mark.parametrize(
    ("told", "failures", "warnings"),
    [
        ({}, (), ()),
        ({"dcgm": HEALTHY}, (), ()),
        ({"dcgm": UNREACHED}, (), ()),
        (
            {"dcgm": SICK},
            (
                "DCGM: Group 0: Overall Health: Failure",
                "DCGM: GPU ID: 0: Failure",
                "DCGM: Memory system: Failure - Double-bit ECC errors",
            ),
            (
                "DCGM: GPU ID: 1: Warning",
                "DCGM: PCIe system: Warning - Detected more than 8 PCIe replays",
            ),
        ),
        (
            {"dcgm": DIAGNOSIS},
            ("DCGM: CUDA Main Library: Fail",),
            ("DCGM: Persistence Mode: Warn",),
        ),
        ({"gpus": name_values("0, 535.129.03, 0, No, Not Active\n", FIELDS)}, (), ()),
        ({"gpus": name_values("0, 535.129.03, [N/A], [N/A], [N/A]\n", FIELDS)}, (), ()),
        (
            {"gpus": name_values("0, 535.129.03, 0, No, Active\n1, 535.129.03, 3, Yes, -", FIELDS)},
            ("GPU 1: 3 uncorrected memory errors since it was started",),
            (
                "GPU 0: slowed down by heat or lack of power",
                "GPU 1: memory waits for a restart to be replaced",
            ),
        ),
        (
            {"rows": name_values("GPU-1f, No, Yes\nGPU-2a, Yes, No\n", ROWS)},
            ("GPU GPU-1f: rows of its memory cannot be replaced any more",),
            ("GPU GPU-2a: memory waits for a restart to be replaced",),
        ),
        (
            {
                "gpus": "Unable to determine the device handle for GPU 0000:3B:00.0: GPU is lost.  "
                "Reboot the system to recover this GPU",
                "rows": "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA "
                "driver.",
            },
            (
                "Unable to determine the device handle for GPU 0000:3B:00.0: GPU is lost. Reboot "
                "the system to recover this GPU",
                "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.",
            ),
            (),
        ),
    ],
)
def test_complaints_of_the_tools_are_found(told, failures, warnings):
    assert find_complaints(told) == Complaints(failures=failures, warnings=warnings)


@pytest.mark.parametrize(
    ("text", "driver"),
    [
        (
            "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.129.03  Thu Oct 19 18:56:32\n"
            "GCC version:  gcc version 11.4.0 (Ubuntu 11.4.0-1ubuntu1~22.04)\n",
            535,
        ),
        ("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build", 580),
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  470.57  Thu", 470),
        ("GCC version:  gcc version 11.4.0", None),
        ("", None),
    ],
)
def test_driver_is_read(text, driver):
    assert find_driver(text) == driver


@pytest.mark.parametrize(
    ("cuda", "driver"),
    [("11.8", 450), ("12.8", 525), ("13.0", 580), ("13", 580), ("14.1", None), ("", None)],
)
def test_driver_that_cuda_needs_is_that_of_its_major_version(cuda, driver):
    assert require_driver(cuda) == driver


@pytest.mark.parametrize(
    ("text", "build"),
    [
        (
            "__version__ = '2.11.0+cu128'\ndebug = False\ncuda: Optional[str] = '12.8'\n"
            "git_version = 'cf30'\nhip: Optional[str] = None\n",
            {"__version__": "2.11.0+cu128", "cuda": "12.8"},
        ),
        ("__version__ = '2.4.0'\ncuda = '12.1'\n", {"__version__": "2.4.0", "cuda": "12.1"}),
        (
            "__version__ = '2.6.0+rocm6.2'\n"
            "cuda: Optional[str] = None\nhip: Optional[str] = '6.2'\n",
            {"__version__": "2.6.0+rocm6.2", "hip": "6.2"},
        ),
        ("", {}),
    ],
)
def test_build_of_torch_is_read_and_not_imported(text, build):
    assert read_torch(text) == build


@pytest.mark.parametrize("tries", [100, pytest.param(10_000, marks=pytest.mark.slow)])
def test_any_text_of_the_tools_is_read(tries):
    pieces = st.sampled_from(ODD + f"{HEALTHY}{SICK}{DIAGNOSIS}{UNREACHED}".split("\n"))

    @tried(tries)
    @given(st.lists(pieces | st.text(max_size=60), max_size=6))
    def check(lines):
        text = "\n".join(lines)
        named = name_values(text, FIELDS)
        told = find_complaints({"dcgm": text, "gpus": named, "rows": named})
        assert all(isinstance(one, str) and one for one in told.failures + told.warnings)
        assert (find_driver(text) or 0) >= 0
        assert require_driver(text) in {None, *health.DRIVERS.values()}
        assert set(read_torch(text)) <= {"__version__", "cuda", "hip"}

    check()


@pytest.fixture
def tools(tmp_path, monkeypatch):
    """Return a folder whose programs are found before all others."""
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    def install(name, body):
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)

    return install


def test_tools_are_asked_for_what_they_know(tools):
    """An older nvidia-smi does not know a field, and DCGM's watches are off."""
    tools("dcgmi", f'[ "$1" = diag ] && cat <<EOF\n{DIAGNOSIS}EOF')
    tools(
        "nvidia-smi",
        'case "$1" in\n*retired*) echo \'Field "retired_pages.pending" is not a valid field to '
        "query.'; exit 2;;\n--query-gpu=*) echo '0, 470.57.02, 2, Not Active';;\n"
        "*) echo 'GPU-1f, No, No';;\nesac",
    )
    asked = health.ask_tools()
    assert asked["dcgm"] == DIAGNOSIS
    assert asked["gpus"].rstrip("\n") == (
        "index=0, driver_version=470.57.02, ecc.errors.uncorrected.volatile.total=2, "
        "clocks_throttle_reasons.hw_slowdown=Not Active"
    )
    assert find_complaints(asked).failures == (
        "DCGM: CUDA Main Library: Fail",
        "GPU 0: 2 uncorrected memory errors since it was started",
    )
