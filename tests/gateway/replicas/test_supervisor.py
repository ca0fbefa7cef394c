"""The supervisor's rules, with a clock, a transport and a process host that do as they are told."""

from __future__ import annotations

import asyncio

import pytest
from engine_for_tests import INFO, STATS
from supervisor_world import LIMITS, TOKEN, World, settle, supervised

from engine.messages import Failed, Heartbeat, Loading, Ready, Standing, StepOutput, Tokens
from gateway.replicas.client import Client
from gateway.replicas.supervisor import EngineGoneError
from gateway.replicas.watched_engine import Progress


async def test_the_course_of_a_start() -> None:
    async with supervised() as world:
        await world.say(Loading(stage="weights", done=0, total=1), Ready(info=INFO), TOKEN)
        assert world.log == ["launch 1", "loading weights", "up 1", "received 1"]
        assert await world.supervisor.wait_ready() == INFO
        assert (world.supervisor.pid, world.supervisor.epoch) == (1001, 1)


async def test_lost_is_said_when_the_process_is_dead_and_all_it_said_is_delivered() -> None:
    async with supervised() as world:
        await world.say(Ready(info=INFO))
        world.take_log()
        world.clients[-1].unheard.append(TOKEN)
        world.processes[-1].exit.set_result(-11)
        await settle()
        assert world.take_log() == ["received 1", "closed", "lost 1: killed by signal 11"]
        await world.clock.pass_by(1)
        await world.say(Ready(info=INFO))
        assert world.log == ["launch 2", "up 2"]


async def test_a_silent_engine_is_dumped_killed_and_only_then_lost() -> None:
    async with supervised() as world:
        await world.say(Ready(info=INFO))
        world.take_log()
        for _ in range(9):
            await world.clock.pass_by(5)
            await world.say(Heartbeat(step=0, pending=0))
        assert world.take_log() == []
        await world.clock.pass_by(12)
        assert world.take_log()[:5] == ["dump", "kill", "dead", "closed", "lost 1: silent for 10 s"]


async def test_a_beating_engine_that_makes_no_step_is_lost_only_with_work_pending() -> None:
    async with supervised() as world:
        await world.say(Ready(info=INFO))
        for pending, lost in ((0, False), (1, True)):
            for _ in range(40):
                await world.clock.pass_by(1)
                await world.say(Heartbeat(step=7, pending=pending))
            assert ("lost 1: no step for 30 s with work pending" in world.log) is lost


async def test_a_step_is_late_by_what_the_engine_says_of_it_and_a_little_more() -> None:
    async with supervised() as world:
        await world.say(Ready(info=INFO))
        for limit, seconds in ((100.0, 104), (12.0, 16), (100.0, 104)):
            for _ in range(seconds):
                await world.clock.pass_by(1)
                await world.say(Heartbeat(step=7, pending=1, limit=limit))
            assert not world.kinds
            await world.say(Heartbeat(step=7, pending=0, limit=limit))
        for _ in range(20):
            await world.clock.pass_by(1)
            await world.say(Heartbeat(step=7, pending=1, limit=12.0))
        assert world.kinds == ["stalled"]
        assert "lost 1: no step for 17 s with work pending" in world.log


async def test_start_up_may_be_silent_for_longer() -> None:
    async with supervised() as world:
        await world.clock.pass_by(49)
        assert world.log == ["launch 1"]
        await world.clock.pass_by(5)
        assert "kill" in world.log


@pytest.mark.parametrize("seconds", [60, 100_000])
def test_a_pause_of_the_gateway_is_no_silence_of_the_engine(seconds: float) -> None:
    progress = Progress(LIMITS)
    progress.up = True
    assert progress.passed(seconds) is None


def test_progress_is_a_step_or_a_rest() -> None:
    progress = Progress(LIMITS)
    progress.up = True
    for message in (Heartbeat(step=1, pending=1), Heartbeat(step=2, pending=1), Heartbeat(step=2, pending=0), TOKEN):
        for _ in range(29):
            progress.heard(Heartbeat(step=progress._step, pending=1))
            assert progress.passed(1) is None
        progress.heard(message)
    for _ in range(30):
        progress.heard(Heartbeat(step=2, pending=1))
        assert progress.passed(1) is None
    progress.heard(Heartbeat(step=2, pending=1))
    assert progress.passed(1) is not None


def test_a_start_up_that_comes_no_further_is_stuck_though_its_heart_beats() -> None:
    progress = Progress(LIMITS)
    for stage in ("imports", "weights"):
        progress.heard(Loading(stage=stage, done=0, total=0))
        for _ in range(100):
            progress.heard(Heartbeat(step=0, pending=0))
            assert progress.passed(1) is None
    progress.heard(Standing())
    for _ in range(1000):
        progress.heard(Heartbeat(step=0, pending=0))
        assert progress.passed(1) is None
    progress.heard(Loading(stage="cache", done=0, total=0))
    for _ in range(100):
        progress.heard(Heartbeat(step=0, pending=0))
        assert progress.passed(1) is None
    assert progress.passed(1) == ("stalled", "its start-up has come no further for 100 s")


async def test_what_cannot_be_understood_is_a_loss() -> None:
    async with supervised() as world:
        await world.say(Ready(info=INFO), ValueError("gibberish"))
        assert world.log[2:] == ["kill", "dead", "closed", "lost 1: ValueError: gibberish"]
        assert world.kinds == ["garbled"]


