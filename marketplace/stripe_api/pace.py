"""Not more questions to Stripe in any second than it answers: each waits its turn, first come first."""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable

WINDOW_SECONDS = 1.0


class Pace:
    """At most `per_second` turns begin in any one second, whoever asks and however many.

    A turn is taken at once, so that turns are in the order of asking; then it is waited for.
    """

    def __init__(
        self,
        per_second: int,
        *,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._last: deque[float] = deque(maxlen=per_second)
        self._now = now
        self._sleep = sleep

    async def turn(self) -> None:
        begins = self._take()
        while (wait := begins - self._now()) > 0:
            await self._sleep(wait)

    def _take(self) -> float:
        begins = self._now()
        if len(self._last) == self._last.maxlen:
            begins = max(begins, self._last[0] + WINDOW_SECONDS)
        if self._last:
            begins = max(begins, self._last[-1])
        self._last.append(begins)
        return begins
