"""Whatever SLURM prints becomes values: no error, no hang, and no record is lost in noise."""

import math
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tries import tried

from lenshpc.launch.accounting import (
    Allocation,
    parse_allocations,
    parse_bytes,
    parse_cpu_time,
)
from lenshpc.launch.constraints import fits
from lenshpc.launch.doctor import findings, profile
from lenshpc.launch.facts import (
    Facts,
    count_gpus,
    is_asleep,
    num_gpus,
    parse_config,
    parse_minutes,
    parse_records,
    usable,
)
from lenshpc.launch.limits import ASSOCIATION, QOS, find_limits, parse_table
from lenshpc.launch.slurm import (
    LARGEST_ARRAY,
    JobState,
    parse_job_id,
    parse_max_array_size,
    parse_sacct,
    parse_squeue,
)

FIXTURES = Path(__file__).parents[1] / "launch" / "fixtures"
NODE = (
    "NodeName=node1 Arch=x86_64 CPUTot=4 AvailableFeatures=a100,ib Gres=gpu:a100:4(S:0-1) "
    "OS=Linux 6.18.44 #1 SMP @0  RealMemory=8000 State=MIXED+COMPLETING Partitions=batch,low  "
    "BootTime=2026-11-21T08:32:04 CfgTRES=cpu=4,mem=8000M,gres/gpu=4 Reason=Not responding [root]"
)
PARTITION = "PartitionName=batch Default=YES GraceTime=0 MaxTime=2-12:30:00 PreemptMode=REQUEUE"
ALLOCATION = (
    "8_1|COMPLETED|2026-01-02T03:04:05|7200|billing=4,cpu=4,gres/gpu=2|cpu=4,mem=7.5G|1-02:03:04"
    "||||gpu1"
)
STEP = "8_1.0|COMPLETED|2026-01-02T03:04:06|7199|cpu=4,mem=8G||02:03.456|2|320584K|218222K|gpu1"
SEEDS = [
    *(line for path in FIXTURES.glob("*.txt") for line in path.read_text().splitlines()),
    *(NODE, PARTITION, ALLOCATION, STEP, "slurm_load_jobs error: Invalid job id specified"),
    *("CLUSTER: big", "* * * Welcome to big, 12|RUNNING soon * * *", "", "|||||", "sacct: notice"),
    *(f"12_[0-{9:0<11}]|PENDING||None", "12_[5-1]|PENDING||None", "12_[1-9:0]|PENDING||None"),
    *("12_[1,,2]|PENDING||None", "-5|RUNNING|gpu1|None", "12+0|RUNNING|gpu1|None"),
    *("12|RUNNING|0:0|gpu1|-3", f"12|TIMEOUT|0:0|gpu1|{'9' * 5000}", "١٢|RUNNING|gpu1|None"),
    *("12||0:0|gpu1|3", "12|RUNNING", f"MaxArraySize = {'9' * 5000}", "MaxArraySize = -1"),
    *("13|RUNNING|0000-99-99T00:00:00|1|cpu=4|n", "13|RUNNING|0001-01-01T00:00:00|1|cpu=4|n"),
    *("NodeName= State=IDLE", "NodeName=x", "PartitionName=p MaxTime=99:99", "Gres=gpu:4"),
    f"NodeName=y Partitions=batch State=IDLE Gres=gpu:{'4' * 5000} CPUTot=many RealMemory=-1",
]
LETTERS = "0123456789|_[]-,:%=+*. \t\r\x0b\x0c\x1b\x1c\x85\u2028ABRUNé١😀()"
EDITS = st.lists(
    st.tuples(st.integers(0, 400), st.sampled_from("rid"), st.sampled_from(LETTERS)), max_size=4
)
TRIES = [100, pytest.param(10_000, marks=pytest.mark.slow)]


def edit(line, edits):
    for place, what, letter in edits:
        at = place % (len(line) + 1)
        after = line[at:] if what == "i" else line[at + 1 :]
        line = line[:at] + ("" if what == "d" else letter) + after
    return line


NOISE = st.one_of(
    st.builds(edit, st.sampled_from(SEEDS), EDITS),
    st.text(LETTERS, max_size=40),
    st.text(st.characters(exclude_characters="\n"), max_size=40),
)
OWN = st.integers(7_000_000_000, 7_000_000_009).map(str)  # of jobs that no noise tells of
WORDS = st.sampled_from(["PENDING", "RUNNING", "COMPLETED", "FAILED", "SOMETHING_NEW"])
REASONS = st.sampled_from(["", "Priority", "Nodes are DOWN | ask the site", "launch failed"])


def is_noise(line):
    return "70000000" not in line


def texts(record):
    """Return a strategy of records and texts that hold their lines among noise."""
    lines = st.lists(st.one_of(NOISE.filter(is_noise), record), max_size=8)
    ends = st.sampled_from(["\n", "\r\n"])
    return st.tuples(lines, ends)


