import re
import shutil

import pytest
from synthetic_run import finish

from lenshpc.errors import DataError, IncompleteError
from lenshpc.run.completion import check_folders, is_done, missing_members
from lenshpc.run.gate import Standing, check_complete, compact


def files(run, index):
    return run.paths.member(run.plan.members[index].name)


def complaint(run, standings=None):
    with pytest.raises(IncompleteError) as caught:
        check_complete(run.paths, run.plan, standings or {})
    return str(caught.value)


def test_complete_run_passes(run):
    check_complete(run.paths, run.plan, {})
    assert missing_members(run.paths, run.plan) == {}
    assert is_done(run.paths, run.plan, run.plan.members[0], verify=True)


def test_missing_member_is_named_with_reason_and_command(run):
    files(run, 4).done.unlink()
    name = run.paths.name
    failed = Standing(state="FAILED", reason="job 81234_4 ended OUT_OF_MEMORY", step="resume")
    assert complaint(run, {4: failed}) == (
        f"member 4 (resnet34 fold 1 seed 0) of run {name} has no predictions "
        f"(job 81234_4 ended OUT_OF_MEMORY); rerun it with: lenshpc resume {name}"
    )


def test_several_missing_members_are_listed_compactly(run):
    for index in (0, 2, 3, 5):
        files(run, index).done.unlink()
    name = run.paths.name
    assert complaint(run) == (
        f"member 0 (resnet18 fold 0 seed 0) of run {name} has no predictions, and 3 more members "
        f"are not done (2-3, 5); rerun them with: lenshpc resume {name}"
    )


STANDINGS = {
    0: Standing(state="RUNNING", reason="", step="wait"),
    1: Standing(state="PENDING", reason="waits for free nodes (Resources)", step="wait"),
    3: Standing(state="CANCELLED", reason="job 8_3 was cancelled", step="resume"),
    4: Standing(state="NOT SUBMITTED", reason="", step="resume"),
    2: Standing(state="FAILED", reason="job 8_2 ended FAILED", step="correct"),
    5: Standing(state="UNKNOWN", reason="squeue failed: no answer", step="ask"),
}


@pytest.mark.parametrize(
    ("missing", "told"),
    [
        ((0,), "is RUNNING; wait for it with: lenshpc status {name} --watch"),
        (
            (1, 3),
            "is PENDING (waits for free nodes (Resources)), and 1 more member is not done (3); "
            "wait for member 1 with: lenshpc status {name} --watch; then "
            "rerun member 3 with: lenshpc resume {name}",
        ),
        (
            (0, 1),
            "is RUNNING, and 1 more member is not done (1); "
            "wait for them with: lenshpc status {name} --watch",
        ),
        (
            (3, 4),
            "has no predictions (job 8_3 was cancelled), and 1 more member is not done (4); "
            "rerun them with: lenshpc resume {name}",
        ),
        (
            (2,),
            "has no predictions (job 8_2 ended FAILED); look into it with: lenshpc status {name}",
        ),
        (
            (2, 3),
            "has no predictions (job 8_2 ended FAILED), and 1 more member is not done (3); "
            "look into member 2 with: lenshpc status {name}; then "
            "rerun member 3 with: lenshpc resume {name}",
        ),
        (
            (5,),
            "has no predictions and is UNKNOWN (squeue failed: no answer); "
            "try again, or look with: lenshpc status {name}",
        ),
    ],
)
def test_advice_follows_from_where_members_stand(run, missing, told):
    for index in missing:
        files(run, index).done.unlink()
    first = run.plan.members[missing[0]]
    begins = f"member {first.index} ({first.model} fold {first.fold} seed 0) of run "
    told = told.format(name=run.paths.name)
    assert complaint(run, STANDINGS) == f"{begins}{run.paths.name} {told}"


def test_run_outside_the_runs_folder_is_given_by_path(run, tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    files(run, 0).done.unlink()
    assert complaint(run).endswith(f"lenshpc resume {run.paths.root}")


@pytest.mark.parametrize("name", ["predictions.parquet", "model.safetensors", "metrics.jsonl"])
def test_deleted_file_counts_as_not_done(run, name):
    (files(run, 1).root / name).unlink()
    assert not is_done(run.paths, run.plan, run.plan.members[1])
    assert f"member 1 (resnet18 fold 1 seed 0) of run {run.paths.name} has lost its {name};" in (
        complaint(run)
    )


def test_altered_file_counts_as_not_done_once_verified(run):
    path = files(run, 1).predictions
    path.write_bytes(path.read_bytes() + b" ")
    assert is_done(run.paths, run.plan, run.plan.members[1])
    assert not is_done(run.paths, run.plan, run.plan.members[1], verify=True)
    assert "has a predictions.parquet that was altered after it finished;" in complaint(run)


def test_member_of_another_plan_is_stale(run):
    member = run.plan.members[2]
    other = run.plan.model_copy(update={"store_hash": "0" * 64})
    finish(run.paths, other, member, run.predictions(2))
    found, wanted = (plan.member_fingerprint(member)[:8] for plan in (other, run.plan))
    assert f"was trained for another Plan ({found}, not {wanted});" in complaint(run)


def test_exchanged_and_copied_folders_are_named(run):
    names = [member.name for member in run.plan.members]
    folder = run.paths.root / "members"
    for old, new in ((names[1], "aside"), (names[4], names[1]), ("aside", names[4])):
        (folder / old).rename(folder / new)
    shutil.rmtree(folder / names[0])
    shutil.copytree(folder / names[2], folder / names[0])
    lacks = {member.index: lack for member, lack in missing_members(run.paths, run.plan).items()}
    title = "has results of member {} ({} seed 0) in its folder members/{}"
    assert lacks == {
        0: title.format(2, "resnet18 fold 2", names[0]),
        1: title.format(4, "resnet34 fold 1", names[1]),
        4: title.format(1, "resnet18 fold 1", names[4]),
    }
    # Never advised, nor done: it would train over whole results.
    assert complaint(run).endswith("; put the folders in members/ back under their names")
    for index, lack in lacks.items():
        with pytest.raises(DataError, match=re.escape(f"{lack}; put the folders in")):
            check_folders(run.paths, {run.plan.members[index]: lack})


def test_member_without_whole_results_may_be_trained_again(run):
    files(run, 0).done.unlink()
    files(run, 1).done.write_text("{}")
    lacks = missing_members(run.paths, run.plan)
    assert [member.index for member in lacks] == [0, 1]
    check_folders(run.paths, lacks)


@pytest.mark.parametrize("name", ["done.json", "predictions.parquet"])
def test_file_that_may_not_be_read_is_not_called_damaged(run, name):
    path = files(run, 0).root / name
    path.unlink()
    path.symlink_to(path)
    with pytest.raises(DataError) as caught:
        missing_members(run.paths, run.plan)
    assert str(caught.value) == (
        f"{path} cannot be read: Too many levels of symbolic links; check its permissions and the "
        "file system, then repeat the command"
    )


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"fingerprint": "f", "files": {}}'])
def test_unreadable_done_counts_as_not_done(run, text):
    files(run, 2).done.write_text(text)
    assert "has a done.json that is damaged or was edited;" in complaint(run)


def test_compact_numbers():
    assert compact([1, 4, 5, 6, 9]) == "1, 4-6, 9"
