"""A Hub on this machine: enough of its protocol for huggingface_hub to list and download one repository."""

import hashlib
import http.server
import json
import threading
from pathlib import Path
from urllib.parse import unquote, urlsplit


class FakeHub:
    """Serves `folder` as `repo`. `log` has the path of every request; close() makes the network go away.

    status: if set, the HTTP status of every answer.
    """

    def __init__(self, repo: str, folder: Path, commit: str = "c0ffee" * 6 + "c0ff"):
        hub, self.log, self.commit, self.status = self, [], commit, None

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_HEAD(self):
                self.answer(body=False)

            def do_GET(self):
                self.answer(body=True)

            def answer(self, body: bool):
                path = unquote(urlsplit(self.path).path)
                hub.log.append(f"{self.command} {path}")
                if hub.status:
                    return self.send(hub.status, b'{"error": "no"}', {}, body)
                info, files = f"/api/models/{repo}", [f for f in folder.rglob("*") if f.is_file()]
                if path in (info, f"{info}/revision/main", f"{info}/revision/{hub.commit}"):
                    names = [{"rfilename": f.relative_to(folder).as_posix()} for f in files]
                    content = {"id": repo, "modelId": repo, "sha": hub.commit, "siblings": names, "tags": []}
                    return self.send(
                        200, json.dumps(content).encode(), {"Content-Type": "application/json"}, body
                    )
                if path in (f"{info}/tree/main", f"{info}/tree/{hub.commit}"):
                    entries = [
                        {
                            "type": "file",
                            "path": f.relative_to(folder).as_posix(),
                            "size": f.stat().st_size,
                            "oid": "0" * 40,
                        }
                        for f in files
                    ]
                    return self.send(
                        200, json.dumps(entries).encode(), {"Content-Type": "application/json"}, body
                    )
                for revision in ("main", hub.commit):
                    prefix = f"/{repo}/resolve/{revision}/"
                    file = folder / path.removeprefix(prefix)
                    if path.startswith(prefix) and file.is_file():
                        data = file.read_bytes()
                        tag = hashlib.sha256(data).hexdigest()
                        return self.send(200, data, {"ETag": f'"{tag}"', "X-Repo-Commit": hub.commit}, body)
                wrong = "RepoNotFound" if repo not in path else "EntryNotFound"
                wrong = "RevisionNotFound" if "/revision/" in path and repo in path else wrong
                return self.send(404, b"{}", {"X-Error-Code": wrong, "X-Error-Message": "not here"}, body)

            def send(self, status: int, data: bytes, headers: dict, body: bool):
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                if body:
                    self.wfile.write(data)

            def log_message(self, *arguments):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()
