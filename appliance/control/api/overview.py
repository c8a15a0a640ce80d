"""The first page's figures, for programs."""

from fastapi import APIRouter, Request
from fastapi.responses import Response

from appliance.control.api.asking import Here, Signed, answer
from appliance.control.reading import overview as reading

router = APIRouter(tags=["overview"])


@router.get("/overview")
def overview(request: Request, here: Here, who: Signed) -> Response:
    """What is served, what it does, what waits for you."""
    return answer(reading.overview(here, who, request.app.state.pulse))
