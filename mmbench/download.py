"""One file over HTTP: resumed where it broke off, retried, and checked by size and hash before it gets its name."""

from __future__ import annotations

import hashlib
import http.client
import ipaddress
import json
import os
import shutil
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from mmbench.encoding import parse_json
from mmbench.errors import DiskError, DownloadError

_CHUNK_BYTES = 1 << 18
_PASSING = (408, 425, 429, 500, 502, 503, 504)
_LONGEST_WAIT_S = 60.0
#: What must be left on a disk after a download.
_ROOM_BYTES = 16 << 20

Progress = Callable[[int, "int | None"], None]


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How long to bear with a server.

    Attributes:
        timeout_s: Without a byte, a connection counts as broken.
        attempts: Broken connections in a row without progress after which to give up.
        backoff_s: Wait before the second attempt; doubled before each further one.
    """

    timeout_s: float = 30.0
    attempts: int = 5
    backoff_s: float = 1.0


class NotThereError(DownloadError):
    """The server has no such file."""


class _BrokenError(Exception):
    """A connection ended early, or the server asks for patience; another attempt may help."""

    def __init__(self, reason: str, wait_s: float = 0.0) -> None:
        super().__init__(reason)
        self.wait_s = wait_s


def fetch(
    url: str,
    place: Path,
    *,
    sha256: str = "",
    size_bytes: int | None = None,
    http_hosts: Collection[str] = (),
    patience: Patience | None = None,
    on_progress: Progress = lambda done, total: None,
) -> None:
    """Fetch a file; it appears at its place whole and checked, or not at all.

    What has arrived is kept in ``NAME.part`` beside the place. The next call goes on from there if the server says
    that the file is still the same.

    Args:
        url: ``https://…``; ``http://…`` for this machine and for `http_hosts` only.
        place: Path of the file.
        sha256: Its hash in hex, or "" when unknown.
        size_bytes: Its size, or None when unknown.
        http_hosts: Hosts that the user has named, and trusts without encryption.
        patience: Timeouts and attempts.
        on_progress: Told (bytes so far, bytes in all or None).

    Raises:
        DownloadError: it cannot be fetched, or is not what was promised.
        DiskError: the folder cannot hold it.
    """
    patience = patience or Patience()
    _check_address(url, http_hosts)
    transfer = _Transfer(url, place, sha256, size_bytes, http_hosts, patience.timeout_s, on_progress)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        while True:
            resumed = _received(transfer, patience)
            found = sha256_of(transfer.part) if sha256 else ""
            if found == sha256:
                break
            transfer.forget()
            if not resumed:
                raise DownloadError(
                    f"{url} is not the file it should be: its sha256 is {found}, where {sha256} was promised. "
                    "It was removed; the publisher may have changed it, or somebody stands between"
                )
            # What lay here from before may be of an older version: once more from the beginning.
        transfer.part.replace(place)
        transfer.note.unlink(missing_ok=True)
    except OSError as error:
        raise DiskError(f"{place} cannot be written: {error.strerror or error}") from error


def check_room(folder: Path, needed_bytes: int) -> None:
    """Refuse to begin what the disk cannot hold.

    Raises:
        DiskError: there is too little room.
    """
    free_bytes = shutil.disk_usage(folder).free
    if free_bytes < needed_bytes + _ROOM_BYTES:
        raise DiskError(
            f"{folder} has {free_bytes / 2**20:.0f} MiB left, where {needed_bytes / 2**20:.0f} MiB are needed; make "
            "room, or choose another folder with $MMBENCH_DATA"
        )


def sha256_of(file: Path) -> str:
    """Return the sha256 of a file, in hex."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def is_this_machine(host: str) -> bool:
    """Whether a host name or address means this machine.

    >>> is_this_machine("localhost"), is_this_machine("127.0.0.1"), is_this_machine("localhost.example.org")
    (True, True, False)
    """
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _received(transfer: _Transfer, patience: Patience) -> bool:
    """Receive a file to its end, over as many connections as that takes; return whether a part was there before."""
    furthest = transfer.size()
    resumed = furthest > 0
    failures = 0
    while True:
        try:
            transfer.receive()
            return resumed
        except _BrokenError as error:
            # Getting further is not failing; a server that ignores ranges gets further only past the old mark.
            failures = 0 if transfer.size() > furthest else failures + 1
            furthest = max(furthest, transfer.size())
            if failures >= patience.attempts:
                raise DownloadError(
                    f"{transfer.url}: {error} ({failures} attempts). The same command goes on where this one stopped"
                ) from None
            time.sleep(max(error.wait_s, min(patience.backoff_s * 2 ** max(failures - 1, 0), _LONGEST_WAIT_S)))


