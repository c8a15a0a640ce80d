"""How long a name waits after wrong passphrases: a rule without a clock."""

_FREE = 4
"""Wrong ones in a row that cost nothing but themselves: people mistype."""
_FIRST_WAIT_S = 5.0
_LONGEST_WAIT_S = 900.0
_FORGOTTEN_AFTER_S = 86_400.0


def wait_s(num_failed: int) -> float:
    """Seconds from the last wrong passphrase until the next one is looked at.

    It doubles with each one. There is an end to it: whoever knows a name must not be able to lock
    its owner out for good.
    """
    if num_failed <= _FREE:
        return 0.0
    return min(_FIRST_WAIT_S * 2.0 ** min(num_failed - _FREE - 1, 30), _LONGEST_WAIT_S)


def forgotten_after_s() -> float:
    """Seconds after which wrong passphrases count no more."""
    return _FORGOTTEN_AFTER_S
