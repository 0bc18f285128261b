"""Who is let in and what is handed out: token, name, method, paths, policies; and the command."""

import base64
import hashlib
import json
import os
import signal
import socket
from pathlib import Path

import commands
import pytest
from click.testing import CliRunner

import lenshpc
from lenshpc.cli.main import main

REFUSED = b"lenshpc: open the address that lenshpc serve has printed\n"
ADDRESSES = ["/", "/run/x", "/study/x", "/api/runs", "/file/x/report/report.html", "/serve.js"]


@pytest.mark.parametrize("path", ADDRESSES)
def test_request_without_the_token_is_refused(served, path):
    status, headers, body = served.ask(path, token=False)
    assert (status, body) == (403, REFUSED)
    assert "Set-Cookie" not in headers
    assert headers["Content-Security-Policy"].startswith("default-src 'none'; ")


@pytest.mark.parametrize("cookie", ["={}x", "=x{}", "=", "={}; {}", "\N{SNOWMAN}", '="\\777'])
def test_cookie_of_another_value_is_refused(served, cookie):
    """Latin-1 is what a header may hold; the snowman goes as the bytes of UTF-8."""
    text = f"lenshpc-{served.port}" + cookie.format(served.token[:-1], "a=b")
    given = {"Cookie": text.encode().decode("latin-1")}
    assert served.ask("/", token=False, headers=given)[0] == 403


def test_token_in_the_address_gives_the_cookie(served):
    status, headers, _ = served.ask(f"/?token={served.token}", token=False)
    cookie = f"lenshpc-{served.port}={served.token}; HttpOnly; SameSite=Strict; Path=/"
    assert (status, headers["Set-Cookie"]) == (200, cookie)
    assert served.ask(f"/?token={served.token}x", token=False)[0] == 403
    assert "Set-Cookie" not in served.ask("/")[1]


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("127.0.0.1:9", 200),
        ("LOCALHOST:8888", 200),
        ("evil.example", 403),
        ("localhost.evil.example:8137", 403),
        ("127.0.0.1.evil.example", 403),
        ("[::1]", 403),
        ("", 403),
    ],
)
def test_other_names_of_this_machine_are_refused(served, host, status):
    assert served.ask("/", headers={"Host": host})[0] == status


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "X"])
def test_server_is_only_read(served, method):
    status, headers, body = served.ask("/", method=method)
    assert (status, headers["Allow"]) == (405, "GET, HEAD")
    assert body == b"lenshpc: this server is only read: GET and HEAD\n"


def test_head_is_answered_without_a_body(served):
    whole = served.ask("/")
    status, headers, body = served.ask("/", method="HEAD")
    assert (status, body, headers["Content-Length"]) == (200, b"", str(len(whole[2])))


@pytest.fixture
def reported(served, run, tmp_path):
    """Plant a report with what must not be handed out; return the address of the run's files."""
    folder = run.paths.report
    (folder / "figures").mkdir(parents=True)
    run.paths.slurm.mkdir()
    (tmp_path / "secret.json").write_text("{}")
    (folder / "link.json").symlink_to(tmp_path / "secret.json")
    (folder / "to").symlink_to(tmp_path)
    (run.paths.root / "report-out").symlink_to(tmp_path)
    os.mkfifo(folder / "pipe.json")
    inside = ["report.html", "report.md", "predictions.parquet", "figures/roc.svg", ".hidden.json"]
    for name in (*inside, "model.pkl", "run.html.py"):
        (folder / name).write_text("x")
    (run.paths.slurm / "8_0_0_log.out").write_text("x")
    (run.paths.root / "gallery.html").write_text("x")
    return f"/file/{run.paths.name}"


@pytest.mark.parametrize(
    "path",
    [
        *(
            "/plan.json",
            "/splits.parquet",
            "/slurm/8_0_0_log.out",
            "/members",
            "/report",
            "/report/",
        ),
        *("/report/.hidden.json", "/report/model.pkl", "/report/run.html.py", "/report/none.html"),
        *("/report/link.json", "/report/to/secret.json", "/report-out/secret.json"),
        *(
            "/report/pipe.json",
            "/report/figures",
            "/report/../plan.json",
            "/report/%2e%2e/plan.json",
        ),
        *("/report%2f..%2fplan.json", "/report/..%2f..%2f..%2fsecret.json", "//etc/passwd"),
        *("/report/%00.html", "/report/report.html%00.json", "/%ff%fe"),
        *("/report/figures/../report.html", "/../../secret.json", "/report\\..\\plan.json"),
    ],
)
def test_no_other_file_is_handed_out(served, reported, path):
    assert served.ask(reported + path)[0] == 404


def test_files_of_a_report_have_their_types_and_run_its_own_script_alone(served, reported):
    script = (Path(lenshpc.__file__).parent / "report" / "report.js").read_bytes()
    digest = base64.b64encode(hashlib.sha256(script).digest()).decode()
    told = {}
    for path in ("report.html", "report.md", "predictions.parquet", "figures/roc.svg"):
        status, headers, body = served.ask(f"{reported}/report/{path}")
        assert (status, body, headers["X-Content-Type-Options"]) == (200, b"x", "nosniff")
        assert headers["Content-Security-Policy"] == (
            "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
            f"script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'; "
            "frame-ancestors 'none'; sandbox allow-scripts"
        )
        told[path] = (headers["Content-Type"], headers.get("Content-Disposition"))
    assert told == {
        "report.html": ("text/html; charset=utf-8", None),
        "report.md": ("text/plain; charset=utf-8", None),
        "predictions.parquet": ("application/vnd.apache.parquet", "attachment"),
        "figures/roc.svg": ("image/svg+xml", None),
    }


def test_gallery_may_run_its_own_script_alone(served, reported):
    policy = served.ask(f"{reported}/gallery.html")[1]["Content-Security-Policy"]
    assert policy.count("script-src") == policy.count("'sha256-") == 1
    assert "sandbox" not in policy  # it keeps grades


def test_nobody_is_answered_but_on_the_loopback(served):
    with socket.socket() as other:
        # The whole of 127.0.0.0/8 is this machine: a server of all addresses would answer here.
        assert other.connect_ex(("127.0.0.2", served.port)) != 0


def test_command_prints_an_address_and_ends_with_a_line(run, tmp_path):
    process = commands.start(tmp_path, "serve", "--json")
    told = json.loads(process.stdout.readline())
    assert told["url"].startswith("http://127.0.0.1:")
    assert told["url"].endswith(f"/?token={told['token']}")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    assert err == "lenshpc: stopped; this affects no run\n"


def test_port_that_is_not_free_is_refused_in_one_line(run):
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        done = CliRunner().invoke(main, ["serve", "--port", str(port)])
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr == (
        f"lenshpc: port {port} of 127.0.0.1 is not available; give another with --port, or leave "
        "it out\n"
    )


def test_folder_that_is_not_there_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(main, ["serve", "--runs", "none"])
    assert (done.exit_code, done.stderr) == (
        2,
        "lenshpc: no folder none; give the folder of runs with --runs\n",
    )
