"""The server: its addresses, its socket on the loopback, its token."""

import errno
import getpass
import hashlib
import json
import secrets
import socket
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

import bottle

from lenshpc.errors import ConfigError, LensHpcError, printable
from lenshpc.serving.documents import open_document
from lenshpc.serving.folder import RunsFolder, tell_folder, tell_run
from lenshpc.serving.guard import Guard
from lenshpc.serving.pages import draw_error, draw_folder, draw_run, draw_study

HOST = "127.0.0.1"
PORTS = range(8137, 8237)  # in which a free one is looked for
REQUEST_S = 30.0  # for a request to arrive, or an answer to leave
_HERE = Path(__file__).parent


def make_application(folder: RunsFolder) -> bottle.Bottle:
    """Return the addresses of a folder, without its door."""
    app = bottle.Bottle()
    app.config["catchall"] = False  # the door says what went wrong
    app.default_error_handler = _show_error
    pages: dict[str, Callable[..., str]] = {
        "/": lambda: draw_folder(folder),
        "/run/<key:path>": lambda key: draw_run(folder, key, _require(folder.find(key))),
        "/study/<name>": lambda name: draw_study(folder, _require(folder.find_study(name))),
    }
    values: dict[str, Callable[..., Any]] = {
        "/api/runs": lambda: tell_folder(folder),
        "/api/run/<key:path>": lambda key: tell_run(folder, _require(folder.find(key))),
    }
    for address, draw in pages.items():
        app.get(address, callback=partial(_answer_page, draw))
    for address, tell in values.items():
        app.get(address, callback=partial(_answer_json, tell))
    app.get("/file/<name:path>", callback=partial(_answer_file, folder))
    app.get("/<name:re:serve[.](css|js)>", callback=_answer_own)
    return app


def _require(found: Any) -> Any:
    if found is None:
        raise bottle.HTTPError(404)
    return found


def _answer_page(draw: Callable[..., str], **keys: str) -> bottle.HTTPResponse:
    try:
        body = draw(**keys).encode()
    except (LensHpcError, OSError) as error:
        return _page(503, draw_error("This cannot be shown", printable(error)).encode())
    # So that a page which looks for news and finds none costs its tunnel nothing.
    mark = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
    if bottle.request.get_header("If-None-Match") == mark:
        return bottle.HTTPResponse(status=304, headers={"ETag": mark})
    return _page(200, body, ETag=mark)


def _page(status: int, body: bytes, **headers: str) -> bottle.HTTPResponse:
    mime = "text/html; charset=utf-8"
    return bottle.HTTPResponse(body, status, {"Content-Type": mime, **headers})


def _answer_json(tell: Callable[..., Any], **keys: str) -> bottle.HTTPResponse:
    try:
        status, value = 200, tell(**keys)
    except (LensHpcError, OSError) as error:
        status, value = 503, {"error": printable(error)}
    body = json.dumps(_plain(value), allow_nan=False).encode()
    return bottle.HTTPResponse(body, status, {"Content-Type": "application/json"})


def _plain(value: Any) -> Any:
    """Return a value without the numbers that JSON does not have."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return None if isinstance(value, float) and value - value != 0 else value


def _answer_file(folder: RunsFolder, name: str) -> bottle.HTTPResponse:
    document = _require(open_document(folder.path, name))
    headers = {
        "Content-Type": document.type,
        "Content-Length": str(document.num_bytes),
        "Content-Security-Policy": document.policy,
    }
    if document.is_saved:
        headers["Content-Disposition"] = "attachment"
    return bottle.HTTPResponse(document.stream, 200, headers)


def _answer_own(name: str) -> bottle.HTTPResponse:
    mime = {".css": "text/css", ".js": "text/javascript"}[Path(name).suffix]
    headers = {"Content-Type": f"{mime}; charset=utf-8"}
    return bottle.HTTPResponse((_HERE / name).read_bytes(), 200, headers)


def _show_error(error: bottle.HTTPError) -> str:
    texts = {404: ("Not here", "There is no such run, study or page any more.")}
    title, text = texts.get(error.status_code, ("Not answered", str(error.status_line)))
    return draw_error(title, text)


class _Server(ThreadingMixIn, WSGIServer):
    """Answers each request in a thread of its own: browsers hold connections that ask nothing."""

    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: it is a reader that has gone, or one who is not let in."""


class _Handler(WSGIRequestHandler):
    timeout = REQUEST_S

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base's name
        """Say nothing: addresses may hold the token."""


@dataclass(frozen=True, kw_only=True)
class Serving:
    """A server that is bound, and waits for `server.serve_forever()`; `url` holds the token."""

    server: WSGIServer
    token: str

    @property
    def port(self) -> int:
        """Return the port on the loopback."""
        return self.server.server_port

    @property
    def url(self) -> str:
        """Return the address to open."""
        return f"http://{HOST}:{self.port}/?token={self.token}"

    @property
    def tunnel(self) -> str:
        """Return the command by which another machine's browser reaches it."""
        host = f"{getpass.getuser()}@{socket.getfqdn()}"
        return f"ssh -N -L {self.port}:{HOST}:{self.port} {host}"


def open_server(folder: RunsFolder, port: int | None = None) -> Serving:
    """Bind a server of a folder to the loopback: to `port`, else to the first that is free.

    Raises ConfigError where `port` is not free.
    """
    application, token = make_application(folder), secrets.token_urlsafe(32)
    server = _bind([port] if port is not None else [*PORTS, 0])
    # Browsers keep one jar for all ports of a name.
    server.set_app(Guard(application, token, f"lenshpc-{server.server_port}"))
    return Serving(server=server, token=token)


def _bind(ports: list[int]) -> WSGIServer:
    for port in ports:
        try:
            return _Server((HOST, port), _Handler)
        except OSError as error:
            if error.errno not in {errno.EADDRINUSE, errno.EACCES}:
                raise
    raise ConfigError(
        f"port {ports[0]} of {HOST} is not available; give another with --port, or leave it out"
    )
