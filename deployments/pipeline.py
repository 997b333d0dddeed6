"""The way of a call, top to bottom.

Everything borrowed is given back in reverse order, also when the client leaves, the replica dies or time is up.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from deployments import wire
from deployments.caller import HttpCaller
from deployments.openai import Request, RequestRules, check_fits, parse
from deployments.pool import Pool, Seat
from deployments.records import Record, Records
from deployments.relay import Errand, Relay
from deployments.watch import Watch
from policies.calls import Call
from policies.clock import Clock
from policies.errors import OverCredit, ReplicaLost
from policies.identity import KeyRing
from policies.routes import Routes, Target

_ATTEMPTS = 3  # replicas that may be lost under one call before it is told


@dataclass(frozen=True, slots=True)
class Pipeline:
    gateway_id: str
    keys: KeyRing
    rules: RequestRules
    routes: Routes
    pools: Mapping[str, Pool]
    relay: Relay
    records: Records
    watch: Watch
    clock: Clock
    max_body_bytes: int
    max_wait_s: float

    async def run(self, call: Call, caller: HttpCaller) -> None:
        """From credential to last byte. Raises a ThemisError where the caller has to be told of one."""
        with self.records.open(Record(call.id, call.endpoint, call.label, call.arrived_at)) as record:
            principal = self.keys.identify(caller.header(b"authorization"))
            record.tenant, record.key = principal.tenant, principal.key
            request = parse(call.endpoint, await caller.body(self.max_body_bytes, call.deadline_at), self.rules)
            target = self.routes.resolve(request.model)
            check_fits(request, self.pools[target.pool].max_model_len)
            record.model, record.stream, record.parsed_at = target.public, request.stream, self.clock.now()
            async with caller.attended(call.deadline_at):
                with self.watch.over(caller, stream=request.stream):
                    await self._serve(call, request, target, caller, record)

    async def _serve(self, call: Call, request: Request, target: Target, caller: HttpCaller, record: Record) -> None:
        """Tries replica after replica while none of the answer was sent; the caller sees one answer."""
        pool, tried = self.pools[target.pool], set[str]()
        wait_until = min(self.clock.now() + self.max_wait_s, call.deadline_at)
        while True:
            async with pool.slot(target.adapter, tried, call.arrived_at, wait_until) as seat:
                record.seated_at, record.replica = self.clock.now(), seat.replica.id
                record.attempts += 1
                try:
                    return await self.relay.send(
                        self._errand(call, request, target, seat, record), seat, caller, record
                    )
                except OverCredit:
                    pass  # nobody's fault: back to waiting, at the same place in the order
                except ReplicaLost:
                    pool.suspect(seat)
                    tried.add(seat.replica.id)
                    if record.first_byte_at is not None or len(tried) >= _ATTEMPTS:
                        raise

    def _errand(self, call: Call, request: Request, target: Target, seat: Seat, record: Record) -> Errand:
        engine_model = seat.replica.adapters[target.adapter] if target.adapter else target.pool
        headers = {
            wire.CALL: call.id,
            wire.ATTEMPT: str(record.attempts),
            wire.GATEWAY: self.gateway_id,
            "x-request-id": call.id,  # engines name their answer by it
        }
        url = seat.replica.address + call.endpoint
        return Errand(url, request.body(engine_model), headers, engine_model, target.public)
