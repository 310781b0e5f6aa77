import logging

import pytest
from hypothesis import HealthCheck, settings

from cases import watch_whole_runs
from tiny import make_model_folder, make_tokenizer, run_cli, write_recipe

# How fast a machine draws examples says nothing about what is tested, and a busy one draws slowly.
settings.register_profile("any", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any")


def pytest_configure(config):
    watch_whole_runs(config)


def pytest_collection_modifyitems(items):
    """What is marked ``gpu`` is skipped, with the reason, where there is none."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="PyTorch finds no CUDA device here"))


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory):
    return make_model_folder(tmp_path_factory.mktemp("models") / "llama", "llama")


@pytest.fixture(scope="session")
def tiny_qwen2(tmp_path_factory):
    return make_model_folder(tmp_path_factory.mktemp("models") / "qwen2", "qwen2")


@pytest.fixture(scope="session")
def tiny_tokenizer():
    return make_tokenizer()


@pytest.fixture(scope="session")
def tiny_run(tiny_llama, tmp_path_factory):
    """A finished run of all stages; copy it before changing it."""
    folder = tmp_path_factory.mktemp("tiny_run")
    recipe = write_recipe(folder, tiny_llama)
    outcome = run_cli("run", recipe, "--runs", folder)
    assert outcome.code == 0, outcome.err
    return folder / "tiny"


@pytest.fixture(autouse=True)
def level_of_the_log():
    """The command line turns the log up; the next test starts as if it had not."""
    level = logging.getLogger("mulligan").level
    yield
    logging.getLogger("mulligan").setLevel(level)
