"""Each rule of failures on lines of its kind, on those of the others, and its advice followed.

The lines are written after the shape of real ones: of CUDA, ROCm, NCCL, gloo, torch, glibc, Linux,
SLURM, munge, Kerberos, Apptainer. Those of SLURM about a log that cannot be opened were seen on
this project's cluster (22.05.8).
"""

import re
import subprocess
from itertools import pairwise

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from tries import tried

from lenshpc.cli.main import main
from lenshpc.config import parse_assignment
from lenshpc.launch.failures import TAIL_BYTES, Failure, classify, read_tails
from lenshpc.launch.requeue import decide
from lenshpc.launch.rules import RULES
from lenshpc.launch.sites import Site
from lenshpc.run.recipe import load_recipe
from lenshpc.run.sections import Requeues

LINES = {
    "NODE FAIL": [
        "slurmstepd: error: *** STEP 9.0 ON gpu3 CANCELLED AT 2026-05-01T10:00:00 DUE TO NODE "
        "FAILURE, SEE SLURMCTLD LOG FOR DETAILS ***",
    ],
    "TIMEOUT": [
        "slurmstepd: error: *** JOB 9 ON gpu3 CANCELLED AT 2026-05-01T10:00:00 DUE TO TIME LIMIT "
        "***",
    ],
    "PREEMPTED": [
        "slurmstepd: error: *** JOB 9 ON gpu3 CANCELLED AT 2026-05-01T10:00:00 DUE TO PREEMPTION "
        "***",
    ],
    "DRIVER TOO OLD": [
        "RuntimeError: The NVIDIA driver on your system is too old (found version 11040). Please "
        "update your GPU driver by downloading and installing a new version",
        "lenshpc.errors.LaunchError: No CUDA GPUs are available on node gpu7, which has nvidia0. "
        "CUDA says: The NVIDIA driver on your system is too old (found version 11040); tell",
        "RuntimeError: CUDA error: CUDA driver version is insufficient for CUDA runtime version",
        "RuntimeError: CUDA error: the provided PTX was compiled with an unsupported toolchain.",
        "RuntimeError: Unexpected error from cudaGetDeviceCount(). Error 804: forward compatibility"
        " was attempted on non supported HW",
        "RuntimeError: CUDA unknown error. Error 803: system has unsupported display driver / cuda "
        "driver combination",
        "nvidia-container-cli: requirement error: unsatisfied condition: cuda>=12.6, please update",
        "/env/torch/cuda/__init__.py:182: UserWarning: CUDA initialization: The NVIDIA driver on "
        "your system is too old (found version 12040). (Triggered internally at CUDAFunctions.cpp)",
    ],
    "GPU NOT SUPPORTED": [
        "RuntimeError: CUDA error: no kernel image is available for execution on the device",
        "torch.AcceleratorError: CUDA error: device kernel image is invalid",
        '"hipErrorNoBinaryForGpu: Unable to find code object for all current devices!"',
        "RuntimeError: HIP error: invalid device function",
        "RuntimeError: cuDNN error: CUDNN_STATUS_ARCH_MISMATCH",
        "rocBLAS error: Cannot read /opt/rocm/lib/TensileLibrary.dat: Illegal seek for GPU arch : "
        "gfx1032",
    ],
    "GPU OUT OF MEMORY": [
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 22.00 MiB. GPU 0 has a "
        "total capacity of 23.65 GiB of which 11.06 MiB is free.",
        "torch.cuda.OutOfMemoryError: HIP out of memory. Tried to allocate 2.00 GiB",
        "torch.AcceleratorError: CUDA error: out of memory",
        "RuntimeError: cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "RuntimeError: cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
        "RuntimeError: CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "RuntimeError: CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(h)`",
        "RuntimeError: CUDA error: HIPBLAS_STATUS_ALLOC_FAILED when calling hipblasCreate(&handle)",
        "RuntimeError: cuFFT error: CUFFT_ALLOC_FAILED",
        "MIOpen Error: /src/hip/handlehip.cpp:70: Memory not available to allocate buffer: 65536",
        "Cuda failure 2 'out of memory'",
        "gpu3:3063028:3066152 [3] include/alloc.h:178 NCCL WARN Cuda failure 'out of memory'",
        "NCCL Error 1: unhandled cuda error: Cuda failure 2 'out of memory'",
        "RuntimeError: DeepSpeed engine: CUDA error: out of memory at cpu_adam.cpp",
        "RuntimeError: CUDA driver error: CUDA_ERROR_OUT_OF_MEMORY",
    ],
    "SHARED MEMORY FULL": [
        "NCCL WARN Error: failed to extend /dev/shm/nccl-aBcDeF to 9637892 bytes",
        "RuntimeError: DataLoader worker (pid 71) is killed by signal: Bus error. It is possible "
        "that dataloader's workers are out of shared memory. Please try to raise your limit",
        "ERROR: Unexpected bus error encountered in worker. This might be caused by insufficient "
        "shared memory (shm).",
        "RuntimeError: unable to write to file </torch_71_3>: No space left on device (28)",
        "gpu3:71:71 [0] include/shm.h:28 NCCL WARN Error while creating shared memory segment "
        "/dev/shm/nccl-xyz (size 9637888)",
        "OSError: [Errno 28] No space left on device: '/dev/shm/psm_1f'",
    ],
    "LIMIT REACHED": [
        "OSError: [Errno 24] Too many open files: '/stores/lenses/images/c/3/0/0/0'",
        "RuntimeError: received 0 items of ancdata",
        "RuntimeError: can't start new thread",
        "OpenBLAS blas_thread_init: pthread_create failed for thread 3 of 4: Resource temporarily "
        "unavailable",
        "bash: fork: retry: Resource temporarily unavailable",
        "BlockingIOError: [Errno 11] Resource temporarily unavailable",
        "libgomp: Thread creation failed: Resource temporarily unavailable",
        "NCCL WARN Call to ibv_reg_mr failed with error Cannot allocate memory",
    ],
    "OUT OF MEMORY": [
        "RuntimeError: [enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: not "
        "enough memory: you tried to allocate 68719476736 bytes.",
        "slurmstepd: error: Detected 1 oom_kill event in StepId=9.0. Some of the step tasks have "
        "been OOM Killed.",
        "srun: error: cuda7: task 0: Out Of Memory",
        "slurmstepd: error: Exceeded job memory limit at some point.",
        "numpy._core._exceptions._ArrayMemoryError: Unable to allocate 5.21 GiB for an array",
        "OSError: [Errno 12] Cannot allocate memory",
        "terminate called after throwing an instance of 'std::bad_alloc'",
        "RuntimeError: [enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't "
        "allocate memory: you tried to allocate 4503599627370496 bytes.",
    ],
    "DISK FULL": [
        "OSError: [Errno 28] No space left on device: '/scratch/runs/x/members/0/checkpoint'",
        "OSError: [Errno 122] Disk quota exceeded",
        "RuntimeError: [enforce fail at inline_container.cc:672] . unexpected pos 704 vs 598",
    ],
    "GPU FAULT": [
        "torch.AcceleratorError: CUDA error: uncorrectable ECC error encountered",
        "RuntimeError: CUDA error: uncorrectable NVLink error detected during the execution",
        "RuntimeError: CUDA error: unspecified launch failure",
        "RuntimeError: HIP error: unspecified launch failure",
        "gpu3:71:71 [0] enqueue.cc:1085 NCCL WARN Cuda failure 'unknown error'",
        "kernel: NVRM: Xid (PCI:0000:dc:00): 79, pid=1818990, name=python3, GPU has fallen off",
        "health check: Xid 149 on GPU 3",
        "Unable to determine the device handle for GPU 0000:C1:00.0: GPU is lost.",
        "NCCL WARN NVLink 3 of GPU 1 reports 17 CRC errors",
    ],
    "NO GPU": [
        "RuntimeError: No CUDA GPUs are available",
        "RuntimeError: No HIP GPUs are available",
        "RuntimeError: CUDA error: all CUDA-capable devices are busy or unavailable",
        "RuntimeError: CUDA error: CUDA-capable device(s) is/are busy or unavailable",
        "RuntimeError: CUDA error: no CUDA-capable device is detected",
        "Failed to initialize NVML: Driver/library version mismatch",
        "RuntimeError: Unexpected error from cudaGetDeviceCount(). Error 802: system not yet "
        "initialized",
        "RuntimeError: Found no NVIDIA driver on your system. Please check that you have a GPU",
    ],
    "CREDENTIAL EXPIRED": [
        "OSError: [Errno 127] Key has expired: '/nfs/home/me/runs/x/plan.json'",
        "OSError: [Errno 126] Required key not available: '/nfs/home/me'",
        "kinit: Ticket expired while renewing credentials",
        "afs: Tokens for user of AFS id 71 for cell example.org have expired",
        "klist: Credentials cache keyring 'persistent:71:71' not found",
    ],
    "AUTHENTICATION FAILED": [
        "srun: error: Task launch for 47.0 failed on node n-c122: Job credential expired",
        "srun: error: Application launch failed: Invalid job credential",
        "srun: error: Unable to create step for job 9: Protocol authentication error",
        "slurmstepd: error: Munge decode failed: Expired credential",
        "slurm_load_jobs error: Protocol authentication error",
        "kinit: Clock skew too great while getting initial credentials",
    ],
    "NO SHARED FILES": [
        "lenshpc.errors.DataError: node gpu3 does not see /stores/lenses, which was there when "
        "the job was submitted; tell the site the node's name, or if no node sees it, move it",
        "srun: error: task 1 launch failed: Slurmd could not connect IO",
        "OSError: [Errno 116] Stale file handle: '/scratch/runs'",
        "lenshpc.errors.DataError: /scratch/x cannot be read: Input/output error; check its",
        "OSError: [Errno 107] Transport endpoint is not connected",
        "mkdir: cannot create directory 'x': Cannot send after transport endpoint shutdown",
        "OSError: [Errno 30] Read-only file system: '/scratch/runs/x/slurm'",
        "OSError: [Errno 37] No locks available",
        "slurmstepd: error: couldn't chdir to `/home/me': No such file or directory: going to /tmp "
        "instead",
    ],
    "LIBRARY MISSING": [
        "/env/bin/python: error while loading shared libraries: libpython3.12.so.1.0: cannot open "
        "shared object file: No such file or directory",
        "ImportError: libcudart.so.12: cannot open shared object file: No such file or directory",
        "ImportError: /lib64/libc.so.6: version `GLIBC_2.34' not found (required by /env/x.so)",
        "ImportError: /lib64/libstdc++.so.6: version `CXXABI_1.3.15' not found (required by x.so)",
        "ImportError: /env/lib/torch.so: undefined symbol: ncclCommRegister",
        "/env/bin/python: symbol lookup error: /env/lib/x.so: undefined symbol: f",
        "/env/bin/python: cannot execute binary file: Exec format error",
    ],
    "ILLEGAL INSTRUCTION": [
        "srun: error: node1: task 0: Illegal instruction (core dumped)",
        "/spool/job9/slurm_script: line 21: 4321 Illegal instruction     (core dumped) srun python",
    ],
    "NAN LOSS": [
        "lenshpc.errors.LensHpcError: the training loss became nan in epoch 3; lower train.lr",
        "Exception: Current loss scale already at minimum - cannot decrease scale anymore.",
    ],
    "WRONG INPUT": ["lenshpc.errors.ConfigError: run x: unknown key 'lr'"],
    "LAUNCH FAILURE": [
        "lenshpc: setup failed (exit code 1): module load cuda/12.4",
        "lenshpc: setup ended the script before srun",
        "srun: fatal: SLURM_MEM_PER_CPU, SLURM_MEM_PER_GPU, and SLURM_MEM_PER_NODE are mutually "
        "exclusive.",
        "srun: fatal: cpus-per-task set by two different environment variables "
        "SLURM_CPUS_PER_TASK=4 != SLURM_TRES_PER_TASK=cpu:8",
        "srun: error: Unable to create step for job 9: Requested node configuration is not "
        "available",
        "srun: unrecognized option '--mpi-foo'",
        "/spool/job9/slurm_script: line 12: /env/bin/activate: No such file or directory",
        "/var/spool/slurmd/job9/slurm_script: 4: module: not found",
        "slurmstepd-node2: error: execve(): /env/bin/python: No such file or directory",
        "ModuleNotFoundError: No module named 'timm'",
        "slurmstepd: error: pyxis: couldn't start container",
        "FATAL:   container creation failed: mount /scratch->/scratch error: no such file",
        "ncclInvalidUsage: Duplicate GPU detected : rank 1 and rank 0 both on CUDA device c1000",
        "srun: error: Invalid node name specified",
    ],
    "PYTHON ERROR": [
        "RuntimeError: CUDA kernel launch failed: invalid configuration argument",
        "ValueError: invalid option 'foo' for activation",
        "ValueError: x",
        "AssertionError",
        "torch.AcceleratorError: CUDA error: device-side assert triggered",
        "  what():  CUDA error: an illegal memory access was encountered",
        "Traceback (most recent call last):",
    ],
    "NO TMPDIR": [
        "FileNotFoundError: [Errno 2] No usable temporary directory found in ['/local/9', '/tmp']",
        "slurmstepd: error: Unable to create TMPDIR [/scratch/9]: Permission denied",
    ],
    "NO INTERFACE": [
        "RuntimeError: Gloo connectFullMesh failed with [/gloo/transport/tcp/pair.cc:144] no error",
        "RuntimeError: [gloo/transport/tcp/pair.cc:152] timed out connecting: SO_ERROR: Connection "
        "refused, remote=[127.0.1.1]:14215",
        "Bootstrap : no socket interface found",
        "RuntimeError: [enforce fail at gloo/transport/tcp/device.cc:84] ifa != nullptr. Unable to "
        "find address for: ib0",
        "RuntimeError: makeDeviceForHostname(): unsupported gloo device",
        "ncclSocketInit: connecting to address  with family 59936 is neither AF_INET(2) nor "
        "AF_INET6(10)",
        "[W1129 ProcessGroupGloo.cpp:757] Warning: Unable to resolve hostname to a (local) "
        "address. Using the loopback address as fallback. Manually set the interface to bind to "
        "with GLOO_SOCKET_IFNAME.",
        "RuntimeError: [/gloo/transport/tcp/socket.cc:142] connect: Network is unreachable",
        "gpu3:1:2 [0] socket.cc:441 NCCL WARN connect to 10.1.0.2<4000> failed : No route to host",
    ],
    "COLLECTIVE TIMEOUT": [
        "[E ProcessGroupNCCL.cpp:737] [Rank 1] Watchdog caught collective operation timeout: "
        "WorkNCCL(SeqNum=469508, OpType=ALLREDUCE) ran for 1802212 milliseconds",
        "RuntimeError: [gloo/transport/tcp/unbound_buffer.cc:78] Timed out waiting 6000ms for recv "
        "operation to complete",
        "lenshpc.errors.LaunchError: not all ranks came to /runs/x/slurm/rendezvous/9.0 within "
        "1800 s: read the logs of all ranks",
        "torch.distributed.DistStoreError: wait timeout after 600000ms, keys: /default_pg/0//cpu",
    ],
    "RANK LOST": [
        "RuntimeError: [/gloo/transport/tcp/pair.cc:553] Connection closed by peer [10.1.0.2]:4862",
        "torch.distributed.DistBackendError: NCCL error in: NCCLUtils.hpp, remote process exited",
    ],
    "KILLED": [
        "srun: error: gpu3: task 289: Bus error",
        "srun: error: gpu3: tasks 0-3: Killed",
        "Fatal Python error: Segmentation fault",
        "RuntimeError: DataLoader worker (pid 71) is killed by signal: Killed.",
    ],
    "CANCELLED": ["slurmstepd: error: *** JOB 9 ON gpu3 CANCELLED AT 2026-05-01T10:00:00 ***"],
}
# What stands in the log of a job that goes on, or of one that fails for another reason.
HARMLESS = [
    "gpu3:1:2 [0] NCCL INFO NET/Plugin: Plugin load (libnccl-net.so) returned 2 : libnccl-net.so: "
    "cannot open shared object file: No such file or directory",
    "ERROR: ld.so: object 'libx.so' from LD_PRELOAD cannot be preloaded (cannot open shared object "
    "file): ignored.",
    "/env/torchvision/io/image.py:14: UserWarning: Failed to load image Python extension: "
    "libjpeg.so.62: cannot open shared object file",
    "gpu3:1:2 [0] NCCL INFO NCCL_SOCKET_IFNAME set by environment to ib0",
    "gpu3:1:2 [0] NCCL INFO Bootstrap : Using lo:127.0.1.1<0>",
    "gpu3:1:2 [0] NCCL INFO Channel 00 : 0[1020] -> 3[1050] via P2P/NVLink/IPC",
    "slurmstepd: error: mpi/pmix_v4: init: (null) [0]: pmi/pmix: can not load PMIx library",
    "slurmstepd: error: Setting TMPDIR to /tmp",
    "srun: error: gpu3: task 0: Exited with exit code 1",
    "srun: Job step aborted: Waiting up to 32 seconds for job step to finish.",
    "kernel: NVRM: Xid (PCI:0000:dc:00): 45, pid=1818990, name=python3, Ch 00000001",
    "epoch 3 of 15, loss 0.31",
    "lenshpc: job 9 is not requeued: GPU OUT OF MEMORY: CUDA out of memory; submit with a smaller",
]
ORDER = [rule.name for rule in RULES]
ACTIONS = {rule.name: rule.action for rule in RULES}
CASES = [(name, line) for name, lines in LINES.items() for line in lines]
FIRST = [(name, lines[0]) for name, lines in LINES.items()]


