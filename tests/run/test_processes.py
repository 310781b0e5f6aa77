import os
import signal
from types import SimpleNamespace

import pytest

from mulligan.config import override_recipe
from mulligan.errors import MulliganError
from mulligan.interrupt import StoppedEarly
from mulligan.run.processes import Training, _follow, together
from mulligan.run.stages import run_stages
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
    with pytest.raises(MulliganError, match=said):
        run_stages(session, ["warmup", "train"])


class First:
    """The first process, as another one sees it: it asks for what it is given, then no more."""

    def __init__(self, *asked, meanwhile=lambda: None):
        self.asked = [*asked, None]
        self.meanwhile = meanwhile

    def first(self, make, kind):
        self.meanwhile()
        return self.asked.pop(0)


TRAINING = Training(tiny_recipe().model_dump(mode="json"), "runs/tiny", None)


def test_a_process_that_waits_for_the_first_leaves_it_to_that_one_to_stop():
    first = First(meanwhile=lambda: os.kill(os.getpid(), signal.SIGINT))
    _follow(first, lambda session: pytest.fail("nothing was asked"))
    assert first.asked == []


def test_a_process_without_enough_memory_says_what_to_change():
    def train(session):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried 8 bytes")

    with pytest.raises(MulliganError, match=r"ran out during 'train'.*train\.tokens_at_once"):
        _follow(First(TRAINING), train)


def test_a_process_that_was_stopped_with_the_others_waits_for_what_comes_next():
    def train(session):
        raise StoppedEarly("step 1 of 4")

    first = First(TRAINING)
    _follow(first, train)
    assert first.asked == []
