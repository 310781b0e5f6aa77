"""A `mulligan watch` in a thread of the test, and requests to it."""

import json
import threading
import urllib.error
import urllib.request
from contextlib import contextmanager

from mulligan.report.live.server import make_server, open_port


@contextmanager
def served(folder):
    listening = open_port("127.0.0.1", 0)
    server = make_server(folder)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(10)
        listening.close()


def fetch(url, **headers):
    """Return status, headers and text of a request."""
    request = urllib.request.Request(url, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.headers, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read().decode()


def fetch_json(url):
    status, _, text = fetch(url)
    assert status == 200, text
    return json.loads(text)
