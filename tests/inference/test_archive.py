"""Exports as one .zip: what leads out of its folder, or is none of ours, is refused."""

import stat
import zipfile

import pytest
from small_export import make_export

from lenshpc.errors import ConfigError, DataError
from lenshpc.inference.archive import pack, unpack
from lenshpc.inference.trained import open_trained


def write_zip(path, name, content=b"x", kind=zipfile.ZIP_STORED, mode=stat.S_IFREG | 0o644):
    entry = zipfile.ZipInfo(name)
    entry.external_attr, entry.compress_type = mode << 16, kind
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model.json", b"{}")
        archive.writestr(entry, content)
    return path


def test_zip_holds_the_files_as_they_are(tmp_path):
    folder = make_export(tmp_path / "export")
    pack(folder, tmp_path / "export.zip")
    with zipfile.ZipFile(tmp_path / "export.zip") as archive:
        entries = archive.infolist()
    assert [one.filename for one in entries] == [
        "README.md",
        "members/000-test_resnet-fold0-seed0.safetensors",
        "model.json",
        "training_rows.parquet",
    ]
    assert {(one.date_time, one.compress_type) for one in entries} == {((1980, 1, 1, 0, 0, 0), 0)}
    found = unpack(tmp_path / "export.zip")
    assert stat.S_IMODE(found.stat().st_mode) == 0o700
    for one in entries:
        assert (found / one.filename).read_bytes() == (folder / one.filename).read_bytes()
    assert open_trained(tmp_path / "export.zip").spec == open_trained(folder).spec


@pytest.mark.parametrize(
    "name",
    ["../out", "members/../../out", "/etc/out", "a\\out", ".ssh/out", "a//out", "folder/", "a:b"],
)
def test_name_that_leads_elsewhere_is_refused(name, tmp_path):
    path = write_zip(tmp_path / "bad.zip", name)
    with pytest.raises(DataError) as refused:
        unpack(path)
    assert str(refused.value) == (
        f"{path} was not packed by lenshpc export: it contains {name!r}; unpack it yourself, "
        "inspect it, and give that folder"
    )
    assert [one.name for one in tmp_path.iterdir()] == ["bad.zip"]


def test_link_is_refused(tmp_path):
    path = write_zip(tmp_path / "bad.zip", "link", b"/etc/passwd", mode=stat.S_IFLNK | 0o777)
    with pytest.raises(DataError, match="it contains 'link'"):
        unpack(path)


def test_file_that_grows_is_refused_before_it_does(tmp_path):
    path = write_zip(tmp_path / "bad.zip", "bomb", b"\0" * 10**6, kind=zipfile.ZIP_DEFLATED)
    with pytest.raises(DataError, match="it contains 'bomb'"):
        unpack(path)


def test_name_that_comes_twice_is_refused(tmp_path):
    path = write_zip(tmp_path / "bad.zip", "a")
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("a", b"another")
    with pytest.raises(DataError, match="contains a name twice"):
        unpack(path)


@pytest.mark.parametrize("damage", ["cut", "flip", "text"])
def test_damaged_zip_is_told_in_one_line(damage, tmp_path):
    path = write_zip(tmp_path / "bad.zip", "a", b"content of a file")
    content = path.read_bytes()
    changed = {
        "cut": content[:-30],
        "flip": content.replace(b"content of", b"Content of"),
        "text": b"no zip",
    }
    path.write_bytes(changed[damage])
    with pytest.raises(
        DataError, match=r"is a damaged or incomplete \.zip \(.*\); download or copy it again"
    ):
        unpack(path)


def test_zip_that_is_not_there_is_no_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"no run 'gone\.zip'"):
        open_trained("gone.zip")
