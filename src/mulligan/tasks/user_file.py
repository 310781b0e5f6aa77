"""Importing a Python file of the user's own, and describing what went wrong in it."""

import importlib.util
import sys
import traceback
from pathlib import Path
from types import ModuleType

from mulligan.errors import MulliganError


def import_file(path: Path) -> ModuleType:
    """Import a Python file of the user's own by its path.

    Its folder joins the end of ``sys.path``, so that it can import the files beside it.

    Raises:
        MulliganError: the file is missing, or importing it fails; the message has the line.
    """
    if not path.is_file():
        raise MulliganError(f"There is no file {path} (in {Path.cwd()}).")
    path = path.resolve()
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    spec = importlib.util.spec_from_file_location(f"mulligan_user_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise MulliganError(
            f"{path} could not be imported: {explain(error, str(path))}. Fix the file; "
            f"`python {path}` shows the whole traceback."
        ) from error
    return module


def explain(error: BaseException, within: str | None = None) -> str:
    """Describe an exception in one line, with the last line of user code that it passed through.

    Args:
        error: The exception.
        within: Only lines of this file are named; by default, the innermost line.
    """
    frames = traceback.extract_tb(error.__traceback__)
    known = [frame for frame in frames if within is None or frame.filename == within]
    place = f" ({Path(known[-1].filename).name}, line {known[-1].lineno})" if known else ""
    text = str(error)
    return f"{type(error).__name__}: {text}{place}" if text else f"{type(error).__name__}{place}"
