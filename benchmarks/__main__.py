"""Measure speed and memory: ``python -m benchmarks NAME [--quick]``.

``all`` measures everything, writes each result to docs/results/NAME.json, draws the figures there
and puts the tables into docs/performance.md; ``gpu`` does the same for what needs a GPU. It takes
hours, and goes on where it was stopped: run it again, or in pieces with ``--minutes``.
"""

import argparse
import importlib
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.cases import Case, Results, Settings, Stopped
from mulligan.errors import MulliganError
from mulligan.models.load import DEFAULT_MODEL

NAMES = ("training", "rollouts", "step", "growth", "evaluation", "sft", "gpu")
RESULTS = Path(__file__).parents[1] / "docs" / "results"


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("name", choices=(*NAMES, "all"))
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="two repeats of the main case")
    size.add_argument(
        "--tiny", action="store_true", help="the smallest sizes, to see that everything runs"
    )
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="write the result here; if it is there, go on"
    )
    parser.add_argument(
        "--results",
        type=Path,
        metavar="FOLDER",
        help="where `all` and `gpu` write (default: docs/results, where sizes are full)",
    )
    parser.add_argument(
        "--model",
        default=None,
        metavar="FOLDER",
        help="a model folder, for instance a warmed-up one (default: the packaged model)",
    )
    parser.add_argument(
        "--vllm-python",
        type=Path,
        metavar="FILE",
        help="the Python of an environment that has vLLM; without it that peer is left out",
    )
    parser.add_argument(
        "--minutes", type=float, metavar="N", help="start no further round after so long"
    )
    return parser.parse_args(arguments)


def settings_of(options: argparse.Namespace) -> Settings:
    """Return what a command line asks for; the tiniest size takes a tiny random model."""
    size = "tiny" if options.tiny else "quick" if options.quick else "full"
    model = options.model or ("tiny" if options.tiny else DEFAULT_MODEL)
    if Path(model).is_dir():
        model = str(Path(model).resolve())
    python = options.vllm_python
    return Settings(size, model, python and python.absolute(), options.minutes)


def cases_of(name: str, settings: Settings) -> list[Case]:
    """Return the cases of a benchmark."""
    cases: list[Case] = importlib.import_module(f"benchmarks.{name}").cases(settings)
    return cases


def main() -> None:
    """Parse the command line and measure."""
    options = parse(sys.argv[1:])
    settings = settings_of(options)
    try:
        if options.name in ("all", "gpu") and options.json is None:
            _published(options, settings)
        else:
            measure(options.name, options.json, settings)
    except Stopped:
        print(f"{options.minutes:g} minutes are over: run it again to go on.")
    except MulliganError as error:
        sys.exit(str(error))


def measure(name: str, path: Path | None, settings: Settings) -> None:
    """Measure one benchmark, or what is missing of it, and say what follows."""
    module = importlib.import_module(f"benchmarks.{name}")
    if name == "gpu" and not module.is_measurable(settings):
        print("There is no GPU here, so nothing is measured.")
        return
    results = Results(path, name, settings)
    values = results.measure(module.cases(settings))
    if hasattr(module, "conclude"):
        conclusions = module.conclude(values)
        results.conclude(conclusions)
        print("\n".join(module.sentences(conclusions)))


def _published(options: argparse.Namespace, settings: Settings) -> None:
    """Measure into the folder of results; tables and figures follow after each benchmark."""
    from benchmarks import figures, page  # noqa: PLC0415  (matplotlib starts slowly)

    if options.results is None and settings.size != "full":
        raise MulliganError(
            "Results of --quick and --tiny are not published: name a folder with --results."
        )
    folder: Path = options.results or RESULTS
    until = None if settings.minutes is None else time.monotonic() + settings.minutes * 60
    for name in NAMES if options.name == "all" else (options.name,):
        print(f"== {name}", flush=True)
        left = None if until is None else (until - time.monotonic()) / 60
        try:
            measure(name, folder / f"{name}.json", replace(settings, minutes=left))
        finally:
            figures.draw_all(folder)
            page.write(folder)


if __name__ == "__main__":
    main()
