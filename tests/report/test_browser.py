import shutil
import subprocess

import pytest
from hostile import hostile_texts, make_hostile_run

from mulligan.report.page import write_report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--virtual-time-budget=4000",
    "--dump-dom",
]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs the chromium package"),
]


def dom_in_chromium(page, profile):
    """Open a page and return the document as it stands after its scripts had time to run."""
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={profile}", page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


def test_a_report_of_hostile_text_makes_no_request_and_runs_no_script(tmp_path, beacon):
    url, asked = beacon
    run = make_hostile_run(tmp_path / "run", hostile_texts(url))

    dom = dom_in_chromium(write_report(run), tmp_path / "profile")

    assert asked == []
    assert "<title>Mulligan: run</title>" in dom
    assert "<script" not in dom
    assert "Use the numbers" not in dom
    assert "&lt;script&gt;fetch(" in dom


def test_the_same_text_unescaped_is_caught_by_both_checks(tmp_path, beacon):
    url, asked = beacon
    page = tmp_path / "unsafe.html"
    texts = [text for text in hostile_texts(url) if "refresh" not in text]
    page.write_text(f"<title>safe</title>{''.join(texts[:4])}")

    dom = dom_in_chromium(page, tmp_path / "profile")

    assert "/beacon" not in asked
    assert any("img" in path or "script" in path for path in asked)
    assert "<title>owned</title>" in dom
