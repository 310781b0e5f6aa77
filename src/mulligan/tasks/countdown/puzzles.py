"""Which puzzles a Countdown task has, drawn at random or read from rows, and in which split."""

import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import islice, product
from typing import Any, Protocol

from mulligan.errors import MulliganError
from mulligan.randomness import derive_seed
from mulligan.tasks.base import Split
from mulligan.tasks.countdown.expressions import Puzzle, Term, join, random_term
from mulligan.tasks.countdown.options import LARGEST, MOST_NUMBERS, CountdownOptions
from mulligan.tasks.proportions import apportion, in_proportion
from mulligan.tasks.rows import Row, read_rows
from mulligan.tasks.splits import split_of

FIXED_SEED = 41_872_093
"""What the dev and test splits are drawn from with ``fixed_splits``. No result was ever reported,
and nothing tuned, on what was drawn from it before; changing it changes every test set."""

_TRIES = 20_000
"""Draws without a new problem after which the problems of a kind count as used up."""
_MOST_LISTED = 300
"""Numbers of which every pair is listed; of more of them, pairs are drawn like all else."""

Key = tuple[int, ...]
Kind = tuple[int, str]
"""How many numbers, and the operators that may join them."""


class Puzzles(Protocol):
    """The puzzles of a task."""

    def of(self, split: Split, *purpose: int | str) -> Iterator[Puzzle]:
        """Yield different puzzles of a split; in training, the purpose decides their order."""
        ...


class SeededPuzzles:
    """The division depends on the task's seed: a hash of a puzzle says where it belongs."""

    def __init__(self, options: CountdownOptions, rows: Sequence[Puzzle] | None) -> None:
        self._options = options
        self._rows = rows

    def of(self, split: Split, *purpose: int | str) -> Iterator[Puzzle]:
        """Yield different puzzles of a split; the purpose decides which ones, in which order."""
        rng = random.Random(derive_seed(self._options.seed, "countdown", split, *purpose))
        seen: set[Key] = set()

        def is_new(puzzle: Puzzle) -> bool:
            # In training another order of the numbers is another problem; elsewhere it is the same.
            identity = puzzle.key if split != "train" else (*puzzle.numbers, puzzle.target)
            if identity in seen or self._split(puzzle) != split:
                return False
            seen.add(identity)
            return True

        if self._rows is not None:
            return filter(is_new, rng.sample(self._rows, len(self._rows)))
        return self._generated(rng, is_new, self._options.counts_of(split))

    def _split(self, puzzle: Puzzle) -> Split:
        """Tell a puzzle's split from what it is, so that no puzzle can be in two."""
        options = self._options
        return split_of(
            options.seed,
            "countdown split",
            *puzzle.key,
            test_share=options.test_share,
            dev_share=options.dev_share,
        )

    def _generated(
        self, rng: random.Random, is_new: Callable[[Puzzle], bool], counts: Mapping[int, float]
    ) -> Iterator[Puzzle]:
        """Draw until the puzzles of some count are used up: beyond that the mix would change."""
        while True:
            count = rng.choices(list(counts), list(counts.values()))[0]
            drawn = islice(_draws(self._options, count, rng, self._options.operators), _TRIES)
            puzzle = next((each for each in drawn if each and is_new(each)), None)
            if puzzle is None:
                return
            yield puzzle


