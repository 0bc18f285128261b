"""How jobs fail, as data: what a failure is called and means, what follows, how it is recognised.

A pattern fits what a line *names* (an error of CUDA, a missing library), not one program's wording
of it. In an advice `N` stands for a number, `--set` goes to `lenshpc submit`, and a word with a
colon, as `interface:`, is a key of a site profile.
"""

from dataclasses import dataclass
from typing import Literal

Action = Literal["requeue", "exclude node", "stop"]

NEVER = r"(?!)"
# What SLURM's own programs say, often in passing: it is no error of what they run.
SLURM = r"^(srun|sbatch|scontrol|slurmstepd\S*): "
# Libraries that take memory on a GPU.
ON_GPU = (
    r"(?i:\b(CUDA|HIP|ROCm|XPU|NCCL|RCCL|cuDNN|cuBLAS\w*|cuFFT|cuSOLVER|cuSPARSE|MIOpen|hipBLAS\w*"
    r"|rocBLAS|MPS backend))\b"
)
NO_MEMORY = r"(?i:out of memory|memory allocation|failed to allocate|memory not available)"
# What a rank says when another one has gone: the cause stands in the other one's log.
PEER_LOST = (
    r"Connection (closed|reset) by peer|Broken pipe \[|Dist(Backend|Network|Store)Error"
    r"|remote process exited|ncclRemoteError|ncclSystemError|NCCL communicator was aborted"
)
STALLED = (
    r"collective operation timeout|Timed out waiting \d+ms for (recv|send)|not all ranks came to"
    r"|Application timeout caused pair closure|Timed out after \d+ seconds waiting for clients"
    r"|[Ww]ait timeout after \d+ms"
)
NO_INTERFACE = (
    r"connectFullMesh|\b127\.0\.1\.1\b|no socket interface found|makeDeviceFor\w+\("
    r"|Unable to find address for|is neither AF_INET|Using the loopback address as fallback"
    r"|\b(gloo|NCCL WARN)\b.*(is unreachable|No route to host|Cannot assign requested address)"
)
NO_TMPDIR = r"No usable temporary directory found"
WORKER_LOST = r"DataLoader worker .*(killed by signal|exited unexpectedly)"


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A failure's name, what it means, what follows, and how it is recognised.

    `states` are words of SLURM that suffice; `pattern` fits a line of a log, which `unless` does
    not fit. Where no log tells more, `weak_states` and `exits` (exit codes) count, and then `hint`:
    a line of somebody who goes on after it. A group `node` names the culprit. Nodes can have a
    cause in common where it is `is_shared`, such as a path or a container.
    """

    name: str
    action: Action
    meaning: str
    advice: str
    pattern: str = NEVER
    unless: str = NEVER
    states: tuple[str, ...] = ()
    weak_states: tuple[str, ...] = ()
    exits: tuple[int, ...] = ()
    hint: str = NEVER
    is_shared: bool = False


# The order is part of the rules. A rank that lost its peer must not hide the error that ended it.
RULES = (
    Rule(
        name="NODE FAIL",
        action="exclude node",
        meaning="a node was lost: power, network, or SLURM's daemon on it",
        advice="nothing; tell the site if it happens again",
        states=("NODE_FAIL", "BOOT_FAIL", "RECONFIG_FAIL"),
        pattern=r"\*\*\* (JOB|STEP) .* ON (?P<node>\S+) CANCELLED AT \S+ DUE TO NODE FAILURE",
    ),
    Rule(
        name="TIMEOUT",
        action="requeue",
        meaning="the time limit was reached",
        advice="if it happens to many members, submit with a larger --set resources.time_min=N: "
        "the run continues",
        states=("TIMEOUT",),
        pattern=r"CANCELLED AT \S+ DUE TO TIME LIMIT|not requeued because: timed-out",
    ),
    Rule(
        name="PREEMPTED",
        action="requeue",
        meaning="a job of higher priority took the nodes, or somebody requeued it",
        advice="nothing; another qos: or partition: may be preempted less often",
        states=("PREEMPTED", "REQUEUED"),
        pattern=r"CANCELLED AT \S+ DUE TO (PREEMPTION|JOB REQUEUE)",
    ),
    Rule(
        name="DRIVER TOO OLD",
        action="stop",
        meaning="the GPU's driver is older than what torch was built for",
        advice="install a torch build for this driver, then resume; lenshpc doctor shows both",
        pattern=r"driver on your system is too old|driver version is insufficient"
        r"|(cuda|hip)ErrorInsufficientDriver|forward compatibility was attempted"
        r"|CUDA_ERROR_(COMPAT_NOT_SUPPORTED|SYSTEM_DRIVER_MISMATCH)|unsupported display driver"
        r"|PTX was compiled with an unsupported toolchain|unsatisfied condition: cuda",
        unless=r"Warning: ",
        hint=r"driver on your system is too old",
    ),
    Rule(
        name="GPU NOT SUPPORTED",
        action="stop",
        meaning="torch has no code for this kind of GPU",
        advice="install a torch build for this GPU, or ask for another with gpu_type: or "
        "constraint: of the site profile",
        pattern=r"kernel image is (not available|invalid)|no kernel image is|NoKernelImageForDevice"
        r"|NoBinaryForGpu|CUDA_ERROR_NO_BINARY|_STATUS_ARCH_MISMATCH|[Ii]nvalid device function"
        r"|TensileLibrary.* gfx|is not defined for option 'gpu-name'",
    ),
    Rule(
        name="GPU OUT OF MEMORY",
        action="stop",
        meaning="a GPU has too little memory for the model and its share of the batch",
        advice="submit with a smaller --set train.batch_size=N, with --set train.precision=bf16, "
        "or with --set resources.gpus_per_node=N",
        pattern=rf"{ON_GPU}.{{0,200}}{NO_MEMORY}|_ALLOC(ATION)?_FAILED\b"
        r"|(cuda|hip)Error(MemoryAllocation|OutOfMemory)|CUDA_ERROR_OUT_OF_MEMORY"
        r"|\btorch\.(\w+\.)?OutOfMemoryError|_STATUS_NOT_INITIALIZED when calling",
        unless=SLURM,  # a node may be called so
    ),
    Rule(
        name="SHARED MEMORY FULL",
        action="stop",
        meaning="the shared memory (/dev/shm) of a node or of a container is too small",
        advice="submit with a larger --set resources.mem_gb_per_gpu=N; in a container, bind: the "
        "node's /dev/shm",
        pattern=r"(insufficient|out of) shared memory|/dev/shm\b.*No space|No space.*/dev/shm\b"
        r"|creating shared memory|extend /dev/shm"
        r"|(unable to (mmap|open|resize|write)).*(shared memory|</torch_)",
    ),
    Rule(
        name="LIMIT REACHED",
        action="stop",
        meaning="a limit of the system: open files, processes or threads, locked memory",
        advice="raise it in setup: of the site profile, by ulimit -n $(ulimit -Hn) for files, -u "
        "for processes, -l for locked memory; then submit again",
        pattern=r"Too many open files|received \d+ items of ancdata|can't start new thread"
        r"|pthread_create.*failed|[Tt]hread creation failed|[Ff]ile size limit exceeded"
        r"|(fork: |\[Errno 11\] ).*Resource temporarily unavailable|\bRLIMIT_"
        r"|\bibv_\w+.*Cannot allocate memory",
    ),
    Rule(
        name="OUT OF MEMORY",
        action="stop",
        meaning="a process used more main memory than the job asked for",
        advice="submit with a larger --set resources.mem_gb_per_gpu=N: the run continues; or with "
        "--set data.loading=stream",
        states=("OUT_OF_MEMORY",),
        pattern=r"oom[-_ ]kill|[Ee]xceeded (job )?memory limit|[Oo]ut of memory: Killed process"
        r"|tasks? [\d,-]+: Out Of Memory|[Cc]an(no|')t allocate memory|MemoryError\b"
        r"|CPUAllocator.*not enough memory|Unable to allocate [\d.]+ \w*B\b|std::bad_alloc",
    ),
    Rule(
        name="DISK FULL",
        action="stop",
        meaning="a file system is full, or your quota on it is used up",
        advice="free space where the log line says, or where the run is stored, then resume",
        pattern=r"No space left on device|[Qq]uota exceeded|PytorchStreamWriter failed writing"
        r"|enforce fail at inline_container.* unexpected pos",
    ),
    Rule(
        name="GPU FAULT",
        action="exclude node",
        meaning="a GPU, its memory or its link is broken",
        advice="tell the site the node's name",
        # Of the numbers of Xid, 13, 31, 43 and 45 tell of a program's own errors.
        pattern=r"uncorrectable \w+ error|fallen off the bus|GPU is lost"
        r"|NVLink\b.{0,80}(?i:error|fail)|\bXid( \([^)]*\))?:? (?!(13|31|43|45)\b)\d"
        r"|(cuda|hip)Error(ECC|Nvlink|HardwareStack)|CUDA_ERROR_(ECC|NVLINK)_UNCORRECTABLE"
        r"|(?i:cuda|hip) (error|failure)\b.{0,20}(unspecified launch|unknown error)",
    ),
    Rule(
        name="NO GPU",
        action="exclude node",
        meaning="a node's GPU or driver does not answer, a container hides it, or another process "
        "holds it",
        advice="tell the site the node's name; if all nodes say so, look at container_gpu: and "
        "gpu_request: of the site profile",
        pattern=r"No (CUDA|HIP) GPUs are available( on node (?P<node>[\w.-]+))?"
        r"|(CUDA|ROCm)-capable device.*\b(busy|detected)|Found no NVIDIA driver"
        r"|Driver/library version mismatch|system not yet initialized"
        r"|(cuda|hip)Error(NoDevice|DevicesUnavailable|SystemNotReady)"
        r"|CUDA_ERROR_(NO_DEVICE|DEVICE_UNAVAILABLE|SYSTEM_NOT_READY)"
        r"|Unable to determine the device handle",
        is_shared=True,
    ),
    Rule(
        name="CREDENTIAL EXPIRED",
        action="stop",
        meaning="a Kerberos ticket or an AFS token had expired, so files could not be reached",
        advice="renew it (kinit, aklog) for as long as jobs wait and run, then resume",
        pattern=r"Key has (expired|been revoked)|Required key not available"
        r"|(?i:(ticket|tokens?)\b.{0,80}expired|credentials? cache .*not found"
        r"|no (kerberos )?credentials (cache|available|were supplied))",
    ),
    Rule(
        name="AUTHENTICATION FAILED",
        action="exclude node",
        meaning="SLURM's programs did not accept each other's credentials: munge, or clocks that "
        "differ",
        advice="tell the site the node's name; lenshpc doctor compares clocks",
        pattern=rf"{SLURM}.*([Ll]aunch|step|allocation|submission)\b"
        r"(.* node (?P<node>[\w.-]+):)?.*([Aa]uthentication|[Cc]redential)"
        r"|\b(Credential expired|Rewound credential)|Clock skew too great",
        hint=r"[Mm]unge|Protocol authentication error|(Expired|Invalid).* credential",
        is_shared=True,
    ),
    Rule(
        name="NO SHARED FILES",
        action="exclude node",
        meaning="a node does not see the shared files, or their system does not answer there",
        advice="tell the site the node's name; if all nodes say so, move store and runs to a file "
        "system that they share; lenshpc doctor checks this",
        pattern=r"(node (?P<node>[\w.-]+)|one of \S+) does not see |Stale (NFS )?file handle"
        r"|(Remote I/O|Input/output) error|[Tt]ransport endpoint|Host is down|No locks available"
        r"|Read-only file system|Slurmd could not connect IO",
        unless=rf"{SLURM}(?!.*could not connect IO)",
        hint=r"couldn't chdir to",
        is_shared=True,
    ),
    Rule(
        name="LIBRARY MISSING",
        action="stop",
        meaning="a program does not find a library, or one of the version that it was built for",
        advice="load the module that has it with a line in setup: of the site profile, or use a "
        "container: that has it; then submit again",
        pattern=r"cannot open shared object|version \W?(GLIBC|CXXABI)\w*_[\d.]+\W? not found"
        r"|undefined symbol: |symbol lookup error|wrong ELF class|Exec format error"
        r"|static TLS block",
        # what is tried and done without: plugins, extensions, preloads
        unless=r"NCCL (INFO|WARN)|Warning|[Pp]lugin|ignored",
    ),
    Rule(
        name="ILLEGAL INSTRUCTION",
        action="stop",
        meaning="a program was built for newer processors than this node has",
        advice="ask for newer nodes with constraint: of the site profile, or install builds for "
        "this processor",
        pattern=r"Illegal instruction",
        exits=(132,),
    ),
    Rule(
        name="NAN LOSS",
        action="stop",
        meaning="the training diverged: its loss is not finite",
        advice="submit with a smaller --set train.lr=N or with --set train.clip_norm=1, or look at "
        "the data with: lenshpc info STORE",
        pattern=r"the (training|validation) \w+ became -?(nan|inf)"
        r"|loss scale (is )?already at minimum",
    ),
    Rule(
        name="WRONG INPUT",
        action="stop",
        meaning="the recipe, the store or the run is not what it should be",
        advice="do what the line says, then resume",
        pattern=r"^lenshpc\.errors\.\w+Error: ",
        unless=STALLED,
    ),
    Rule(
        name="LAUNCH FAILURE",
        action="stop",
        meaning="the job's program did not start: a line of setup, a path, module, container or "
        "option of srun",
        advice="correct setup:, python:, container: or srun_args: of the site profile, then submit "
        "again; lenshpc doctor tests them",
        # A shell names its script and line; not those where it tells how srun ended.
        pattern=rf"^lenshpc: setup (failed|ended)|{SLURM}fatal: |Unable to create step"
        r"|slurm_script: (line )?\d+: (?!\s*\d)|[Ll]aunch (for .* )?failed|error: execve\(\)"
        r"|(module|apptainer|singularity): (command )?not found|Lmod has detected"
        r"|No module named |error: pyxis: |^FATAL: |Duplicate GPU detected"
        r"|(unrecognized|invalid) option",
        # a kernel's launch, or an option of a function: the program did start
        unless=r"^[A-Za-z_][\w.]*(Error|Exception): (?!.*No module named )",
        weak_states=("LAUNCH_FAILED",),
        hint=rf"{SLURM}error: (?!.*(tasks? [\d,-]+: |\*\*\*|chdir|TMPDIR|pmix|energy))",
    ),
    Rule(
        name="PYTHON ERROR",
        action="stop",
        meaning="the program raised an error",
        advice="read the log with: lenshpc logs RUN; if lenshpc is at fault, report it",
        pattern=r"^([A-Za-z_][\w.]*(Error|Exception|Interrupt)(: |$)| *what\(\): )",
        unless=rf"{PEER_LOST}|{STALLED}|{NO_INTERFACE}|{NO_TMPDIR}|{WORKER_LOST}",
        hint=r"^Traceback \(most recent call last\)",
    ),
    Rule(
        name="NO TMPDIR",
        action="stop",
        meaning="the folder for temporary files does not exist or is not writable",
        advice="set another with env: {TMPDIR: FOLDER} in the site profile, then submit again",
        pattern=NO_TMPDIR,
        hint=r"Unable to create TMPDIR",
    ),
    Rule(
        name="NO INTERFACE",
        action="stop",
        meaning="processes on several nodes cannot reach each other: a node's own name resolves to "
        "its loopback address, or they listen on different networks",
        advice="set interface: in the site profile to the network that the nodes share (it sets "
        "GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME), then submit again; lenshpc doctor lists "
        "the networks",
        pattern=NO_INTERFACE,
        unless=r"NCCL INFO",  # which tells of those that it uses
    ),
    Rule(
        name="COLLECTIVE TIMEOUT",
        action="requeue",
        meaning="a process waited too long for the others (NCCL, gloo): a slow or lost node or "
        "network",
        advice="if it happens again: lenshpc doctor --preflight names slow nodes; where a process "
        "works alone for longer, as on a slow disk, submit with a larger --set train.timeout_min=N",
        pattern=STALLED,
    ),
    Rule(
        name="RANK LOST",
        action="requeue",
        meaning="a process ended without a message, and the others lost their connection to it",
        advice="if it happens again: lenshpc doctor --preflight names slow nodes",
        pattern=PEER_LOST,
    ),
    Rule(
        name="KILLED",
        action="requeue",
        meaning="a process was killed or crashed, often for lack of memory that SLURM did not "
        "notice",
        advice="if it happens again, submit with a larger --set resources.mem_gb_per_gpu=N: the "
        "run continues",
        pattern=r"error: (?P<node>\S+): tasks? [\d,-]+: (Killed|Bus|Segmentation|Abort|Floating)"
        rf"|^Fatal Python error: |{WORKER_LOST}",
        exits=(9, 134, 135, 136, 137, 139),
    ),
    Rule(
        name="CANCELLED",
        action="stop",
        meaning="somebody cancelled it",
        advice="to continue: lenshpc resume RUN",
        pattern=r"\*\*\* JOB \S+ ON \S+ CANCELLED AT \S+ \*\*\*",
        weak_states=("CANCELLED", "REVOKED", "DEADLINE"),
    ),
)
UNKNOWN = Rule(
    name="UNKNOWN",
    action="stop",
    meaning="it ended before it was done, and nothing says why",
    advice="read the log with: lenshpc logs RUN",
)
