"""The one folder that holds all state, and every path in it, named once."""

import hashlib
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from appliance.core.digests import Digest
from appliance.core.errors import NotFoundError, UsageError

# A Unix socket's path may have at most 107 bytes on Linux.
_SOCKET_PATH_MAX = 100
_ANOTHER = "--home DIR or $ESPALIER_HOME names a folder that you may write to"
HOW_TO_BEGIN = (
    "name the right one with --home DIR or $ESPALIER_HOME, or begin one: espalier base make-tiny"
)


@dataclass(frozen=True, slots=True)
class Home:
    """``ESPALIER_HOME``. Nothing of ours is ever written outside it."""

    root: Path

    @classmethod
    def find(cls, explicit: str | Path | None = None) -> "Home":
        """The folder given, else ``$ESPALIER_HOME``, else ``~/.espalier``."""
        chosen = explicit or os.environ.get("ESPALIER_HOME") or Path.home() / ".espalier"
        root = Path(chosen).expanduser().resolve()
        if root.exists() and not root.is_dir():
            raise UsageError(f"{root} is not a folder", next_step=_ANOTHER)
        return cls(root)

    @classmethod
    def existing(cls, explicit: str | Path | None = None) -> "Home":
        """As `find`, for every command but those that make one: a slip of the pen makes none.

        Raises:
            NotFoundError: nobody registered a base or wrote settings there.
        """
        home = cls.find(explicit)
        if not (home.bases.is_dir() or home.settings.exists()):
            raise NotFoundError(f"no Espalier home at {home.root}", next_step=HOW_TO_BEGIN)
        return home

    def create(self) -> None:
        """Make the folders. The root is for its owner alone.

        Raises:
            UsageError: they cannot be made there.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
            # One that was there before: whoever comes in reaches the private sockets.
            if self.root.stat().st_mode & 0o077:
                self.root.chmod(0o700)
            for folder in (self.log, self.objects, self.bases, self.adapters, self.rounds):
                folder.mkdir(exist_ok=True)
            for folder in (self.run, self.process_logs, self.secrets, self.lake, self.suites):
                folder.mkdir(exist_ok=True)
            self.secrets.chmod(0o700)
        except OSError as error:
            raise UsageError(
                f"cannot keep an appliance in {self.root}: {error.strerror}", next_step=_ANOTHER
            ) from error

    @property
    def settings(self) -> Path:
        return self.root / "espalier.toml"

    @property
    def database(self) -> Path:
        return self.root / "espalier.db"

    @property
    def log(self) -> Path:
        return self.root / "log"

    @property
    def objects(self) -> Path:
        return self.root / "objects"

    @property
    def lake(self) -> Path:
        return self.root / "lake"

    @property
    def bases(self) -> Path:
        return self.root / "bases"

    @property
    def adapters(self) -> Path:
        return self.root / "adapters"

    @property
    def suites(self) -> Path:
        return self.root / "suites"

    @property
    def answers(self) -> Path:
        """Which object holds an adapter's answers to a suite (appliance/evaluation)."""
        return self.root / "answers"

    @property
    def rounds(self) -> Path:
        return self.root / "rounds"

    @property
    def run(self) -> Path:
        return self.root / "run"

    @property
    def process_logs(self) -> Path:
        return self.root / "logs"

    @property
    def secrets(self) -> Path:
        return self.root / "secrets"

    def base(self, digest: Digest) -> Path:
        return self.bases / digest.removeprefix("sha256:")

    def adapter(self, digest: Digest) -> Path:
        return self.adapters / digest.removeprefix("sha256:")

    def socket(self, name: str) -> Path:
        """The private socket of one of our processes, e.g. ``engine``."""
        path = self.run / f"{name}.sock"
        if len(os.fsencode(path)) <= _SOCKET_PATH_MAX:
            return path
        tag = hashlib.sha256(os.fsencode(self.root)).hexdigest()[:12]
        folder = Path(tempfile.gettempdir()) / f"espalier-{os.getuid()}-{tag}"
        folder.mkdir(mode=0o700, exist_ok=True)
        return folder / f"{name}.sock"
