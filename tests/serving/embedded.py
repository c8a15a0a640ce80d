"""A home with a real base and the embedded engine over it, as a process of its own."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from appliance.core.database import Database
from appliance.core.errors import UnavailableError
from appliance.core.home import Home
from appliance.core.objects import ObjectStore
from appliance.core.settings import load_settings
from appliance.engine.bases import Registry
from appliance.engine.client import Engine
from appliance.engine.template import Template
from tests.serving.conftest import GATES, ROOT, Appliance

_START_S = 120.0


@contextmanager
def embedded_engine(made: Path, base: str, scratch: Path) -> Iterator[Appliance]:
    """The appliance over `base`, which the home `made` holds; its engine runs."""
    home = Home(scratch / "home")
    shutil.copytree(made, home.root)
    home.create()
    home.settings.write_text(f'[engine]\nbase = "{base}"\nthreads = 1\n[gateway]\nport = 0\n')
    settings = load_settings(home, {})
    found = Registry(home).get(base)
    database = Database.open(home.database)
    log = (home.process_logs / "engine.log").open("ab")
    process = subprocess.Popen(
        [sys.executable, "-m", "appliance.inference", "serve", "--home", str(home.root)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=log,
        stderr=log,
        cwd=ROOT,
    )
    try:
        _wait(home, process)
        yield Appliance(
            home=home,
            database=database,
            base=found,
            template=Template.load(found.path),
            settings=settings,
            gates=ObjectStore(home.objects).put(GATES.encode()),
        )
    finally:
        process.terminate()
        process.wait(30)
        log.close()
        database.close()


def _wait(home: Home, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + _START_S
    while True:
        try:
            Engine(home.socket("engine")).health()
        except UnavailableError:
            assert process.poll() is None, (home.process_logs / "engine.log").read_text()
            assert time.monotonic() < deadline, "the engine does not start"
            time.sleep(0.1)
        else:
            return
