"""Device mistakes, found without a GPU: `device_checks.py` on the device that `pretend_gpu.py` makes.

In a process of its own, since a device cannot be taken out of one again.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

CHECKS = Path(__file__).parent / "device_checks.py"
NAMES = [n.name for n in ast.parse(CHECKS.read_text()).body if isinstance(n, ast.FunctionDef) and n.name[:5] == "test_"]


@pytest.fixture(scope="module")
def report() -> str:
    """What pytest prints about the checks."""
    command = [sys.executable, "-m", "pytest", str(CHECKS), "-q", "-rA", "-p", "no:cacheprovider", "--tb=short"]
    options = {"cwd": CHECKS.parent.parent, "env": {**os.environ, "OMP_NUM_THREADS": "1"}}
    return subprocess.run(command, capture_output=True, text=True, check=False, **options).stdout


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_on_a_device(name: str, report: str) -> None:
    outcomes = re.findall(rf"^(\w+) \S*device_checks\.py::{name}(?:\[.*)?(?: - .*)?$", report, re.MULTILINE)
    assert outcomes, report[-4000:]
    assert set(outcomes) == {"PASSED"}, report[-12000:]
