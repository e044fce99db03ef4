"""A hub on the loopback interface: it answers what huggingface_hub asks as the real hub does. And its cache's layout.

Large files (LFS) are redirected to another host with X-Linked-Etag (their sha256) and X-Linked-Size, small ones to
/api/resolve-cache, with an ETag that is git's hash. Faults can be switched on.
"""

import hashlib
import json
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

LARGE = (".bin", ".safetensors", ".gz", ".h5", ".msgpack", ".model")


def etag(name: str, content: bytes) -> str:
    """What the hub calls a file's content: sha256 for large files, git's hash for small ones."""
    if name.endswith(LARGE):
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def fill_cache(
    cache: Path, repository: str, commit: str, files: dict[str, bytes], kind: str = "model", ref: str | None = None
) -> Path:
    """Write files into a cache folder as a download leaves them; returns the snapshot's folder."""
    root = cache / f"{kind}s--{repository.replace('/', '--')}"
    snapshot = root / "snapshots" / commit
    for name, content in files.items():
        blob, pointer = root / "blobs" / etag(name, content), snapshot / name
        blob.parent.mkdir(parents=True, exist_ok=True)
        pointer.parent.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(content)
        pointer.symlink_to("../" * (2 + name.count("/")) + f"blobs/{blob.name}")
    if ref:
        (root / "refs").mkdir(parents=True, exist_ok=True)
        (root / "refs" / ref).write_text(commit)
    return snapshot


