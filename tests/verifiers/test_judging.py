import pytest

from mulligan.errors import MulliganError
from mulligan.types import Verdict
from mulligan.verifiers.judging import ErrorShare


def test_errors_within_the_share_are_borne():
    share = ErrorShare(limit=0.1)
    share.add([Verdict.error("broke")] * 10 + [Verdict.wrong()] * 90)
    with pytest.raises(MulliganError, match="broke on 12 of the last 102 answers"):
        share.add([Verdict.error("broke")] * 2)


def test_above_the_share_the_run_stops_with_the_commonest_error():
    share = ErrorShare(limit=0.1)
    share.add([Verdict.right()] * 80)
    with pytest.raises(
        MulliganError,
        match=r"broke on 12 of the last 92 answers \(13%; at most 10% may\).*\(9x\): hangs",
    ):
        share.add([Verdict.error("hangs")] * 9 + [Verdict.error("odd")] * 3)


def test_a_first_few_errors_alone_do_not_stop_a_run():
    share = ErrorShare(limit=0.1, at_least=20)
    share.add([Verdict.error("broke")] * 19)
    with pytest.raises(MulliganError, match="20 of the last 20"):
        share.add([Verdict.error("broke")])


def test_a_limit_of_zero_bears_no_error_and_a_limit_of_one_bears_all():
    with pytest.raises(MulliganError):
        ErrorShare(limit=0).add([Verdict.error("broke")] + [Verdict.right()] * 99)
    ErrorShare(limit=1).add([Verdict.error("broke")] * 1000)


def test_a_verifier_that_breaks_after_a_long_time_is_noticed_soon():
    share = ErrorShare(limit=0.1, window=1000)
    share.add([Verdict.right()] * 100_000)
    with pytest.raises(MulliganError, match="101 of the last 1000"):
        share.add([Verdict.error("gone")] * 101)
