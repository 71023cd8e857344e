"""A small server that speaks the Hub's protocol, on the loopback: repositories live in memory, faults on demand."""

import re
import socket
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

from hub_api import Answer, HubApi


@dataclass
class Fault:
    r"""
    What goes wrong with requests.

    Args:
        method, path (`str`):
            The requests: a method, and a regular expression that is found in the path.
        kind (`"drop"`, `"truncate"`, `"lost"` or `"status"`):
            The connection ends before the whole request was read, or with half of the answer's body sent, or without
            an answer after the request was obeyed; or the answer is `status`.
        times (`int`):
            How many requests are hit.
        status (`int`):
            For `"status"`.
    """

    method: str
    path: str
    kind: str
    times: int = 1
    status: int = 503


class HubServer:
    """
    The server; a context manager. `requests` has (method, path, status) of all that was asked, `faults` what goes
    wrong next.
    """

    def __init__(self):
        self.repositories, self.objects, self.requests, self.faults = {}, {}, [], []
        self.lock = threading.RLock()
        handler = type("BoundHandler", (Handler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self):
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *exception):
        self._server.shutdown()
        self._server.server_close()

    @contextmanager
    def failing(self, *faults):
        """Faults for a `with` block alone."""
        self.faults += faults
        yield
        self.faults = [each for each in self.faults if each not in faults]

    def repository(self, id, kind="models"):
        return self.repositories[kind, id]

    def files(self, id, kind="models", revision="main"):
        """Paths and contents, those of LFS included, as readers see them."""
        repository = self.repository(id, kind)
        files = repository.commits[repository.resolve(revision)]
        return {path: self.content(content) for path, content in files.items()}

    def content(self, content):
        return content if isinstance(content, bytes) else self.objects[content]

    def count(self, method, path):
        """How many requests of a method, to paths in which a regular expression is found, were answered well."""
        return sum(
            each == method and status < 400 and re.search(path, at) is not None for each, at, status in self.requests
        )

    def fault(self, method, path):
        with self.lock:
            for each in self.faults:
                if each.times and each.method == method and re.search(each.path, path):
                    each.times -= 1
                    return each
        return None


class Handler(HubApi, BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def do_GET(self):
        parts = urlsplit(self.path)
        length = int(self.headers.get("Content-Length") or 0)
        fault = self.hub.fault(self.command, parts.path)
        kind = None if fault is None else fault.kind
        if kind == "drop":
            self.rfile.read(min(length // 2, 4096))
            return self._hang_up(parts.path)
        body = self.rfile.read(length) if length or not self._chunked() else self._read_chunks()
        try:
            if kind == "status":
                raise Answer(fault.status, {"error": "injected"})
            with self.hub.lock:
                self.answer(parts.path, parse_qs(parts.query), body)
            raise Answer(404, {"error": "not found"}, message="Not Found")
        except Answer as answer:
            if kind == "lost":
                return self._hang_up(parts.path)
            self._send(answer, truncated=kind == "truncate")
            self.hub.requests.append((self.command, parts.path, answer.status))

    do_HEAD = do_POST = do_PUT = do_DELETE = do_GET

    def _chunked(self):
        return "chunked" in self.headers.get("Transfer-Encoding", "")

    def _read_chunks(self):
        chunks = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def _hang_up(self, path):
        self.hub.requests.append((self.command, path, 599))
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def _send(self, answer, truncated):
        content, status = answer.content, answer.status
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if asked and status == 200:
            start, stop = int(asked[1]), int(asked[2] or len(content) - 1) + 1
            answer.headers["Content-Range"] = f"bytes {start}-{min(stop, len(content)) - 1}/{len(content)}"
            content, status = content[start:stop], 206
        self.send_response(status)
        for name, value in {"Content-Length": len(content), **answer.headers}.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[: len(content) // 2] if truncated else content)
        if truncated:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
