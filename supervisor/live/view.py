"""`soakd watch` itself: a screen that is drawn twice a second and after each key, or one look as text."""

from __future__ import annotations

import os
import signal
import time
from contextlib import AsyncExitStack
from typing import Final

import anyio

from supervisor.live.cursor import Cursor
from supervisor.live.layout import draw
from supervisor.live.picture import Scene, Wish
from supervisor.live.sources import Source
from supervisor.live.target import Opened
from supervisor.live.terminal import Painter, keys, raw
from supervisor.telemetry.output import Output

EVERY: Final = 0.5
"""Seconds between two frames."""
PATIENCE: Final = 8.0
"""Seconds for which a single look waits until there is a connection and everything has been seen."""
STEP: Final = 0.05


async def watch(opened: Opened, output: Output, keyboard: int = 0) -> None:
    """Show it until a key or a signal ends it. CannotWatch if it turns out that there is nothing to watch."""
    failure: Exception | None = None
    async with AsyncExitStack() as stack:
        painter, view = Painter(output), View()
        source = await stack.enter_async_context(opened)
        try:
            await source.look(view.cursor.wish())  # before the screen is taken: it may not be a run at all
            stack.enter_context(painter.screen())
            if os.isatty(keyboard):
                stack.enter_context(raw(keyboard))
            async with anyio.create_task_group() as group:
                group.start_soon(_signals, group.cancel_scope)
                if os.isatty(keyboard):
                    group.start_soon(view.listen, keyboard, group.cancel_scope)
                await view.show(source, painter)
                group.cancel_scope.cancel()
        except Exception as error:  # noqa: BLE001  # raised below as it is, not as part of a group
            failure = error
    if failure is not None:
        raise failure


async def once(opened: Opened) -> tuple[Scene, bool]:
    """Look once, as soon as everything has been seen; also say whether anything was. CannotWatch as `watch` has it."""
    failure: Exception | None = None
    async with opened as source:
        try:
            scene = await _settled(source)
        except Exception as error:  # noqa: BLE001  # as above
            failure = error
    if failure is not None:
        raise failure
    return scene, scene.run is not None or (scene.broker is not None and scene.broker.seen is not None)


async def _settled(source: Source) -> Scene:
    scene, deadline = await source.look(Wish()), time.monotonic() + PATIENCE
    while not source.settled and time.monotonic() < deadline:
        await anyio.sleep(STEP)
        scene = await source.look(Wish())
    return scene


class View:
    """What is shown, and how."""

    def __init__(self) -> None:
        self.cursor = Cursor()
        self._pressed = anyio.Event()

    async def listen(self, keyboard: int, scope: anyio.CancelScope) -> None:
        """Follow the keys, until one of them ends it all."""
        async for pressed in keys(keyboard):
            for key in pressed:
                if not self.cursor.press(key):
                    scope.cancel()
                    return
            self._pressed.set()

    async def show(self, source: Source, painter: Painter) -> None:
        """Draw until the terminal is gone."""
        while not painter.gone:
            began = time.monotonic()
            self._pressed = anyio.Event()
            scene = await source.look(self.cursor.wish())
            size = painter.size
            frame = draw(scene, self.cursor, *size)
            if self.cursor.settle(frame.shown, frame.totals):  # other rows are needed than were asked for
                scene = await source.look(self.cursor.wish())
                frame = draw(scene, self.cursor, *size)
            painter.paint(frame.lines, size)
            with anyio.move_on_after(max(began + EVERY - time.monotonic(), STEP)):
                await self._pressed.wait()


async def _signals(scope: anyio.CancelScope) -> None:
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as received:
        async for _ in received:
            scope.cancel()
            return
