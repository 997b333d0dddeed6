"""Makes what replicas would otherwise make while they start: demo models and adapters, with progress shown."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from cluster.config import ThemisConfig
from deployments.config import VllmEngine

if TYPE_CHECKING:
    from rich.progress import Progress


def prepare(config: ThemisConfig) -> None:
    """Blocks until every model and adapter that this machine can make is in the cache folder."""
    from rich.progress import Progress  # noqa: PLC0415 - only who prepares pays for it

    from adapters.demo import resolve_adapter  # noqa: PLC0415
    from deployments.sources import resolve  # noqa: PLC0415

    engines = [(pool, pool.engine) for pool in config.pools if isinstance(pool.engine, VllmEngine)]
    if not engines:
        return  # other engines bring their weights themselves
    with Progress(transient=True) as screen:
        for pool, engine in engines:
            base = resolve(engine.model, _bar(screen, pool.name))
            for adapter in pool.adapters:
                resolve_adapter(adapter.source, base, _bar(screen, adapter.name))


def _bar(screen: "Progress", name: str) -> Callable[[str, float], None]:
    task = screen.add_task(name, total=1.0)
    return lambda what, share: screen.update(task, completed=share, description=f"{name}: {what}")