def find_name(*logs, state="FAILED", exit_code="1:0", nodes=""):
    return classify(state, exit_code, logs, nodes).name


def test_every_rule_has_a_line():
    assert list(LINES) == ORDER


@pytest.mark.parametrize(("name", "line"), CASES)
def test_line_is_recognised_by_what_it_names(name, line):
    failure = classify("FAILED", "1:0", [f"epoch 1\n[rank1]: {line}\nsrun: Terminating"])
    assert (failure.name, failure.line) == (name, line[:300])


@pytest.mark.parametrize("line", HARMLESS)
def test_line_that_means_nothing_names_nothing(line):
    assert find_name(line) == "UNKNOWN"
    assert find_name(line, "ValueError: x") == "PYTHON ERROR"


@pytest.mark.parametrize(("name", "line"), FIRST)
def test_cause_stands_before_its_consequence_in_whatever_log_it_is(name, line):
    others = [(ORDER.index(name), ORDER.index(other), text) for other, text in FIRST]
    found = [[find_name(line, text), find_name(text, line)] for _, _, text in others]
    assert found == [[ORDER[min(own, other)]] * 2 for own, other, _ in others]


@pytest.mark.parametrize(
    ("consequence", "cause", "name"),
    [
        (LINES["RANK LOST"][0], "ImportError: libc.so.6: version `GLIBC_2.34' not found", ""),
        (LINES["NO INTERFACE"][0], "ValueError: x", "PYTHON ERROR"),
        ("RuntimeError: No CUDA GPUs are available", LINES["DRIVER TOO OLD"][1], ""),
        ("OSError: [Errno 5] Input/output error", LINES["GPU OUT OF MEMORY"][1], ""),
        (
            "slurmstepd: error: couldn't chdir to `/home/me': No such file or directory",
            "ValueError: x",
            "PYTHON ERROR",
        ),
        ("slurmstepd: error: Unable to create TMPDIR [/x]: Permission denied", "", "NO TMPDIR"),
        (
            "slurmstepd: error: slurm_get_node_energy: Protocol authentication error",
            "ValueError: x",
            "PYTHON ERROR",
        ),
        (LINES["DRIVER TOO OLD"][-1], "ValueError: x", "PYTHON ERROR"),
        (LINES["COLLECTIVE TIMEOUT"][2], "ValueError: x", "PYTHON ERROR"),
        ("Traceback (most recent call last):", "srun: error: gpu3: task 0: Killed", "KILLED"),
    ],
)
def test_cause_is_told_and_not_what_follows_from_it(consequence, cause, name):
    wanted = name or find_name(cause)
    assert find_name(f"{consequence}\n{cause}") == wanted
    assert find_name(consequence, cause) == find_name(cause, consequence) == wanted


