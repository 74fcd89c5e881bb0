"""Signs of life of a run: every two seconds its writer's file says what runs and how busy the machine is."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

import psutil

from mmbench.standing import Standing
from mmbench.store import RunStore
from mmbench.utilisation import Meter, Utilisation

#: How often the file is written.
EVERY_S = 2.0
#: A writer on another machine that says nothing for so long is taken for dead. File systems of clusters may show a file
#: as it was a minute ago.
SILENCE_S = 90.0
#: Running cells that the file names.
MAX_CELLS = 200
#: How long the end of a run waits for a reading of the machine that hangs in a driver.
_PATIENCE_S = 5.0


class Heartbeat:
    """A thread that beats while a run is open for writing; entering starts it.

    Args:
        store: The run.
        standing: What runs.
        measured: Whether cells run on this machine, so that how busy it is says something.

    Attributes:
        utilisation: The latest reading, or None.
        phase: What the run is at: "running", then "reporting".
    """

    def __init__(self, store: RunStore, standing: Standing, *, measured: bool = True) -> None:
        self.utilisation: Utilisation | None = None
        self.phase = "running"
        self._store = store
        self._standing = standing
        self._measured = measured
        self._num_beats = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat_on, name="heartbeat", daemon=True)

    def __enter__(self) -> Heartbeat:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join(_PATIENCE_S)

    def _beat_on(self) -> None:
        # In this thread alone: a driver that hangs must hold up neither the run nor its table.
        meter = Meter() if self._measured else None
        while not self._stop.wait(EVERY_S if self._num_beats else EVERY_S / 4):
            if meter is not None:
                self.utilisation = meter.read()
            if not self._stop.is_set():
                self._store.tell_readers(self._news())

    def _news(self) -> dict[str, Any]:
        self._num_beats += 1
        now = time.monotonic()
        cells = list(self._standing.running.items())
        return {
            "beat": self._num_beats,
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "phase": self.phase,
            "at_once": self._standing.at_once,
            "num_running": len(cells),
            "running": [
                {
                    "cell_id": cell_id,
                    "label": cell.label,
                    "folder": cell.folder.relative_to(self._store.folder).as_posix() if cell.folder else "",
                    "max_epochs": cell.max_epochs,
                    "elapsed_s": round(now - cell.began, 1),
                }
                for cell_id, cell in cells[:MAX_CELLS]
            ],
            "utilisation": self.utilisation.to_json() if self.utilisation is not None else None,
        }


def why_gone(store: RunStore, writer: Mapping[str, Any]) -> str:
    """Return that the process a writer's file names has died; "" where it lives, or where nobody here can know."""
    if writer.get("host") != socket.gethostname() or not _is_dead(writer):
        return ""
    return f"{who(writer)} has died without ending the run; {again(store)}"


def who(writer: Mapping[str, Any]) -> str:
    """Return how a writer is called."""
    return f"the writer, process {writer.get('pid')} on {writer.get('host')} since {writer.get('since')},"


def again(store: RunStore) -> str:
    """Return how a run that nobody writes goes on."""
    return f"`mmbench run --run {store.name}` with its selection continues it"


def _is_dead(writer: Mapping[str, Any]) -> bool:
    try:
        process = psutil.Process(writer["pid"])
        began = datetime.fromisoformat(writer["since"]).timestamp()
        # The number of a dead process is given to another one day; a second for what the file leaves out.
        return bool(process.create_time() > began + 1 or process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True
    except (psutil.Error, ValueError, TypeError, KeyError):
        return False
