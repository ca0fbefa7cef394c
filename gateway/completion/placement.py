"""Placement: which engines are up, what each has to do, and which of them a choice is sent to.

A choice that has emitted nothing may go to any replica; one that has goes on where numbers are computed in the same
way, by the engines' fingerprints, as long as there is or will be such a replica.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from msgspec.structs import replace

from engine.block_digests import prompt_chain
from engine.messages import CacheEvents, EngineInfo, ToEngine
from gateway.completion.choice import Choice, Incarnation, Place
from gateway.completion.suspects import Suspects
from gateway.replicas.router import Prompt, ReplicaState, Route, Router

logger = logging.getLogger(__name__)

OUTPUT_LOAD = 64
"""Tokens that a choice counts for beside its prompt, if it may generate so many: when it ends, nobody knows."""


class Placement:
    """Called by the lifecycle alone."""

    def __init__(self, router: Router, replicas: int) -> None:
        self._router = router
        self._replicas = replicas
        self._incarnations: dict[int, Incarnation] = {}
        """Replica → the engine that is up there."""
        self._infos: dict[int, EngineInfo] = {}
        """Of every replica that is up or will be again, as last heard."""
        self._given_up: set[int] = set()

    @property
    def info(self) -> EngineInfo | None:
        """Of the first replica, with a context that fits them all; None before any has been up."""
        if not self._infos:
            return None
        info = self._infos[min(self._infos)]
        shortest = min(each.max_model_len for each in self._infos.values())
        return info if info.max_model_len == shortest else replace(info, max_model_len=shortest)

    @property
    def num_up(self) -> int:
        return len(self._incarnations)

    @property
    def num_replicas(self) -> int:
        return self._replicas

    @property
    def open(self) -> bool:
        """Whether a new choice would find a place."""
        return any(not incarnation.draining for incarnation in self._incarnations.values())

    @property
    def gone(self) -> bool:
        """Whether there is no engine and will be none."""
        return not self._incarnations and len(self._given_up) >= self._replicas

    @property
    def up_now(self) -> list[Incarnation]:
        """The engines that are up, by replica."""
        return [self._incarnations[replica] for replica in sorted(self._incarnations)]

    def find(self, replica: int, epoch: int) -> Incarnation | None:
        """None where it is not up, or another incarnation is."""
        incarnation = self._incarnations.get(replica)
        return incarnation if incarnation is not None and incarnation.epoch == epoch else None

    def up(self, replica: int, epoch: int, info: EngineInfo, send: Callable[[ToEngine], None]) -> None:
        self._incarnations[replica] = Incarnation(replica, epoch, info, send)
        self._infos[replica] = info
        self._given_up.discard(replica)
        first = self._infos[min(self._infos)]
        if info.fingerprint != first.fingerprint:
            logger.warning(
                "replica %d computes in another way than replica %d (fingerprints %s and %s): "
                "a stream that has begun at one does not go on at the other",
                replica,
                min(self._infos),
                info.fingerprint,
                first.fingerprint,
            )

    def lost(self, incarnation: Incarnation) -> None:
        del self._incarnations[incarnation.replica]
        self._router.index.drop(incarnation.replica)

    def gave_up(self, replica: int) -> None:
        """It will not come up again."""
        self._given_up.add(replica)
        if len(self._given_up) < self._replicas:
            self._infos.pop(replica, None)

    def drain(self, replica: int) -> None:
        """Until its engine is another one, it is sent nothing new; what it has begun goes on there."""
        if replica in self._incarnations:
            self._incarnations[replica].draining = True

    def cache_changed(self, incarnation: Incarnation, events: CacheEvents) -> None:
        self._router.index.update(incarnation.replica, events.stored, events.evicted)

    def place(self, choice: Choice, suspects: Suspects) -> Route | None:
        """Give a pending choice its place; None where there is none for now."""
        eligible = self._eligible(choice)
        if suspects:
            suspects.settle(choice.id, self._homes(choice))
            eligible = [
                each for each in eligible if suspects.may_run(choice.id, each.replica, occupied=bool(each.running))
            ]
        if not eligible:
            return None
        sibling = next((each for each in choice.siblings if each.place is not None and each is not choice), None)
        digests = self._digests(choice, sibling) if self._replicas > 1 and self._router.uses_digests else []
        # What has begun goes on, at a draining replica too where there is no other; a suspect has no other.
        begun = choice.request.emitted or choice.id in suspects
        draining = not (begun and all(each.draining for each in eligible))
        route = self._router.choose(
            [ReplicaState(each.replica, each.epoch, each.load, each.draining and draining) for each in eligible],
            Prompt(
                # Who scores the prompt computes it whatever is cached; its siblings take over what it has computed.
                digests=[] if choice.is_to_score else digests,
                block_size=eligible[0].info.block_size,
                session=choice.request.request.session,
                beside=None if sibling is None or sibling.place is None else sibling.place.incarnation.replica,
            ),
        )
        if route is not None:
            self._enter(choice, self._incarnations[route.replica], digests, route.matched)
        return route

    def computed(self, choice: Choice) -> None:
        """The attempt's first token has arrived: its prompt is in the cache, and is no work any more."""
        place = choice.place
        if place is not None:
            self._router.index.forget(place.incarnation.replica, place.expected)
            place.incarnation.load -= place.prompt_load
            place.digests, place.expected, place.prompt_load = [], [], 0

    def leave(self, choice: Choice) -> None:
        """The choice is done, or lost its engine. A no-op where it has no place."""
        place = choice.place
        if place is not None:
            choice.note_left()
            self.computed(choice)
            place.incarnation.load -= place.output_load
            del place.incarnation.running[choice.id]
            choice.place = None

    def _eligible(self, choice: Choice) -> list[Incarnation]:
        return [self._incarnations[replica] for replica in self._homes(choice) if replica in self._incarnations]

    def _homes(self, choice: Choice) -> list[int]:
        """Replicas that can serve it, once they are up."""
        alike = [replica for replica, info in self._infos.items() if info.fingerprint == choice.fingerprint]
        return alike if alike and choice.emitted.ids else list(self._infos)

    def _digests(self, choice: Choice, sibling: Choice | None) -> list[bytes]:
        emitted = choice.emitted.ids
        if sibling is not None and sibling.place is not None and not emitted and not sibling.emitted.ids:
            return sibling.place.digests
        tokens = choice.prompt + emitted
        info = next(iter(self._incarnations.values())).info
        return prompt_chain(tokens, choice.request.request.cache_salt, info.block_size)

    def _enter(self, choice: Choice, incarnation: Incarnation, digests: list[bytes], matched: int) -> None:
        emitted = len(choice.emitted.ids)
        place = Place(
            incarnation,
            prompt_load=len(choice.prompt) + emitted - matched,
            output_load=min(choice.params.max_tokens - emitted, OUTPUT_LOAD),
            digests=digests,
            expected=digests[matched // incarnation.info.block_size :],
        )
        self._router.index.expect(incarnation.replica, place.expected)
        incarnation.load += place.prompt_load + place.output_load
        incarnation.running[choice.id] = choice
        choice.place, choice.fingerprint = place, incarnation.info.fingerprint
