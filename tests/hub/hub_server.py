"""A small server that speaks the Hub's protocol, on the loopback: repositories live in memory, faults on demand."""

import base64
import hashlib
import json
import re
import socket
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

from card_rules import faults_of_card, metadata_of


TOKEN = "hf_dummy"
USER = "tester"
# What the Hub keeps outside of git, besides large and binary files
LFS_SUFFIXES = (".arrow", ".bin", ".faiss", ".model", ".npy", ".npz", ".parquet", ".safetensors")
LARGEST_REGULAR = 10 * 2**20


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


@dataclass
class Repository:
    """Commits are dictionaries of paths and contents (`bytes`, or the `str` of an LFS object), newest last."""

    kind: str
    id: str
    private: bool = False
    gated: bool = False
    commits: dict = field(default_factory=dict)
    branches: dict = field(default_factory=dict)

    def commit(self, branch, files):
        digest = hashlib.sha1(json.dumps([self.kind, self.id, len(self.commits)]).encode())
        for path, content in sorted(files.items()):
            digest.update(path.encode() + b"\0" + (content if isinstance(content, bytes) else content.encode()))
        self.commits[digest.hexdigest()] = files
        self.branches[branch] = digest.hexdigest()
        return digest.hexdigest()

    def resolve(self, revision):
        """The commit of a branch or of itself, or `None`."""
        return self.branches.get(revision, revision if revision in self.commits else None)


