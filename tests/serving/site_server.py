"""A served folder of runs, asked through a real socket."""

import http.client
import json
import threading
from contextlib import contextmanager

from lenshpc.serving.folder import RunsFolder
from lenshpc.serving.scheduler import Scheduler
from lenshpc.serving.server import open_server


class Served:
    """A server in a thread; each look is a fresh one."""

    def __init__(self, folder, scheduler):
        # A port of its own: a browser may hold a connection to the server of the test before.
        self.serving = open_server(RunsFolder(folder, scheduler, every_s=0.0), port=0)
        self.token, self.port = self.serving.token, self.serving.port

    def ask(self, path, *, method="GET", token=True, headers=None):
        """Return status, headers and body of an answer; the token goes as the cookie."""
        headers = {"Host": f"localhost:{self.port}", **(headers or {})}
        if token:
            headers.setdefault("Cookie", f"lenshpc-{self.port}={self.token}")
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
        return answer.status, dict(answer.getheaders()), body

    def read(self, path):
        """Return the value of a JSON address."""
        status, headers, body = self.ask(path)
        assert (status, headers["Content-Type"]) == (200, "application/json"), body
        return json.loads(body)


@contextmanager
def serve(folder, scheduler=None):
    """Yield a server of a folder of runs."""
    served = Served(folder, scheduler or Scheduler())
    with served.serving.server as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield served
        finally:
            server.shutdown()
            thread.join()
