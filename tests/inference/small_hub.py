"""A Hugging Face hub of a test's own: repositories in memory, behind the addresses of the real one.

As much of it as sending a folder, listing and fetching take: huggingface_hub's own client speaks
with it over HTTP.
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit


@dataclass
class Repository:
    """Files by path at each commit, oldest first, and who may see them."""

    visibility: str | None
    commits: list[dict[str, bytes]] = field(default_factory=lambda: [{".gitattributes": b"*"}])

    @property
    def names(self) -> list[str]:
        """Return the name of each commit."""
        return [_hash(f"{at}".encode()) for at in range(len(self.commits))]

    def find(self, revision: str) -> tuple[str, dict[str, bytes]]:
        """Return the commit that a name stands for, and its files; KeyError where it is none."""
        names = self.names
        at = (
            len(names) - 1
            if revision == "main"
            else dict(zip(names, range(len(names)), strict=True))[revision]
        )
        return names[at], self.commits[at]


@dataclass
class Hub:
    """What was sent to it."""

    url: str
    repositories: dict[str, Repository] = field(default_factory=dict)
    tokens: list[str | None] = field(default_factory=list)


@contextmanager
def small_hub() -> Iterator[Hub]:
    """Yield a hub that answers on this machine as long as the block runs."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.hub = Hub(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server.hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class Handler(BaseHTTPRequestHandler):
    """Answers as huggingface.co does."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_POST(self) -> None:
        """Make a repository, or take a commit."""
        hub: Hub = self.server.hub
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        hub.tokens.append(self.headers.get("Authorization"))
        path = unquote(urlsplit(self.path).path)
        if path == "/api/repos/create":
            told = json.loads(body)
            name = f"{told['organization']}/{told['name']}"
            known = name in hub.repositories
            hub.repositories.setdefault(name, Repository(told.get("visibility")))
            self._tell({"url": f"{hub.url}/{name}"}, 409 if known else 200)
        elif path == "/api/validate-yaml":
            self._tell({"errors": [], "warnings": []})
        elif found := re.fullmatch("/api/models/([^/]+/[^/]+)/preupload/main", path):
            files = [
                {"path": one["path"], "uploadMode": "regular", "shouldIgnore": False}
                for one in json.loads(body)["files"]
            ]
            self._tell({"files": files})
        elif found := re.fullmatch("/api/models/([^/]+/[^/]+)/commit/main", path):
            self._commit(found[1], [json.loads(line) for line in body.splitlines()])
        else:
            self._tell({"error": path}, 404)

    def _commit(self, name: str, lines: list[dict]) -> None:
        repository = self.server.hub.repositories[name]
        files = dict(repository.commits[-1])
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        repository.commits.append(files)
        oid, _ = repository.find("main")
        self._tell({"commitUrl": f"{self.server.hub.url}/{name}/commit/{oid}", "commitOid": oid})

    def do_HEAD(self) -> None:
        """Tell of a file without its bytes."""
        self.do_GET()

    def do_GET(self) -> None:
        """Tell of a repository, list its files, or hand out one."""
        path = unquote(urlsplit(self.path).path)
        try:
            if found := re.fullmatch("/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", path):
                self._describe(*found.groups(default="main"))
            elif found := re.fullmatch("/api/models/([^/]+/[^/]+)/tree/([^/]+)", path):
                _, files = self._find(*found.groups())
                self._tell(
                    [
                        {"type": "file", "path": name, "size": len(content), "oid": _hash(content)}
                        for name, content in files.items()
                    ]
                )
            elif found := re.fullmatch("/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
                commit, files = self._find(*found.groups()[:2])
                content = files[found[3]]
                self._send(content, 200, {"ETag": f'"{_hash(content)}"', "X-Repo-Commit": commit})
            else:
                self._tell({"error": path}, 404)
        except KeyError as error:
            code = "RevisionNotFound" if error.args[0] != "repository" else "RepoNotFound"
            self._tell({"error": "not there"}, 404, {"X-Error-Code": code})

    def _find(self, name: str, revision: str) -> tuple[str, dict[str, bytes]]:
        if name not in self.server.hub.repositories:
            raise KeyError("repository")
        return self.server.hub.repositories[name].find(revision)

    def _describe(self, name: str, revision: str) -> None:
        commit, files = self._find(name, revision)
        siblings = [{"rfilename": one} for one in files]
        self._tell({"id": name, "sha": commit, "siblings": siblings})

    def _tell(self, value: object, status: int = 200, headers: dict | None = None) -> None:
        self._send(json.dumps(value).encode(), status, headers or {})

    def _send(self, content: bytes, status: int, headers: dict) -> None:
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def _hash(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()  # noqa: S324 - as git names files
