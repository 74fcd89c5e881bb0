"""A webhook: one small JSON message to an address when the run has ended, or was stopped."""

from __future__ import annotations

import base64
import json
import os
import socket
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

from mmbench.errors import UsageError
from mmbench.report.text import duration
from mmbench.runner import Summary

#: Where the address is looked for when it is not given: `run.json` keeps the command, and an address may be a secret.
URL_VARIABLE = "MMBENCH_WEBHOOK_URL"


class WebhookTracker:
    """Posts how the run went.

    Args:
        folder: Not used.
        url: Where to; the variable MMBENCH_WEBHOOK_URL when "". A user and password in it are sent as HTTP asks for.
        timeout: Seconds that a connection or an answer may take.
        where: Whether the message says the host's name and the report's whole path.

    Raises:
        UsageError: there is no address, or it is none of http or https.
    """

    def __init__(self, folder: Path, url: str, timeout: float, where: bool = False) -> None:
        self.url = url or os.environ.get(URL_VARIABLE, "")
        self.timeout = timeout
        self.where = where
        if not self.url:
            raise UsageError(
                f"the tracker 'webhook' has no address: set {URL_VARIABLE}, or say 'webhook[url=https://…]'"
            )
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UsageError("the tracker 'webhook' takes an address that begins with https:// or http://")
        if not timeout > 0:
            raise UsageError(f"the tracker 'webhook' takes a timeout of more than 0 seconds, got {timeout}")
        self.host = parts.hostname
        self._headers = {"Content-Type": "application/json", "User-Agent": "mmbench"}
        user, at, address = parts.netloc.rpartition("@")
        if at:  # urllib takes it for a part of the host's name
            secret = base64.b64encode(unquote(user).encode()).decode()
            self._headers["Authorization"] = f"Basic {secret}"
            self.url = urlunsplit(parts._replace(netloc=address))
        self._run: Mapping[str, Any] = {}

    def on_run_start(self, info: Mapping[str, Any]) -> None:
        """Note the run's name and folder."""
        self._run = info

    def on_run_end(self, summary: Summary) -> None:
        """Post the message; raises, which becomes a warning of the run, when it does not get through."""
        data = json.dumps(message(self._run, summary, where=self.where)).encode()
        request = urllib.request.Request(self.url, data, self._headers, method="POST")
        # What is posted goes to the address that was given and to no other.
        opener = urllib.request.build_opener(_NoRedirect)
        try:
            opener.open(request, timeout=self.timeout).close()
        except urllib.error.HTTPError as error:
            error.close()
            raise WebhookError(f"{self.host} answered {error.code} {error.reason}") from None
        except OSError as error:
            reason = getattr(error, "reason", None) or error
            raise WebhookError(f"{self.host} could not be told: {reason}") from None


class WebhookError(Exception):
    """The message did not get through."""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *arguments: Any) -> None:
        return None


def message(run: Mapping[str, Any], summary: Summary, *, where: bool) -> dict[str, Any]:
    """Return what is posted; "text" is what chat services show.

    Args:
        run: Its name and folder.
        summary: How it ended.
        where: Whether to say the host's name and the report's whole path, which say whose machine it is.
    """
    folder = Path(run["folder"]).resolve()
    report = folder / "report" / "report.html"
    counts = {status: count for status, count in summary.counts.items() if count}
    how = f"was stopped ({summary.reason})" if summary.cause else "ended"
    told = ", ".join(f"{count} {status}" for status, count in counts.items())
    return {
        "text": f"mmbench: {run['run']} {how} after {duration(summary.duration_s)}: {told}",
        "run": run["run"],
        "host": socket.gethostname() if where else None,
        "counts": counts,
        "num_launched": summary.num_launched,
        "duration_s": round(summary.duration_s, 3),
        "cause": summary.cause,
        "reason": summary.reason,
        "exit_code": summary.exit_code,
        "report": (str(report) if where else f"{folder.name}/report/report.html") if report.is_file() else None,
    }
