"""The trace that a request is of."""

from starlette.requests import Request

from perdure.worker.tracing import checked, current_traceparent


def traceparent_of(request: Request) -> str:
    """For what the request makes: where the program traces its requests that span, else the header `traceparent`.

    Nothing if the header is none, or comes more than once.
    """
    given = request.headers.getlist("traceparent")
    return current_traceparent() or (checked(given[0]) if len(given) == 1 else "")
