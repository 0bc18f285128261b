"""The exact text that sbatch gets."""

import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
from ranks import recipe

from lenshpc.errors import ConfigError
from lenshpc.launch.executor import (
    aggregate_request,
    conversion_request,
    inference_request,
    joining_request,
    member_request,
)
from lenshpc.launch.sites import CpuJobs, Site
from lenshpc.run.plan import Plan, expand

FOLDER = Path("/scratch/runs/spots/slurm")
SITE = Site(
    name="big",
    scheduler="slurm",
    partition="gpu",
    account="lens",
    qos="long",
    max_parallel=2,
    max_array_size=1001,
    setup=("module load cuda/12.4", "source /env/bin/activate", "export LATE=1"),
    sbatch={"mail-type": "FAIL", "hold": True},
    env={"NCCL_DEBUG": "INFO", "WORDS": "it's two"},
    interface="ib0",
    umask="0027",
    python="/env/bin/python",
)
HEAD = """\
#!/bin/bash

# Parameters
#SBATCH --account=lens
"""
JOB = "${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}${SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}"
LINK = f'ln -sfn "$1" {FOLDER}/"{JOB}_submitted.pkl"'
AGAIN_TOLD = "lenshpc: job begins again\n"
AGAIN = '[ -z "$SLURM_RESTART_COUNT" ] || echo "lenshpc: job begins again"'
GUARD = """\
check() {
  [ "$1" = 0 ] || { echo "lenshpc: setup failed (exit code $1): $2"; trap - EXIT; exit 1; }
}
trap 'echo "lenshpc: setup ended the script before srun"; exit 1' EXIT
trap 'trap - EXIT; exit 143' TERM"""
SETUP = f"""\

# setup
{LINK}
{AGAIN}
umask 0027
export GLOO_SOCKET_IFNAME=ib0
export NCCL_SOCKET_IFNAME==ib0
export NCCL_DEBUG=INFO
export WORDS='it'"'"'s two'
{GUARD}
module load cuda/12.4
check $? 'module load cuda/12.4'
source /env/bin/activate
check $? 'source /env/bin/activate'
export LATE=1
trap - EXIT TERM ERR
set +e

# command
export SUBMITIT_EXECUTOR=slurm
"""


@dataclass(frozen=True)
class Case:
    plan: Plan

    @property
    def run(self):
        return self.plan.run_name


@pytest.fixture
def case(spots):
    size = {"nodes": 2, "gpus_per_node": 4, "cpus_per_gpu": 6, "mem_gb_per_gpu": 16, "time_min": 90}
    return Case(expand(recipe(resources=size), spots)[0])


def options(run, output):
    return f"""\
#SBATCH --comment='lenshpc {run}'
#SBATCH --cpus-per-task=6
#SBATCH --gpus-per-node=4
#SBATCH --hold
#SBATCH --job-name={run}
#SBATCH --mail-type=FAIL
#SBATCH --mem=65536M
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=4
#SBATCH --open-mode=append
#SBATCH --output=/scratch/runs/spots/slurm/{output}_0_log.out
#SBATCH --partition=gpu
#SBATCH --qos=long
#SBATCH --requeue
#SBATCH --signal=USR2@90
#SBATCH --time=90
"""


TEARDOWN = """

# teardown
rc=$?
job=${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}${SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}
with=$(command -v scontrol || echo sbatch)
if [ $rc != 0 ] && srun --export=ALL --overlap --nodes=1 --ntasks=1 --ntasks-per-node=1 \
--cpus-per-task=1 /env/bin/python -m lenshpc.launch.requeue /scratch/runs/spots "$job" \
"${SLURM_RESTART_COUNT:-0}" $rc "$with"; then
  trap "" TERM
  sh /scratch/runs/spots/slurm/"$job"_next.sh
fi
exit $rc"""


def srun(output, arguments):
    return (
        f"srun --unbuffered --output={FOLDER}/{output}_%t_log.out --export=ALL {arguments} "
        f"/env/bin/python -u -m submitit.core._submit {FOLDER}\n"
    )


