"""The batch: which sequences run in the next step, and when that step ends.

Pure: time is passed in, nothing waits, no token is made here. A step gives each running sequence one token and takes
the decode time of its batch. Prefills run beside it: a sequence's first token comes with the first step that ends after
its prefill. As in vLLM, blocks are taken as a sequence grows, and when none is left the last in order goes back to
waiting, to be prefilled again.
"""

from bisect import bisect_left, insort
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, TypeVar

from deployments.config import SimulatedEngine
from deployments.engines.simulated.blocks import Blocks, Holding, block_keys
from deployments.engines.simulated.slots import Slots


@dataclass(eq=False, slots=True)
class Sequence:
    """One prompt on its way to one answer. `root` names all that makes equal tokens unequal: weights and salt."""

    ids: list[int]
    root: int
    adapter: str | None = None
    priority: int = 0
    order: tuple[int, int] = (0, 0)
    cached: int = 0
    prefilled_at: float = 0.0
    running: bool = False
    holding: Holding = field(default_factory=Holding)
    keys: list[int] = field(default_factory=list)


S = TypeVar("S", bound=Sequence)


class Step(NamedTuple, Generic[S]):
    """`admitted` came in with this step; `until` is when it ends."""

    admitted: list[S]
    until: float


class Scheduler(Generic[S]):
    """Mutable state: `waiting` and `running`, both in order, and the blocks and slots that the running ones hold."""

    def __init__(self, config: SimulatedEngine) -> None:
        self._config = config
        self.blocks = Blocks(config.kv_blocks)
        self.slots = Slots(config.adapter_slots, config.adapter_load_ms / 1000)
        self.waiting: list[S] = []
        self.running: list[S] = []
        self._batch: list[S] = []
        self._arrivals = 0

    def submit(self, sequence: S) -> None:
        self._arrivals += 1
        sequence.order = (sequence.priority, self._arrivals)
        sequence.keys = block_keys(sequence.root, sequence.ids, self._config.block_tokens)
        insort(self.waiting, sequence, key=_order)

    def remove(self, sequence: S) -> None:
        """Frees all that the sequence holds. Harmless when it is not here."""
        queue = self.running if sequence.running else self.waiting
        place = bisect_left(queue, sequence.order, key=_order)
        if place == len(queue) or queue[place] is not sequence:
            return
        del queue[place]
        if sequence.running:
            self._release(sequence)

    @property
    def stepping(self) -> bool:
        """Whether the end of this step gives anybody a token; if not, it may be left early."""
        return any(sequence.running for sequence in self._batch)

    def begin(self, now: float) -> Step[S] | None:
        """Admits what fits and starts a step; None when there is nothing to wait for."""
        preempted = self._grow()
        admitted: list[S] = [] if preempted else self._admit(now)
        latest = now + self._decode_s(len(self.running))
        self._batch = [sequence for sequence in self.running if sequence.prefilled_at <= latest]
        if self._batch:
            return Step(admitted, now + self._decode_s(len(self._batch)))
        ready = [sequence.prefilled_at for sequence in self.running]
        if self.waiting and (loaded := self.slots.next_ready(now)) is not None:
            ready.append(loaded)
        return Step(admitted, min(ready)) if ready else None

    def end(self) -> list[S]:
        """The sequences of the step that still run: each gets its next token now."""
        batch, self._batch = self._batch, []
        return [sequence for sequence in batch if sequence.running]

    def _decode_s(self, batch: int) -> float:
        return (self._config.decode_ms + self._config.decode_ms_per_running * (batch - 1)) / 1000

    def _admit(self, now: float) -> list[S]:
        """Strictly in order, but for those whose adapter is not ready: these let others pass."""
        admitted: list[S] = []
        for sequence in list(self.waiting):
            if len(self.running) >= self._config.max_running:
                break
            if sequence.adapter is not None:
                ready = self.slots.ensure(sequence.adapter, now)
                if ready is None or ready > now:
                    continue
            if not self._take(sequence):
                break
            uncached = len(sequence.ids) - sequence.cached
            sequence.prefilled_at = now + uncached * self._config.prefill_ms_per_token / 1000
            admitted.append(sequence)
        return admitted

    def _take(self, sequence: S) -> bool:
        size = self._config.block_tokens
        # The last token is always computed, since its output is what the step is for.
        hits = self.blocks.hits(sequence.keys[: (len(sequence.ids) - 1) // size])
        blocks = -(-len(sequence.ids) // size)
        holding = self.blocks.take(sequence.keys, blocks - len(sequence.keys))
        if holding is None:
            return False
        sequence.holding, sequence.cached, sequence.running = holding, hits * size, True
        self.waiting.remove(sequence)
        insort(self.running, sequence, key=_order)
        if sequence.adapter is not None:
            self.slots.acquire(sequence.adapter)
        return True

    def _grow(self) -> bool:
        """Takes the blocks that new tokens need; True when room had to be made by sending a sequence back."""
        preempted = False
        for sequence in list(self.running):
            self._share(sequence)
            needed = -(-len(sequence.ids) // self._config.block_tokens)
            while sequence.running and len(sequence.holding) < needed:
                if not self.blocks.grow(sequence.holding):
                    self._preempt(self.running[-1])
                    preempted = True
        return preempted

    def _share(self, sequence: S) -> None:
        size = self._config.block_tokens
        while sequence.running and len(sequence.ids) // size > len(sequence.keys):
            if len(sequence.holding) <= len(sequence.keys):
                return
            start = len(sequence.keys) * size
            root = sequence.keys[-1] if sequence.keys else sequence.root
            sequence.keys += block_keys(root, sequence.ids[start : start + size], size)
            self.blocks.share(sequence.holding, sequence.keys[-1])

    def _preempt(self, sequence: S) -> None:
        self.running.remove(sequence)
        self._release(sequence)
        sequence.keys = block_keys(sequence.root, sequence.ids, self._config.block_tokens)
        insort(self.waiting, sequence, key=_order)

    def _release(self, sequence: S) -> None:
        sequence.running = False
        self.blocks.release(sequence.holding)
        if sequence.adapter is not None:
            self.slots.release(sequence.adapter)


def _order(sequence: Sequence) -> tuple[int, int]:
    return sequence.order