#: How often the free room is looked at for a file whose size nobody says.
_ROOM_EVERY_BYTES = 16 << 20


class _Transfer:
    """What has arrived of a file, and how to get more of it."""

    def __init__(
        self,
        url: str,
        place: Path,
        sha256: str,
        size_bytes: int | None,
        http_hosts: Collection[str],
        timeout_s: float,
        on_progress: Progress,
    ) -> None:
        self.url = url
        self.part = place.with_name(f"{place.name}.part")
        self.note = place.with_name(f"{place.name}.part.json")
        self._sha256 = sha256
        self._size_bytes = size_bytes
        self._timeout_s = timeout_s
        self._on_progress = on_progress
        self._opener = _opener(url, http_hosts)

    def size(self) -> int:
        """Return how much has arrived, in bytes."""
        try:
            return self.part.stat().st_size
        except FileNotFoundError:
            return 0

    def forget(self) -> None:
        """Remove what has arrived."""
        self.part.unlink(missing_ok=True)
        self.note.unlink(missing_ok=True)

    def receive(self) -> None:
        """Receive what is missing over one connection.

        Raises:
            _BrokenError: another attempt may help.
            DownloadError: no other attempt will.
        """
        known = self._known()
        start = self.size() if known else 0
        if start and start == known.get("total"):
            return  # a process ended between the last byte and the new name
        headers = {"User-Agent": "mmbench", "Accept-Encoding": "identity"}
        if start:
            headers["Range"] = f"bytes={start}-"
            if known["validator"]:
                headers["If-Range"] = known["validator"]
        with self._open(headers) as response:
            if not (start and response.status == 206 and self._continues(response.headers, start, known)):
                if response.status == 206:
                    self.forget()
                    raise _BrokenError("the file has changed on the server")
                start = 0
            length = response.headers.get("Content-Length")
            total = start + int(length) if length and length.isdecimal() else None
            self._check_size(total, exact=True)
            check_room(self.part.parent, (total or self._size_bytes or start) - start)
            told = {"url": self.url, "validator": _validator(response.headers), "total": total}
            self.note.write_text(json.dumps(told))
            with self.part.open("ab" if start else "wb") as stream:
                self._copy(response, stream, start, total)
                stream.flush()
                os.fsync(stream.fileno())

    def _check_room(self) -> None:
        """Check that there is room for more of a file whose size nobody says; without room nothing of it is kept.

        Raises:
            DiskError: there is none.
        """
        try:
            check_room(self.part.parent, _ROOM_EVERY_BYTES)
        except DiskError:
            self.forget()
            raise

    def _copy(self, response: Any, stream: IO[bytes], done: int, total: int | None) -> None:
        self._on_progress(done, total)
        checked = done
        while True:
            try:
                chunk = response.read1(_CHUNK_BYTES)
            except TimeoutError:
                raise _BrokenError(f"nothing came for {self._timeout_s:g} s") from None
            except (OSError, http.client.HTTPException) as error:
                raise _BrokenError(f"the connection broke: {_in_words(error)}") from None
            if not chunk:
                break
            stream.write(chunk)
            done += len(chunk)
            self._check_size(done, exact=False)
            if total is None and done >= checked + _ROOM_EVERY_BYTES:
                checked = done
                self._check_room()  # the server does not say when it ends
            self._on_progress(done, total)
        if total is not None and done < total:
            raise _BrokenError(f"the connection ended after {done} of {total} bytes")
        self._check_size(done, exact=True)

    def _open(self, headers: dict[str, str]) -> Any:
        try:
            return self._opener.open(urllib.request.Request(self.url, headers=headers), timeout=self._timeout_s)
        except urllib.error.HTTPError as error:
            said = f"the server answers {error.code} {error.reason}"
            wait = error.headers.get("Retry-After") or ""
            error.close()
            if error.code == 416:
                self.forget()
                raise _BrokenError(said) from None
            if error.code in _PASSING:
                raise _BrokenError(said, float(min(int(wait), 60)) if wait.isdecimal() else 0.0) from None
            kind = NotThereError if error.code in (404, 410) else DownloadError
            raise kind(f"{self.url}: {said}") from None
        except urllib.error.URLError as error:
            if isinstance(error.reason, ssl.SSLCertVerificationError):
                raise DownloadError(f"{self.url}: the server's certificate is not trusted: {error.reason}") from None
            if isinstance(error.reason, TimeoutError):
                raise _BrokenError(f"no answer within {self._timeout_s:g} s") from None
            raise _BrokenError(f"no connection: {_in_words(error.reason)}") from None
        except TimeoutError:
            raise _BrokenError(f"no answer within {self._timeout_s:g} s") from None
        except (OSError, http.client.HTTPException) as error:
            raise _BrokenError(f"no connection: {_in_words(error)}") from None

    def _known(self) -> dict[str, Any]:
        """Return what was noted of the part beside us, or nothing where it cannot be gone on from."""
        with suppress(OSError, ValueError):
            noted = parse_json(self.note.read_text())
            if isinstance(noted, dict) and noted.get("url") == self.url and "validator" in noted:
                # Without a validator only the hash could tell that the file is another one by now.
                return noted if noted["validator"] or self._sha256 else {}
        return {}

    def _continues(self, headers: Message, start: int, known: dict[str, Any]) -> bool:
        same = not known["validator"] or _validator(headers) in ("", known["validator"])
        return same and (headers.get("Content-Range") or "").startswith(f"bytes {start}-")

    def _check_size(self, size: int | None, *, exact: bool) -> None:
        promised = self._size_bytes
        if promised is None or size is None or size == promised or (size < promised and not exact):
            return
        self.forget()
        raise DownloadError(
            f"{self.url} is not the file it should be: it has {size}{'' if exact else ' or more'} bytes, where "
            f"{promised} were promised"
        )


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows a redirect unless it would give up encryption."""

    def __init__(self, http_hosts: Collection[str]) -> None:
        self._http_hosts = http_hosts

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        if req.type == "https" and urlsplit(newurl).scheme != "https":
            raise DownloadError(f"{req.full_url} leads to {newurl}, which is not encrypted; that is not followed")
        _check_address(newurl, self._http_hosts)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener(url: str, http_hosts: Collection[str]) -> urllib.request.OpenerDirector:
    """Return an opener that knows HTTP and nothing else: no files, no FTP."""
    opener = urllib.request.OpenerDirector()
    local = is_this_machine(urlsplit(url).hostname or "")
    for handler in (
        urllib.request.ProxyHandler({} if local else None),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.UnknownHandler(),
        _Redirects(http_hosts),
    ):
        opener.add_handler(handler)
    return opener


def _check_address(url: str, http_hosts: Collection[str]) -> None:
    parts = urlsplit(url)
    host = parts.hostname or ""
    allowed = parts.scheme == "https" or (parts.scheme == "http" and (is_this_machine(host) or host in http_hosts))
    if not (allowed and host):
        raise DownloadError(f"{url} is not fetched: only https:// is, and http:// from this machine or from --mirror")


def _validator(headers: Message) -> str:
    """Return what tells versions of a file apart: its strong ETag, else its date."""
    etag = headers.get("ETag") or ""
    return etag if etag and not etag.startswith("W/") else headers.get("Last-Modified") or ""


def _in_words(error: object) -> str:
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__) if error else "it just ended"
