import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from synthetic_run import make_run

from mulligan.report.page import write_report


@pytest.fixture
def run(tmp_path):
    """A small run that a test may change."""
    return make_run(tmp_path / "run", problems=60)


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory):
    """A run of full size with its report written, for tests that only look."""
    run = make_run(tmp_path_factory.mktemp("runs") / "demo")
    write_report(run)
    return run


@pytest.fixture(scope="session")
def finished_page(finished_run):
    return (finished_run / "report.html").read_text(encoding="utf-8")


@pytest.fixture
def beacon():
    """A server on loopback whose address is planted in model text; it keeps what it is asked."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(204)
            self.end_headers()

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    server.server_close()
    thread.join()
