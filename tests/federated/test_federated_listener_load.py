"""The public listener holds a bounded number of calls and bytes of callers that nobody has checked yet."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

pytest.importorskip("uvicorn")

from meninx.federated import listener
from meninx.federated.listener import AllowList


async def _taken(scope: Any, receive: Any, send: Any) -> None:
    message = await receive()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": message["body"]})


class Caller:
    """One call, whose body arrives when it is given."""

    def __init__(self, address: str = "10.0.0.1") -> None:
        self.status = 0
        self.parts: asyncio.Queue[tuple[bytes, bool]] = asyncio.Queue()
        self.scope = {"type": "http", "path": "/reply", "method": "POST", "client": (address, 1)}

    async def receive(self) -> dict[str, Any]:
        body, more = await self.parts.get()
        return {"type": "http.request", "body": body, "more_body": more}

    async def send(self, message: dict[str, Any]) -> None:
        self.status = message.get("status", self.status)


async def _opened(app: AllowList, *callers: Caller) -> list[asyncio.Task[None]]:
    tasks = [asyncio.create_task(app(one.scope, one.receive, one.send)) for one in callers]
    for _ in range(5):
        await asyncio.sleep(0)
    return tasks


def test_one_address_has_a_bounded_number_of_calls_and_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "_CALLS", 3)
    monkeypatch.setattr(listener, "_HELD_OF_ONE", 100)

    async def story() -> None:
        app = AllowList({"/reply": (_taken, 1000)})
        callers = [Caller() for _ in range(4)]
        other = Caller("10.0.0.2")
        tasks = await _opened(app, *callers, other)
        assert [one.status for one in callers] == [0, 0, 0, 503]
        for one in callers[:2]:
            one.parts.put_nowait((b"x" * 60, True))
        other.parts.put_nowait((b"x" * 60, False))
        await asyncio.gather(tasks[1], tasks[4])
        assert [one.status for one in (*callers[:3], other)] == [0, 503, 0, 200]
        callers[0].parts.put_nowait((b"", False))
        callers[2].parts.put_nowait((b"", False))
        await asyncio.gather(*tasks)
        assert callers[0].status == callers[2].status == 200
        late = Caller()
        late.parts.put_nowait((b"x" * 90, False))
        await asyncio.gather(*await _opened(app, late))
        assert late.status == 200

    asyncio.run(story())


def test_many_addresses_together_have_a_bounded_number_of_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "_HELD", 150)

    async def story() -> None:
        callers = [Caller(f"10.0.0.{number}") for number in range(3)]
        tasks = await _opened(AllowList({"/reply": (_taken, 1000)}), *callers)
        for one in callers:
            one.parts.put_nowait((b"x" * 60, True))
        await asyncio.gather(tasks[2])
        assert [one.status for one in callers] == [0, 0, 503]
        for one in callers:
            one.parts.put_nowait((b"", False))
        await asyncio.gather(*tasks)
        assert [one.status for one in callers] == [200, 200, 503]

    asyncio.run(story())


def test_a_body_that_stops_arriving_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "_PART_SECONDS", 0.02)

    async def story() -> None:
        slow = Caller()
        slow.parts.put_nowait((b"x", True))
        calls = await _opened(AllowList({"/reply": (_taken, 1000)}), slow)
        await asyncio.wait_for(asyncio.gather(*calls), 5)  # long before the time of a whole body is over
        assert slow.status == 408

    asyncio.run(story())
