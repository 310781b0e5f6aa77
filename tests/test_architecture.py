"""The house: who may import whom, and where torch may be."""

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import mulligan

SOURCE = Path(mulligan.__file__).parent

FLOORS = (
    {"errors", "types", "randomness", "interrupt"},
    {"config", "storage"},
    {"models"},
    {"logprobs"},
    {"tasks", "engines"},
    {"verifiers"},
    {"episodes"},
    {"objectives"},
    {"trainer", "evaluation"},
    {"report"},
    {"run"},
    {"study", "serving"},
    {"cli"},
)
"""From the bottom. A name is a file, or a folder with everything in it."""

TORCH = {"models", "engines", "logprobs", "objectives", "trainer", "storage"}
TORCH_LATE = {"run", "models", "storage", "objectives"}
"""These import torch within functions only, so that the command line starts at once."""

LONGEST_FUNCTION = 60
LONGEST_CLASS = 150
"""Lines, docstrings apart."""
LARGEST_FOLDER = 3500
"""Lines of the files directly in it."""
MOST_ENTRIES = 20
"""At the package's top, besides what every package has."""


def modules() -> dict[str, ast.Module]:
    """Every module of the package by its dotted name below ``mulligan``."""
    found = {}
    for path in sorted(SOURCE.rglob("*.py")):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = ast.parse(path.read_text(encoding="utf-8"))
    return found


MODULES = modules()
CHECKED = [name for name in MODULES if name]


def imported(tree: ast.AST) -> Iterator[str]:
    """Every module that is imported anywhere in a tree, by its full name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own_imports(name: str) -> set[str]:
    """The package's own modules that a module imports; the package itself is not one."""
    found = {each for each in imported(MODULES[name]) if each.startswith("mulligan.")}
    return {each.removeprefix("mulligan.") for each in found} & set(CHECKED) - {name}


def floor(name: str) -> int:
    top = name.partition(".")[0]
    floors = [number for number, floor in enumerate(FLOORS) if top in floor]
    assert floors, f"{name} has no floor: give it one in FLOORS"
    return floors[0]


def top(name: str) -> str:
    return name.partition(".")[0]


@pytest.mark.parametrize("name", CHECKED)
def test_a_file_imports_only_from_floors_below_its_own(name):
    foreign = [each for each in own_imports(name) if top(each) != top(name)]
    assert [each for each in foreign if floor(each) >= floor(name)] == []


def test_no_two_files_import_each_other():
    try:
        TopologicalSorter({name: own_imports(name) for name in CHECKED}).prepare()
    except CycleError as error:
        pytest.fail(f"these import each other: {error.args[1]}")


@pytest.mark.parametrize(
    ("folder", "stranger"),
    [
        ("tasks", "engines"),
        ("tasks", "logprobs"),
        ("tasks", "config"),
        ("engines", "tasks"),
        ("engines", "logprobs"),
        ("engines", "config"),
        ("logprobs", "tasks"),
        ("logprobs", "engines"),
        ("logprobs", "config"),
    ],
)
def test_tasks_engines_and_numerics_do_not_know_each_other(folder, stranger):
    knows = {top(each) for name in CHECKED if top(name) == folder for each in own_imports(name)}
    assert stranger not in knows


def uses_torch(tree: ast.AST) -> bool:
    return any(each.split(".")[0] == "torch" for each in imported(tree))


def outside_functions(tree: ast.Module) -> ast.Module:
    """What runs when a module is imported: no functions, nothing for type checkers only."""

    def runs(node: ast.stmt) -> bool:
        for_types = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        return not for_types and not isinstance(node, ast.FunctionDef | ast.ClassDef)

    return ast.Module([node for node in tree.body if runs(node)], [])


@pytest.mark.parametrize("name", CHECKED)
def test_torch_is_imported_only_where_it_may_be(name):
    if uses_torch(MODULES[name]):
        assert top(name) in TORCH | TORCH_LATE
    if top(name) in TORCH_LATE:
        assert not uses_torch(outside_functions(MODULES[name]))


def long_functions(tree: ast.AST) -> dict[str, int]:
    """Functions with more lines than they should have, signature and all, docstring apart."""
    lengths = {
        node.name: node.end_lineno - node.lineno + 1 - docstring_lines(node)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    return {name: lines for name, lines in lengths.items() if lines > LONGEST_FUNCTION}


@pytest.mark.parametrize("name", CHECKED)
def test_functions_are_short(name):
    assert long_functions(MODULES[name]) == {}


def docstring_lines(node: ast.AST) -> int:
    """How many lines the docstrings of a class, of its methods and of its fields take."""
    texts = [
        each
        for each in ast.walk(node)
        if isinstance(each, ast.Expr)
        and isinstance(each.value, ast.Constant)
        and isinstance(each.value.value, str)
    ]
    return sum(text.end_lineno - text.lineno + 1 for text in texts)


@pytest.mark.parametrize("name", CHECKED)
def test_classes_are_short(name):
    lengths = {
        node.name: node.end_lineno - node.lineno + 1 - docstring_lines(node)
        for node in ast.walk(MODULES[name])
        if isinstance(node, ast.ClassDef)
    }
    assert {found: lines for found, lines in lengths.items() if lines > LONGEST_CLASS} == {}


def test_no_folder_holds_more_than_a_reader_takes_in():
    folders = {path.parent for path in SOURCE.rglob("*.py")}
    lines = {
        str(folder.relative_to(SOURCE)): sum(
            len(path.read_text(encoding="utf-8").splitlines()) for path in folder.glob("*.py")
        )
        for folder in folders
    }
    assert {folder: count for folder, count in lines.items() if count > LARGEST_FOLDER} == {}


def test_the_top_of_the_package_fits_one_look():
    every_package_has = {"__init__.py", "__pycache__", "py.typed", "recipes"}
    entries = {path.name for path in SOURCE.iterdir()} - every_package_has
    assert len(entries) <= MOST_ENTRIES, sorted(entries)


@pytest.mark.parametrize("name", CHECKED)
def test_nothing_dangerous_is_called(name):
    """No eval, no exec, no pickle, no shell, no torch.load, no foreign code of a model's."""
    calls = {
        ast.unparse(node.func) for node in ast.walk(MODULES[name]) if isinstance(node, ast.Call)
    }
    assert not calls & {"eval", "exec", "torch.load", "os.system"}
    assert not {each.split(".")[0] for each in imported(MODULES[name])} & {"pickle", "marshal"}
    options = {
        (node.arg, ast.unparse(node.value))
        for node in ast.walk(MODULES[name])
        if isinstance(node, ast.keyword)
    }
    assert not options & {("shell", "True"), ("trust_remote_code", "True")}
