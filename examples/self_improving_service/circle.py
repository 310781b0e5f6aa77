"""The whole circle: serve, keep what fails, train on it, serve the new weights, and measure.

    pip install openai
    python examples/self_improving_service/circle.py --out circle

Everything is real and runs here: the room service, the model behind ``mulligan serve``, a client
with its traffic, and ``mulligan train`` on the failures that the server stored. The server is
started once. What is measured are first tries at requests that are never trained on.
"""

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import openai
import rooms_service
from client import first_tries, send_traffic
from matplotlib.figure import Figure
from rooms import HELD_OUT_FROM

from mulligan.evaluation.statistics import Interval, paired_bootstrap, wilson

HERE = Path(__file__).parent
RECIPE = HERE / "recipe.yaml"


def main(arguments: Sequence[str] | None = None) -> None:
    """Go round once, or as often as ``--rounds`` says."""
    parser = argparse.ArgumentParser(description="A service that learns from what it fails.")
    parser.add_argument("--out", type=Path, default=Path("circle"), help="a new folder")
    parser.add_argument("--rounds", type=int, default=1, help="trainings")
    parser.add_argument("--traffic", type=int, default=400, help="requests before each training")
    parser.add_argument("--held-out", type=int, default=300, help="requests that measure")
    parser.add_argument("settings", nargs="*", help="changes of the recipe: train.steps=4")
    asked = parser.parse_args(arguments)
    asked.out.mkdir(parents=True)
    go_round(asked.out, asked.rounds, asked.traffic, asked.held_out, asked.settings)


def go_round(out: Path, rounds: int, traffic: int, held_out: int, settings: Sequence[str]) -> None:
    """Serve, measure, and then: traffic, training, new weights, measuring, as often as asked."""
    service = rooms_service.start()
    host, port = service.server_address[:2]
    url = f"http://{host!s}:{port}"
    common = [f"task={HERE / 'rooms.py'}", f"task_options.url={url}", *settings]
    mulligan("warmup", RECIPE, "name=rooms-0", *common, "--runs", out / "runs")
    point_to(out, "rooms-0")
    numbers = range(HELD_OUT_FROM, HELD_OUT_FROM + held_out)
    with server(out) as (process, client):
        tried = [first_tries(client, url, numbers)]
        for number in range(1, rounds + 1):
            requests = range(traffic * (number - 1), traffic * number)
            happened = send_traffic(client, requests)
            say_traffic(happened)
            weights = (
                out / "runs" / f"rooms-{number - 1}" / ("model" if number > 1 else "warmed_up")
            )
            new = (f"name=rooms-{number}", f"model={weights}", "sft=null")
            store = f"collect.store={out / 'production'}"
            mulligan("train", RECIPE, *common, *new, store, "--runs", out / "runs")
            point_to(out, f"rooms-{number}")
            loaded = client.post("/reload", body={}, cast_to=object)
            print(f"process {process.pid} goes on with new weights: {loaded}", flush=True)
            tried.append(first_tries(client, url, numbers))
    service.shutdown()
    write_result(out, tried)


def mulligan(*arguments: object) -> None:
    """Run a command of Mulligan's; its output goes where ours goes."""
    subprocess.run([command(), *map(str, arguments)], check=True)


def command() -> str:
    """Return the path of Mulligan's command: that of this Python, else any."""
    beside = Path(sys.executable).with_name("mulligan")
    return str(beside) if beside.exists() else "mulligan"


def point_to(out: Path, run: str) -> None:
    """Let the link that is served lead to a run, in one step."""
    new = out / "serving.new"
    new.symlink_to(Path("runs") / run)
    new.replace(out / "serving")


@contextmanager
def server(out: Path) -> Iterator[tuple[subprocess.Popen[str], openai.OpenAI]]:
    """Start ``mulligan serve`` before the link; give its process and a client of it."""
    arguments = ["serve", out / "serving", "--name", "rooms", "--port", 0]
    arguments += ["--store", out / "production"]
    process = subprocess.Popen([command(), *map(str, arguments)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        found = re.search(r"http://\S+", process.stdout.readline())
        if found is None:
            raise SystemExit("The server did not start: see above.")
        with openai.OpenAI(base_url=found[0], api_key="none", timeout=600) as client:
            yield process, client
    finally:
        process.terminate()
        process.wait()


def say_traffic(happened: Sequence[dict[str, object]]) -> None:
    """Say what became of the traffic."""
    first = sum(each["status"] == "passed" and each["tries"] == 1 for each in happened)
    later = sum(each["status"] == "passed" and each["tries"] != 1 for each in happened)
    stored = sum(each["failure_id"] is not None for each in happened)
    print(
        f"{len(happened)} requests: {first} served at the first try, {later} at a later one; "
        f"{stored} failures stored",
        flush=True,
    )


def write_result(out: Path, tried: Sequence[Sequence[bool]]) -> None:
    """Write the shares and their change as JSON, and as one figure."""
    count = len(tried[0])
    shares = [wilson(sum(each), count) for each in tried]
    change = paired_bootstrap(tried[0], tried[-1], range(count))
    content = {
        "requests": count,
        "first_try": [asdict(share) for share in shares],
        "change": asdict(change),
    }
    (out / "circle.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    draw(shares, change, count).savefig(out / "circle.svg")
    said = " -> ".join(f"{share.value:.1%}" for share in shares)
    print(f"Of {count} requests never trained on, first tries that succeed: {said}")
    print(f"The change: {_points(change)}")


def draw(shares: Sequence[Interval], change: Interval, count: int) -> Figure:
    """Draw the share of first tries that succeed after each training, with its interval."""
    figure = Figure(figsize=(4.4, 3.0), layout="constrained")
    axes = figure.add_subplot()
    places = range(len(shares))
    values = [share.value for share in shares]
    below = [share.value - share.low for share in shares]
    above = [share.high - share.value for share in shares]
    axes.errorbar(places, values, yerr=[below, above], fmt="o-", capsize=4)
    axes.set_xticks(places, ["before", *(f"after round {n}" for n in places[1:])])
    axes.set_xlim(-0.5, len(shares) - 0.5)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.set_ylabel("first tries that succeed")
    axes.set_title(f"{count} requests never trained on: {_points(change)}", fontsize=9)
    return figure


def _points(change: Interval) -> str:
    value, low, high = (100 * each for each in (change.value, change.low, change.high))
    return f"{value:+.1f} points [{low:+.1f}, {high:+.1f}]"


if __name__ == "__main__":
    main()
