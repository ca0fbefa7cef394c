"""A process that stands by, with its weights loaded, for the one that serves."""

from __future__ import annotations

from engine_for_tests import INFO
from supervisor_world import TOKEN, settle, supervised

from engine.messages import Heartbeat, Loading, Ready, Serve, Standing


async def test_one_that_stands_by_serves_when_the_first_is_lost_and_the_next_stands_by() -> None:
    async with supervised(standby=True) as world:
        await world.say(Ready(info=INFO))
        assert world.take_log() == ["launch 1", "up 1", "launch 2 to stand by"]
        assert world.supervisor.spare_pid is None, "it has not loaded its weights"
        await world.say(Loading(stage="weights", done=0, total=1), Heartbeat(step=0, pending=0), Standing())
        assert world.take_log() == [], "nobody hears of it"
        assert (world.supervisor.spare_pid, world.supervisor.pid, world.supervisor.epoch) == (1002, 1001, 1)
        assert world.asked(1) == []
        world.processes[0].die(-9)
        await settle()
        await world.clock.pass_by(1)
        assert world.asked(1) == [Serve()]
        assert world.take_log() == ["dead", "closed", "lost 1: killed by signal 9"]
        assert (world.supervisor.spare_pid, world.supervisor.pid, world.supervisor.epoch) == (None, 1002, 2)
        await world.say(Ready(info=INFO), TOKEN)
        assert world.take_log() == ["up 2", "received 2", "launch 3 to stand by"]


async def test_one_that_still_loads_is_told_to_serve_when_it_has() -> None:
    async with supervised(standby=True) as world:
        await world.say(Ready(info=INFO))
        world.processes[0].die(-9)
        await settle()
        await world.clock.pass_by(1)
        assert world.asked(1) == []
        await world.say(Standing())
        assert world.asked(1) == [Serve()]
        await world.say(Ready(info=INFO))
        assert [line for line in world.log if line.startswith(("launch", "up"))] == [
            "launch 1",
            "up 1",
            "launch 2 to stand by",
            "up 2",
            "launch 3 to stand by",
        ]


async def test_one_that_dies_while_it_stands_by_is_no_loss() -> None:
    async with supervised(standby=True) as world:
        await world.say(Ready(info=INFO))
        await world.say(Standing())
        world.take_log()
        world.processes[1].die(-9)
        await settle()
        assert world.take_log() == ["dead", "closed"]
        assert world.supervisor.spare_pid is None
        world.processes[0].die(-9)
        await settle()
        await world.clock.pass_by(1)
        assert world.take_log()[-1] == "launch 3"


async def test_stop_ends_the_one_that_stands_by() -> None:
    async with supervised(standby=True) as world:
        await world.say(Ready(info=INFO))
        await world.say(Standing())
        await world.supervisor.stop()
        assert [process.exit.done() for process in world.processes] == [True, True]
