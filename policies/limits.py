"""How much may be asked of the gateway: rates per minute, and room for requests at once.

What is not here: budgets per day and month (a sum and a comparison), who asks, and the clock.
"""

_MINUTE_S = 60.0
_NOTHING = 1e-6
"""What rounding may leave."""


class Bucket:
    """A rate per minute. A full bucket holds one minute's worth, and refills evenly.

    One that wants more than the bucket holds is let through when it is full, and the rest is owed:
    over time the rate holds, and nothing is impossible because it is large.
    """

    def __init__(self) -> None:
        self._taken = 0.0
        self._at = 0.0

    def left(self, per_minute: float, now: float) -> float:
        """What may be taken now; below zero while something is owed."""
        return per_minute - self._still_taken(per_minute, now)

    def wait_s(self, amount: float, per_minute: float, now: float) -> float:
        """Seconds until `amount` may be taken; 0 is now."""
        missing = min(amount, per_minute) - self.left(per_minute, now)
        return missing * _MINUTE_S / per_minute if missing > _NOTHING else 0.0

    def take(self, amount: float, per_minute: float, now: float) -> None:
        """Take it, whether or not it is there."""
        self._taken = self._still_taken(per_minute, now) + amount
        self._at = now

    def give_back(self, amount: float) -> None:
        """What was taken beforehand and then not needed."""
        self._taken = max(0.0, self._taken - amount)

    def _still_taken(self, per_minute: float, now: float) -> float:
        return max(0.0, self._taken - max(0.0, now - self._at) * per_minute / _MINUTE_S)


def has_room(*, bound: int, total: int, held: int, keys: int) -> bool:
    """Whether one more request fits where `total` of `bound` places are taken.

    `held` of them belong to the key that asks, and `keys` different keys hold or ask for one. The
    last quarter is for keys that hold less than their share, so that no key can take all of it.
    """
    if total >= bound:
        return False
    return total < bound * 3 // 4 or held < max(1, bound // (keys + 1))
