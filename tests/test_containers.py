"""The container files say the same; where buildah can be had, an image is built and trains."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from lenshpc import __version__
from lenshpc.errors import ConfigError
from lenshpc.launch.sites import load_site

ROOT = Path(__file__).parents[1]
DEFINITION = (ROOT / "slurm" / "lenshpc.def").read_text(encoding="utf-8")
DOCKERFILE = (ROOT / "slurm" / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
TOOLS = [name for name in ("buildah", "debootstrap") if shutil.which(name) is None]
# A member of two processes under ZeRO-2, so DeepSpeed too goes without a compiler.
INSIDE = """
set -e
cd "$HOME"
exec 3>&1 >&2
lenshpc simulate lens_finding images --train lens=20,nonlens=20 --test 6 --seed 1
lenshpc prepare lens_finding images store
lenshpc submit --task lens-finding --data store --name tiny --folds 2 --models resnet18 \
  --gpus-per-node 2 --set train.strategy=deepspeed --set train.zero_stage=2 \
  --set train.epochs=1 --set train.warmup_epochs=0 --set train.batch_size=8 --wait
ls runs/*/report/report.html runs/*/members/*/done.json | wc -l >&3
"""


def sections(text):
    """Return the header's lines and those of each section of an Apptainer definition."""
    found = {"": []}
    name = ""
    for line in text.splitlines():
        title = re.fullmatch(r"%([a-z]+)", line)
        name = title[1] if title else name
        if title is None and line.strip():
            found.setdefault(name, []).append(line.strip())
    return found


def instructions(name):
    """Return the arguments of each such instruction of the Dockerfile, in order."""
    return re.findall(rf"^{name} (.*)$", DOCKERFILE, re.MULTILINE)


def spell(text):
    """Return a line with `{{ NAME }}` as Docker has it."""
    return re.sub(r"\{\{ (\w+) \}\}", r"${\1}", text)


def test_definition_has_what_apptainer_asks_for():
    found = sections(DEFINITION)
    assert found[""] == ["Bootstrap: docker", "From: {{ BASE }}"]
    assert sorted(found) == sorted(
        ["", "arguments", "environment", "files", "help", "labels", "post", "runscript", "test"]
    )
    assert found["runscript"] == ['exec lenshpc "$@"']
    assert instructions("ENTRYPOINT") == ['["lenshpc"]']


def test_image_finds_its_own_python_first_and_is_given_gpus():
    path = "/opt/lenshpc/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    gpus = "NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility"
    assert instructions("ENV") == [f"PATH={path}", gpus]
    assert sections(DEFINITION)["environment"] == ["export PATH=/opt/lenshpc/bin:$PATH"]


def test_definition_and_dockerfile_install_the_same_on_the_same_base():
    found = sections(DEFINITION)
    installed = [spell(line) for line in found["post"][:-1]]
    assert instructions("RUN")[:-1] == installed
    assert found["post"][-1] == "rm -r /build"
    given = sorted(line for line in instructions("ARG") if "=" in line)
    assert given == sorted(found["arguments"])
    labels = [spell(line).split() for line in found["labels"]]
    (told,) = instructions("LABEL")
    assert [one.split("=") for one in shlex.split(told)] == labels


def test_files_that_are_copied_into_an_image_are_there_or_are_the_wheel():
    (copied,) = (line for line in instructions("COPY") if not line.startswith("--from"))
    sources = copied.split()[:-1]
    files = [spell(line).split() for line in sections(DEFINITION)["files"]]
    assert files == [[source, f"/build/{Path(source).name}"] for source in sources]
    wheel = "dist/lenshpc-${VERSION}-py3-none-any.whl"
    assert sources == ["constraints.txt", wheel]
    assert (ROOT / "constraints.txt").is_file()
    # Docker sends nothing else to the builder: no environment, no runs, no secrets of a checkout
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    assert ignored == ["*", "!constraints.txt", "!dist"]


def profile(folder, keys):
    (folder / "my.yaml").write_text(yaml.safe_dump({"scheduler": "slurm", **keys}))
    return load_site(str(folder / "my.yaml"))


def test_profiles_of_the_page_start_python_as_the_page_says(tmp_path):
    page = (ROOT / "docs" / "containers.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    apptainer, pyxis = (profile(tmp_path, yaml.safe_load(block)) for block in blocks)
    assert (apptainer.interpreter, apptainer.step_args) == (
        "apptainer exec --nv --bind=/scratch --bind=/project/data:/data:ro "
        "/shared/lenshpc.sif python3",
        (),
    )
    assert (pyxis.interpreter, pyxis.step_args) == (
        "python3",
        (
            "--container-image=/shared/lenshpc.sqsh",
            "--container-mounts=/shared:/shared,/scratch:/scratch",
        ),
    )


def test_image_of_a_registry_is_named_as_enroot_has_it_and_is_no_comment(tmp_path):
    image = "docker://me@registry.example.org#lenses/lenshpc:0.3.0"
    assert profile(tmp_path, {"container": image}).step_args == (f"--container-image={image}",)
    with pytest.raises(ConfigError):
        profile(tmp_path, {"container": "#lenshpc"})


def run(*command, **options):
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL, **options
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    return done.stdout


@pytest.fixture
def engine(tmp_path):
    """Return the words that call buildah with images in the test's folder."""
    places = ["--root", str(tmp_path / "storage"), "--runroot", str(tmp_path / "run")]
    yield ["buildah", *places, "--storage-driver", "vfs"]
    shutil.rmtree(tmp_path / "storage", ignore_errors=True)  # gigabytes


def pip_volumes(folder):
    """Return the options that let pip find packages in a build as it finds them here."""
    listed = run(sys.executable, "-m", "pip", "config", "list")
    settings = dict(re.findall(r"^(?:global|:env:)\.([\w-]+)='(.*)'$", listed, re.MULTILINE))
    settings.pop("constraint", "")
    lines = "".join(f"{key} = {value}\n" for key, value in settings.items())
    (folder / "pip.conf").write_text(f"[global]\n{lines}", encoding="utf-8")
    paths = re.findall(r"(?:file://|(?<= ))(/\w+/\w+)", lines)
    volumes = {f"{folder / 'pip.conf'}:/etc/pip.conf:ro"}
    volumes |= {f"{path}:{path}:ro" for path in paths if Path(path).exists()}
    return [option for volume in sorted(volumes) for option in ("--volume", volume)]


def make_base(engine, folder):
    """Make an image of a bare Debian with Python, as no registry may be reached."""
    packages = "--include=python3,python3-venv,ca-certificates"
    run("debootstrap", "--variant=minbase", packages, "bookworm", folder / "debian")
    base = run(*engine, "from", "scratch").strip()
    run(*engine, "add", "-q", base, folder / "debian", "/")
    run(*engine, "commit", "-q", base, "localhost/base")
    shutil.rmtree(folder / "debian")


def make_image(engine, folder):
    """Make the image as a user does."""
    options = ["--isolation", "chroot", "--layers=false", *pip_volumes(folder)]
    given = [*options, "--build-arg", "BASE=localhost/base"]
    tools = f"BIN={Path(sys.executable).parent}"
    settings = [f"ENGINE={shlex.join(engine)}", f"IMAGE_ARGS={shlex.join(given)}"]
    run("make", "-o", "setup", tools, *settings, "image", cwd=ROOT)


@pytest.mark.slow
@pytest.mark.skipif(os.getuid() != 0, reason="debootstrap needs root")
@pytest.mark.skipif(bool(TOOLS), reason=f"apt-get install {' '.join(TOOLS)}")
def test_image_is_built_and_a_member_trains_in_it(engine, tmp_path):
    make_base(engine, tmp_path)
    make_image(engine, tmp_path)
    image = f"localhost/lenshpc:{__version__}"
    config = json.loads(run(*engine, "inspect", "--type", "image", image))["OCIv1"]["config"]
    assert config["User"] == "lenshpc"
    assert config["Entrypoint"] == ["lenshpc"]
    assert config["Labels"]["org.opencontainers.image.version"] == __version__
    container = run(*engine, "from", "--pull-never", image).strip()
    inside = [*engine, "run", "--isolation", "chroot", container, "--"]
    assert run(*inside, "lenshpc", "--version") == f"lenshpc, version {__version__}\n"
    assert run(*inside, "sh", "-c", "command -v cc gcc g++ nvcc make || true") == ""
    assert run(*inside, "sh", "-c", INSIDE) == "3\n"
