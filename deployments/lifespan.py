"""ASGI's lifespan events, for apps that have nothing to do at start and stop.

https://asgi.readthedocs.io/en/latest/specs/lifespan.html
"""

from starlette.types import Receive, Send


async def live(receive: Receive, send: Send) -> None:
    """Answers start and stop; returns after the stop."""
    while True:
        event = (await receive())["type"]
        await send({"type": f"{event}.complete"})
        if event == "lifespan.shutdown":
            return
