"""The command line: `t2l VERB ...`."""

from __future__ import annotations

from t2l.cli.main import main

__all__ = ["main"]
