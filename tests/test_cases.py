import pytest

from cases import CASES, is_slow, not_run

ALL = sorted({name for names in CASES.values() for name in names})


@pytest.mark.parametrize("name", ALL)
def test_every_test_of_the_index_exists_once(name):
    assert is_slow(name) in (True, False)


def test_every_case_has_a_test_that_is_not_slow():
    assert list(CASES) == list(range(1, 13))
    for names in CASES.values():
        assert not all(map(is_slow, names))


def test_a_test_that_does_not_exist_is_noticed():
    with pytest.raises(LookupError, match="0 tests are called"):
        is_slow("test_cases.py::test_that_nobody_wrote")


def test_a_test_that_did_not_run_is_noticed_and_one_that_was_skipped_is_let_pass():
    ran = [f"tests/{name}[some-parameter]" for name in ALL]
    assert not_run(ran, {}, slow_too=True) == []
    missing = not_run(ran[1:], {}, slow_too=True)
    assert missing
    assert all(ALL[0] in each for each in missing)
    assert not_run(ran[1:], {ran[0]: "no mounts here"}, slow_too=True) == []


def test_slow_tests_need_not_run_among_the_fast_ones():
    fast = [name for name in ALL if not is_slow(name)]
    assert len(fast) < len(ALL)
    assert not_run(fast, {}, slow_too=False) == []
    assert not_run(fast, {}, slow_too=True)
