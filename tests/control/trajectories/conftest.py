"""Collectors and curation for work of every label, and serving's route for what people say."""

import json
import socketserver
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from typing import Any

import msgspec
import pytest

from appliance.control.steps import Ground
from appliance.core.database import Database
from appliance.core.home import Home
from appliance.core.settings import Gateway, Settings
from serving.feedback import PersonsFeedback, make_feedback
from tests.collectors.conftest import (  # noqa: F401 # registers the fixtures
    base,
    base_folder,
    collector,
    ingest,
    make,
)
from tests.collectors.conftest import desk as made_desk
from tests.collectors.desk import Desk

desk = made_desk


@pytest.fixture
def settings() -> Settings:
    """An endpoint that takes work of every label that these tests have."""
    return Settings(gateway=Gateway(label="secret/finance+legal"))


@pytest.fixture
def ground(desk: Desk, database: Database) -> Ground:
    return Ground(desk.home, Settings(), database, desk.store)


@pytest.fixture
def serving(home: Home, desk: Desk) -> Iterator[list[dict[str, Any]]]:
    """The private route for people's feedback, as serving has it; the bodies that came."""
    bodies: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            data = self.rfile.read(int(self.headers["content-length"]))
            bodies.append(json.loads(data))
            asked = msgspec.json.decode(data, type=PersonsFeedback)
            record = make_feedback(asked, asked.actor)
            desk.ingest.feedback(record)
            answer = msgspec.json.encode({"feedback_id": record.feedback_id})
            self.send_response(200)
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def address_string(self) -> str:
            return "private"

        def log_message(self, *_: Any) -> None:
            pass

    path = str(home.socket("serving"))
    with socketserver.ThreadingUnixStreamServer(path, Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield bodies
        server.shutdown()
        thread.join()
