"""Whose work may teach: what people try out in the console may not.

Talking to a candidate is looking at it. If an outcome on such a turn made it a lesson, whoever
reviews a candidate would be writing the next one's data, unseen and unsigned for.
"""

TALK = ("console", "talk")
"""Team and project of the key that the console talks with."""


def may_teach(team: str, project: str) -> bool:
    """Whether trajectories of this team and project may become training data."""
    return (team, project) != TALK