class FixedPuzzles:
    """Dev and test are the same whatever the task's seed is, and training takes all others.

    Puzzles that differ only in the order of their numbers count as one, in every split. Test and
    dev hold exactly as many puzzles of each count as the weights say, and every beginning of
    training keeps close to that. Puzzles of two numbers, which run out first, are listed rather
    than drawn. So how many there are does not depend on the seed either.
    """

    def __init__(self, options: CountdownOptions, rows: Sequence[Puzzle] | None) -> None:
        self._options = options
        self._rows = rows

    def of(self, split: Split, *purpose: int | str) -> Iterator[Puzzle]:
        """Yield the puzzles of a split; in training, the purpose decides their order."""
        if split == "test":
            return iter(self._test)
        if split == "dev":
            return iter(self._dev)
        seed = derive_seed(self._options.seed, "countdown", "train", *purpose)
        return self._mixed(seed, self._keys("test") | self._keys("dev"))

    @cached_property
    def _test(self) -> list[Puzzle]:
        return self._held_out("test", self._options.test_size, set())

    @cached_property
    def _dev(self) -> list[Puzzle]:
        return self._held_out("dev", self._options.dev_size, self._keys("test"))

    def _keys(self, split: Split) -> set[Key]:
        return {puzzle.key for puzzle in (self._test if split == "test" else self._dev)}

    def _held_out(self, split: Split, size: int, taken: set[Key]) -> list[Puzzle]:
        """Draw a split from the seed that never changes; fewer puzzles where there are no more."""
        seed = derive_seed(FIXED_SEED, "countdown", split)
        if self._rows is not None:
            return list(islice(self._mixed(seed, taken), size))
        kinds = self._kinds(split)
        streams = self._streams(kinds, seed, taken)
        parts = apportion(kinds, size)
        drawn = [puzzle for kind in parts for puzzle in islice(streams[kind], parts[kind])]
        random.Random(seed).shuffle(drawn)
        return drawn

    def _mixed(self, seed: int, taken: set[Key]) -> Iterator[Puzzle]:
        """Yield puzzles that are not taken, until those of some kind are used up."""
        if self._rows is not None:
            order = random.Random(seed).sample(self._rows, len(self._rows))
            yield from _different(iter(order), set(taken))
            return
        kinds = self._kinds("train")
        streams = self._streams(kinds, seed, taken)
        for kind in in_proportion(kinds):
            puzzle = next(streams[kind], None)
            if puzzle is None:
                return
            yield puzzle

    def _kinds(self, split: Split) -> dict[Kind, float]:
        """Return the kinds of puzzles that are mixed in a split, with their weights."""
        kinds: dict[Kind, float] = {}
        for count, weight in self._options.counts_of(split).items():
            operators = self._options.pair_operators if count == 2 else None
            total = sum(operators.values()) if operators else 1.0
            for operator, share in (operators or {self._options.operators: 1.0}).items():
                kinds[count, operator] = weight * share / total
        return kinds

    def _streams(
        self, kinds: Iterable[Kind], seed: int, taken: set[Key]
    ) -> dict[Kind, Iterator[Puzzle]]:
        """Return the puzzles of each kind that are not taken; no two of all of them are alike."""
        seen = set(taken)
        return {kind: _different(self._of_kind(kind, seed), seen) for kind in kinds}

    def _of_kind(self, kind: Kind, seed: int) -> Iterator[Puzzle | None]:
        options, (count, operators) = self._options, kind
        rng = random.Random(derive_seed(seed, "kind", count, operators))
        if count == 2 and options.largest_number - options.smallest_number < _MOST_LISTED:
            puzzles = _pairs(options, operators)
            rng.shuffle(puzzles)
            return iter(puzzles)
        return _draws(options, count, rng, operators)


def _different(puzzles: Iterator[Puzzle | None], seen: set[Key]) -> Iterator[Puzzle]:
    """Leave out puzzles that were seen, and add the others; end after many in vain."""
    in_vain = 0
    for puzzle in puzzles:
        if puzzle is not None and puzzle.key not in seen:
            in_vain = 0
            seen.add(puzzle.key)
            yield puzzle
        elif (in_vain := in_vain + 1) == _TRIES:
            return


def _draws(
    options: CountdownOptions, count: int, rng: random.Random, operators: str
) -> Iterator[Puzzle | None]:
    """Draw numbers and a way to join them, without end; ``None`` where it leads to no target."""
    numbers_of = range(options.smallest_number, options.largest_number + 1)
    while True:
        numbers = tuple(rng.choice(numbers_of) for _ in range(count))
        yield _puzzle(options, numbers, random_term(numbers, operators, rng))


def _pairs(options: CountdownOptions, operators: str) -> list[Puzzle]:
    """Return every way to join two numbers to a target: what ``_draws`` draws from."""
    numbers_of = range(options.smallest_number, options.largest_number + 1)
    ways = (
        (numbers, join(Term.number(left), operator, Term.number(right)))
        for numbers in product(numbers_of, repeat=2)
        for left, right in (numbers, numbers[::-1])
        for operator in operators
    )
    return [p for numbers, term in ways if (p := _puzzle(options, numbers, term))]


def _puzzle(
    options: CountdownOptions, numbers: tuple[int, ...], term: Term | None
) -> Puzzle | None:
    if term is None or not options.smallest_target <= term.value <= options.largest_target:
        return None
    return Puzzle(numbers, term.value, term)


def read_puzzles(source: str) -> list[Puzzle]:
    """Read puzzles from rows with ``nums`` and ``target``.

    Raises:
        MulliganError: there are none, or a row is not a puzzle; names the row.
    """
    puzzles = [_of_row(row) for row in read_rows(source)]
    if not puzzles:
        raise MulliganError(f"{source!r} has no rows; expected rows with 'nums' and 'target'")
    return puzzles


def _of_row(row: Row) -> Puzzle:
    numbers, target = row.get("nums"), row.get("target")
    if (
        not isinstance(numbers, list)
        or not 2 <= len(numbers) <= MOST_NUMBERS
        or not all(_is_whole(number) and 0 <= number <= LARGEST for number in numbers)
    ):
        raise row.refuse("nums", f"a list of 2 to {MOST_NUMBERS} whole numbers, 0 to {LARGEST}")
    if not _is_whole(target) or abs(target) > LARGEST:
        raise row.refuse("target", f"a whole number of at most {LARGEST}")
    return Puzzle(tuple(numbers), target)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
