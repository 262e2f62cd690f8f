"""The library of oracle adapters for one base model: its folder, and the trainer of many adapters at once."""

from __future__ import annotations

from t2l.library.folder import (
    LIBRARY_RECORD,
    MULTI_TASK,
    AdapterLibrary,
    LibraryFolder,
    library_record,
    load_library,
    open_library,
    training_tasks_in,
)

__all__ = [
    "LIBRARY_RECORD",
    "MULTI_TASK",
    "AdapterLibrary",
    "LibraryFolder",
    "library_record",
    "load_library",
    "open_library",
    "training_tasks_in",
]
