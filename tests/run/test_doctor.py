import re
import socket
import tomllib
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from mulligan.models.load import INSTALL_DEFAULT_MODEL
from mulligan.run import doctor
from mulligan.run.doctor import examine
from tiny import run_cli

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """The hub is not asked for in tests."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def checks(*arguments):
    return {check.name: check for check in examine(*arguments)}


def test_it_names_versions_the_device_memory_and_disk(tmp_path):
    found = checks(tmp_path)

    assert found["torch"].says.startswith("2.")
    assert "cores" in found["CPU"].says
    assert found["memory"].says.endswith("GiB")
    assert str(tmp_path) in found["disk"].says
    assert found["model hub"].says == "switched off by HF_HUB_OFFLINE"


def test_a_missing_default_model_is_named_with_the_command_that_installs_it(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor, "cache_folder", lambda: tmp_path)
    monkeypatch.setattr(doctor, "packaged_gguf", lambda: None)

    found = checks(tmp_path)["smollm2-135m"]

    assert (found.level, found.remedy) == ("missing", INSTALL_DEFAULT_MODEL)


def test_a_missing_package_of_some_commands_is_a_note_with_its_purpose(tmp_path, monkeypatch):
    def version(name):
        if name == "wandb":
            raise PackageNotFoundError(name)
        return "1.0"

    monkeypatch.setattr(doctor, "version", version)

    found = checks(tmp_path)["wandb"]

    assert found.level == "note"
    assert "track: [wandb]" in found.says
    assert found.remedy == "pip install wandb"


def test_every_package_of_an_extra_is_looked_for():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    users = [each for name, each in extras.items() if name not in ("dev", "dev-slow", "docs")]
    packages = {re.match(r"[\w-]+", each).group() for extra in users for each in extra}

    assert packages <= set(doctor.OPTIONAL)


def test_runs_go_to_a_folder_that_does_not_exist_yet(tmp_path):
    assert checks(tmp_path / "a" / "b")["disk"].level == "ok"


def test_a_hub_that_cannot_be_reached_is_a_note_not_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)

    def refuse(*arguments, **options):
        raise OSError("no route")

    monkeypatch.setattr(socket, "create_connection", refuse)

    assert checks(tmp_path)["model hub"].level == "note"


def test_a_server_that_does_not_answer_is_missing(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and never listening: nobody else can answer there
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
        found = checks(tmp_path, url)["server"]

    assert found.level == "missing"
    assert url in found.says


def test_the_command_prints_every_check_and_fails_when_the_demo_cannot_run(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor, "cache_folder", lambda: tmp_path)
    monkeypatch.setattr(doctor, "packaged_gguf", lambda: None)

    outcome = run_cli("doctor", "--runs", tmp_path)

    assert outcome.code == 1
    assert INSTALL_DEFAULT_MODEL in outcome.out
    assert "torch" in outcome.out
