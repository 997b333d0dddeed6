"""policies.roster: who reports is there, who is silent is not, and gateways hear at once what matters."""

from dataclasses import replace

from policies.replicas import Replica
from policies.roster import Gateway, Roster

_REPLICA = Replica("r1", "pool", "http://127.0.0.1:1", slots=4)


def test_a_new_replica_and_one_that_starts_to_drain_are_urgent_and_load_is_not() -> None:
    roster = Roster("era")
    assert roster.report(_REPLICA, now=0)
    assert not roster.report(replace(_REPLICA, running=3, kv_use=0.5, credits={"g": 2}), now=1)
    assert roster.report(replace(_REPLICA, draining=True), now=2)


def test_silence_is_death_and_death_of_a_replica_is_urgent() -> None:
    roster = Roster("era", silence_s=3)
    roster.report(_REPLICA, now=0)
    roster.attend(Gateway("g", "127.0.0.1:2", {}), now=2)
    assert not roster.expire(now=3)
    assert roster.expire(now=3.1)
    snapshot = roster.snapshot()
    assert snapshot.replicas == ()
    assert [gateway.id for gateway in snapshot.gateways] == ["g"]
    assert not roster.expire(now=6)
    assert roster.snapshot().gateways == ()


def test_leaving_takes_effect_once() -> None:
    roster = Roster("era")
    roster.report(_REPLICA, now=0)
    assert roster.leave("r1")
    assert not roster.leave("r1")


def test_every_change_has_a_version_of_its_own() -> None:
    roster = Roster("era")
    versions = [roster.snapshot().version]
    roster.report(_REPLICA, now=0)
    versions.append(roster.snapshot().version)
    roster.report(replace(_REPLICA, running=1), now=0)
    versions.append(roster.snapshot().version)
    roster.leave("r1")
    versions.append(roster.snapshot().version)
    assert versions == sorted(set(versions))
