"""The tables of docs/performance.md, made from result files.

The page has marked places; what stands between two marks is replaced, the rest is written by hand.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import growth
from benchmarks.cases import OURS
from benchmarks.figures import PARTS, ratios
from mulligan.storage.atomic import write_atomically

PAGE = Path(__file__).parents[1] / "docs" / "performance.md"
_MARK = re.compile(r"(<!-- measured: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
_NOT_YET = "*Not measured with this version yet.*"
_NO_GPU = "*Not measured: no GPU was at hand.* `python -m benchmarks gpu` makes this table."
GIB = 2**30


def write(folder: Path) -> Path:
    """Put what a folder of results says into the page, or into a copy beside results of one's own.

    Returns:
        The page that was written.
    """
    target = PAGE if folder.resolve() == PAGE.parent / "results" else folder / PAGE.name
    write_atomically(target, filled(PAGE.read_text(encoding="utf-8"), folder))
    return target


def filled(page: str, folder: Path) -> str:
    """Return a page with the text of every marked place renewed.

    Raises:
        KeyError: it has a place of another name.
    """
    texts = {name: make(folder) for name, make in _PLACES.items()}
    return _MARK.sub(lambda found: f"{found[1]}{texts[found[2]]}\n{found[3]}", page)


def _circumstances(folder: Path) -> str:
    """Say what was measured on what, by which versions."""
    said = []
    for path in sorted(folder.glob("*.json")):
        values = json.loads(path.read_bytes())
        if "cases" not in values or "versions" not in values:
            continue  # a run's results, not a benchmark's
        versions = ", ".join(f"{name} {number}" for name, number in values["versions"].items())
        rounds = min((len(case["rounds"]) for case in values["cases"].values()), default=0)
        said.append(
            f"- `{path.name}`: {values['device']}, model {Path(values['model']).name}, sizes "
            f"{values['size']}, {rounds} rounds or more; {versions}; matrix products at up to "
            f"{max(values['matmul_gflops'], default=0.0):,.0f} GFLOP/s."
        )
    return "\n".join(said) or "*Nothing has been measured with this version yet.*"


def _range(folder: Path) -> str:
    """Say where ours is worst and where it is best, in the same breath."""
    found = sorted(ratios(folder), key=lambda each: each[1]["value"])
    if not found:
        return _NOT_YET
    (worst, low), (best, high) = found[0], found[-1]
    return (
        f"The worst case is {worst}: {_ratio(low)}. The best is {best}: {_ratio(high)}. "
        f"{_not_faster(found)}\n\n"
        "![How many times as fast as each peer, from worst to best](results/ratios.svg)"
    )


def _not_faster(found: Sequence[tuple[str, Mapping[str, float]]]) -> str:
    """Say which cases are slower than a peer, and which may be."""
    slower = [title for title, each in found if each["high"] < 1]
    open_ = [title for title, each in found if each["low"] <= 1 <= each["high"]]
    parts = [f"Slower than a peer: {'; '.join(slower)}."] if slower else []
    parts += [f"Neither faster nor slower for certain: {'; '.join(open_)}."] if open_ else []
    return " ".join(parts) or "No case is slower than a peer."


def _training(folder: Path) -> str:
    header = (
        "prompt x completion x group",
        "Mulligan, s",
        "of the limit",
        "TRL, s",
        "ratio",
        "TRL without entropies, s",
        "ratio",
        "memory, GiB",
        "TRL's",
        "ratio",
    )
    return _table(folder / "training.json", header, _training_row)


def _training_row(name: str, sides: Mapping[str, Any]) -> Iterable[Sequence[str]]:
    ours, trl, bare = sides[OURS], sides["trl"], sides["trl without entropies"]
    yield (
        name,
        _spread(ours["seconds"]),
        f"{ours['share_of_limit']['median']:.0%}",
        _spread(trl["seconds"]),
        _ratio(trl["speed_ratio"]),
        _spread(bare["seconds"]),
        _ratio(bare["speed_ratio"]),
        _gib(ours["peak_bytes"]),
        _gib(trl["peak_bytes"]),
        _ratio(trl["memory_ratio"]),
    )


def _rollouts(folder: Path) -> str:
    header = ("case", "side", "kept tokens/s", "of the limit", "Mulligan's ratio to it")
    return _table(folder / "rollouts.json", header, _rollout_rows)


def _rollout_rows(name: str, sides: Mapping[str, Any]) -> Iterable[Sequence[str]]:
    for side, found in sides.items():
        title = {OURS: "Mulligan", **{part: f"its {part}" for part in PARTS}}.get(side, side)
        yield (
            name,
            title,
            _spread(found["tokens_per_s"]),
            f"{found['share_of_limit']['median']:.0%}",
            _ratio(found["speed_ratio"]) if "speed_ratio" in found else "",
        )


def _step(folder: Path) -> str:
    header = ("case", "Mulligan, s", "TRL, s", "ratio")
    return _table(folder / "step.json", header, _step_row)


def _step_row(name: str, sides: Mapping[str, Any]) -> Iterable[Sequence[str]]:
    ours, trl = sides[OURS], sides["trl"]
    yield name, _spread(ours["seconds"]), _spread(trl["seconds"]), _ratio(trl["speed_ratio"])


def _studies(folder: Path) -> str:
    rows: list[Sequence[str]] = []
    for name, title in (("evaluation", "evaluation"), ("sft", "supervised warm-up")):
        for case in _cases(folder / f"{name}.json").values():
            found = case["summary"][OURS]
            share = f"{found['share_of_limit']['median']:.0%}"
            rows.append((title, _spread(found["tokens_per_s"]), share))
    return _lines(("work", "tokens/s", "of the limit"), rows) or _NOT_YET


def _growth(folder: Path) -> str:
    path = folder / "growth.json"
    conclusions = json.loads(path.read_bytes()).get("conclusions") if path.exists() else None
    if not conclusions:
        return _NOT_YET
    rows = [
        (
            growth.AXES[axis],
            kind,
            f"{fit['value']:+.2f} [{fit['low']:+.2f}, {fit['high']:+.2f}]",
            f"{fit['counted']:+.2f}",
            fit["verdict"],
        )
        for axis, kinds in conclusions.items()
        for kind, fit in kinds.items()
    ]
    header = ("axis", "part of a step", "exponent", "by counting", "")
    figures = "\n\n".join(
        f"![Tokens per second over {growth.AXES[axis]}](results/growth_{axis}.svg)"
        for axis in conclusions
    )
    return f"{_lines(header, rows)}\n\n{figures}"


def _gpu(folder: Path) -> str:
    path = folder / "gpu.json"
    cases = _cases(path)
    if not cases:
        return _NO_GPU
    conclusions = json.loads(path.read_bytes()).get("conclusions", {})
    rows = []
    for name, case in cases.items():
        for side, found in case["summary"].items():
            mfu = conclusions.get(name)
            rows.append(
                (
                    name,
                    "Mulligan" if side == OURS else side,
                    _spread(found["seconds"]),
                    _spread(found["tokens_per_s"]) if "tokens_per_s" in found else "",
                    _gib(found["peak_bytes"]) if "peak_bytes" in found else "",
                    _ratio(found["speed_ratio"]) if "speed_ratio" in found else "",
                    f"{min(mfu):.0%} to {max(mfu):.0%}" if mfu else "",
                )
            )
    header = ("case", "side", "s", "tokens/s", "peak, GiB", "Mulligan's ratio to it", "MFU, update")
    return _lines(header, rows)


_PLACES: Mapping[str, Callable[[Path], str]] = {
    "circumstances": _circumstances,
    "range": _range,
    "training": _training,
    "rollouts": _rollouts,
    "step": _step,
    "studies": _studies,
    "growth": _growth,
    "gpu": _gpu,
}


def _cases(path: Path) -> dict[str, Any]:
    """Return the cases of a result file that were measured whole; none where there is no file."""
    if not path.exists():
        return {}
    cases = json.loads(path.read_bytes())["cases"]
    return {name: case for name, case in cases.items() if "summary" in case}


def _table(
    path: Path,
    header: Sequence[str],
    rows_of: Callable[[str, Mapping[str, Any]], Iterable[Sequence[str]]],
) -> str:
    rows = [row for name, case in _cases(path).items() for row in rows_of(name, case["summary"])]
    return _lines(header, rows) or _NOT_YET


def _lines(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown; nothing without rows."""
    if not rows:
        return ""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _spread(values: Mapping[str, float]) -> str:
    digits = 0 if values["median"] >= 100 else 1
    median, low, high = (f"{values[key]:,.{digits}f}" for key in ("median", "low", "high"))
    return f"{median} ({low} to {high})"


def _ratio(values: Mapping[str, float]) -> str:
    return f"{values['value']:.2f} [{values['low']:.2f}, {values['high']:.2f}]"


def _gib(values: Mapping[str, float]) -> str:
    median, low, high = (f"{values[key] / GIB:.1f}" for key in ("median", "low", "high"))
    return f"{median} ({low} to {high})"