def test_job_whose_log_could_not_be_opened_says_which_node_does_not_see_which_folder(tmp_path):
    failure = classify("FAILED", "0:53", ["ValueError: of an attempt before"], "gpu3", tmp_path)
    line = f"node gpu3 does not see {tmp_path}, or may not write there: no log was begun"
    rule = next(rule for rule in RULES if rule.name == "NO SHARED FILES")
    assert failure == Failure(
        name=rule.name,
        action="exclude node",
        meaning=rule.meaning,
        advice=rule.advice,
        line=line,
        tail=(line,),
        node="gpu3",
    )
    several = classify("FAILED", "0:53", (), "gpu[3-4]", tmp_path)
    assert (several.name, several.node) == ("NO SHARED FILES", "")
    assert several.line.startswith(f"one of gpu[3-4] does not see {tmp_path}, ")


@pytest.mark.parametrize(
    ("index", "node"), [(0, "n-c122"), (1, ""), (3, "")], ids=["named", "of none", "of none either"]
)
def test_node_is_named_by_the_line_that_names_one(index, node):
    line = LINES["AUTHENTICATION FAILED"][index]
    assert classify("FAILED", "1:0", [line], "n[1-9]").node == node


@pytest.mark.parametrize(
    ("state", "exit_code", "name"),
    [
        ("LAUNCH_FAILED", "0:0", "LAUNCH FAILURE"),
        ("RECONFIG_FAIL", "0:0", "NODE FAIL"),
        ("FAILED", "132:0", "ILLEGAL INSTRUCTION"),
        ("FAILED", "0:4", "ILLEGAL INSTRUCTION"),
        ("FAILED", "0:8", "KILLED"),
        ("FAILED", "no number", "UNKNOWN"),
    ],
)
def test_state_and_exit_code_tell_where_no_log_does(state, exit_code, name):
    assert find_name(state=state, exit_code=exit_code) == name