class Answer(Exception):
    """What a request is answered with."""

    def __init__(self, status, content=b"", code=None, message=None, **headers):
        super().__init__(status)
        if isinstance(content, bytes):
            headers.setdefault("Content-Type", "application/octet-stream")
        else:
            content, headers["Content-Type"] = json.dumps(content).encode(), "application/json"
        if code is not None:
            headers["X-Error-Code"] = code
        if message is not None:
            headers["X-Error-Message"] = message
        self.status, self.content, self.headers = status, content, headers


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


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    hub = None

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
                self._route(parts.path, parse_qs(parts.query), body)
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

    # Who may do what

    @property
    def _authorized(self):
        header = self.headers.get("Authorization")
        if header not in (None, f"Bearer {TOKEN}"):
            raise Answer(401, {"error": "bad token"}, message="Invalid credentials in Authorization header")
        return header is not None

    def _repository(self, kind, id):
        """A repository that the asker may see; others look as if they were not there."""
        authorized, found = self._authorized, self.hub.repositories.get((kind, id))
        if found is None or (found.private and not authorized):
            status = 404 if authorized else 401
            message = "Repository not found" if authorized else "Invalid username or password."
            raise Answer(status, {"error": message}, "RepoNotFound", message)
        return found

    def _writable(self, kind, id):
        found = self._repository(kind, id)
        if not self._authorized:
            raise Answer(401, {"error": "log in"}, "RepoNotFound", "Invalid username or password.")
        return found

    def _commit_of(self, repository, revision):
        commit = repository.resolve(revision)
        if commit is None:
            raise Answer(404, {"error": revision}, "RevisionNotFound", f"Invalid rev id: {revision}")
        return commit

    # What is asked

    def _route(self, path, query, body):
        for method, pattern, name in ROUTES:
            match = re.fullmatch(pattern, path)
            if match and self.command in method.split():
                arguments = {key: unquote(value or "") for key, value in match.groupdict().items()}
                if "prefix" in arguments:
                    arguments["kind"] = arguments.pop("prefix").strip("/") or "models"
                getattr(self, f"_{name}")(query=query, body=body, **arguments)

    def _whoami(self, query, body):
        if not self._authorized:
            raise Answer(401, {"error": "Invalid username or password."})
        raise Answer(200, {"type": "user", "name": USER, "fullname": USER, "orgs": []})

    def _create(self, query, body):
        if not self._authorized:
            raise Answer(401, {"error": "Invalid username or password."})
        wanted = json.loads(body)
        kind = f"{wanted.get('type') or 'model'}s"
        id = f"{wanted.get('organization') or USER}/{wanted['name']}"
        url = f"{self.hub.url}/{'' if kind == 'models' else kind + '/'}{id}"
        if (kind, id) in self.hub.repositories:
            raise Answer(409, {"error": "You already created this repo", "url": url, "name": id})
        repository = Repository(kind, id, private=wanted.get("visibility") == "private" or bool(wanted.get("private")))
        repository.commit("main", {".gitattributes": b"*.npy filter=lfs diff=lfs merge=lfs -text\n"})
        self.hub.repositories[kind, id] = repository
        raise Answer(200, {"url": url, "name": id})

    def _validate(self, query, body):
        wanted = json.loads(body)
        errors, warnings = faults_of_card(wanted["content"], wanted.get("repoType") or "model")
        messages = [[{"message": each} for each in some] for some in (errors, warnings)]
        raise Answer(400 if errors else 200, {"errors": messages[0], "warnings": messages[1]})

    def _info(self, query, body, kind, id, revision=""):
        repository = self._repository(kind, id)
        commit = self._commit_of(repository, revision or "main")
        card = repository.commits[commit].get("README.md", b"").decode()
        data = metadata_of(card) or {}
        moment = "2024-01-01T00:00:00.000Z"
        raise Answer(
            200,
            {
                "id": id,
                "author": id.split("/")[0],
                "sha": commit,
                "lastModified": moment,
                "createdAt": moment,
                "private": repository.private,
                "gated": repository.gated and "manual",
                "disabled": False,
                "downloads": 0,
                "likes": 0,
                "tags": data.get("tags") or [],
                "cardData": data,
                "siblings": [{"rfilename": path} for path in sorted(repository.commits[commit])],
                **{name: data[name] for name in ("pipeline_tag", "library_name") if name in data},
            },
        )

    def _refs(self, query, body, kind, id):
        branches = self._repository(kind, id).branches.items()
        listed = [{"name": name, "ref": f"refs/heads/{name}", "targetCommit": commit} for name, commit in branches]
        raise Answer(200, {"branches": listed, "converts": [], "tags": []})

    def _tree(self, query, body, kind, id, revision, folder=""):
        repository = self._repository(kind, id)
        files = repository.commits[self._commit_of(repository, revision)]
        start = f"{folder}/" if folder else ""
        inside = [path for path in sorted(files) if path.startswith(start)]
        if folder and not inside:
            raise Answer(404, {"error": "no such folder"}, "EntryNotFound", f"{folder} does not exist")
        recursive = query.get("recursive", ["false"])[0].lower() in ("true", "1")
        folders = {
            path[: place.start()] for path in inside for place in re.finditer("/", path) if place.start() >= len(start)
        }
        entries = [{"type": "directory", "oid": "0" * 40, "size": 0, "path": path} for path in sorted(folders)]
        entries += [self._entry(path, files[path]) for path in inside]
        raise Answer(200, [each for each in entries if recursive or "/" not in each["path"][len(start) :]])

    def _paths(self, query, body, kind, id, revision):
        repository = self._repository(kind, id)
        files = repository.commits[self._commit_of(repository, revision)]
        wanted = parse_qs(body.decode()).get("paths", [])
        raise Answer(200, [self._entry(path, files[path]) for path in wanted if path in files])

    def _entry(self, path, content):
        size = len(self.hub.content(content))
        if isinstance(content, bytes):
            return {"type": "file", "path": path, "size": size, "oid": git_oid(content)}
        lfs = {"oid": content, "size": size, "pointerSize": 130}
        return {"type": "file", "path": path, "size": size, "oid": git_oid(content.encode()), "lfs": lfs}

    def _preupload(self, query, body, kind, id, revision):
        repository = self._writable(kind, id)
        files = repository.commits[self._commit_of(repository, revision)]
        answers = []
        for each in json.loads(body)["files"]:
            binary = b"\0" in base64.b64decode(each["sample"])
            large = each["path"].endswith(LFS_SUFFIXES) or binary or each["size"] > LARGEST_REGULAR
            present = files.get(each["path"])
            oid = git_oid(present) if isinstance(present, bytes) else present
            mode = "lfs" if large else "regular"
            answers.append({"path": each["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        raise Answer(200, {"files": answers})

    def _batch(self, query, body, kind, id):
        self._writable(kind, id)
        answers = []
        for each in json.loads(body)["objects"]:
            if each["oid"] not in self.hub.objects:
                each = {**each, "actions": {"upload": {"href": f"{self.hub.url}/lfs/{each['oid']}"}}}
            answers.append(each)
        raise Answer(200, {"transfer": "basic", "objects": answers})

    def _object(self, query, body, oid):
        if hashlib.sha256(body).hexdigest() != oid:
            raise Answer(400, {"error": "checksum mismatch"})
        self.hub.objects[oid] = body
        raise Answer(200)

    def _commit(self, query, body, kind, id, revision):
        repository = self._writable(kind, id)
        parent = self._commit_of(repository, revision)
        lines = [json.loads(line) for line in body.splitlines() if line.strip()]
        header = next(line["value"] for line in lines if line["key"] == "header")
        if header.get("parentCommit") not in (None, parent):
            raise Answer(412, {"error": "A commit has happened since. Please refresh and try again."})
        files = dict(repository.commits[parent])
        for line in lines:
            value, key = line["value"], line["key"]
            if key == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif key == "lfsFile":
                if value["oid"] not in self.hub.objects:
                    raise Answer(400, {"error": "Your push was rejected because an LFS pointer has no object."})
                files[value["path"]] = value["oid"]
            elif key == "deletedFile":
                if files.pop(value["path"], None) is None:
                    message = "A file with this name doesn't exist"
                    raise Answer(404, {"error": message}, "EntryNotFound", message)
            elif key == "deletedFolder":
                files = {path: each for path, each in files.items() if not path.startswith(value["path"])}
        oid = repository.commit(revision, files)
        raise Answer(200, {"success": True, "commitUrl": f"{self.hub.url}/{id}/commit/{oid}", "commitOid": oid})

    def _branch(self, query, body, kind, id, branch):
        repository = self._writable(kind, id)
        if branch in repository.branches:
            raise Answer(409, {"error": "Reference already exists"})
        start = json.loads(body or b"{}").get("startingPoint") or "main"
        repository.branches[branch] = self._commit_of(repository, start)
        raise Answer(200, {})

    def _resolve(self, query, body, kind, id, revision, file):
        repository = self._repository(kind, id)
        if repository.gated and not self._authorized:
            message = f"Access to model {id} is restricted. You must be authenticated to access it."
            raise Answer(401, {"error": message}, "GatedRepo", message)
        commit = self._commit_of(repository, revision)
        content = repository.commits[commit].get(file)
        if content is None:
            raise Answer(404, {"error": "no such file"}, "EntryNotFound", "Entry not found", X_Repo_Commit=commit)
        # The Hub sends readers of large files elsewhere; a server that has them itself answers at once
        oid = git_oid(content) if isinstance(content, bytes) else content
        raise Answer(200, self.hub.content(content), ETag=f'"{oid}"', X_Repo_Commit=commit, Accept_Ranges="bytes")


ID = r"(?P<id>[^/]+/[^/]+)"
API = rf"/api/(?P<kind>models|datasets)/{ID}"
REVISION = r"(?P<revision>[^/]+)"
ROUTES = (
    ("GET", "/api/whoami-v2", "whoami"),
    ("POST", "/api/repos/create", "create"),
    ("POST", "/api/validate-yaml", "validate"),
    ("GET", API, "info"),
    ("GET", rf"{API}/revision/{REVISION}", "info"),
    ("GET", rf"{API}/refs", "refs"),
    ("GET", rf"{API}/tree/{REVISION}(?:/(?P<folder>.+))?", "tree"),
    ("POST", rf"{API}/paths-info/{REVISION}", "paths"),
    ("POST", rf"{API}/preupload/{REVISION}", "preupload"),
    ("POST", rf"{API}/commit/{REVISION}", "commit"),
    ("POST", rf"{API}/branch/(?P<branch>[^/]+)", "branch"),
    ("POST", r"/(?P<prefix>datasets/)?(?P<id>[^/]+/[^/]+)\.git/info/lfs/objects/batch", "batch"),
    ("PUT", r"/lfs/(?P<oid>[0-9a-f]{64})", "object"),
    ("GET HEAD", rf"/(?P<prefix>datasets/)?{ID}/resolve/{REVISION}/(?P<file>.+)", "resolve"),
)


def git_oid(content):
    """What git calls a file with this content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
