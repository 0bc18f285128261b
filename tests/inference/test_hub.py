"""Exports go to a hub and come back whole; what lies there is not believed."""

import json
from pathlib import Path

import pytest
from small_export import make_export
from small_hub import small_hub

from lenshpc.errors import ConfigError, DataError
from lenshpc.inference import hub
from lenshpc.run.trained import read_export

NAME = "somebody/lenses"


@pytest.fixture
def remote(tmp_path, monkeypatch):
    """Yield a hub that the client takes for its own, and an empty cache."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    with small_hub() as server:
        # As HF_ENDPOINT sets them when the client is imported.
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        template = f"{server.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield server


@pytest.fixture
def export(tmp_path):
    """Return the folder of an export that no network was trained for."""
    return make_export(tmp_path / "export")


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(one.relative_to(folder)): one.read_bytes() for one in folder.rglob("*") if one.is_file()
    }


def test_export_that_was_sent_comes_back(remote, export, tmp_path):
    sent = contents(export)
    assert hub.push(export, NAME, token="hf_word").startswith(f"{remote.url}/{NAME}/commit/")  # noqa: S106
    assert remote.repositories[NAME].visibility == "private"
    assert set(remote.tokens) == {"Bearer hf_word"}
    assert remote.repositories[NAME].commits[-1] == {**sent, ".gitattributes": b"*"}
    assert contents(hub.pull(NAME, tmp_path / "mine")) == sent
    cached = hub.pull(NAME)
    assert cached.is_relative_to(tmp_path / "cache")
    assert contents(cached) == sent
    assert read_export(cached).spec.name == "lenses-01234567"


def test_export_for_all_to_see(remote, export):
    hub.push(export, NAME, private=False)
    assert remote.repositories[NAME].visibility == "public"


def test_what_is_no_part_of_an_export_is_neither_sent_nor_fetched(remote, export, tmp_path):
    (export / "notes.txt").write_text("mine")
    (export / "setup.py").write_text("import os")
    hub.push(export, NAME)
    files = remote.repositories[NAME].commits[-1]
    assert {"notes.txt", "setup.py"} & set(files) == set()
    files["members/model.pkl"] = files["run.sh"] = b"anything"
    found = contents(hub.pull(NAME, tmp_path / "mine"))
    assert {"members/model.pkl", "run.sh"} & set(found) == set()


def test_later_export_replaces_the_members_of_an_earlier_one(remote, export, tmp_path):
    hub.push(export, NAME)
    later = make_export(tmp_path / "later", fold=1)
    hub.push(later, NAME)
    assert contents(hub.pull(NAME, tmp_path / "mine")) == contents(later)
    first = remote.repositories[NAME].names[1]
    assert contents(hub.pull(NAME, tmp_path / "first", revision=first)) == contents(export)


def test_array_of_an_earlier_export_does_not_stay(remote, export, tmp_path):
    hub.push(export, NAME)
    remote.repositories[NAME].commits[-1]["fitted.safetensors"] = b"of another ensemble"
    with pytest.raises(DataError, match=r"fitted\.safetensors is damaged"):
        hub.pull(NAME)
    hub.push(export, NAME)
    assert contents(hub.pull(NAME, tmp_path / "mine")) == contents(export)


def test_predictions_in_the_folder_of_an_export_are_not_sent(remote, export):
    (export / "found" / "parts").mkdir(parents=True)
    (export / "found" / "parts" / "part-00000.parquet").write_bytes(b"positions of lenses")
    (export / "secret.safetensors").write_bytes(b"weights of another network")
    hub.push(export, NAME)
    assert sorted(remote.repositories[NAME].commits[-1]) == [
        ".gitattributes",
        "README.md",
        "members/000-test_resnet-fold0-seed0.safetensors",
        "model.json",
        "training_rows.parquet",
    ]


def test_repository_of_something_else_is_left_alone(remote, export):
    hub.push(export, NAME)
    commits = remote.repositories[NAME].commits
    commits.append({"pytorch_model.bin": b"theirs", "README.md": b""})
    with pytest.raises(ConfigError) as refused:
        hub.push(export, NAME)
    assert str(refused.value) == (
        f"{NAME} on the hub holds README.md, pytorch_model.bin, not an export; give another "
        "repository"
    )
    assert commits[-1] == {"pytorch_model.bin": b"theirs", "README.md": b""}


def test_export_that_was_changed_on_the_hub_is_refused_by_name(remote, export, tmp_path):
    hub.push(export, NAME)
    files = remote.repositories[NAME].commits[-1]
    (name,) = [one for one in files if one.startswith("members/")]
    files[name] = files[name][:-1] + b"!"
    with pytest.raises(DataError, match=name):
        hub.pull(NAME, tmp_path / "mine")
    with pytest.raises(DataError, match=name):
        hub.pull(NAME)
    assert not (tmp_path / "mine").exists()


def test_export_that_was_changed_here_is_not_sent(remote, export):
    (export / "training_rows.parquet").write_bytes(b"")
    with pytest.raises(DataError, match=r"training_rows\.parquet"):
        hub.push(export, NAME)
    assert remote.repositories == {}


def test_code_of_an_export_is_fetched_as_text_alone(remote, tmp_path):
    marker = tmp_path / "imported"
    code = f"open({str(marker)!r}, 'w')\nclass Net: pass\n"
    hub.push(make_export(tmp_path / "coded", code=code), NAME)
    found = hub.pull(NAME, tmp_path / "mine")
    (kept,) = (found / "code" / "files").iterdir()
    assert kept.read_text() == code
    assert not marker.exists()


def test_place_that_holds_something_is_left_alone(remote, export, tmp_path):
    hub.push(export, NAME)
    with pytest.raises(ConfigError, match="already exists"):
        hub.pull(NAME, export)


@pytest.mark.parametrize(
    ("name", "revision", "told"),
    [
        (
            "somebody/else",
            None,
            "no repository somebody/else on the hub that you may read; check its name, and your "
            "login with: hf auth whoami",
        ),
        (NAME, "v9", f"{NAME} on the hub has no such revision; give another"),
    ],
)
def test_what_is_not_there_is_told_in_one_line(remote, export, name, revision, told):
    hub.push(export, NAME)
    with pytest.raises(ConfigError) as refused:
        hub.pull(name, revision=revision)
    assert str(refused.value) == told


def test_repository_that_holds_no_export_is_told(remote, export):
    hub.push(export, NAME)
    remote.repositories[NAME].commits.append({"README.md": json.dumps({}).encode()})
    with pytest.raises(ConfigError) as refused:
        hub.pull(NAME)
    assert (
        str(refused.value) == f"{NAME} on the hub holds no model.json: it is not an export of "
        "lenshpc"
    )


def test_hub_that_does_not_answer_is_told_in_one_line(export, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ConfigError) as refused:
        hub.push(export, NAME)
    assert str(refused.value).startswith(f"{NAME} on the hub: ConnectError: ")
