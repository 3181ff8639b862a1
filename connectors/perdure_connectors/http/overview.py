"""How the app does, in numbers."""

import time

from starlette.requests import Request
from starlette.responses import Response

from perdure.errors import PayloadError
from perdure_connectors.http.answers import history_of, json_answer
from perdure_connectors.http.queries import moment_of, only

DAY_MS = 86_400_000
LONGEST_MS = 31 * DAY_MS


async def show(request: Request) -> Response:
    """Runs by function and time, success rate, lengths, what fails most, lag; `?since=24h`, 31 days at most.

    Up to six hours in parts of five minutes, up to two days of an hour, else of six: `since` is moved back to the
    beginning of one. Lengths are of whole hours, from six hours on of six. Asked of history: 501 where there is none.
    """
    only(request, "since")
    hindsight = history_of(request)
    until = int(time.time() * 1000)
    given = moment_of(request, "since")
    since = until - DAY_MS if given is None else given
    if not until - LONGEST_MS <= since <= until:
        raise PayloadError("since: a time within the last 31 days is needed, such as 24h")
    return json_answer(await hindsight.overview(since, until))