def join(lines, end):
    return end.join(line if isinstance(line, str) else line[0] for line in lines) + end


def kept(found):
    return {job: state for job, state in found.items() if job.startswith("70000000")}


@pytest.mark.parametrize("tries", TRIES)
def test_queue_in_noise_is_found_whole(tries):
    record = st.tuples(OWN, WORDS, st.sampled_from(["", "gpu[1-2]"]), REASONS)
    line = record.map(lambda one: ("|".join(one), one))

    @tried(tries)
    @given(texts(line))
    def check(drawn):
        lines, end = drawn
        expected = {
            job: JobState(job_id=job, state=word, nodes=nodes, reason=reason)
            for _, (job, word, nodes, reason) in (one for one in lines if isinstance(one, tuple))
        }
        assert kept(parse_squeue(join(lines, end))) == expected

    check()


@pytest.mark.parametrize("tries", TRIES)
def test_accounting_in_noise_is_found_whole_and_adds_up(tries):
    record = st.tuples(OWN, WORDS, st.sampled_from(["0:0", "1:9"]), st.integers(0, 10**6))
    line = record.map(lambda one: (f"{one[0]}|{one[1]}|{one[2]}|gpu1|{one[3]}", one))

    @tried(tries)
    @given(texts(line))
    def check(drawn):
        lines, end = drawn
        expected = {}
        for _, (job, word, code, seconds) in (one for one in lines if isinstance(one, tuple)):
            before = expected[job].elapsed_s if job in expected else 0
            expected[job] = JobState(
                job_id=job, state=word, exit_code=code, nodes="gpu1", elapsed_s=before + seconds
            )
        assert kept(parse_sacct(join(lines, end))) == expected

    check()


@pytest.mark.parametrize("tries", TRIES)
def test_allocations_in_noise_are_found_whole_with_their_steps(tries):
    numbers = st.tuples(*[st.integers(0, top) for top in (10**6, 64, 10**6, 10**6)])
    record = st.tuples(OWN, WORDS, numbers)

    def write(one):
        job, word, (elapsed_s, num_gpus, cpu_ms, kib) = one
        minutes, ms = divmod(cpu_ms, 60_000)
        used = f"{minutes:02}:{ms // 1000:02}.{ms % 1000:03}"
        begun = f"{word}|1970-01-02T00:00:00|{elapsed_s}|gres/gpu={num_gpus}"
        # both in one text, since a step stands below its attempt
        lines = f"{job}|{begun}||{used}||||n\n{job}.0|{begun}||{used}|2|{kib}K|{kib}K|n"
        return lines, (job, word, elapsed_s, num_gpus, cpu_ms, 2 * 1024 * kib)

    @tried(tries)
    @given(texts(record.map(write)))
    def check(drawn):
        lines, end = drawn
        found = [
            (one.job_id, one.state, one.elapsed_s, one.num_gpus, one.cpu_s, one.memory_bytes)
            for one in parse_allocations(join(lines, end))
            if one.job_id.startswith("70000000")
        ]
        assert found == [
            (*one[:4], pytest.approx(one[4] / 1000) if one[4] else None, one[5] or None)
            for _, one in (one for one in lines if isinstance(one, tuple))
        ]

    check()


@pytest.mark.parametrize("tries", TRIES)
def test_processor_time_and_memory_are_read_as_slurm_writes_them(tries):
    @tried(tries)
    @given(st.integers(1, 10**10), st.floats(0.01, 9999), st.sampled_from("KMGTPE"), NOISE)
    def check(ms, number, unit, noise):
        # SLURM leaves out days and hours of 0, and writes no fraction where there are hours
        seconds, fraction = divmod(ms, 1000)
        days, rest = divmod(seconds, 86_400)
        hours, minutes, rest = rest // 3600, rest // 60 % 60, rest % 60
        text = f"{minutes:02}:{rest:02}"
        if days or hours:
            text = f"{days}-{hours:02}:{text}" if days else f"{hours:02}:{text}"
            told = seconds
        else:
            text, told = f"{text}.{fraction:03}", ms / 1000
        assert parse_cpu_time(text) == pytest.approx(told)
        size = 2 ** (10 * (1 + "KMGTPE".index(unit)))
        assert parse_bytes(f"{number:.2f}{unit}") == pytest.approx(size * round(number, 2))
        for one in (parse_cpu_time(noise), parse_bytes(noise)):
            assert one is None or 0 < one < math.inf

    check()


@pytest.mark.parametrize("tries", TRIES)
def test_job_id_is_the_last_line_of_its_form(tries):
    @tried(tries)
    @given(st.lists(NOISE.filter(is_noise), max_size=5), OWN, st.sampled_from(["", ";big"]))
    def check(lines, job, cluster):
        after = [line for line in lines if re.fullmatch(r"[0-9]+(;\S*)?\s*", line) is None]
        assert parse_job_id("\n".join([*lines, job + cluster, *after])) == job

    check()


