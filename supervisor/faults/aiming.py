"""How a draw comes to its targets: the gate is open, the system is as it should be, there is room, and nobody else has them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import anyio

from supervisor.faults.base import Aim, CannotAim, Fault
from supervisor.faults.draws import Draw
from supervisor.faults.episode import Episode, Scene
from supervisor.faults.gate import Gate
from supervisor.journal.events import FaultIntent

AIM_TIMEOUT: Final = 10.0
"""Seconds a kind may take to choose its targets (it may have to ask the broker for a leader)."""
STEADY_ROUND: Final = 5.0
"""Seconds after which a wait for the steady state is begun anew."""


class Aiming:
    """Chooses targets, waits for them, and claims them. Nothing is disturbed here; whoever is cut off has claimed nothing."""

    def __init__(self, scene: Scene, gate: Gate, by_hand: Mapping[str, Episode]) -> None:
        """`by_hand` has the episodes that an operator began, by id, for as long as something of them may be in place."""
        self._scene, self._gate, self._by_hand = scene, gate, by_hand

    async def ready(self, fault: Fault, drawn: Draw) -> Aim:
        """Aim and look what is expected before, once the gate is open and none by hand is in place; again if somebody closed it meanwhile."""
        while True:
            await self._gate.opened()
            for episode in self._by_hand_of(drawn.fault):
                await episode.settled.wait()
                if not episode.undone:
                    raise CannotAim(f"{episode.intent.episode} could not be undone: mend that first")
            aim = await self._claim(fault, drawn)
            await self.expect_before(drawn.fault, drawn.episode)
            if not (self._gate.left or self._by_hand_of(drawn.fault)):
                return aim
            self._scene.claims.drop(drawn.episode)

    def _by_hand_of(self, fault: str) -> list[Episode]:
        """Return the episodes by hand of a fault of which something is in place, or may be: it has one at a time."""
        return [one for one in self._by_hand.values() if one.intent.written == fault and not one.undone]

    async def expect_before(self, fault: str, episode: str) -> None:
        """Raise CannotAim if what is expected before an episode does not hold: it would show nothing."""
        expectations = self._scene.expectations
        failing = await expectations.meet(fault, episode, "before") if expectations else ()
        if failing:
            raise CannotAim(f"expected before it, and not seen: {', '.join(failing)}")

    async def _claim(self, fault: Fault, drawn: Draw) -> Aim:
        """Aim when the system is as it should be and there is room; again after each wait, since it has changed meanwhile."""
        claims = self._scene.claims
        if fault.only_when:
            await self.steady()
        aim = await self.choose(fault, drawn)
        while await claims.take(drawn.episode, claims.bounds.demand(fault, aim)):
            steady = not fault.only_when or (await self._scene.steady.wait(STEADY_ROUND))[0]
            before, aim = aim, await self.choose(fault, drawn)
            if steady and aim.units == before.units:
                break
            if not steady:
                claims.drop(drawn.episode)
                await self.steady()
        return aim

    async def choose(self, fault: Fault, drawn: Draw) -> Aim:
        """Have a fault choose its targets; CannotAim if there are none, or they would be too much even alone."""
        with anyio.fail_after(AIM_TIMEOUT):
            aim = await fault.aim(self._scene.world, drawn.rng())
        bounds = self._scene.claims.bounds
        if why := bounds.never(bounds.demand(fault, aim)):
            raise CannotAim(why)
        return aim

    async def steady(self) -> None:
        """Wait for the steady state, however long that takes."""
        while not (await self._scene.steady.wait(STEADY_ROUND))[0]:
            pass


def intent_of(fault: Fault, drawn: Draw, aim: Aim) -> FaultIntent:
    """Return what is about to be done, as the journal has it."""
    return FaultIntent(
        episode=drawn.episode,
        fault=drawn.fault,
        type=fault.key,
        n=drawn.n,
        targets=aim.targets,
        undo=aim.undo,
    )
