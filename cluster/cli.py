"""The command line. Each command imports what it needs when it runs, so that help and completion stay quick."""

import asyncio
import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(
    name="themis",
    help="A governed LLM serving cluster on Ray.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
key_app = typer.Typer(help="API keys.", no_args_is_help=True)
app.add_typer(key_app, name="key")

Config = Annotated[Path, typer.Option("--config", "-c", help="A Ray Serve config with an application 'themis'.")]
_CONFIG = Path("ray_config.yaml")


@app.command()
def up(
    config: Config = _CONFIG,
    plain_proxy: Annotated[bool, typer.Option("--plain-proxy", help="Serve's own proxy instead of HAProxy.")] = False,
) -> None:
    """Starts Ray and the application here, in the foreground, until Ctrl-C."""
    from cluster import launch  # noqa: PLC0415 - see the module's first line, here and below
    from cluster.environment import wants_haproxy  # noqa: PLC0415

    launch.up(config, haproxy=wants_haproxy() and not plain_proxy)


@app.command()
def down() -> None:
    """Stops the Themis of this user, or ends what a killed one left."""
    from cluster import launch  # noqa: PLC0415

    print("stopped" if launch.down() else "nothing runs")


@app.command()
def validate(config: Config = _CONFIG) -> None:
    """Says `ok`, or lists every fault of a config."""
    from cluster.config import load  # noqa: PLC0415

    load(config)
    print("ok")


@app.command()
def prepare(config: Config = _CONFIG) -> None:
    """Makes the models and adapters of a config that this machine can make, and starts nothing."""
    from cluster.config import load  # noqa: PLC0415
    from cluster.prepare import prepare as make  # noqa: PLC0415

    make(load(config).themis)
    print("prepared")


@app.command()
def status(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object, for programs.")] = False,
) -> None:
    """Shows pools, their replicas, and running and waiting calls."""
    from cluster import launch  # noqa: PLC0415

    launch.connect()
    from cluster.status import collect  # noqa: PLC0415 - it imports ray, whose flags connect() sets

    found = asyncio.run(collect())
    print(json.dumps(found, indent=2) if as_json else _table(found["pools"]))


@app.command("scrape-token")
def scrape_token() -> None:
    """Prints the bearer token with which Prometheus reads /targets and every /metrics."""
    from cluster import launch  # noqa: PLC0415

    launch.connect()
    from cluster import directory  # noqa: PLC0415 - it imports ray, whose flags connect() sets
    from deployments import scrape  # noqa: PLC0415

    print(scrape.scrape_token(asyncio.run(directory.connect().secrets())[0]))


@key_app.command("new")
def new(
    name: Annotated[str, typer.Option(help="How logs and metrics call it.")] = "new",
    tenant: Annotated[str, typer.Option(help="Whose calls it makes.")] = "default",
) -> None:
    """Makes an API key: prints it, once, and the entry for the config, which holds only its hash."""
    from policies.identity import KeyConfig, digest, new_key  # noqa: PLC0415

    key = new_key()
    entry = KeyConfig(name=name, sha256=digest(key), tenant=tenant)
    # JSON strings are YAML strings, whatever stands in them.
    lines = [f"{field}: {json.dumps(value)}" for field, value in entry.model_dump().items()]
    print(f"{key}\n\n# args.identity.keys:\n- " + "\n  ".join(lines))


def main() -> None:
    """The console script: faults of the user's end with a message and status 2, of the start with 1."""
    from cluster.config import ConfigFaults  # noqa: PLC0415
    from cluster.origin import Intruder  # noqa: PLC0415
    from cluster.readiness import LaunchFailed  # noqa: PLC0415
    from cluster.state import AlreadyRunning  # noqa: PLC0415

    try:
        app()
    except ConfigFaults as error:
        for fault in error.faults:
            print(fault, file=sys.stderr)
        sys.exit(2)
    except (AlreadyRunning, Intruder, LaunchFailed) as error:
        sys.exit(f"error: {error}")


def _table(pools: dict[str, dict[str, Any]]) -> str:
    columns = ("ready", "running", "waiting")
    rows = [("pool", *columns), *((name, *(str(pool[column]) for column in columns)) for name, pool in pools.items())]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)


if __name__ == "__main__":
    main()
