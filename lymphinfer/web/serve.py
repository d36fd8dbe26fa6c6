"""Run the gating page."""

from __future__ import annotations

import getpass
import logging
import secrets
import socket
from collections.abc import Callable
from pathlib import Path

from lymphinfer.errors import DataError, LymphinferError
from lymphinfer.orion.cohort import Cohort
from lymphinfer.panel import Panel

logger = logging.getLogger(__name__)


def serve_gates(
    cohort: Cohort,
    gates: Path,
    panel: Panel,
    *,
    who: str | None = None,
    host: str = "127.0.0.1",
    port: int = 8765,
    ready: Callable[[str], None] | None = None,
) -> None:
    """Serve the gating page until it is interrupted.

    Parameters
    ----------
    cohort : Cohort
    gates : Path
        The ``gates.toml``; every change is saved there.
    panel : Panel
    who : str, optional
        Who sets gates; the user's name on this machine where None.
    host : str
        Address to listen on. Other machines can reach any but a loopback address, and what is sent
        is not encrypted: that is logged as a warning.
    port : int
        0 for any free one.
    ready : callable, optional
        Called with the page's address, its token included, once it can be opened.

    Raises
    ------
    DataError
        The web extra is missing, the gates file is missing or wrong, or the port is taken.
    """
    try:
        import uvicorn

        from lymphinfer.web.access import allowed_names, is_loopback
        from lymphinfer.web.app import make_app
    except ImportError as error:
        raise DataError(
            f"the gating page needs {error.name or 'packages'}, which is not installed. "
            "Run `pip install 'lymphinfer[web]'`."
        ) from error
    from lymphinfer.web.session import GatingSession

    session = GatingSession(cohort, gates, panel, who or _user_name())
    if not is_loopback(host):
        logger.warning(
            "--host %s lets other machines on the network reach this page, unencrypted. The token "
            "in its address is all that keeps them out: do not pass it on.",
            host,
        )
    token = secrets.token_urlsafe(24)
    app = make_app(session, token, allowed_names(host))
    listening = _listen(host, port)
    url = f"http://{_shown(host)}:{listening.getsockname()[1]}/?token={token}"
    # Addresses with the token must not stand in a log.
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, server_header=False, lifespan="off"
    )
    try:
        if ready is not None:
            ready(url)
        uvicorn.Server(config).run(sockets=[listening])
    finally:
        listening.close()
        session.close()


def _listen(host: str, port: int) -> socket.socket:
    """Open the port before the page's address is told."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen(128)
    except (OSError, OverflowError) as error:
        listening.close()
        raise DataError(
            f"the page cannot be served on {host}, port {port} ({error}). Choose another with "
            "--port, or --port 0 for any free one."
        ) from error
    return listening


def _shown(host: str) -> str:
    if host in ("0.0.0.0", "::"):
        return socket.gethostname()
    return f"[{host}]" if ":" in host else host


def _user_name() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError) as error:
        raise LymphinferError(
            "this machine does not say who you are: give your name with --who."
        ) from error
