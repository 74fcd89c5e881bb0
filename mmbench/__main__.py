"""`python -m mmbench` is the command `mmbench`."""

from __future__ import annotations

from mmbench.cli import main

if __name__ == "__main__":
    main("python -m mmbench")
