"""Who may come in: keys, concurrency, the bounded queue, and how long those who may not are told to wait."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from gateway.admission import Admission, DrainRate, Keys, KeysFileError, Tenant, read_keys
from gateway.errors import ConcurrencyExceeded, InvalidAPIKey, RateLimited
from gateway.keys_cli import hash_key


def sha(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def test_without_keys_everybody_comes_in():
    assert not Keys()
    assert Keys().authenticate(None).tenant == Tenant("default")
    assert Keys().authenticate("Bearer whatever").tenant == Tenant("default")


def test_a_plain_key():
    keys = Keys.load(["secret", "other"])
    assert keys.authenticate("Bearer secret").tenant == Tenant("default")
    assert keys.authenticate("bearer  other ").tenant == Tenant("default")


@pytest.mark.parametrize(
    "header",
    [None, "", "secret", "Bearer", "Bearer ", "Bearer Secret", "Basic secret", "Bearer secret2", "Bearer s\udcffecret"],
)
def test_anything_else_is_refused(header):
    with pytest.raises(InvalidAPIKey) as caught:
        Keys.load(["secret"]).authenticate(header)
    assert caught.value.headers == {"www-authenticate": "Bearer"}
    assert "secret" not in caught.value.message.lower()


def test_a_file_of_keys(tmp_path, capsys):
    file = tmp_path / "keys.yaml"
    hash_key("alice", "key-a", None)
    hash_key("bob", "key-b", 2)
    file.write_text(capsys.readouterr().out)
    keys = Keys.load(["plain"], file)
    assert keys.authenticate("Bearer key-a").tenant == Tenant("alice", None)
    assert keys.authenticate("Bearer key-b").tenant == Tenant("bob", 2)
    assert keys.authenticate("Bearer plain").tenant == Tenant("default")


A = sha("a")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "must be a list"),
        ("[]", "must be a list"),
        ("name: a", "must be a list"),
        ("[", "not valid YAML"),
        ("- a", "entry 1: must be a mapping"),
        (f"- {{sha256: {A}}}", "entry 1: name must be"),
        (f"- {{name: 3, sha256: {A}}}", "entry 1: name must be"),
        (f"- {{name: '', sha256: {A}}}", "entry 1: name must be"),
        ("- {name: a}", "entry 1: sha256 must be"),
        ("- {name: a, sha256: secret}", "entry 1: sha256 must be"),
        (f"- {{name: a, sha256: {'g' * 64}}}", "entry 1: sha256 must be"),
        (f"- {{name: a, sha256: {A}, key: b}}", "entry 1: key is not known"),
        (f"- {{name: a, sha256: {A}, max_concurrency: 0}}", "entry 1: max_concurrency must be"),
        (f"- {{name: a, sha256: {A}, max_concurrency: true}}", "entry 1: max_concurrency must be"),
        (f"- {{name: a, sha256: {A}}}\n- {{name: b, sha256: {A}}}", "two entries have the sha256"),
        (
            f"- {{name: a, sha256: {A}, max_concurrency: 1}}\n- {{name: a, sha256: {sha('b')}}}",
            "the entries of a differ in max_concurrency",
        ),
    ],
)
def test_a_bad_file_of_keys_is_told_in_one_line(tmp_path, text, complaint):
    file = tmp_path / "keys.yaml"
    file.write_text(text)
    with pytest.raises(KeysFileError) as caught:
        read_keys(file)
    assert str(caught.value).startswith(f"{file}: {complaint}")
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(KeysFileError, match="No such file"):
        read_keys(tmp_path / "none.yaml")


@dataclass
class FakeQueue:
    queued_requests: int = 0
    queued_tokens: int = 0


@dataclass
class FakeClock:
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


def admission(
    queue: FakeQueue, clock: FakeClock | None = None, uniform: Callable[[], float] = lambda: 0.0, **limits: int
) -> Admission:
    return Admission(queue, clock=clock or FakeClock(), uniform=uniform, **limits)


def test_a_key_may_have_so_many_requests_at_a_time():
    limited = admission(FakeQueue())
    alice, bob = Tenant("alice", 2), Tenant("bob", 1)
    first, _ = limited.enter(alice), limited.enter(alice)
    assert limited.remaining(alice) == 0
    with pytest.raises(ConcurrencyExceeded, match=r"may have 2 request\(s\) at a time"):
        limited.enter(alice)
    assert limited.remaining(bob) == 1
    assert limited.remaining(Tenant()) is None
    limited.enter(bob)
    first.leave()
    first.leave()  # a no-op
    assert limited.remaining(alice) == 1
    with limited.enter(alice):
        assert limited.remaining(alice) == 0
    assert limited.remaining(alice) == 1


def test_the_queue_is_bounded():
    queue = FakeQueue(queued_requests=3)
    limited = admission(queue, max_queue_requests=4)
    ticket = limited.enter(Tenant())
    with pytest.raises(RateLimited, match="4 requests are waiting, and 4 may"):
        limited.enter(Tenant())  # the one whose prompt is being prepared counts as well
    ticket.submitted()
    limited.enter(Tenant())
    queue.queued_requests = 4
    with pytest.raises(RateLimited):
        limited.enter(Tenant())


def test_a_request_that_fails_while_it_is_prepared_leaves_nothing_behind():
    limited = admission(FakeQueue(), max_queue_requests=1)
    for _ in range(3):
        with pytest.raises(ZeroDivisionError), limited.enter(Tenant()):
            raise ZeroDivisionError
    ticket = limited.enter(Tenant())
    ticket.submitted()
    ticket.submitted()  # a no-op
    ticket.leave()
    limited.enter(Tenant())


def test_prompt_tokens_that_wait_are_bounded():
    queue = FakeQueue()
    limited = admission(queue, max_queue_tokens=100)
    limited.check_tokens(1000)  # alone, else it could never be served
    queue.queued_tokens = 60
    limited.check_tokens(40)
    with pytest.raises(RateLimited, match="60 prompt tokens are waiting, and with the 41"):
        limited.check_tokens(41)


def retry_after(limited: Admission) -> int:
    with pytest.raises(RateLimited) as caught:
        limited.enter(Tenant())
    assert caught.value.headers["retry-after-ms"]
    return int(caught.value.headers["retry-after"])


@pytest.mark.parametrize(("per_second", "seconds"), [(10.0, 1), (1.0, 10), (0.5, 20), (0.01, 96)])
def test_who_is_turned_away_is_told_how_long_the_queue_takes(per_second, seconds):
    clock, queue = FakeClock(), FakeQueue()
    limited = admission(queue, clock, max_queue_requests=10)
    arrivals = 200
    for number in range(arrivals):
        clock.now += 1 / per_second
        queue.queued_requests = min(number // 4, 9)
        limited.enter(Tenant()).submitted()
    queue.queued_requests = 10
    assert retry_after(limited) == pytest.approx(seconds, rel=0.4, abs=1)


def test_where_nothing_has_drained_the_wait_is_a_guess():
    assert retry_after(admission(FakeQueue(queued_requests=1), max_queue_requests=1)) == 5


@pytest.mark.parametrize(("standing", "shortest"), [(0, 5), (30, 30), (10_000, 96)])
def test_those_who_are_refused_together_do_not_return_together(standing, shortest):
    clock, queue = FakeClock(), FakeQueue()
    limited = admission(queue, clock, random.Random(3).random, max_queue_requests=1)
    limited.enter(Tenant()).submitted()
    queue.queued_requests = 1
    limited._drain.arrived(1)
    clock.now += standing
    waits = []
    for _ in range(200):
        with pytest.raises(RateLimited) as caught:
            limited.enter(Tenant())
        waits.append(int(caught.value.headers["retry-after-ms"]) / 1000)
    assert shortest <= min(waits) < shortest * 1.01
    assert shortest * 1.24 < max(waits) <= shortest * 1.25 <= 120
    assert len(set(waits)) > 150


def test_idle_time_does_not_count_as_slowness():
    clock = FakeClock()
    drain = DrainRate(clock)
    for _ in range(100):
        clock.now += 0.1
        drain.arrived(5)
    assert drain.time_to_drain(20) == pytest.approx(2, rel=0.1)
    drain.arrived(0)
    clock.now += 10_000
    drain.arrived(1)
    assert drain.time_to_drain(20) == pytest.approx(2, rel=0.1)


def test_a_queue_that_has_not_moved_is_waited_for_as_long_as_it_stood():
    clock = FakeClock()
    drain = DrainRate(clock)
    for waiting in range(1, 11):
        clock.now += 2
        drain.arrived(waiting)
    assert 10 < drain.time_to_drain(10) < 20


def test_a_key_waits_about_as_long_as_its_requests_take():
    clock = FakeClock()
    limited = admission(FakeQueue(), clock)
    tenant = Tenant("alice", 2)
    with limited.enter(tenant) as ticket:
        ticket.submitted()
        clock.now += 20
    limited.enter(tenant), limited.enter(tenant)
    with pytest.raises(ConcurrencyExceeded) as caught:
        limited.enter(tenant)
    assert caught.value.headers["retry-after"] == "10"
