"""What the Hub answers: repositories, who sees them, and the requests of its clients."""

import base64
import hashlib
import json
import re
from dataclasses import dataclass, field
from urllib.parse import parse_qs, unquote

from card_rules import faults_of_card, metadata_of


TOKEN = "hf_dummy"
USER = "tester"
# Types that the Hub keeps in LFS, like large and binary files
LFS_SUFFIXES = (".arrow", ".bin", ".faiss", ".model", ".npy", ".npz", ".parquet", ".safetensors")
LARGEST_REGULAR = 10 * 2**20


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


class HubApi:
    """
    The requests, as methods that raise an [`Answer`]. A request has `hub`, the server; `command`, such as `"GET"`; and
    `headers`.
    """

    hub = None

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

    def answer(self, path, query, body):
        """Answer a request of one of the `ROUTES`."""
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
        # The Hub redirects readers of large files. This server has them itself
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