@pytest.mark.parametrize(("name", "line"), FIRST)
def test_job_is_sent_again_unless_the_failure_would_come_again(name, line):
    decision = decide([], restart=0, exit_code=1, budgets=Requeues(), logs=[line])
    assert decision.requeue == (ACTIONS[name] != "stop")


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_settings_that_an_advice_names_make_a_valid_recipe(rule):
    smaller = {"train.batch_size": "8", "resources.gpus_per_node": "2", "train.lr": "0.00001"}
    for key, value in re.findall(r"--set (\S+)=(\w+)", rule.advice):
        setting = f"{key}={smaller.get(key, '32') if value == 'N' else value}"
        changed, leaf = parse_assignment(setting)
        recipe = load_recipe("lens_finding", [(changed, leaf)])
        section, name = changed.split(".")
        assert getattr(getattr(recipe, section), name) == leaf
        assert recipe != load_recipe("lens_finding")


def test_memory_and_time_that_an_advice_raises_go_on_in_the_same_run(spots):
    from lenshpc.run.plan import expand

    keys = {
        key
        for rule in RULES
        for key in re.findall(r"--set (\S+)=N: the run continues", rule.advice.replace("\n", " "))
    }
    assert keys == {"resources.time_min", "resources.mem_gb_per_gpu"}
    names = set()
    for changes in ([], *([(key, 500)] for key in sorted(keys))):
        recipe = load_recipe("multiclass", [("models", ["test_resnet"]), *changes])
        names.add(expand(recipe, spots)[0].run_name)
    assert len(names) == 1


