"""`python -m kinfold`: the command line, where the console script is not on the path."""

from __future__ import annotations

from .app.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
