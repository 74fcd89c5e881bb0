"""One call of `mmbench view`: open a run's report in a browser, or serve it to browsers of this machine alone."""

from __future__ import annotations

import sys
import webbrowser
from collections.abc import Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

from mmbench.errors import UsageError

#: The address of this machine that no other machine reaches.
HOST = "127.0.0.1"
_TYPES: Mapping[str, str] = {
    ".html": "text/html; charset=utf-8",
    ".md": "text/plain; charset=utf-8",
    ".csv": "text/csv; charset=utf-8",
    ".tex": "text/plain; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
}
#: A report needs nothing but itself.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:; font-src data:"


def report_file(run_folder: Path) -> Path:
    """Return the page of a run's report.

    Raises:
        UsageError: it was not written yet, or lies elsewhere: all files beside it would be served.
    """
    if (run_folder / "report").is_symlink():
        raise UsageError(f"{run_folder / 'report'} is a link, which is not followed; `mmbench report` writes a report")
    for name in ("report.html", "costs.md"):
        file = run_folder / "report" / name
        if file.is_file():
            return file
    raise UsageError(f"the run {run_folder.name!r} has no report yet: `mmbench report {run_folder.name}` writes it")


def open_in_browser(file: Path) -> bool:
    """Open a file in the browser of this machine; return whether there is one."""
    try:
        return webbrowser.open(file.resolve().as_uri())
    except webbrowser.Error:
        return False


def make_server(folder: Path, page: str, port: int) -> ThreadingHTTPServer:
    """Return a server, not running yet, of the files in a folder, for this machine alone.

    Args:
        folder: Of the report.
        page: Name of the file that "/" shows.
        port: 0 takes a free one.

    Raises:
        UsageError: the port is taken or not allowed.
    """

    class Handler(BaseHTTPRequestHandler):
        """Answers GET and HEAD with a file of the folder; links, folders and other names are not there."""

        def do_GET(self) -> None:
            self._answer(with_body=True)

        def do_HEAD(self) -> None:
            self._answer(with_body=False)

        def _answer(self, *, with_body: bool) -> None:
            # A page of another site may have its name resolved to this machine; its requests name that site.
            if self.headers.get("Host", "").rpartition(":")[0] not in (HOST, "localhost"):
                self.send_error(HTTPStatus.FORBIDDEN)
                return
            name = unquote(urlsplit(self.path).path).removeprefix("/") or page
            file = folder / name
            if "/" in name or "\\" in name or "\0" in name or file.is_symlink() or not file.is_file():
                self.send_error(HTTPStatus.NOT_FOUND)
                return
            content = file.read_bytes()
            self.send_response(HTTPStatus.OK)
            self.send_header("Content-Type", _TYPES.get(file.suffix, "application/octet-stream"))
            self.send_header("Content-Length", str(len(content)))
            self.send_header("Content-Security-Policy", _POLICY)
            self.send_header("X-Content-Type-Options", "nosniff")
            self.end_headers()
            if with_body:
                self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """Log no requests."""

    try:
        return ThreadingHTTPServer((HOST, port), Handler)
    except OverflowError:
        raise UsageError(f"--port {port}: takes a number from 1024 to 65535") from None
    except OSError as error:
        raise UsageError(f"--port {port}: {error.strerror}; choose another, or 0 for any that is free") from None


def serve(folder: Path, page: str, port: int) -> int:
    """Serve a report until Ctrl-C; return the exit code."""
    with make_server(folder, page, port) as server:
        sys.stdout.write(f"http://{HOST}:{server.server_address[1]}/ serves the report here until Ctrl-C\n")
        sys.stdout.flush()
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            return 130
    return 0
