"""The webhook: what arrives at a server of our own, and what happens when nothing can."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from mmbench_trackers.webhook import WebhookError, WebhookTracker

from mmbench.errors import UsageError
from mmbench.runner import Summary

SUMMARY = Summary(counts={"ok": 3, "failed": 1, "timeout": 0}, num_launched=4, duration_s=150.0)


class Server:
    """A web server that remembers what is posted to it."""

    def __init__(self) -> None:
        self.posted: list[tuple[str, str, dict[str, Any]]] = []
        self.authorized: list[str | None] = []
        self.answer, self.wait_s, self.headers = 204, 0.0, {}
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.posted.append((self.path, self.headers["Content-Type"], json.loads(body)))
                outer.authorized.append(self.headers["Authorization"])
                time.sleep(outer.wait_s)
                self.send_response(outer.answer)
                for name, value in outer.headers.items():
                    self.send_header(name, value)
                self.end_headers()

            def log_message(self, *words: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook?key=secret"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.server.shutdown()
    made.server.server_close()


def tell(url: str, folder: Path, *, timeout: float = 5.0, where: bool = False, summary: Summary = SUMMARY) -> None:
    tracker = WebhookTracker(folder, url, timeout, where)
    tracker.on_run_start({"run": "toy", "folder": str(folder), "num_cells": 4})
    tracker.on_run_end(summary)


def test_the_end_is_posted_once_with_counts_and_the_report(server: Server, tmp_path: Path) -> None:
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "report.html").write_text("")

    tell(server.url, tmp_path)

    [(path, kind, told)] = server.posted
    assert (path, kind) == ("/hook?key=secret", "application/json")
    assert told["text"] == "mmbench: toy ended after 2 min 30 s: 3 ok, 1 failed"
    assert told["counts"] == {"ok": 3, "failed": 1}
    assert (told["run"], told["num_launched"], told["duration_s"]) == ("toy", 4, 150.0)
    assert (told["cause"], told["reason"], told["exit_code"]) == ("", "", 1)
    assert told["report"] == f"{tmp_path.name}/report/report.html"
    assert told["host"] is None
    assert str(tmp_path) not in json.dumps(told)
    assert server.authorized == [None]


def test_where_it_ran_is_said_to_who_asks(server: Server, tmp_path: Path) -> None:
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "report.html").write_text("")

    tell(server.url, tmp_path, where=True)

    told = server.posted[0][2]
    assert told["report"] == str((tmp_path / "report" / "report.html").resolve())
    assert told["host"] == socket.gethostname()


def test_a_user_and_password_in_the_address_are_sent_as_http_asks_for(server: Server, tmp_path: Path) -> None:
    tell(server.url.replace("http://", "http://me:p%40ss@"), tmp_path)

    assert [path for path, _, _ in server.posted] == ["/hook?key=secret"]
    assert server.authorized == ["Basic bWU6cEBzcw=="]
    server.answer = 403
    with pytest.raises(WebhookError, match=r"^127\.0\.0\.1 answered 403 Forbidden$"):
        tell(server.url.replace("http://", "http://me:p%40ss@"), tmp_path)


def test_a_run_that_was_stopped_says_by_what(server: Server, tmp_path: Path) -> None:
    stopped = Summary(counts={"ok": 1}, cause="signal", reason="SIGTERM was received", signum=15, duration_s=1.0)

    tell(server.url, tmp_path, summary=stopped)

    told = server.posted[0][2]
    assert told["text"] == "mmbench: toy was stopped (SIGTERM was received) after 1 s: 1 ok"
    assert (told["cause"], told["exit_code"], told["report"]) == ("signal", 143, None)


def test_an_address_may_come_from_the_environment(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MMBENCH_WEBHOOK_URL", server.url)

    tell("", tmp_path)

    assert len(server.posted) == 1


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("", "has no address: set MMBENCH_WEBHOOK_URL"),
        ("file:///etc/passwd", "begins with https:// or http://"),
        ("hooks.example.org/x", "begins with https:// or http://"),
        ("https://", "begins with https:// or http://"),
    ],
)
def test_an_address_that_cannot_be_used_is_refused_before_anything_runs(
    url: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MMBENCH_WEBHOOK_URL", raising=False)

    with pytest.raises(UsageError, match=words):
        WebhookTracker(tmp_path, url, 5.0)


def test_a_server_that_refuses_redirects_or_is_silent_is_named_without_its_secret(
    server: Server, tmp_path: Path
) -> None:
    server.answer = 500
    with pytest.raises(WebhookError, match=r"^127\.0\.0\.1 answered 500 Internal Server Error$"):
        tell(server.url, tmp_path)
    server.answer, server.headers = 302, {"Location": server.url}
    with pytest.raises(WebhookError, match=r"^127\.0\.0\.1 answered 302 Found$"):
        tell(server.url, tmp_path)
    server.answer, server.wait_s = 204, 30.0
    began = time.monotonic()
    with pytest.raises(WebhookError, match=r"^127\.0\.0\.1 could not be told: timed out$"):
        tell(server.url, tmp_path, timeout=0.5)
    assert time.monotonic() - began < 20
    while len(server.posted) < 3 and time.monotonic() - began < 20:  # its thread may read later than we give up
        time.sleep(0.01)
    assert len(server.posted) == 3


def mmbench(cwd: Path, *more: str, **variables: str) -> subprocess.Popen[str]:
    command = ["run", "-d", "xor", "-f", "concat", "--protocol", "none", "--run", "toy", *more]
    return subprocess.Popen(
        [sys.executable, "-m", "mmbench.cli", *command],
        cwd=cwd,
        env={**os.environ, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
    )


@pytest.mark.slow
def test_a_run_tells_its_end_and_one_that_cannot_only_warns(server: Server, tmp_path: Path) -> None:
    told = mmbench(tmp_path, "--tracker", "webhook", MMBENCH_WEBHOOK_URL=server.url)
    told.communicate(timeout=300)
    again = mmbench(tmp_path, "--tracker", "webhook", MMBENCH_WEBHOOK_URL="http://127.0.0.1:9/")
    text, _ = again.communicate(timeout=300)

    assert (told.returncode, again.returncode) == (0, 0)
    assert [message["counts"] for _, _, message in server.posted] == [{"ok": 4}]
    assert server.posted[0][2]["report"] == "toy/report/report.html"
    assert "127.0.0.1 could not be told: [Errno 111] Connection refused" in text
    assert server.url not in (tmp_path / "results" / "toy" / "run.json").read_text()


@pytest.mark.slow
def test_a_run_that_is_told_to_end_says_so(server: Server, tmp_path: Path) -> None:
    process = mmbench(
        tmp_path, "--epochs", "400", "--seeds", "20", "--tracker", "webhook", MMBENCH_WEBHOOK_URL=server.url
    )
    journal = tmp_path / "results" / "toy" / "journal.jsonl"
    until = time.monotonic() + 120
    while not journal.exists() and time.monotonic() < until:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=120)

    assert process.returncode == 143
    [(_, _, told)] = server.posted
    assert (told["cause"], told["reason"], told["exit_code"]) == ("signal", "SIGTERM was received", 143)
