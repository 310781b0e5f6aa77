"""Answers with bfcl-eval's own verdicts; run by the interpreter that has the package.

Reads a line for each question from standard input: the Python literal (category, id, calls), the
calls as ``[{tool: {parameter: value}}]``. Writes a line for each: ``right``, ``wrong`` or
``raised ...``.

The checker needs of the package's list of models, which imports every provider's library, only
whether a model's tools were renamed; a stand-in answers that for a model that is prompted.
"""

import ast
import json
import sys
import types
from collections import defaultdict
from pathlib import Path

models = types.ModuleType("bfcl_eval.constants.model_config")
models.MODEL_CONFIG_MAPPING = defaultdict(lambda: types.SimpleNamespace(underscore_to_dot=False))
sys.modules[models.__name__] = models

import bfcl_eval  # noqa: E402
from bfcl_eval.constants.enums import Language  # noqa: E402
from bfcl_eval.eval_checker.ast_eval.ast_checker import ast_checker  # noqa: E402

DATA = Path(bfcl_eval.__file__).parent / "data"
entries = {}


def load(category):
    def rows(path):
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]

    file = f"BFCL_v4_{category}.json"
    answers = {row["id"]: row["ground_truth"] for row in rows(DATA / "possible_answer" / file)}
    return {row["id"]: (row["function"], answers[row["id"]]) for row in rows(DATA / file)}


for question in sys.stdin:
    category, name, calls = ast.literal_eval(question)
    if category not in entries:
        entries[category] = load(category)
    functions, possible = entries[category][name]
    try:
        result = ast_checker(functions, calls, possible, Language.PYTHON, category, "prompted")
    except Exception as error:
        verdict = f"raised {type(error).__name__}: {error}".replace("\n", " ")
    else:
        verdict = "right" if result["valid"] else "wrong"
    sys.stdout.write(f"{verdict}\n")
