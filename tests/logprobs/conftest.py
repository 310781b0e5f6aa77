import pytest

from tiny_models import ARCHITECTURES, make_ids, make_model


@pytest.fixture(params=sorted(ARCHITECTURES))
def model(request):
    return make_model(request.param)


@pytest.fixture
def prompt_ids():
    return make_ids(19, seed=1)


@pytest.fixture
def completions():
    """Ragged, with one of a single token and one that is empty."""
    return [make_ids(length, seed=10 + length) for length in (7, 1, 0, 12, 12, 3)]
