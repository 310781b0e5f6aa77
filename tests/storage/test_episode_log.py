import json
from pathlib import Path

from mulligan.storage.episode_log import newest_episodes, open_episodes
from mulligan.types import Completion, Episode, TrainedEpisode, Verdict
from tiny import lines

OLD = Path(__file__).parents[1] / "old_run" / "runs" / "old" / "episodes.jsonl"


def completion(tokens, text):
    ids = tuple(range(100_000, 100_000 + tokens))
    return Completion(ids, text, "stop", tuple(-number / 7 for number in range(tokens)))


def episode(sample=0, reflection_tokens=3, retry_tokens=2):
    reflection = completion(reflection_tokens, "I forgot a brace. " * (reflection_tokens // 4))
    retry = completion(retry_tokens, '[{"name": "f"}] ' * (retry_tokens // 5))
    return Episode("f" * 16, sample, reflection, retry, Verdict.right())


def test_an_episode_comes_back_with_what_people_read(tmp_path):
    kept = TrainedEpisode.of(7, episode(), 1.0, 0.5)
    with open_episodes(tmp_path / "episodes.jsonl") as log:
        log.append(kept)
    assert newest_episodes(tmp_path / "episodes.jsonl", 1) == [kept]
    assert kept.reflection.tokens == 3
    assert kept.id == "7-" + "f" * 16 + "-0"


def test_two_million_episodes_at_the_papers_limits_take_less_than_10_gb(tmp_path):
    with open_episodes(tmp_path / "episodes.jsonl") as log:
        log.append(TrainedEpisode.of(999, episode(13, 512, 512), 1.0, -0.25))
    assert len(episode(0, 512, 512).reflection.text) > 2300  # 4.5 letters per token, as in English
    assert (tmp_path / "episodes.jsonl").stat().st_size * 2_000_000 < 10e9


def test_episodes_of_version_0_1_0_are_read_and_joined_by_new_ones(tmp_path):
    path = tmp_path / "episodes.jsonl"
    path.write_bytes(OLD.read_bytes())
    old = lines(OLD)
    with open_episodes(path) as log:
        assert len(log) == len(old)
        assert f"{old[0]['step']}-{old[0]['episode']['failure_id']}-0" in log
        log.append(TrainedEpisode.of(9, episode(), 0.0, -1.0))
        read = list(log)
    assert read[-1].step == 9
    for new, line in zip(read, old, strict=False):
        said = line["episode"]["reflection"]
        assert new.reflection.text == said["text"]
        assert new.reflection.tokens == len(said["token_ids"])
        assert (new.reward, new.advantage) == (line["reward"], line["advantage"])
        assert new.verdict.status == line["episode"]["verdict"]["status"]
    assert "token_ids" not in json.loads(path.read_bytes().splitlines()[-1])["reflection"]
