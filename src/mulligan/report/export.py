"""The report's figures as SVG files of their own, for documents that are kept elsewhere."""

import re
from importlib.resources import files
from pathlib import Path

from mulligan.report.inputs import read_run
from mulligan.report.page import render
from mulligan.storage.atomic import write_atomically

_FIGURE = re.compile(r"<figcaption>(.*?)</figcaption>.*?<svg (.*?)</svg>", re.DOTALL)
_COLOURS = re.compile(r":root \{.*?\n\}", re.DOTALL)


def export_figures(run: Path, folder: Path) -> list[Path]:
    """Write every figure of a run's report into a folder; return the files.

    A file is named after its figure's caption and carries the page's light colours.

    Raises:
        MulliganError: the folder is not a run's, or cannot be written.
    """
    css = files("mulligan.report").joinpath("page.css").read_text(encoding="utf-8")
    colours = _COLOURS.search(css)
    assert colours is not None
    style = f"<style>{colours.group()}\nsvg {{ font-family: sans-serif; }}</style>"
    paths = []
    for caption, svg in _FIGURE.findall(render(read_run(run))):
        path = folder / f"{re.sub(r'[^a-z0-9]+', '-', caption.lower()).strip('-')}.svg"
        attributes, _, body = svg.partition(">")
        drawn = f'<svg xmlns="http://www.w3.org/2000/svg" {attributes}>{style}{body}</svg>\n'
        write_atomically(path, drawn)
        paths.append(path)
    return paths