async def test_back_off_doubles_up_to_a_limit_and_starts_anew_once_a_token_came() -> None:
    async with supervised() as world:
        world.clock.slept.clear()

        async def back_off() -> float:
            before = len(world.clock.slept)
            await world.die()
            (slept,) = world.clock.slept[before:]
            await world.clock.pass_by(slept)
            return slept

        delays = []
        for _ in range(5):
            await world.say(Ready(info=INFO))
            delays.append(await back_off())
        assert delays == [1, 2, 4, 8, 8]
        await world.say(Ready(info=INFO), StepOutput(started=["r:0"], outputs=[], stats=[STATS]))
        assert await back_off() == 8
        finished = StepOutput(
            started=[], outputs=[Tokens(id="r:0", attempt=1, at=0, ids=[], finish="stop")], stats=[STATS]
        )
        await world.say(Ready(info=INFO), finished)
        assert await back_off() == 8
        await world.say(Ready(info=INFO), TOKEN)
        assert [await back_off(), await back_off()] == [1, 2]


async def test_three_failed_start_ups_in_a_row_are_enough() -> None:
    async with supervised() as world:
        await world.die(3)
        await world.clock.pass_by(10)
        await world.die(3)
        await world.clock.pass_by(10)
        await world.say(Ready(info=INFO))
        for _ in range(3):
            assert "gave up" not in str(world.log)
            await world.die(3)
            await world.clock.pass_by(10)
        assert "gave up" not in str(world.log), "one of them had been up"
        await world.die(3)
        assert world.log[-1] == "gave up: exited with status 3"
        assert len(world.processes) == 6
        assert await world.supervisor.wait_ready() == INFO


async def test_an_expected_failure_is_final() -> None:
    async with supervised() as world:
        await world.say(Failed(message="no such model", expected=True))
        await world.die()
        assert world.log[-1] == "gave up: no such model"
        with pytest.raises(EngineGoneError, match="no such model"):
            await world.supervisor.wait_ready()
        await world.clock.pass_by(100)
        assert len(world.processes) == 1


async def test_another_failure_is_the_cause_and_is_tried_again() -> None:
    async with supervised() as world:
        await world.say(Ready(info=INFO), Failed(message="IndexError: 7", expected=False))
        await world.die()
        assert world.log[-1] == "lost 1: IndexError: 7"
        assert world.kinds == ["error"]
        await world.clock.pass_by(1)
        assert world.log[-1] == "launch 2"


async def test_a_process_that_cannot_be_started_counts_as_a_failed_start_up() -> None:
    world = World()
    world.launcher.fails = True
    world.supervisor.start()
    await settle()
    await world.clock.pass_by(10)
    assert world.log[-1] == "gave up: the engine process cannot be started: no more processes"
    assert world.log.count("closed") == 3
    await world.supervisor.stop()


# --- stop --------------------------------------------------------------------------------------------------------


async def test_stop_lets_the_engine_end_by_itself_and_starts_no_other() -> None:
    async with supervised() as world:
        await world.say(Ready(info=INFO))
        world.take_log()
        await world.supervisor.stop()
        await world.clock.pass_by(100)
        assert "kill" not in world.log
        assert not [line for line in world.log if line.startswith(("launch", "gave up"))]
        await world.supervisor.stop()


@pytest.mark.parametrize("turns", range(4))
async def test_a_stop_is_no_failed_start_up(turns: int) -> None:
    async with supervised() as world:
        for _ in range(2):
            await world.die(3)
            await world.clock.pass_by(10)
        world.processes[-1].die(3)
        for _ in range(turns):
            await asyncio.sleep(0)
        await world.supervisor.stop()
        assert "gave up" not in str(world.log)


async def test_an_engine_that_does_not_end_is_killed() -> None:
    async with supervised() as world:
        await world.say(Ready(info=INFO))
        world.processes[-1].ends_by_itself = False
        stopping = asyncio.ensure_future(world.supervisor.stop())
        await world.clock.pass_by(4)
        assert "kill" not in world.log
        await world.clock.pass_by(2)
        await stopping
        assert "kill" in world.log


async def test_stop_in_mid_launch_leaves_no_process() -> None:
    world = World()
    world.launcher.gate.clear()
    world.supervisor.start()
    await settle()
    stopping = asyncio.ensure_future(world.supervisor.stop())
    await settle()
    world.launcher.gate.set()
    await asyncio.wait_for(stopping, 5)
    assert [process.exit.done() for process in world.processes] == [True]


async def test_stop_before_it_is_up_ends_the_wait_for_it() -> None:
    async with supervised() as world:
        waiting = asyncio.ensure_future(world.supervisor.wait_ready())
        await settle()
        await world.supervisor.stop()
        await asyncio.gather(waiting, return_exceptions=True)
        assert waiting.cancelled()


async def test_stop_before_it_is_up_waits_for_nothing() -> None:
    async with supervised() as world:
        await world.supervisor.stop()
        assert "kill" in world.log
        assert world.clock.now() == 0


async def test_a_transport_that_cannot_be_made_is_given_up_and_said(caplog: pytest.LogCaptureFixture) -> None:
    def no_transport(replica: int, epoch: int) -> Client:
        raise OSError("no space left on device")

    world = World()
    world.supervisor._connect = no_transport
    world.supervisor.start()
    with pytest.raises(EngineGoneError, match="no space left on device"):
        await asyncio.wait_for(world.supervisor.wait_ready(), 5)
    assert "its supervisor failed" in caplog.text
    await world.supervisor.stop()