def test_members_are_one_array_of_one_task_a_gpu(case):
    assert member_request(case.plan, SITE, FOLDER, 3).script() == (
        HEAD
        + "#SBATCH --array=0-2%2\n"
        + options(case.run, "%A_%a")
        + SETUP
        + srun("%A_%a", "--kill-on-bad-exit=1 --cpus-per-task=6")
        + TEARDOWN
    )


def test_one_member_is_a_plain_job(case):
    assert member_request(case.plan, SITE, FOLDER, 1).script() == (
        HEAD
        + options(case.run, "%j")
        + SETUP
        + srun("%j", "--kill-on-bad-exit=1 --cpus-per-task=6")
        + TEARDOWN
    )


def test_aggregation_is_one_task_after_any_end(case):
    expected = f"""\
#SBATCH --comment='lenshpc {case.run}-report'
#SBATCH --cpus-per-task=1
#SBATCH --dependency=afterany:12:13
#SBATCH --hold
#SBATCH --job-name={case.run}-report
#SBATCH --mail-type=FAIL
#SBATCH --mem=4096M
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --open-mode=append
#SBATCH --output={FOLDER}/%j_0_log.out
#SBATCH --partition=gpu
#SBATCH --qos=long
#SBATCH --signal=USR2@90
#SBATCH --time=60
"""
    script = aggregate_request(case.plan, SITE, FOLDER, after="12:13").script()
    assert script == HEAD + expected + SETUP + srun("%j", "--cpus-per-task=1")


def test_aggregation_of_a_finished_run_waits_for_nothing(case):
    script = aggregate_request(case.plan, SITE, FOLDER, after=None).script()
    assert "dependency" not in script


def test_memory_of_the_report_is_estimated_from_rows_lines_and_classes(case):
    lines, classes = len(case.plan.recipe.models) + 8, len(case.plan.classes)

    def memory(num_rows, site=SITE):
        script = aggregate_request(case.plan, site, FOLDER, None, num_rows).script()
        return [line for line in script.splitlines() if "--mem" in line]

    assert memory(10**6) == ["#SBATCH --mem=4096M"]
    needed_gb = 1.5 + 10**7 * (250 + 16 * lines * classes) / 1e9
    assert 6 < needed_gb < 8
    assert memory(10**7) == [f"#SBATCH --mem={1024 * (int(needed_gb) + 1)}M"]
    own = SITE.model_copy(update={"cpu_jobs": CpuJobs(mem_gb=3)})
    assert memory(10**7, own) == ["#SBATCH --mem=3072M"]


def test_bare_site_names_no_partition_account_or_key(case):
    bare = Site(name="bare", scheduler="slurm")
    script = member_request(case.plan, bare, FOLDER, 3).script()
    for word in ("wckey", "--partition", "--account", "--qos", "--constraint"):
        assert word not in script


def conversion_options(name, output, cpus, mem_mb, minutes, more=""):
    return f"""\
#SBATCH --comment='lenshpc {name}'
#SBATCH --cpus-per-task={cpus}
{more}#SBATCH --hold
#SBATCH --job-name={name}
#SBATCH --mail-type=FAIL
#SBATCH --mem={mem_mb}M
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --open-mode=append
#SBATCH --output={FOLDER}/{output}_0_log.out
#SBATCH --partition=gpu
#SBATCH --qos=long
#SBATCH --signal=USR2@90
#SBATCH --time={minutes}
"""


def test_conversion_is_an_array_of_single_tasks_without_gpus():
    assert conversion_request("prepare-slc", SITE, FOLDER, 64, cpus=4).script() == (
        HEAD
        + "#SBATCH --array=0-63%2\n"
        + conversion_options("prepare-slc", "%A_%a", 4, 8192, 240)
        + SETUP
        + srun("%A_%a", "--cpus-per-task=4")
    )


def test_inference_is_an_array_of_single_tasks_with_a_gpu_each(case):
    size = case.plan.recipe.resources
    request = inference_request("lens-sample", size, SITE, FOLDER, 5)
    lines = request.script().splitlines()
    assert {"#SBATCH --gpus-per-node=1", "#SBATCH --nodes=1", "#SBATCH --ntasks-per-node=1"} <= {
        *lines
    }
    (array,) = (line for line in lines if line.startswith("#SBATCH --array="))
    assert array.startswith("#SBATCH --array=0-4%")


