"""Where boxes cannot be had, the tests of boxes are skipped, and say so."""

import functools
import os

import pytest

from appliance.core.errors import UnavailableError
from appliance.sandbox.sandbox import BubblewrapSandbox, check_works
from tests.services.boxes import bring_bubblewrap


@functools.cache
def why_no_boxes() -> str:
    if reason := bring_bubblewrap():
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        return reason
    with BubblewrapSandbox(jobs=1) as sandbox:
        try:
            check_works(sandbox)
        except UnavailableError as error:
            return error.message
    return ""


@pytest.fixture(scope="session")
def boxes() -> None:
    if reason := why_no_boxes():
        pytest.skip(f"no boxes here: {reason}")