# keys of a profile that an advice names with their values, as a user would write them
PROFILE = {
    "setup": ["ulimit -n $(ulimit -Hn)", "module load gcc"],
    "python": "/env/bin/python",
    "container": "/images/lenshpc.sif",
    "srun_args": ["--mpi=none"],
    "constraint": "a100",
    "partition": "gpu",
    "qos": "long",
    "bind": ["/dev/shm"],
    "env": {"TMPDIR": "/scratch/tmp"},
    "interface": "ib0",
    "gpu_type": "a100",
    "gpu_request": "gres",
    "container_gpu": "nv",
}


def test_keys_that_advices_name_make_a_valid_profile():
    told = {key for rule in RULES for key in re.findall(r"\b([a-z_]+):(?! lenshpc)", rule.advice)}
    assert told == set(PROFILE)
    Site(name="big", scheduler="slurm", **PROFILE)


def test_commands_that_advices_name_are_there_with_their_options():
    told = {
        tuple(words.split())
        for rule in RULES
        for words in re.findall(r"lenshpc ([a-z]+(?: --[a-z-]+)*)", rule.advice)
        if not words.startswith("is")
    }
    assert told == {("doctor",), ("doctor", "--preflight"), ("info",), ("logs",), ("resume",)}
    for command, *options in told:
        done = CliRunner().invoke(main, [command, "--help"])
        assert done.exit_code == 0
        assert all(option in done.stdout for option in options)


