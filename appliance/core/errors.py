"""Every error that Espalier raises on purpose.

    EspalierError
    ├── UsageError            what the caller gave is wrong; says what was expected
    │   ├── SettingsError     espalier.toml or an environment override
    │   ├── RecordError       a record, import line or company file does not parse
    │   └── NotFoundError     a name or digest that nothing here answers to
    ├── IntegrityError        bytes are not what their digest says
    │   └── AdapterError      an adapter is not fit to be loaded; carries a reason code
    ├── PolicyError           a rule itself is wrong (empty gates, a quorum of zero)
    ├── RefusedError          a rule says no
    │   ├── NotApprovedError  too few people approved exactly this adapter
    │   └── ForbiddenError    this key or person may not do this
    │       ├── SignInError   nobody signed in, or not with their own passphrase
    │       ├── LockedOutError too many wrong passphrases; says how long to wait
    │       └── SignatureError an act that needs the passphrase with the request came without
    ├── ConflictError         somebody else moved first (compare-and-set, fencing, port in use)
    └── UnavailableError      a part does not answer, or a disk is full; try again later

A message says what was expected and what came; `next_step` says what to do about it.
"""


class EspalierError(Exception):
    """Root of the tree. `exit_code` is what the command line ends with."""

    exit_code = 1

    def __init__(self, message: str, *, next_step: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.next_step = next_step

    def __str__(self) -> str:
        return f"{self.message}\n  next: {self.next_step}" if self.next_step else self.message


class UsageError(EspalierError):
    """What the caller gave is wrong."""

    exit_code = 2


class SettingsError(UsageError):
    """A setting is unknown, malformed or unsafe."""


class RecordError(UsageError):
    """Bytes do not parse as the record they claim to be."""


class NotFoundError(UsageError):
    """Nothing here answers to that name or digest."""


class IntegrityError(EspalierError):
    """Bytes are not what their digest says."""

    exit_code = 3


class AdapterError(IntegrityError):
    """An adapter is not fit to be loaded. `reason` is one stable code, e.g. ``nan``."""

    def __init__(self, reason: str, message: str, *, next_step: str = "") -> None:
        super().__init__(message, next_step=next_step)
        self.reason = reason


class PolicyError(EspalierError):
    """A rule itself is wrong, so nothing may be decided by it."""

    exit_code = 4


class RefusedError(EspalierError):
    """A rule says no."""

    exit_code = 5


class NotApprovedError(RefusedError):
    """Too few different people approved exactly this adapter."""


class ForbiddenError(RefusedError):
    """This key or person may not do this."""


class SignInError(ForbiddenError):
    """Nobody signed in, or not with their own passphrase."""


class LockedOutError(ForbiddenError):
    """Too many wrong passphrases in a row; says when to try again."""


class SignatureError(ForbiddenError):
    """The act needs the passphrase with this very request."""


class ConflictError(EspalierError):
    """Somebody else moved first."""

    exit_code = 6


class UnavailableError(EspalierError):
    """A part does not answer, or has no room; nothing was lost, try again."""

    exit_code = 7
