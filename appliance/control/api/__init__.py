"""The HTTP API under ``/api``: thin routes over reading and acting."""

from importlib import import_module

from fastapi import APIRouter

_ROOMS = (
    "rounds",
    "review",
    "serving",
    "law",
    "people",
    "overview",
    "trajectories",
    "talk",
    "suites",
)


def routers() -> list[APIRouter]:
    """The routes of every room."""
    return [import_module(f"{__name__}.{room}").router for room in _ROOMS]