def test_limit_is_raised_by_the_line_that_the_advice_gives():
    line = PROFILE["setup"][0]
    assert line in next(rule for rule in RULES if rule.name == "LIMIT REACHED").advice
    script = f"ulimit -Sn 64; {line}; ulimit -Sn; ulimit -Hn"
    done = subprocess.run(["bash", "-ec", script], capture_output=True, text=True, check=True)
    soft, hard = done.stdout.split()
    assert soft == hard


@pytest.mark.parametrize("tries", [50, pytest.param(5_000, marks=pytest.mark.slow)])
def test_whatever_a_job_says_is_named(tries):
    words = st.one_of(
        st.sampled_from([line for _, line in CASES] + HARMLESS),
        st.text(max_size=60),
        st.text("():[] '=/.\n0aCUDAErrornode", max_size=200),
    )
    texts = st.lists(st.lists(words, max_size=4).map("\n".join), max_size=3)
    states = st.sampled_from(["FAILED", "TIMEOUT", "CANCELLED", "", "SOMETHING_NEW"]) | st.text()
    codes = st.from_regex(r"[0-9]{1,6}:[0-9]{1,6}", fullmatch=True) | st.text(max_size=8)
    nodes = st.sampled_from(["", "gpu3", "gpu[1-2]", "a,b"]) | st.text(max_size=8)

    @tried(tries)
    @given(states, codes, texts, nodes)
    def check(state, exit_code, logs, where):
        failure = classify(state, exit_code, logs, where)
        assert failure.name in {*ORDER, "UNKNOWN"}
        assert failure.action == ACTIONS.get(failure.name, "stop")
        assert len(failure.line) <= 300
        assert len(failure.tail) <= 10

    check()


@pytest.mark.parametrize("unit", ["CUDA ", "task 1: ", "node x does not ", "a.", "srun: error: "])
def test_line_as_long_as_a_tail_is_looked_through_at_once(unit):
    sizes = (TAIL_BYTES // 2, TAIL_BYTES)
    for size in sizes:
        text = (unit * size)[:size]
        assert find_name(text, "ValueError: x") in {"PYTHON ERROR", "LAUNCH FAILURE"}


def test_only_the_end_of_a_log_is_read_of_whatever_size_it_is(tmp_path):
    path = tmp_path / "9_0_log.out"
    end = f"\n{'x' * 100}\nValueError: x\n"
    with path.open("wb") as stream:
        stream.write(b"torch.OutOfMemoryError: CUDA out of memory\n")
        stream.seek(1 << 40)  # a hole: a terabyte that takes no room
        stream.write(end.encode())
    [tail] = read_tails([path])
    assert len(tail.encode()) == TAIL_BYTES
    assert tail.endswith(end)
    assert find_name(tail) == "PYTHON ERROR"


def test_order_has_each_name_once():
    assert all(first != second for first, second in pairwise(sorted(ORDER)))
