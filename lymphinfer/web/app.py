"""The page over HTTP: routes to a `GatingSession`, static files, and who may ask."""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from lymphinfer.errors import DataError, LymphinferError
from lymphinfer.web.access import Guard
from lymphinfer.web.session import GatingSession, Reply, UnknownError
from lymphinfer.web.store import ConflictError

logger = logging.getLogger(__name__)

_MAX_BODY = 1 << 16
_GATE = "/api/slides/{folder}/{marker}"
Endpoint = Callable[[Request], Awaitable[Response]]


def make_app(session: GatingSession, token: str, names: Iterable[str]) -> Starlette:
    """Build the web application.

    Parameters
    ----------
    session : GatingSession
    token : str
        Without it nothing but the static files is given out.
    names : iterable of str
        Host names under which it is served, lower case; see `allowed_names`.

    Returns
    -------
    Starlette
        ASGI application. Errors are JSON with ``error``: 404 for what is not there, 409 for
        `ConflictError`, 422 for other errors of the user.
    """
    static = Path(str(files("lymphinfer.web") / "static"))

    async def page(request: Request) -> Response:
        return FileResponse(static / "index.html")

    def on_gate(act: Callable[[str, str, Mapping[str, Any]], Reply]) -> Endpoint:
        async def answer(request: Request) -> Response:
            path, body = request.path_params, await _body(request)
            return await _json(act, path["folder"], path["marker"], body)

        return _told(answer)

    def on_all(act: Callable[[Mapping[str, Any]], Reply]) -> Endpoint:
        async def answer(request: Request) -> Response:
            return await _json(act, await _body(request))

        return _told(answer)

    async def cohort(request: Request) -> Response:
        return await _json(session.cohort_reply)

    async def slide(request: Request) -> Response:
        folder = request.path_params["folder"]
        response = await _json(session.slide_reply, folder)
        response.background = BackgroundTask(_read_ahead, session, folder)
        return response

    async def histogram(request: Request) -> Response:
        path = request.path_params
        return await _json(session.histogram_reply, path["folder"], path["marker"])

    async def examples(request: Request) -> Response:
        path = request.path_params
        query = dict(request.query_params)
        return await _json(session.examples_reply, path["folder"], path["marker"], query)

    async def picture(request: Request) -> Response:
        path = request.path_params
        content = await run_in_threadpool(
            session.picture, path["folder"], path["row"], path["kind"]
        )
        # The address has the token in it, which is new at every start.
        kept = {"Cache-Control": "private, max-age=86400, immutable"}
        return Response(content, media_type="image/jpeg", headers=kept)

    async def reload(request: Request) -> Response:
        return await _json(session.reload)

    routes = [
        Route("/", page),
        Route("/api/cohort", _told(cohort)),
        Route("/api/reload", _told(reload), methods=["POST"]),
        Route("/api/undo", on_all(session.undo), methods=["POST"]),
        Route("/api/redo", on_all(session.redo), methods=["POST"]),
        Route("/api/who", on_all(session.rename), methods=["POST"]),
        Route("/api/slides/{folder}", _told(slide)),
        Route("/api/slides/{folder}/cells/{row:int}/{kind}.jpg", _told(picture)),
        Route(f"{_GATE}/histogram", _told(histogram)),
        Route(f"{_GATE}/examples", _told(examples)),
        Route(f"{_GATE}/preview", on_gate(session.preview), methods=["POST"]),
        Route(f"{_GATE}/thresholds", on_gate(session.set_thresholds), methods=["POST"]),
        Route(f"{_GATE}/accept", on_gate(session.accept), methods=["POST"]),
        Route(f"{_GATE}/copy", on_gate(session.copy), methods=["POST"]),
        Route(f"{_GATE}/propose", on_gate(session.propose), methods=["POST"]),
        Route(f"{_GATE}/correct", on_gate(session.correct), methods=["POST"]),
        Mount("/static", StaticFiles(directory=static)),
    ]
    guard = Middleware(Guard, token=token, names=frozenset(names))
    return Starlette(routes=routes, middleware=[guard])


def _told(answer: Endpoint) -> Endpoint:
    """Turn errors on purpose into answers that the page can show."""

    async def answer_or_tell(request: Request) -> Response:
        try:
            return await answer(request)
        except ConflictError as error:
            return JSONResponse({"error": str(error), "changed": error.changed}, 409)
        except UnknownError as error:
            return JSONResponse({"error": str(error)}, 404)
        except LymphinferError as error:
            return JSONResponse({"error": str(error)}, 422)

    return answer_or_tell


async def _json(act: Callable[..., Reply], *arguments: Any) -> JSONResponse:
    return JSONResponse(await run_in_threadpool(act, *arguments))


async def _body(request: Request) -> Mapping[str, Any]:
    content = b""
    async for chunk in request.stream():
        content += chunk
        if len(content) > _MAX_BODY:
            raise DataError(f"the request is larger than {_MAX_BODY:,} bytes.")
    try:
        body = json.loads(content or b"{}")
    except ValueError as error:
        raise DataError(f"the request is no JSON ({error}).") from error
    if not isinstance(body, dict):
        raise DataError("the request must be a JSON object.")
    return body


def _read_ahead(session: GatingSession, folder: str) -> None:
    """Read the next slide while this one is looked at; what is wrong is told when it is opened."""
    following = session.next_folder(folder)
    if following is not None:
        try:
            session.slides.view(following)
        except LymphinferError as error:
            logger.info("%s", error)
