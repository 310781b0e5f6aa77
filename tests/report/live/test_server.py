import json
import shutil
import socket
import urllib.request

import pytest

from mulligan.report.live.details import run_details
from mulligan.storage.run_folder import RunFolder
from serving import fetch, fetch_json, served
from tiny import lines, run_cli

pytest.importorskip("fastapi")


@pytest.fixture(scope="module")
def folder(tiny_run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for name in ("one", "two"):
        shutil.copytree(tiny_run, folder / name)
    return folder


@pytest.fixture(scope="module")
def url(folder):
    with served(folder) as url:
        yield url


def test_the_list_holds_every_run_with_texts_for_people(url):
    runs = fetch_json(f"{url}/api/runs")["runs"]

    assert [run["name"] for run in runs] == ["one", "two"]
    assert {run["state"] for run in runs} == {"finished"}
    assert runs[0]["progress"] == "done"


def test_a_run_has_curves_a_table_and_its_settings(url):
    run = fetch_json(f"{url}/api/runs/one")

    reward = next(curve for curve in run["curves"] if curve["title"] == "Mean reward")
    assert [step for step, _ in reward["points"]] == [1, 2, 3, 4]
    assert run["table"][0][0] == "First try"
    assert "name: tiny" in run["settings"]
    assert run["report"]


def test_a_step_whose_numbers_were_not_finite_is_left_out_of_the_curves(tiny_run, tmp_path):
    run = RunFolder(shutil.copytree(tiny_run, tmp_path / "run"))
    rows = lines(run.metrics)
    rows[1] |= {"logprob_mismatch": "NaN", "loss": None, "gradient_norm": None, "skipped": True}
    run.metrics.write_text("".join(json.dumps(row) + "\n" for row in rows))

    curves = {each["title"]: each["points"] for each in run_details(run)["curves"]}

    assert [step for step, _ in curves["Mismatch of log-probs, engine and trainer"]] == [1, 3, 4]
    assert [step for step, _ in curves["Norm of the gradient"]] == [1, 3, 4]
    assert [step for step, _ in curves["Mean reward"]] == [1, 2, 3, 4]


def test_episodes_come_in_pages_with_filters(url):
    page = fetch_json(f"{url}/api/runs/one/episodes?status=passed")

    assert page["rows"]
    assert {row["status"] for row in page["rows"]} == {"passed"}
    first = fetch_json(f"{url}/api/runs/one/episodes")
    second = fetch_json(f"{url}/api/runs/one/episodes?before={first['older']}")
    assert {row["place"] for row in first["rows"]}.isdisjoint(
        row["place"] for row in second["rows"]
    )
    failure = first["rows"][0]["failure"]
    assert fetch_json(f"{url}/api/runs/one/failures/{failure}")["reason"]


def test_runs_side_by_side_are_paired(url):
    made = fetch_json(f"{url}/api/compare?run=one&run=two")

    assert made["names"] == ["one", "two"]
    assert made["rows"][0][-1].startswith("0.0")


def test_the_report_is_served_without_any_script(url):
    status, headers, text = fetch(f"{url}/report/one")

    assert (status, "<h1>" in text) == (200, True)
    assert "sandbox" in headers["Content-Security-Policy"]
    assert "script-src" not in headers["Content-Security-Policy"]


@pytest.mark.parametrize(
    "path",
    [
        "/api/runs/none",
        "/api/runs/..%2F..%2Fetc",
        "/api/runs/.hidden/episodes",
        "/report/..%2Fsecret",
        "/assets/server.py",
        "/assets/..%2Fserver.py",
        "/docs",
    ],
)
def test_nothing_but_runs_and_the_page_can_be_named(url, path):
    assert fetch(url + path)[0] == 404


def test_a_page_from_elsewhere_cannot_read_along_under_its_own_name(url):
    assert fetch(f"{url}/api/runs", Host="evil.example")[0] == 400


def test_nothing_can_be_changed(url):
    request = urllib.request.Request(f"{url}/api/runs", data=b"{}", method="POST")
    with pytest.raises(urllib.error.HTTPError, match="405"):
        urllib.request.urlopen(request, timeout=10)


def test_the_page_allows_scripts_and_requests_to_itself_only(url):
    _, headers, text = fetch(url)

    assert headers["Content-Security-Policy"].startswith("default-src 'none'; script-src 'self';")
    assert "http" not in text.replace("http-equiv", "")


def test_a_change_on_the_disk_is_sent_as_an_event(folder, url):
    with urllib.request.urlopen(f"{url}/api/events", timeout=20) as stream:
        first = json.loads(stream.readline().removeprefix(b"data: "))
        assert [run["name"] for run in first["runs"]] == ["one", "two"]
        assert stream.readline() == b"\n"
        RunFolder(folder / "two").stages.write_text('["warmup"]')
        second = json.loads(stream.readline().removeprefix(b"data: "))
    assert second["runs"][1]["state"] == "stopped"


def test_a_run_that_cannot_be_read_is_an_error_of_that_run_alone(folder, url):
    broken = folder / "broken"
    shutil.copytree(folder / "one", broken)
    (broken / "config.yaml").write_text("name: [")
    try:
        status, _, text = fetch(f"{url}/api/runs/broken")
        assert status == 409
        assert "is not YAML" in json.loads(text)["error"]
        runs = {run["name"]: run for run in fetch_json(f"{url}/api/runs")["runs"]}
        assert runs["broken"]["state"] == "unreadable"
        assert runs["one"]["state"] == "finished"
    finally:
        shutil.rmtree(broken)


def test_watching_writes_nothing(folder, url):
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    for path in (
        "/api/runs",
        "/api/runs/one",
        "/api/runs/one/episodes?source=after",
        "/report/one",
    ):
        fetch(url + path)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_a_port_in_use_is_named_with_what_to_do(folder):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        outcome = run_cli("watch", folder, "--port", taken.getsockname()[1])

    assert outcome.code == 1
    assert "Address already in use" in outcome.err
    assert "--port" in outcome.err


def test_a_missing_folder_and_a_missing_package_are_named(folder, tmp_path, monkeypatch):
    assert "No folder" in run_cli("watch", tmp_path / "none").err
    monkeypatch.setattr("mulligan.cli.web.find_spec", lambda name: None)
    assert "pip install fastapi uvicorn" in run_cli("watch", folder).err