class Hub:
    """What the hub holds, what it was asked, and the faults it has."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.elsewhere = f"http://localhost:{port}/cdn"  # another host to the client, as the hub's large files are
        self.repositories: dict[str, dict[str, dict[str, bytes]]] = {}  # "models/a/b" -> commit -> name -> content
        self.asked: list[str] = []  # "HEAD /a/b/resolve/COMMIT/name"
        self.gated: set[str] = set()
        self.cuts: dict[str, list[int]] = {}  # file name -> bytes after which the connection ends, one a download
        self.absent_status = 401  # what strangers get for what is not there; 404 for those who are logged in
        self.failing: dict[str, int] = {}  # where a path begins -> the status that is answered
        self.silent = threading.Event()
        self.closing = threading.Event()

    def publish(self, repository: str, commit: str, files: dict[str, bytes], kind: str = "model") -> None:
        """Add a commit, which becomes the newest."""
        self.repositories.setdefault(f"{kind}s/{repository}", {})[commit] = files

    def files_asked(self) -> set[str]:
        """Names of the files that were downloaded."""
        paths = [line.split()[1] for line in self.asked if line.startswith("GET")]
        return {path.rsplit("/", 1)[1] for path in paths if not path.startswith(("/api/models", "/api/datasets"))}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        hub, path = self.hub, unquote(urlsplit(self.path).path)
        if path == "/api/agent-harnesses":  # a question of the library's own, once a process
            return self._send(404, b"{}")
        hub.asked.append(f"{self.command} {path}" + (f" {span}" if (span := self.headers.get("Range")) else ""))
        while hub.silent.is_set() and not hub.closing.is_set():
            time.sleep(0.02)
        if status := next((status for begin, status in hub.failing.items() if path.startswith(begin)), None):
            return self._refuse(status, "", "Internal Error")
        parts = path.strip("/").split("/")
        if parts[0] == "cdn":
            return self._send_file(path, moved=True)
        if parts[:2] == ["api", "resolve-cache"]:
            return self._send_file("/".join(["", *parts[2:]]), moved=True)
        if parts[0] == "api":
            return self._tell(parts[1], "/".join(parts[2:4]), parts[4:])
        kind = "datasets" if parts[0] == "datasets" else "models"
        rest = parts[1:] if kind == "datasets" else parts
        return self._send_file("/".join(["", kind, *rest[:2], rest[3], *rest[4:]]), moved=False)

    def _tell(self, kind: str, repository: str, rest: list[str]) -> None:
        """The API: what a repository is (`revision/COMMIT`), and its files (`tree/COMMIT`)."""
        found = self._commit(kind, repository, rest[1] if len(rest) > 1 else "main")
        if found is None:
            return
        commit, files = found
        entries = []
        for name, content in files.items():
            entry = {"rfilename": name, "path": name, "type": "file", "size": len(content), "blobId": "0" * 40}
            entry["oid"] = etag(name, content) if not name.endswith(LARGE) else "0" * 40
            if name.endswith(LARGE):
                digest = etag(name, content)
                entry["lfs"] = {"sha256": digest, "oid": digest, "size": len(content), "pointerSize": 134}
            entries.append(entry)
        whole = {"id": repository, "sha": commit, "siblings": entries, "gated": repository in self.hub.gated}
        self._send(200, json.dumps(entries if rest[:1] == ["tree"] else whole).encode())

    def _commit(self, kind: str, repository: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        """A commit and its files, or None when a refusal was sent."""
        commits = self.hub.repositories.get(f"{kind}/{repository}")
        if commits is None:
            code = "" if self.hub.absent_status == 401 else "RepoNotFound"
            self._refuse(self.hub.absent_status, code, "Invalid username or password." if not code else "Not found")
            return None
        commit = list(commits)[-1] if revision == "main" else revision
        if commit not in commits:
            self._refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            return None
        return commit, commits[commit]

    def _send_file(self, path: str, *, moved: bool) -> None:
        """A file, /KIND/ORG/NAME/COMMIT/FILE; `moved` after the redirect that the first answer is."""
        _, *place, revision, name = path.removeprefix("/cdn").split("/", 5)
        found = self._commit(place[0], "/".join(place[1:]), revision)
        if found is None:
            return
        commit, files = found
        if "/".join(place[1:]) in self.hub.gated:
            return self._refuse(401, "GatedRepo", "Access to this repository is restricted.")
        if name not in files:
            return self._refuse(404, "EntryNotFound", "Entry not found", {"X-Repo-Commit": commit})
        content, tag = files[name], f'"{etag(name, files[name])}"'
        headers = {"X-Repo-Commit": commit, "ETag": tag}
        if moved:
            return self._send(200, content, headers, name)
        target = "/".join(["", *place, commit, name])
        if name.endswith(LARGE):
            headers |= {"X-Linked-Etag": tag, "X-Linked-Size": str(len(content)), "ETag": '"a pointer"'}
            return self._send(302, b"", headers | {"Location": self.hub.elsewhere + target})
        return self._send(307, b"", headers | {"Location": "/api/resolve-cache" + target})

    def _refuse(self, status: int, code: str, message: str, headers: dict[str, str] | None = None) -> None:
        extra = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})
        self._send(status, json.dumps({"error": message}).encode(), extra | (headers or {}))

    def _send(self, status: int, content: bytes, headers: dict[str, str] | None = None, name: str = "") -> None:
        start = 0
        if status == 200 and self.command == "GET" and (span := self.headers.get("Range")):
            start, status = int(span.removeprefix("bytes=").rstrip("-")), 206
            headers = headers | {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"}
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        if self.command == "HEAD":
            return
        if name and self.hub.cuts.get(name):
            self.wfile.write(content[start : start + self.hub.cuts[name].pop(0)])
            self.close_connection = True
            return
        self.wfile.write(content[start:])


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """Clients that leave are no news."""


@contextmanager
def running():
    """A hub that answers inside a ``with`` block."""
    server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {}))
    hub = server.RequestHandlerClass.hub = Hub(server.server_address[1])
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.closing.set()
        server.shutdown()
        server.server_close()


def connect(monkeypatch, hub: Hub, cache: Path) -> None:
    """Point this process's huggingface_hub, which read its environment when it was imported, to a hub and a cache."""
    from huggingface_hub import constants
    from huggingface_hub.utils import close_session

    close_session()  # a connection to the hub of an earlier test
    for name, value in {
        "ENDPOINT": hub.url,
        "HUGGINGFACE_CO_URL_TEMPLATE": hub.url + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_CACHE": str(cache),
        "HF_HUB_OFFLINE": False,
        "HF_HUB_DISABLE_PROGRESS_BARS": True,
        "HF_TOKEN_PATH": str(cache.parent / "no-token"),
        "AGENT_HARNESSES_PATH": str(cache.parent / "agents.json"),
    }.items():
        monkeypatch.setattr(constants, name, value, raising=False)  # some are in newer versions only
    for name in ("HF_HUB_OFFLINE", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")


def go_offline(monkeypatch) -> None:
    """What HF_HUB_OFFLINE=1 does."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
