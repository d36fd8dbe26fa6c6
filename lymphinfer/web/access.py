"""Who may talk to the page: this machine, this origin, this token."""

from __future__ import annotations

import hmac
import ipaddress
import socket
from collections.abc import Iterable
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
TOKEN_HEADER = "X-LymphInfer-Token"
_STATIC = "/static/"
# The page's own files alone; nothing from another place can be loaded, sent to or frame it.
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a host name or address.

    Examples
    --------
    >>> is_loopback("127.0.0.1"), is_loopback("::1"), is_loopback("0.0.0.0")
    (True, True, False)
    """
    if host in LOOPBACK_NAMES:
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def allowed_names(host: str) -> frozenset[str]:
    """Names under which a page bound to `host` may be asked for, lower case."""
    names = set(LOOPBACK_NAMES) | {host.lower()}
    if not is_loopback(host):
        names |= {socket.gethostname().lower(), socket.getfqdn().lower()}
    return frozenset(names - {"0.0.0.0", "::", ""})


class Guard:
    """ASGI middleware that refuses strangers and keeps the page to itself.

    - The Host header must name one of `names`, whatever the port (it may be forwarded): another
      site's name that was made to point here is refused.
    - An Origin header must be the page's own, and ``Sec-Fetch-Site`` must not tell of another
      site, but where a link to the page is followed.
    - Everything but the static files needs the token, in the header ``X-LymphInfer-Token`` or as
      ``?token=``.
    - What changes something must be JSON, which no form of another site can send.

    Parameters
    ----------
    app : ASGI application
    token : str
    names : iterable of str
        Host names, lower case.
    """

    def __init__(self, app: ASGIApp, token: str, names: Iterable[str]) -> None:
        self._app, self._token, self._names = app, token.encode(), frozenset(names)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 403 or 415, or pass the request on and put the headers on the answer."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers[name] = value
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        refusal = self._refusal(scope)
        app: ASGIApp = self._app
        if refusal is not None:
            app = PlainTextResponse(refusal[1] + "\n", refusal[0])
        await app(scope, receive, send_guarded)

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if not host or _host_name(host) not in self._names:
            return 403, f"Refused: this page is not served under the name {host[:100]!r}."
        origin = headers.get("origin")
        if origin is not None and origin not in (f"http://{host}", f"https://{host}"):
            return 403, f"Refused: another origin, {origin[:100]!r}."
        # A link to the page may stand anywhere, such as in a terminal that is itself a page.
        visited = scope["path"] == "/" and headers.get("sec-fetch-mode") == "navigate"
        if headers.get("sec-fetch-site", "none") not in ("same-origin", "none") and not visited:
            return 403, "Refused: asked for from another site."
        if scope["path"].startswith(_STATIC):
            return None
        if not self._has_token(scope, headers):
            return 403, (
                "Refused: the token is missing or wrong. Open the address, with its token, that "
                "`lymphinfer gate serve` has printed; it is new at every start."
            )
        media = headers.get("content-type", "").split(";")[0].strip()
        if scope["method"] not in ("GET", "HEAD") and media != "application/json":
            return 415, "Refused: a change must be sent as application/json."
        return None

    def _has_token(self, scope: Scope, headers: Headers) -> bool:
        given = headers.get(TOKEN_HEADER)
        if given is None:
            query = parse_qs(scope["query_string"].decode("latin-1"))
            given = query.get("token", [""])[0]
        return hmac.compare_digest(given.encode(), self._token)


def _host_name(host: str) -> str:
    try:
        return (urlsplit(f"//{host}").hostname or "").lower()
    except ValueError:
        return ""
