"""What a person would click, in a real headless Chromium, while a real run trains."""

import json
import shutil
import subprocess
import sys

import pytest
import yaml
from hostile import hostile_texts, make_hostile_run
from synthetic_run import SETTINGS

from mulligan.storage.run_folder import RunFolder
from serving import served
from tiny import write_recipe

webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium: pip install selenium")
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.support.ui import Select, WebDriverWait  # noqa: E402

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
DRIVER = shutil.which("chromedriver")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs chromium and chromium-driver"),
]


@pytest.fixture
def browser(tmp_path):
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in ("--headless", "--no-sandbox", "--disable-gpu", "--window-size=1200,1700"):
        options.add_argument(flag)
    options.add_argument(f"--user-data-dir={tmp_path / 'profile'}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


def wait(browser, what, seconds=60):
    return WebDriverWait(browser, seconds, 0.1).until(lambda _: what())


def find(browser, css):
    return browser.find_elements(By.CSS_SELECTOR, css)


def texts(browser, css):
    """What is shown in elements, read at one moment: the page goes on changing."""
    script = "return [...document.querySelectorAll(arguments[0])].map((each) => each.innerText)"
    return browser.execute_script(script, css)


def text(browser, css):
    return next(iter(texts(browser, css)), "")


def reward_caption(browser):
    return next((each for each in texts(browser, "#curves figcaption") if "reward" in each), "")


def test_a_person_follows_a_run_while_it_trains(tmp_path, tiny_run, tiny_llama, browser):
    folder = tmp_path / "runs"
    shutil.copytree(tiny_run, folder / "earlier")
    recipe = write_recipe(tmp_path, tiny_llama, name="now", train__steps=30)
    command = [
        sys.executable,
        "-c",
        "from mulligan.cli import main; main()",
        "run",
        recipe,
        "--runs",
        folder,
    ]
    log = (tmp_path / "log").open("w")
    with served(folder) as url, subprocess.Popen(command, stdout=log, stderr=log) as training:
        browser.get(url)
        wait(browser, lambda: texts(browser, "#runs a") == ["earlier", "now"])
        assert text(browser, "#live") == "live"
        wait(browser, lambda: "running" in texts(browser, "#runs tbody td"))

        browser.find_element(By.LINK_TEXT, "now").click()
        wait(browser, lambda: "now" in reward_caption(browser))
        first = text(browser, "#run-state")
        wait(browser, lambda: text(browser, "#run-state") != first)
        wait(browser, lambda: find(browser, "#episodes article mark"))  # trained tokens in colour
        assert find(browser, "#episodes mark.up, #episodes mark.down, #episodes mark.none")

        assert training.wait(120) == 0, (tmp_path / "log").read_text()
        wait(browser, lambda: text(browser, "#run-state") == "finished, done")
        wait(browser, lambda: browser.find_element(By.ID, "report").is_displayed())
        assert "First try" in texts(browser, "#table th")

        Select(find(browser, "select[name=status]")[0]).select_by_visible_text("passed")
        wait(browser, lambda: set(texts(browser, "#episodes .badge")) == {"passed"})
        button = wait(browser, lambda: find(browser, "#episodes article button")[0])
        button.click()
        wait(browser, lambda: "question" in texts(browser, "#episodes .part > span"))
        browser.save_screenshot(tmp_path / "run.png")
        before = texts(browser, "#episodes article b")
        browser.find_element(By.ID, "older").click()
        wait(browser, lambda: texts(browser, "#episodes article b") != before)
        browser.find_element(By.ID, "newest").click()
        wait(browser, lambda: texts(browser, "#episodes article b") == before)
        find(browser, "input[name=text]")[0].send_keys("nothing holds this")
        wait(browser, lambda: text(browser, "#page-note") == "Nothing matches.")

        for box in find(browser, "#runs input"):
            box.click()
        browser.find_element(By.ID, "compare").click()
        wait(browser, lambda: "What reflection adds" in texts(browser, "#side-table th"))
        assert len(find(browser, "#side-figure polyline")) == 2
        browser.save_screenshot(tmp_path / "compare.png")

        browser.get(f"{url}/report/now")
        assert browser.find_element(By.TAG_NAME, "h1").text == "now"
        assert [e for e in browser.get_log("browser") if e["level"] == "SEVERE"] == []


def test_hostile_model_output_runs_no_script_and_loads_nothing(tmp_path, browser, beacon):
    address, asked = beacon
    planted = hostile_texts(address)
    run = RunFolder(make_hostile_run(tmp_path / "runs" / "run", planted))
    rows = [
        {
            "schema": 1,
            "step": 1,
            "failure_id": text,
            "sample": number,
            "reward": 1.0,
            "advantage": 1.0,
            "reflection": {"text": text, "tokens": 1, "finish_reason": "stop"},
            "retry": {"text": text, "tokens": 1, "finish_reason": "stop"},
            "verdict": {"status": "failed", "reason": text, "detail": text},
        }
        for number, text in enumerate(planted)
    ]
    run.episodes.write_text("".join(json.dumps(row) + "\n" for row in rows))

    hostile = {"name": "run", "task": planted[0], "model": planted[3]}
    run.config.write_text(yaml.safe_dump({**SETTINGS, **hostile}))

    with served(tmp_path / "runs") as url:
        browser.get(f"{url}/#run=run")
        wait(browser, lambda: texts(browser, "#runs a") == ["run"])
        wait(
            browser,
            lambda: find(browser, "#episodes article") or text(browser, "#error"),
        )
        shown = "\n".join(texts(browser, "#episodes article"))

        assert "<script>document.title = 'owned'</script>" in shown
        assert "owned" not in browser.title
        assert find(browser, "#episodes script, #episodes img, #episodes iframe, #episodes a") == []
    assert asked == []