def test_joining_waits_for_any_end_of_the_conversion():
    dependency = "#SBATCH --dependency=afterany:12\n"
    assert joining_request("prepare-slc", SITE, FOLDER, after="12").script() == (
        HEAD
        + conversion_options("prepare-slc-join", "%j", 1, 4096, 60, dependency)
        + SETUP
        + srun("%j", "--cpus-per-task=1")
    )


@pytest.mark.parametrize(
    ("lines", "code", "told"),
    [
        ([], 0, "reached\n"),
        (["export X=$(false)", "true  # as it should be"], 0, "reached\n"),
        (["exit 0"], 1, "lenshpc: setup ended the script before srun\n"),
        (["exit 3"], 1, "lenshpc: setup ended the script before srun\n"),
        (["kill -TERM $$", "sleep 9"], 143, ""),
        (
            ["echo a", "source /nowhere/activate 2>/dev/null", "echo b"],
            1,
            "a\nlenshpc: setup failed (exit code 1): source /nowhere/activate 2>/dev/null\n",
        ),
        (
            ["sh -c 'exit 7'"],
            1,
            "lenshpc: setup failed (exit code 7): sh -c 'exit 7'\n",
        ),
        (
            ["export X=1 && false"],
            1,
            "lenshpc: setup failed (exit code 1): export X=1 && false\n",
        ),
    ],
)
def test_line_of_setup_that_fails_or_ends_the_script_fails_the_job(
    case, tmp_path, lines, code, told
):
    site = Site(name="s", scheduler="slurm", setup=tuple(lines))
    setup = member_request(case.plan, site, tmp_path, 1).parameters["setup"]
    script = "\n".join([*setup, "echo reached"])
    command = ["bash", "-c", script, "x", "p"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (code, told)


@pytest.mark.parametrize(("num", "name"), [(1, "%j"), (3, "%A_%a")])
def test_percent_in_a_path_stands_twice_where_slurm_reads_it(case, num, name):
    folder = Path("/data/50% of %x/slurm")
    lines = member_request(case.plan, SITE, folder, num).script().splitlines()
    written = f"/data/50%% of %%x/slurm/{name}"
    assert f"#SBATCH --output='{written}_0_log.out'" in lines
    (command,) = (line for line in lines if line.startswith("srun"))
    assert command.startswith(f"srun --unbuffered '--output={written}_%t_log.out' --export=ALL ")
    assert command.endswith("-m submitit.core._submit '/data/50% of %x/slurm'")


@pytest.mark.parametrize("number", ["%j", "%t", "%a", "%A"])
def test_folder_that_jobs_would_read_as_another_is_refused(case, number):
    folder = Path(f"/scratch/100{number}/slurm")
    with pytest.raises(ConfigError) as caught:
        aggregate_request(case.plan, SITE, folder, None).script()
    assert str(caught.value) == (
        f"{folder} contains {number}, which SLURM replaces with a job's number; choose a folder "
        "without it"
    )


@pytest.mark.parametrize("line", ["set -e", "set -euo pipefail", "trap 'exit 9' ERR"])
def test_srun_that_fails_is_asked_about_whatever_a_line_of_setup_has_set(case, tmp_path, line):
    site = Site(name="s", scheduler="slurm", setup=(line,))
    setup = member_request(case.plan, site, tmp_path, 1).parameters["setup"]
    script = "\n".join([*setup, "(exit 7)", "echo asked about $?"])
    variables = {"PATH": "/usr/bin:/bin", "SLURM_JOB_ID": "5"}
    done = subprocess.run(
        ["bash", "-c", script, "x", "p"], env=variables, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "asked about 7\n", "")


@pytest.mark.parametrize(
    ("restarts", "told"), [({}, ""), ({"SLURM_RESTART_COUNT": "1"}, AGAIN_TOLD)]
)
def test_log_of_a_job_that_came_back_has_a_mark_where_it_did(case, tmp_path, restarts, told):
    setup = member_request(case.plan, SITE, tmp_path, 1).parameters["setup"]
    variables = {"PATH": "/usr/bin:/bin", "SLURM_JOB_ID": "5", **restarts}
    script = "\n".join(setup[:2])
    done = subprocess.run(
        ["bash", "-c", script, "x", "p"], env=variables, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, told)
