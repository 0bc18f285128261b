"""Exports that somebody made to deceive: what is sealed well is still looked at."""

import importlib.util
import json
import marshal
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from safetensors.numpy import save
from small_export import make_export

from lenshpc.cli.main import main
from lenshpc.errors import ConfigError, DataError
from lenshpc.files import sha256, write_sealed
from lenshpc.inference.archive import pack, unpack
from lenshpc.registry import Request
from lenshpc.registry.user_files import load_file
from lenshpc.run.origin import of_export
from lenshpc.run.trained import check_images, make_readout, read_export

READ = "Net = 'what was read'"


@pytest.fixture
def export(tmp_path):
    return make_export(tmp_path / "export")


def change(folder, **values):
    """Write other values into model.json, under a right seal."""
    content = json.loads((folder / "model.json").read_text())
    del content["sha256"]
    write_sealed(folder / "model.json", {**content, **values})


def test_compiled_code_beside_a_network_is_not_run(tmp_path):
    code = make_export(tmp_path / "export", code=READ) / "code"
    (file,) = (code / "files").iterdir()
    # Python would take it unchecked: the flag says that it may.
    hidden = marshal.dumps(compile("Net = 'what was hidden'", file, "exec"))
    cached = Path(importlib.util.cache_from_source(str(file)))
    cached.parent.mkdir()
    head = importlib.util.MAGIC_NUMBER + (1).to_bytes(4, "little") + bytes(8)
    cached.write_bytes(head + hidden)
    assert load_file(f"Net@{file.stem}", code) == "what was read"


def test_array_that_is_not_listed_is_refused(export):
    (export / "fitted.safetensors").write_bytes(save({"embedding/0": np.ones((3, 2))}))
    with pytest.raises(DataError, match=r"fitted\.safetensors was changed after the export"):
        read_export(export)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"members": []}, "members are not those of the recipe's models"),
        ({"channels": ["g", "r"]}, "2 names for 1 channels"),
        ({"plugins": ["x"]}, "plugins"),
        ({"image_shape": [0, 32, 32]}, "1 names for 0 channels"),
    ],
)
def test_odd_values_end_in_one_line(export, values, told):
    change(export, **values)
    with pytest.raises(ConfigError, match=told):
        read_export(export)


def test_model_without_plugins_is_told(export):
    content = json.loads((export / "model.json").read_text())
    for key in ("sha256", "recipe", "plugins"):
        del content[key]
    write_sealed(export / "model.json", content)
    with pytest.raises(ConfigError, match="recipe"):
        read_export(export)


@pytest.mark.parametrize("fitted", [{}, {"mixture": 3}, {"mixture": {"kind": "Unknown"}}])
def test_what_something_else_fitted_is_told(export, fitted):
    change(export, fitted=fitted)
    with pytest.raises(
        DataError, match="what was fitted for lenses-01234567 is not what task lens-f"
    ):
        make_readout(read_export(export), Request())


def test_member_that_comes_twice_is_refused(export):
    (member,) = json.loads((export / "model.json").read_text())["members"]
    change(export, members=[member, member])
    with pytest.raises(ConfigError, match="two members have the same index"):
        read_export(export)


def test_file_that_leads_elsewhere_is_only_compared(export, tmp_path):
    (tmp_path / "secret").write_text("a word")
    change(export, files={"../secret": "0" * 64})
    with pytest.raises(DataError) as refused:
        read_export(export)
    assert "a word" not in str(refused.value)


def test_training_rows_of_another_kind_are_told(export):
    rows = export / "training_rows.parquet"
    pd.DataFrame({"id": ["a"]}).to_parquet(rows)
    change(export, files={rows.name: sha256(rows)})
    (seen,) = of_export(export).find_seen()
    with pytest.raises(DataError, match=r"training_rows\.parquet is damaged"):
        seen.read_sha256()


@pytest.mark.parametrize(("at", "value"), [(6, 1), (6, 8)])
def test_zip_that_asks_for_a_password_or_lies_about_names_is_told(tmp_path, at, value):
    path = tmp_path / "bad.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("name", b"content")
    content = bytearray(path.read_bytes().replace(b"name", b"nam\xff"))
    entry = content.index(b"PK\x01\x02")
    flags = {1: (at, 1), 8: (at + 1, value)}[value]  # encrypted; the name is UTF-8
    content[flags[0]] |= flags[1]
    content[entry + flags[0] + 2] |= flags[1]
    path.write_bytes(content)
    with pytest.raises(
        DataError, match=r"bad\.zip (was not packed by lenshpc|is a damaged or incomplete \.zip)"
    ):
        unpack(path)


def test_zip_is_not_sent_to_jobs_that_cannot_see_it(export, tmp_path):
    pack(export, tmp_path / "export.zip")
    given = ["predict", str(tmp_path / "export.zip"), str(tmp_path), "--site", "local"]
    done = CliRunner().invoke(main, [*given, "--array-size", "2"])
    assert done.exit_code == 2
    assert "would be unpacked on this machine, where jobs do not see it" in done.output


@pytest.mark.parametrize("prior", [0.0, 1.0, -1.0, 2.0, float("nan"), float("inf")])
def test_prior_that_is_no_share_is_refused(prior):
    with pytest.raises(ConfigError, match="is not in the range 0<x<1; give a fraction"):
        Request(prior=prior)


def test_order_of_bytes_is_no_other_dtype(export):
    change(export, dtype="uint16")
    spec = read_export(export).spec
    check_images(spec, (1, 32, 32), np.dtype(">u2"))
    with pytest.raises(ConfigError, match="images are int16, and"):
        check_images(spec, (1, 32, 32), np.dtype(">i2"))
