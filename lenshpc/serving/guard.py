"""Who is let in: a browser on this machine, or at the end of its tunnel, that has the token."""

import sys
import traceback
from collections.abc import Callable, Iterable
from http import HTTPStatus
from http.cookies import CookieError, SimpleCookie
from secrets import compare_digest
from typing import Any
from urllib.parse import parse_qs

from lenshpc.errors import printable_lines

Environ = dict[str, Any]
StartResponse = Callable[..., Any]
Application = Callable[[Environ, StartResponse], Iterable[bytes]]

HOSTS = frozenset({"localhost", "127.0.0.1"})
# Our own pages: nothing of elsewhere, no script or style but ours, in nobody's frame.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # The token may stand in the address of a page, which no other page shall be told.
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class Guard:
    """The application behind its door: every answer, a refusal too, goes through here."""

    def __init__(self, application: Application, token: str, cookie: str) -> None:
        self._application, self._token, self._cookie = application, token, cookie

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Answer a request, as WSGI has it."""

        def start(status: str, headers: list[tuple[str, str]], *more: Any) -> Any:
            given = {name.title() for name, _ in headers}
            ours = [one for one in HEADERS.items() if one[0] not in given]
            return start_response(status, [*headers, *ours, *self._hand_over(environ)], *more)

        refusal = self._judge(environ)
        if refusal:
            return _say(start, *refusal)
        try:
            return self._application(environ, start)
        except Exception:  # noqa: BLE001 - one page that fails ends no other
            sys.stderr.write(printable_lines(traceback.format_exc()))
            return _say(start, HTTPStatus.INTERNAL_SERVER_ERROR, "a fault of lenshpc: see its log")

    def _judge(self, environ: Environ) -> tuple[HTTPStatus, str] | None:
        """Return why a request is refused."""
        # By its name, not its port, which a tunnel changes. Else a page of elsewhere could have its
        # own name point to this machine, and its reader's browser ask us.
        name = environ.get("HTTP_HOST", "").partition(":")[0].lower()
        if name not in HOSTS:
            return HTTPStatus.FORBIDDEN, "this server is asked for as localhost or 127.0.0.1 alone"
        if not (self._is_token(_read_query(environ)) or self._is_token(self._read_cookie(environ))):
            return (
                HTTPStatus.FORBIDDEN,
                "open the address that lenshpc serve has printed",
            )
        if environ["REQUEST_METHOD"] not in {"GET", "HEAD"}:
            return HTTPStatus.METHOD_NOT_ALLOWED, "this server is only read: GET and HEAD"
        return None

    def _hand_over(self, environ: Environ) -> list[tuple[str, str]]:
        """Return the header that gives the cookie to whoever came with the token."""
        if not self._is_token(_read_query(environ)):
            return []
        return [("Set-Cookie", f"{self._cookie}={self._token}; HttpOnly; SameSite=Strict; Path=/")]

    def _read_cookie(self, environ: Environ) -> str:
        try:
            cookies = SimpleCookie(environ.get("HTTP_COOKIE", ""))
        except CookieError:
            return ""
        return str(cookies[self._cookie].value) if self._cookie in cookies else ""

    def _is_token(self, given: str) -> bool:
        return compare_digest(given.encode(), self._token.encode())


def _read_query(environ: Environ) -> str:
    try:
        query = parse_qs(str(environ.get("QUERY_STRING", "")), max_num_fields=20)
    except ValueError:
        return ""
    return query.get("token", [""])[0]


def _say(start: StartResponse, status: HTTPStatus, text: str) -> list[bytes]:
    body = f"lenshpc: {text}\n".encode()
    headers = [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(body)))]
    if status == HTTPStatus.METHOD_NOT_ALLOWED:
        headers.append(("Allow", "GET, HEAD"))
    start(f"{status.value} {status.phrase}", headers)
    return [body]
