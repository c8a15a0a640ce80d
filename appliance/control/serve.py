"""The control plane as a process: the API in a thread, the worker in the main thread."""

import logging
import signal
import threading
import time

import uvicorn

from appliance.control.app import make_app
from appliance.control.reading import visible
from appliance.control.steps import Ground
from appliance.control.worker import Worker
from appliance.core.database import Database
from appliance.core.errors import ConflictError
from appliance.core.home import Home
from appliance.core.objects import ObjectStore
from appliance.core.settings import load_settings


def serve(home: Home) -> None:
    """Until SIGTERM.

    Raises:
        ConflictError: the port is in use.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    logging.getLogger("alembic").setLevel(logging.WARNING)
    settings = load_settings(home)
    ground = Ground(home, settings, Database.open(home.database), ObjectStore(home.objects))
    server = uvicorn.Server(
        uvicorn.Config(
            make_app(ground),
            host=settings.control.host,
            port=settings.control.port,
            log_level="warning",
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=2,
        )
    )
    stop = threading.Event()
    # The worker has the main thread: its programs die with the thread that started them.
    thread = threading.Thread(target=_serve_api, args=(server, stop), name="api", daemon=True)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    thread.start()
    while not server.started and thread.is_alive():
        time.sleep(0.01)
    if not server.started:
        raise ConflictError(
            f"port {settings.control.port} on {settings.control.host} is in use",
            next_step="set [control] port in espalier.toml, or ESPALIER__CONTROL__PORT",
        )
    threading.Thread(target=visible.warm, args=(ground,), name="warm", daemon=True).start()
    Worker(ground, stop).run()
    server.should_exit = True
    thread.join(timeout=5.0)


def _serve_api(server: uvicorn.Server, stop: threading.Event) -> None:
    try:
        server.run()
    except SystemExit:
        return
    finally:
        stop.set()
