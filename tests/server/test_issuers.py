"""What the configuration of issuers must say, and how it is told what is wrong."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from pydantic import SecretStr

from laurel.cli import laurel as command
from server.issuers import IssuersError, load
from server.main import Server
from server.serving import StartError
from server.settings import Settings
from tests.support.issuers import loopback

SCOPES = {"members.read", "members.write", "points.read"}
ENTRY: dict[str, Any] = {
    "issuer": "https://login.example.com/realms/shop",
    "audience": "laurel",
    "program": "cafe",
    "members": {"external_id_system": "shop-login"},
    "step_up": {"acr_values": ["2"]},
}
SINGLE = {
    "oidc_issuer": "https://login.example.com",
    "oidc_audience": "laurel",
    "oidc_program": "cafe",
    "oidc_acr_values": "gold silver",
}


def given(**changes: Any) -> Settings:
    return Settings(
        database_url=SecretStr("postgresql://"),
        redis_url=SecretStr("redis://"),
        secrets_file=Path("none"),
        **changes,
    )


def file(path: Path, *entries: object) -> Settings:
    path.joinpath("issuers.yaml").write_text(yaml.safe_dump({"issuers": list(entries)}))
    return given(oidc_file=str(path / "issuers.yaml"))


def mistake(wrong: Settings) -> str:
    with pytest.raises(IssuersError) as caught:
        load(wrong, SCOPES)
    return str(caught.value)


def test_nothing_said_means_keys_only() -> None:
    assert load(given(), SCOPES) == ()


def test_one_issuer_needs_no_file() -> None:
    (issuer,) = load(given(**SINGLE, oidc_token_type="JWT"), SCOPES)
    assert (issuer.issuer, issuer.program, issuer.token_types) == (
        "https://login.example.com",
        "cafe",
        ("JWT",),
    )
    assert issuer.step_up.acr_values == ("gold", "silver")
    assert issuer.members is not None
    assert issuer.members.external_id_system == "oidc"
    assert issuer.staff is None


@pytest.mark.parametrize("name", SINGLE)
def test_what_is_missing_is_named(name: str) -> None:
    said = {**SINGLE, name: ""}
    assert f"LAUREL_{name.upper()} is missing" in mistake(given(**said))


def test_it_is_either_a_file_or_not(tmp_path: Path) -> None:
    assert "one of them must go" in mistake(given(**SINGLE, oidc_file=str(tmp_path / "x")))


def test_a_file_holds_any_number(tmp_path: Path) -> None:
    staff = {"roles_claim": "groups", "roles": {"support": ["members.*"]}}
    other = {**ENTRY, "audience": "office", "staff": staff, "program_claim": "shop"}
    del other["members"], other["program"]
    first, second = load(file(tmp_path, ENTRY, other), SCOPES)
    assert (first.audience, second.audience) == ("laurel", "office")
    assert second.staff is not None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"issuer": None}, "issuers.0.issuer"),
        ({"issuer": ""}, "issuer is missing"),
        ({"issuer": "http://login.example.com"}, "issuer must be an https URL"),
        ({"issuer": "https://login.example.com?x=1"}, "issuer must be an https URL"),
        ({"issuer": "https://a:b@login.example.com"}, "issuer must be an https URL"),
        ({"issuer": "https://[bad"}, "issuer must be an https URL"),
        ({"jwks_uri": "http://169.254.169.254/"}, "jwks_uri must be an https URL"),
        ({"audience": ""}, "issuers.0.audience"),
        ({"program": ""}, "either program or program_claim"),
        ({"program_claim": "shop"}, "either program or program_claim"),
        ({"algorithms": ["RS256", "HS256"]}, "HS256 must be of RS256"),
        ({"algorithms": ["none"]}, "none must be of RS256"),
        ({"algorithms": []}, "issuers.0.algorithms"),
        ({"token_types": []}, "issuers.0.token_types"),
        ({"clock_skew_seconds": 301}, "issuers.0.clock_skew_seconds"),
        ({"members": None}, "members or staff"),
        ({"members": {}}, "either claim or external_id_system"),
        ({"members": {"claim": "m", "external_id_system": "s"}}, "either claim or external_id_system"),
        ({"members": {"external_id_system": "Shop Login"}}, "issuers.0.members.external_id_system"),
        ({"members": {"claim": "m", "scopes": ["points.mint"]}}, "'points.mint' matches no scope"),
        ({"staff": {"roles_claim": "r", "roles": {}}}, "issuers.0.staff.roles"),
        ({"staff": {"roles_claim": "r", "roles": {"a": ["rules.*"]}}}, "'rules.*' matches no scope"),
        ({"step_up": None}, "issuers.0.step_up"),
        ({"step_up": {"acr_values": []}}, "issuers.0.step_up.acr_values"),
        ({"step_up": {"acr_values": ['2", evil="']}}, "issuers.0.step_up.acr_values"),
        ({"step_up": {"acr_values": ["2"], "max_age_seconds": 0}}, "issuers.0.step_up.max_age_seconds"),
        ({"isuer": "x"}, "issuers.0.isuer"),
    ],
)
def test_each_mistake_is_told_with_its_place(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    entry = {name: value for name, value in {**ENTRY, **change}.items() if value is not None}
    assert words in mistake(file(tmp_path, entry))


def test_the_local_issuer_may_do_without_tls(tmp_path: Path) -> None:
    for host in ("127.0.0.1:8080", "localhost:8080", "[::1]:8080"):
        load(file(tmp_path, {**ENTRY, "issuer": f"http://{host}/issuer"}), SCOPES)


def test_two_entries_must_be_told_apart(tmp_path: Path) -> None:
    assert "stands there twice" in mistake(file(tmp_path, ENTRY, ENTRY))
    load(file(tmp_path, ENTRY, {**ENTRY, "audience": "office"}), SCOPES)
    other = {**ENTRY, "issuer": "https://elsewhere.example"}
    assert "share the external_id_system" in mistake(file(tmp_path, ENTRY, other))


@pytest.mark.parametrize("content", ["", "[]", "issuers: {}", "issuers: []", "issuers: [7]", "\t:", "a: *b"])
def test_what_is_no_list_of_issuers_is_no_file_of_them(tmp_path: Path, content: str) -> None:
    path = tmp_path / "issuers.yaml"
    path.write_text(content)
    assert str(path) in mistake(given(oidc_file=str(path)))
    path.unlink()
    assert "FileNotFoundError" in mistake(given(oidc_file=str(path)))


async def test_the_server_does_not_start_on_a_mistake(settings: Settings) -> None:
    wrong = settings.model_copy(update={"oidc_issuer": "https://login.example.com"})
    with pytest.raises(StartError, match="LAUREL_OIDC_AUDIENCE is missing"):
        await Server(wrong).start()


def test_doctor_asks_each_issuer_for_its_keys(tmp_path: Path) -> None:
    def told(**settings: str) -> dict[str, Any]:
        variables = {f"LAUREL_{name.upper()}": value for name, value in settings.items()}
        runner = CliRunner(env={"LAUREL_DATA": str(tmp_path), **variables})
        findings = json.loads(runner.invoke(command, ["doctor", "--json"]).output)
        return next((f for f in findings if f["check"].startswith("issuer")), {})

    assert told() == {}
    with loopback() as issuer:
        given = {**SINGLE, "oidc_issuer": issuer.url}
        assert (told(**given)["state"], told(**given)["detail"]) == ("ok", f"{issuer.url}: 1 key")
        issuer.stop()
        assert told(**given)["state"] == "fail"
    assert "LAUREL_OIDC_PROGRAM is missing" in told(**{**given, "oidc_program": ""})["detail"]
