from types import SimpleNamespace

import pytest

from mulligan.config import override_recipe
from mulligan.errors import MulliganError
from mulligan.run.processes import together
from tiny import tiny_recipe


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["train.shard=true", "train.reward=self_certainty"], "asks the policy itself"),
        (["engine={kind: vllm, url: 'http://x/v1', model: it}"], "cannot be divided among them"),
    ],
)
def test_what_several_processes_cannot_do_is_refused_before_they_begin(monkeypatch, settings, said):
    launch = SimpleNamespace(rank=0, count=2)
    monkeypatch.setattr("mulligan.trainer.launch.launched", lambda: launch)
    session = SimpleNamespace(recipe=override_recipe(tiny_recipe(), settings, "it"))
    with pytest.raises(MulliganError, match=said), together(session):
        pytest.fail("they have begun")
