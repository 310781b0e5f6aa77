"""The report's figures as SVG files of their own, for documents that are kept elsewhere."""

from importlib.resources import files
from pathlib import Path

from mulligan.report.drawing import Drawing
from mulligan.report.figures import all_figures
from mulligan.report.inputs import read_run
from mulligan.storage.atomic import write_atomically


def export_figures(run: Path, folder: Path) -> list[Path]:
    """Write every figure of a run's report into a folder; return the files.

    A file is named after its figure's caption and carries the page's light colours.

    Raises:
        MulliganError: the folder is not a run's, or cannot be written.
    """
    content = read_run(run)
    paths = []
    for drawing in all_figures(content.table, content.metrics, content.warmup, content.dev):
        path = folder / f"{drawing.name}.svg"
        write_atomically(path, standing_alone(drawing))
        paths.append(path)
    return paths


def standing_alone(drawing: Drawing) -> str:
    """Return a figure as a whole SVG document, in the page's light colours."""
    colours = files("mulligan.report").joinpath("light.css").read_text(encoding="utf-8")
    style = f"<style>{colours}svg {{ font-family: sans-serif; }}</style>"
    attributes, _, body = drawing.svg.removeprefix("<svg ").partition(">")
    return f'<svg xmlns="http://www.w3.org/2000/svg" {attributes}>{style}{body}\n'