@pytest.mark.parametrize("tries", TRIES)
def test_cluster_is_judged_whatever_it_says_of_itself(tries):
    @tried(tries)
    @given(st.lists(NOISE, max_size=6), EDITS, EDITS)
    def check(lines, of_node, of_partition):
        text = "\n".join([*lines, edit(NODE, of_node), edit(PARTITION, of_partition), NODE])
        records, config = parse_records(text), parse_config(text)
        partition = next((one for one in records if "PartitionName" in one), {})
        nodes = tuple(one for one in records if "NodeName" in one)
        assert nodes[-1]["Reason"] == "Not responding [root]"
        assert num_gpus(nodes[-1]) == 4
        assert 1 <= parse_max_array_size(text) <= LARGEST_ARRAY
        assert nodes[-1] in usable([one for one in nodes if fits(one, "a100&ib")], "batch")
        assert (parse_minutes(partition.get("MaxTime", "")) or 0) >= 0
        facts = Facts(config=config, partition={"PartitionName": "batch"} | partition, nodes=nodes)
        assert profile(facts, findings(facts), {})["scheduler"] == "slurm"
        assert not any(map(is_asleep, nodes[-1:]))

    check()


@pytest.mark.parametrize("tries", TRIES)
def test_gpus_of_any_type_are_counted_among_other_things(tries):
    """Types are free text, and what a node has besides stands before and after."""
    kind = st.text("0123456789abcdefg._-+", min_size=1, max_size=12)
    notes = st.sampled_from(["", "(S:0-1)", "(IDX:0-3)", "(S:0,3)", "(null)"])
    middle = st.sampled_from(["", "no_consume:"])
    entry = st.tuples(st.just("") | kind, middle, st.integers(0, 9999), notes)
    others = st.sampled_from(["shard:gpu:8", "nic:4", "gpumem:80G", "craynetwork:4(S:0)"])

    @tried(tries)
    @given(st.lists(entry | others, max_size=6))
    def check(drawn):
        expected, parts = {}, []
        for one in drawn:
            if isinstance(one, str):
                parts.append(one)
                continue
            name, word, count, note = one
            parts.append(f"gpu:{name}{':' * bool(name)}{word}{count}{note}")
            expected[name] = expected.get(name, 0) + count
        assert count_gpus({"Gres": ",".join(parts)}) == expected

    check()


@pytest.mark.parametrize("tries", TRIES)
def test_limits_in_noise_are_found_whole(tries):
    @tried(tries)
    @given(st.lists(NOISE.filter(lambda line: line.count("|") != len(ASSOCIATION) - 1), max_size=5))
    def check(lines):
        text = "\n".join([*lines, "lenses|ann||4||3|7|01:00:00|long", *lines])
        rows = parse_table(text, ASSOCIATION)
        assert [row["User"] for row in rows] == ["ann"]
        every = parse_table("\n".join(lines), QOS)
        (limit, *_) = find_limits(rows, every, "lenses", None, {})
        assert (limit.jobs, limit.submitted, limit.minutes) == (3, 7, 60)

    check()


@pytest.mark.parametrize(
    ("identity", "elements"),
    [
        ("12_[0-99999999999]", 0),
        ("12_[0-9999999]", 0),
        (f"12_[0-{LARGEST_ARRAY - 1}]", LARGEST_ARRAY),
        ("12_[5-1]", 0),
        ("12_[1-9:0]", 0),
        ("12_[1,,2]", 0),
        ("12_-1", 0),
        ("١٢", 0),
        ("12.batch", 0),
        ("12+0", 0),
    ],
)
def test_range_that_no_array_has_is_no_record(identity, elements):
    assert len(parse_squeue(f"{identity}|PENDING||None")) == elements


def test_nothing_is_made_of_absurd_numbers():
    assert parse_sacct("12|TIMEOUT|x:y|gpu1|-3") == {
        "12": JobState(job_id="12", state="TIMEOUT", nodes="gpu1")
    }
    line = "12|TIMEOUT|1970-01-01T00:00:00+00:00|1e9|gres/gpu=-1|mem=-4G,cpu=x|-1:00|||x|n"
    assert parse_allocations(line) == [
        Allocation(
            job_id="12", state="TIMEOUT", start=0, elapsed_s=0, num_gpus=0, num_cpus=0, nodes="n"
        )
    ]


@pytest.mark.parametrize(
    ("printed", "job"),
    [
        ("12\n", "12"),
        ("12;big\n", "12"),
        ("Welcome to big\n7 jobs wait\n12;big\n\n", "12"),
        ("5\n12\nsbatch: your quota is 80 % used\n", "12"),
        ("", ""),
        ("Submitted batch job 12", ""),
    ],
)
def test_words_of_a_site_are_no_job_id(printed, job):
    assert parse_job_id(printed) == job
