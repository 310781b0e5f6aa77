import xml.etree.ElementTree as ET

from mulligan.report.export import export_figures


def test_every_figure_becomes_a_drawing_that_stands_alone(finished_run, finished_page, tmp_path):
    paths = export_figures(finished_run, tmp_path / "figures")
    assert len(paths) == finished_page.count("<figcaption>") > 3
    for path in paths:
        assert ET.parse(path).getroot().tag == "{http://www.w3.org/2000/svg}svg"


def test_a_drawing_defines_every_colour_that_it_uses(finished_run, tmp_path):
    import re

    for path in export_figures(finished_run, tmp_path):
        text = path.read_text(encoding="utf-8")
        used = set(re.findall(r"var\((--[\w-]+)\)", text))
        assert used
        assert used <= set(re.findall(r"(--[\w-]+):", text))
