"""The script that writes the page of findings, as a module."""

import importlib.util
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"


def load_findings():
    """Return docs/findings.py."""
    spec = importlib.util.spec_from_file_location("docs_findings", DOCS / "findings.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
