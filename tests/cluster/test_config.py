from pathlib import Path

import pytest
from pydantic import ValidationError

from cluster.config import ConfigFaults, ThemisConfig, load
from policies.identity import KeyConfig

ROOT = Path(__file__).parents[2]

HEAD = """
http_options: {host: 127.0.0.1, port: 8001}
applications:
  - name: themis
    import_path: cluster.app:build
    route_prefix: /
    args:
"""


def written(folder: Path, args: str, head: str = HEAD) -> Path:
    path = folder / "config.yaml"
    path.write_text(head + "".join(f"      {line}\n" for line in args.strip().splitlines()))
    return path


def faults_of(path: Path) -> list[str]:
    with pytest.raises(ConfigFaults) as caught:
        load(path)
    return caught.value.faults


def test_the_config_in_the_repository_is_right() -> None:
    config = load(ROOT / "ray_config.yaml")
    assert config.themis.pools[0].name == "smollm2"
    assert [adapter.name for adapter in config.themis.pools[0].adapters] == ["pirate", "poet"]
    assert (config.host, config.port, config.route_prefix) == ("127.0.0.1", 8000, "/")


def test_every_key_that_the_config_in_the_repository_shows_has_a_comment() -> None:
    lines = (ROOT / "ray_config.yaml").read_text().splitlines()
    values = [(number, line) for number, line in enumerate(lines) if ": " in line and not line.lstrip().startswith("#")]
    bare = [line for number, line in values if "#" not in line and not lines[number - 1].lstrip().startswith("#")]
    assert [line.strip() for line in bare] == ["- name: poet", "source: demo:poet"]  # the same two lines stand above


def test_all_faults_are_told_at_once_each_with_its_path(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        """
gateway: {max_waitting: 3, deadline_s: -1}
pools:
  - {name: a, engine: {kind: vllm, model: m, modle: x}, adapters: [{name: b, source: s}]}
  - {name: a, engine: {kind: vlm}}
  - {name: b, engine: {kind: simulated}, replicas: {min: 3, max: 1}}
  - {engine: {url: http://x}}
""",
        HEAD.replace("8001}", "8001, prot: 1}").replace("import_path", "imprt: 1\n    import_path"),
    )
    at = "applications.0.args"
    assert sorted(faults_of(path)) == sorted(
        [
            "http_options.prot: unknown key",
            "applications.0.imprt: unknown key",
            f"{at}.gateway.max_waitting: unknown key",
            f"{at}.gateway.deadline_s: Input should be greater than 0",
            f"{at}.pools.0.engine.modle: unknown key",
            f"{at}.pools.1.engine.kind: 'vlm' is none of 'vllm', 'simulated', 'openai'",
            f"{at}.pools.2.replicas: min (3) is above max (1)",
            f"{at}.pools.3.name: missing",
            f"{at}.pools.3.engine.kind: missing",
            f"{at}.pools.1.name: 'a' stands at pools.0.name already",
            f"{at}.pools.2.name: 'b' stands at pools.0.adapters.0.name already",
        ]
    )


def test_names_are_unique_over_pools_and_adapters_also_without_a_file() -> None:
    pool = {"name": "a", "engine": {"kind": "simulated"}, "adapters": [{"name": "a", "source": "s"}]}
    with pytest.raises(ValidationError) as caught:
        ThemisConfig.model_validate({"pools": [pool]})
    assert [fault["loc"] for fault in caught.value.errors()] == [("pools", 0, "adapters", 0, "name")]


@pytest.mark.parametrize("field", ["name", "sha256"])
def test_keys_have_names_and_hashes_of_their_own(field: str) -> None:
    keys = [{"name": "a", "sha256": "0" * 64}, {"name": "b", "sha256": "1" * 64}]
    keys[1][field] = keys[0][field]
    with pytest.raises(ValidationError, match=r"stands at identity\.keys\.0"):
        ThemisConfig.model_validate(
            {"identity": {"keys": keys}, "pools": [{"name": "a", "engine": {"kind": "simulated"}}]}
        )


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("a: [1\nb: 2\n", "line 2: expected ',' or ']', but got ':'"),
        ("a: 1\nb:\n  c: 1\n  c: 2\n", "line 4: key 'c' stands here and on line 3"),
        ("a: !!python/object/apply:os.getcwd []\n", "line 1: could not determine a constructor"),
        ("- 1\n", "must hold a mapping"),
        ("", "must hold a mapping"),
        ("applications: []\n", "applications: none is named 'themis'"),
    ],
)
def test_what_is_no_config_at_all_is_told_with_its_place(tmp_path: Path, text: str, fault: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    assert any(fault in each for each in faults_of(path))


def test_a_missing_file_is_a_fault_too(tmp_path: Path) -> None:
    assert "cannot be read" in faults_of(tmp_path / "none.yaml")[0]


def test_a_key_is_added_beside_those_of_the_file_and_stays_a_hash(tmp_path: Path) -> None:
    entry = f"{{name: mine, sha256: '{'0' * 64}'}}"
    config = load(
        written(tmp_path, f"identity: {{keys: [{entry}]}}\npools: [{{name: a, engine: {{kind: simulated}}}}]")
    )
    added = config.with_key(KeyConfig(name="local", sha256="1" * 64))
    args = added["applications"][0]["args"]
    assert [key["name"] for key in args["identity"]["keys"]] == ["mine", "local"]
    assert ThemisConfig.model_validate(args).pools == config.themis.pools
    assert len(config.document["applications"][0]["args"]["identity"]["keys"]) == 1
