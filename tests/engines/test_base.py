import pytest

from mulligan.engines.base import Abilities, require_token_ids, require_trainable, require_version
from mulligan.engines.forms import ChatForm
from mulligan.engines.scripted import ScriptedEngine
from mulligan.engines.server import ServerEngine
from mulligan.errors import MulliganError


def abilities(**lacking):
    return Abilities(
        **{"token_ids": True, "logprobs": True, "weights": True, "exact": True, **lacking}
    )


def test_an_engine_that_takes_weights_and_token_ids_may_train():
    require_trainable("vllm", abilities(exact=False, logprobs=False))


@pytest.mark.parametrize(
    ("lacking", "said"),
    [("weights", "cannot take new weights"), ("token_ids", "cannot take and return token ids")],
)
def test_training_with_an_engine_that_cannot_serve_it_is_refused_with_what_to_do(lacking, said):
    with pytest.raises(MulliganError, match=rf"'server' {said}.*Use engine\.kind=local"):
        require_trainable("server", abilities(**{lacking: False}))


def test_a_step_on_weights_of_another_version_is_an_error(tiny_tokenizer):
    engine = ScriptedEngine(["a"], tiny_tokenizer)
    engine.update_weights(None, 3)
    require_version(engine, 3)
    with pytest.raises(MulliganError, match=r"version 3, but this step needs version 4.*--resume"):
        require_version(engine, 4)


def test_an_engine_that_returns_text_collects_nothing(tiny_tokenizer):
    require_token_ids(ScriptedEngine(["a"], tiny_tokenizer))
    with pytest.raises(MulliganError, match=r"this server returns text only.*engine\.kind=local"):
        require_token_ids(ServerEngine(None, "big", ChatForm(logprobs=False)))
