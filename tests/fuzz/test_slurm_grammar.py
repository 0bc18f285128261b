"""Records of any version of SLURM, among what sites print, come back exactly."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tries import tried

from lenshpc.launch.accounting import Allocation, parse_allocations
from lenshpc.launch.facts import parse_config, parse_records
from lenshpc.launch.slurm import ENDED, JobState, parse_job_id, parse_sacct, parse_squeue

TRIES = [40, pytest.param(2_000, marks=pytest.mark.slow)]
# what no grammar below makes: text of sites, of other jobs' steps and parts
NOISE = st.sampled_from(
    [
        *("", " ", "CLUSTER: big", "JOBID|STATE|NODELIST|REASON", "sacct: notice", "| | | | | |"),
        *("* 12 users | 3 jobs | wait | for | GPUs *", "=== 80 % = your quota ===", "12", "12|"),
        *("12.batch|RUNNING|0:0|n1|3", "12.0|RUNNING|n1|None", "12+0|RUNNING|0:0|n1|3|x"),
        *("12_[1-3,...]|PENDING||None", "12_7.extern|COMPLETED|0:0|n1|3", "NodeName=", "  a=b"),
        *("Slurmctld(primary) at head is UP", "Cgroup Support Configuration:", "|RUNNING|n1|None"),
    ]
)
KNOWN = ["PENDING", "RUNNING", "COMPLETING", "EXPEDITING", "POWER_UP_NODE", "REQUEUE_FED"]
LATER = ["PHASE2_WAIT", "X", "COMPLETE", "FAILED_OVER", "A_WORD_OF_2030"]
WORDS = st.sampled_from([*KNOWN, *LATER, *sorted(ENDED - {"REVOKED"})])
# (what is printed, what it means): a user's number behind it, a column of ten letters
STATES = st.one_of(
    WORDS.map(lambda word: (word, word)),
    st.integers(0, 2**32 - 2).map(lambda user: (f"CANCELLED by {user}", "CANCELLED")),
    st.just(("OUT_OF_ME+", "OUT_OF_MEMORY")),
    st.just(("CANCELLED+", "CANCELLED")),
)
JOBS = st.integers(1, 2**32 - 1)  # a federation puts the cluster into the upper six bits
SPANS = st.lists(
    st.tuples(st.integers(0, 2000), st.integers(0, 9), st.sampled_from([1, 1, 2, 7])),
    min_size=1,
    max_size=3,
)


def spell(spans):
    """Return the elements of spans as SLURM writes them."""
    return ",".join(
        f"{first}" if not more else f"{first}-{first + more}" + (f":{step}" if step > 1 else "")
        for first, more, step in spans
    )


def places(spans):
    return [at for first, more, step in spans for at in range(first, first + more + 1, step)]


LIMITS = st.one_of(st.just(""), st.integers(1, 999).map("%{}".format))
# (id as it is printed, the ids that it stands for)
IDS = st.one_of(
    JOBS.map(lambda job: (str(job), [str(job)])),
    st.builds(lambda job, at: (f"{job}_{at}", [f"{job}_{at}"]), JOBS, st.integers(0, 4_000_000)),
    st.builds(
        lambda job, spans, limit: (
            f"{job}_[{spell(spans)}{limit}]",
            [f"{job}_{at}" for at in places(spans)],
        ),
        JOBS,
        SPANS,
        LIMITS,
    ),
)
LISTS = st.sampled_from(["n1", "gpu-a-[001-003,7]", "n1,gpu[0-9]", "r1-n[1-2],r2-n3"])
NONE = st.sampled_from([("", ""), ("None assigned", ""), ("(null)", ""), ("n/a", "")])
PLACES = st.one_of(LISTS.map(lambda nodes: (nodes, nodes)), NONE)
SAID = st.text("Az |,:=[]+%\t\x0b\x1c\x85\u2028é", max_size=20)
REASONS = st.one_of(
    SAID.filter(lambda text: text != "None").map(lambda text: (text, text)),
    SAID.map(lambda text: (f"({text})", "" if text == "null" else text)),
    st.just(("None", "")),
)
ENDS = st.sampled_from(["\n", "\r\n"])


def among_noise(records):
    """Return a strategy of records, which begin with their line, and a text with noise in it."""
    pieces = st.lists(st.one_of(NOISE, records), max_size=5)

    def join(some, end):
        lines = [one if isinstance(one, str) else one[0] for one in some]
        return [one[1:] for one in some if not isinstance(one, str)], end.join(lines) + end

    return st.builds(join, pieces, ENDS)


def say(*fields):
    return "|".join(map(str, fields))


@pytest.mark.parametrize("tries", TRIES)
def test_queue_comes_back_exactly(tries):
    record = st.tuples(IDS, STATES, PLACES, REASONS).map(
        lambda one: (say(*(field[0] for field in one)), *(field[1] for field in one))
    )

    @tried(tries)
    @given(among_noise(record))
    def check(drawn):
        records, text = drawn
        assert parse_squeue(text) == {
            job: JobState(job_id=job, state=word, nodes=nodes, reason=reason)
            for jobs, word, nodes, reason in records
            for job in jobs
        }

    check()


@pytest.mark.parametrize("tries", TRIES)
def test_accounting_comes_back_exactly_and_attempts_add_up(tries):
    codes = st.builds("{}:{}".format, st.integers(0, 255), st.integers(0, 127))
    record = st.tuples(IDS, STATES, codes, PLACES, st.integers(0, 10**10)).map(
        lambda one: (
            say(one[0][0], one[1][0], one[2], one[3][0], one[4]),
            *(one[0][1], one[1][1], one[2], one[3][1], one[4]),
        )
    )

    @tried(tries)
    @given(among_noise(record))
    def check(drawn):
        records, text = drawn
        expected, seconds = {}, {}
        for jobs, word, code, nodes, elapsed in records:
            for job in jobs:
                seconds[job] = seconds.get(job, 0) + elapsed
                expected[job] = (job, word, code, nodes)
        assert parse_sacct(text) == {
            job: JobState(
                job_id=job, state=word, exit_code=code, nodes=nodes, elapsed_s=seconds[job]
            )
            for job, word, code, nodes in expected.values()
        }

    check()


@pytest.mark.parametrize("tries", TRIES)
def test_job_that_one_cluster_of_a_federation_revokes_is_told_by_the_other(tries):
    @tried(tries)
    @given(JOBS, WORDS, st.permutations([0, 1, 2]), st.integers(0, 10**6))
    def check(job, word, order, seconds):
        told = [word, "REVOKED", "REVOKED"]
        queue = "\n".join(say(job, told[at], "", "None") for at in order)
        accounts = "\n".join(say(job, told[at], "0:0", "", 0 if at else seconds) for at in order)
        state = JobState(job_id=str(job), state=word)
        assert parse_squeue(queue) == {str(job): state}
        assert parse_sacct(accounts)[str(job)].state == word

    check()


TYPES = st.sampled_from(["a100", "2080ti", "1g.5gb", "h100-nvl", "Tesla_V100", "b"])
TRES = st.tuples(
    st.integers(0, 512), st.lists(st.tuples(TYPES, st.integers(0, 64)), max_size=3), st.booleans()
)


def spell_tres(cpus, types, in_all):
    """Return what was allocated, with GPUs by type, and their number where the site counts it."""
    total = sum(count for _, count in types)
    named = [f"gres/gpu:{name}={count}" for name, count in types]
    return ",".join(
        [f"billing={cpus}", f"cpu={cpus}", *named, *[f"gres/gpu={total}"] * in_all, "mem=1T"]
    )


@pytest.mark.parametrize("tries", TRIES)
def test_allocations_come_back_exactly(tries):
    single = st.builds(lambda job, at: f"{job}{at}", JOBS, st.sampled_from(["", "_0", "_4000000"]))
    record = st.tuples(single, STATES, st.integers(0, 86_399), st.integers(0, 10**7), TRES, LISTS)

    def line(one):
        job, (word, _), second, elapsed, tres, nodes = one
        clock = f"{second // 3600:02}:{second // 60 % 60:02}:{second % 60:02}"
        begun = f"1970-01-02T{clock}"
        return (say(job, word, begun, elapsed, spell_tres(*tres), *[""] * 5, nodes), one)

    @tried(tries)
    @given(among_noise(record.map(line)))
    def check(drawn):
        records, text = drawn
        (zero,) = parse_allocations("1|RUNNING|1970-01-02T00:00:00|0|||||||n")
        expected = [
            Allocation(
                job_id=job,
                state=word,
                start=zero.start + second,
                elapsed_s=elapsed,
                num_gpus=sum(count for _, count in types),
                num_cpus=cpus,
                nodes=nodes,
            )
            for ((job, (_, word), second, elapsed, (cpus, types, _), nodes),) in records
        ]
        assert parse_allocations(text) == sorted(expected, key=lambda one: one.start)

    check()


@pytest.mark.parametrize("tries", TRIES)
def test_id_of_a_job_comes_back_exactly(tries):
    clusters = st.one_of(st.just(""), TYPES.map(";{}".format))
    lines = NOISE.filter(lambda line: line != "12")

    @tried(tries)
    @given(st.lists(NOISE, max_size=4), JOBS, clusters, st.lists(lines, max_size=4), ENDS)
    def check(before, job, cluster, after, end):
        assert parse_job_id(end.join([*before, f"{job}{cluster}", *after])) == str(job)

    check()


KEYS = st.sampled_from(["State", "Gres", "OS", "CfgTRES", "MCS_label", "Reason", "Extra", "Later"])
VALUES = st.sampled_from(
    [
        *(
            "(null)",
            "",
            "N/A",
            "IDLE+CLOUD+POWERED_DOWN",
            "gpu:1g.5gb:7(S:0-1)",
            "cpu=4,gres/gpu=2",
        ),
        *(
            "Linux 6.8 #1 SMP @0",
            "bad fan [root@01-01]",
            "cpu=4,gres/gpu=2",
            '{"a": "b=c"}',
            "CPU=1.0",
        ),
    ]
)
BLANKS = st.sampled_from([" ", "  "])


@pytest.mark.parametrize("tries", TRIES)
def test_nodes_and_partitions_come_back_exactly(tries):
    fields = st.dictionaries(KEYS, VALUES, max_size=8)
    kinds = st.sampled_from(["NodeName", "PartitionName"])

    def line(kind, name, fields, blanks):
        record = {kind: name, **fields}
        return (blanks.join(f"{key}={value}" for key, value in record.items()), record)

    @tried(tries)
    @given(among_noise(st.builds(line, kinds, LISTS, fields, BLANKS)))
    def check(drawn):
        records, text = drawn
        assert parse_records(text) == tuple(record for (record,) in records)

    check()


@pytest.mark.parametrize("tries", TRIES)
def test_reason_of_an_admin_changes_no_key_of_a_node(tries):
    words = st.lists(st.sampled_from(["State=IDLE", "Gres=gpu:9", "fan", "NodeName=n2", "[root]"]))

    @tried(tries)
    @given(words.map(" ".join))
    def check(reason):
        line = f"NodeName=n1 Gres=gpu:4 State=DOWN+DRAIN Reason={reason}"
        assert parse_records(line) == (
            {"NodeName": "n1", "Gres": "gpu:4", "State": "DOWN+DRAIN", "Reason": reason},
        )

    check()


@pytest.mark.parametrize("tries", TRIES)
def test_configuration_comes_back_exactly(tries):
    keys = st.one_of(KEYS, st.integers(0, 9).map("SlurmctldHost[{}]".format))

    def line(key, value):
        return (f"{key:<23} = {value}", key, value)

    @tried(tries)
    @given(among_noise(st.builds(line, keys, VALUES)))
    def check(drawn):
        records, text = drawn
        assert parse_config(text) == dict(records)

    check()
