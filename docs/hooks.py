"""What the documentation takes from the code and from committed results.

The site's menu, and its pages of settings and commands, are made while it is built. Run as a
program, this writes the tables of ``results/forgetting.json`` into the page on forgetting.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import typer.main
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from mulligan.cli import app
from mulligan.config import Recipe
from mulligan.report.published import published_markdown

MENU = {
    "Start": ["index.md", "your_model.md", "bring_your_own_task.md"],
    "Use it": [
        "evaluation.md",
        "follow_and_share.md",
        "forgetting.md",
        "production.md",
        "python_api.md",
    ],
    "Go further": [
        "objectives.md",
        "rounds.md",
        "engines.md",
        "studies.md",
        "scale.md",
        "performance.md",
    ],
    "What holds": [
        "results/README.md",
        "findings.md",
        "results/findings/README.md",
        "talk.md",
        "reliability.md",
        "design.md",
    ],
    "Reference": ["settings.md", "commands.md"],
}
"""Pages in the order of the menu; those that do not exist (yet) are left out, others come last."""

DOCS = Path(__file__).parent

TABLES = "The tables of results/forgetting.json"
"""In the comments between which they stand on the page."""
NOTHING_YET = "No run has been published yet."

MADE = {"settings.md", "commands.md"}


def on_config(config: Any) -> Any:
    """Lay out the menu from the pages that there are."""
    docs = Path(config["docs_dir"])
    there = {str(path.relative_to(docs)) for path in docs.rglob("*.md")} | MADE
    menu: list[dict[str, Any]] = [
        {title: [_entry(page) for page in pages if page in there]} for title, pages in MENU.items()
    ]
    listed = {page for pages in MENU.values() for page in pages}
    menu.append({"More": sorted(there - listed)})
    config["nav"] = [entry for entry in menu if all(entry.values())]
    return config


def _entry(page: str) -> str | dict[str, str]:
    """Return a page as the menu takes it; the first one is not called after the project."""
    return {"First run": page} if page == "index.md" else page


def on_files(files: Any, config: Any) -> Any:
    """Add the generated pages."""
    from mkdocs.structure.files import File  # noqa: PLC0415  (only the site is built with mkdocs)

    for name, text in (("settings.md", settings_page()), ("commands.md", commands_page())):
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Name files outside the site by their path: a link to them would lead nowhere."""
    del config, files
    depth = page.file.src_uri.count("/")
    outside = re.compile(rf"\[([^\]]+)\]\((?:\.\./){{{depth + 1},}}([^)#]+)\)")
    return outside.sub(lambda found: f"{found[1]} (`{found[2]}`)", markdown)


def settings_page() -> str:
    """Return every setting of a recipe, with its default and what it means."""
    rows = "\n".join(
        f"| `{name}` | {default} | {text} |" for name, default, text in settings(Recipe)
    )
    return (
        "# Every setting\n\nA recipe is a YAML file of these; `name=value` on the command line "
        f"overrides one.\n\n| setting | default | meaning |\n|---|---|---|\n{rows}\n"
    )


def settings(section: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, str, str]]:
    """Yield (name, default, meaning) of a section's settings, those of sections in it included."""
    for name, field in section.model_fields.items():
        kinds = [field.annotation, *get_args(field.annotation)]
        inner = [k for k in kinds if isinstance(k, type) and issubclass(k, BaseModel)]
        yield f"{prefix}{name}", _default(field, bool(inner)), _cell(field.description or "")
        for kind in inner:
            yield from settings(kind, f"{prefix}{name}.")


def _default(field: Any, is_section: bool) -> str:
    if field.default is PydanticUndefined and field.default_factory is None:
        return "required"
    if is_section:
        return "left out" if field.default is None else ""
    value = field.get_default(call_default_factory=True)
    return _cell(f"`{value!r}`")


def commands_page() -> str:
    """Return every command, with its arguments and options."""
    group: Any = typer.main.get_command(app)
    parts = ["# Every command"]
    for name, command in group.commands.items():
        parts.append(f"## mulligan {name}\n\n{_cell(command.help or '')}\n")
        rows = [
            f"| {_option(each)} | {_cell(getattr(each, 'help', '') or '')} |"
            for each in command.params
        ]
        parts.append("\n".join(["| | |", "|---|---|", *rows]) if rows else "")
    return "\n\n".join(parts) + "\n"


def with_forgetting(page: str) -> str:
    """Return the page on forgetting with the tables of the runs that are published."""
    before, start, rest = page.partition(f"<!-- {TABLES} start here. -->")
    _, end, after = rest.partition(f"<!-- {TABLES} end here. -->")
    tables = "\n\n".join(published_markdown(DOCS / "results" / "forgetting.json"))
    return f"{before}{start}\n\n{tables or NOTHING_YET}\n\n{end}{after}"


def _option(parameter: Any) -> str:
    names = ", ".join(f"`{name}`" for name in parameter.opts if name.startswith("-"))
    return names or f"`{parameter.metavar or parameter.name.upper()}`"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


if __name__ == "__main__":
    page = DOCS / "forgetting.md"
    page.write_text(with_forgetting(page.read_text(encoding="utf-8")), encoding="utf-8")
