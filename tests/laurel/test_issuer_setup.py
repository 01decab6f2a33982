"""The local stack's issuer before anybody opens it: its keys, its people, and where there is none."""

import stat
from pathlib import Path
from typing import Any

import jwt
import pytest
import yaml
from click.testing import CliRunner

from laurel import demo
from laurel.cli import laurel as command
from laurel.failures import Failure
from laurel.issuer import stack
from laurel.issuer.app import CLIENT
from laurel.issuer.keys import load, prepare
from laurel.issuer.stack import why_not
from laurel.issuer.tokens import Login, access_token
from laurel.issuer.users import AUDIENCE, SYSTEM, trust, users
from server import issuers
from server.rpc.access import declared_scopes
from server.settings import Settings


def test_the_keys_are_made_once_and_are_their_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "issuer.json"
    first = prepare(path, "http://127.0.0.1:8080/issuer")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    again = prepare(path, "http://127.0.0.1:8081/issuer")
    assert again.url.endswith(":8081/issuer")
    assert again.keys.published == first.keys.published
    path.write_text("{}")
    with pytest.raises(Failure):
        load(path)


def test_a_token_can_be_had_on_the_command_line(tmp_path: Path) -> None:
    local = prepare(tmp_path / "issuer.json", "http://127.0.0.1:8080/issuer")
    runner = CliRunner(env={"LAUREL_DATA": str(tmp_path)})

    def claims(*arguments: str) -> dict[str, Any]:
        done = runner.invoke(command, ["login", *arguments])
        assert done.exit_code == 0, done.output
        key = local.keys.signing.public_key()
        found: dict[str, Any] = jwt.decode(done.output.strip(), key, ["ES256"], audience=AUDIENCE)
        return found

    assert (claims()["sub"], claims()["acr"]) == ("asha", "1")
    assert (claims("--user", "ravi", "--step-up")["sub"], claims("--step-up")["acr"]) == ("ravi", "2")
    assert "meera" in runner.invoke(command, ["login", "--list"]).output
    refused = runner.invoke(command, ["login", "--user", "mallory"])
    assert (refused.exit_code, "asha, ravi, meera" in refused.output) == (1, True)
    elsewhere = CliRunner(env={"LAUREL_DATA": str(tmp_path / "none")})
    assert elsewhere.invoke(command, ["login"]).exit_code == 1


def test_what_the_server_is_told_to_trust_is_a_configuration_it_takes(tmp_path: Path) -> None:
    path = tmp_path / "oidc.yaml"
    path.write_text(yaml.safe_dump(trust("http://127.0.0.1:8080/issuer")))
    (issuer,) = issuers.read(path, declared_scopes())
    assert issuer.members is not None
    assert issuer.members.external_id_system == SYSTEM
    roles = issuer.staff.roles if issuer.staff else {}
    assert {user.role for user in users().values() if user.role} <= set(roles)


def test_the_demo_has_two_members_and_one_of_staff() -> None:
    people = [user for user in users().values() if user.program == "demo"]
    assert sorted(bool(user.role) for user in people) == [False, False, True]
    assert {program["name"] for program in demo.programs()} >= {user.program for user in people}


def test_a_token_is_for_the_scopes_that_were_asked_for(tmp_path: Path) -> None:
    local = prepare(tmp_path / "issuer.json", "http://127.0.0.1:8080/issuer")
    login = Login(users()["asha"], "1", 0)
    assert access_token(local, login, CLIENT, ["points.read", "rules.write"])[1] == "points.read"
    assert "points.redeem" in access_token(local, login, CLIENT, ["openid"])[1]


@pytest.mark.parametrize(
    ("variable", "why"),
    [
        ("LAUREL_OIDC_ISSUER", "LAUREL_OIDC_ISSUER names"),
        ("LAUREL_OIDC_FILE", "LAUREL_OIDC_FILE names"),
        ("LAUREL_TLS_CERTIFICATE_FILE", "TLS"),
    ],
)
def test_where_it_is_getting_serious_there_is_no_local_issuer(variable: str, why: str) -> None:
    assert why in why_not({variable: "anything"}, "127.0.0.1")
    assert why_not({variable: ""}, "127.0.0.1") == ""


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.7", "shop.example"])
def test_where_others_can_reach_it_there_is_none(host: str) -> None:
    assert "from elsewhere" in why_not({}, host)


def test_beside_any_other_issuer_it_is_not_served(tmp_path: Path, settings: Settings) -> None:
    own = stack.prepare(tmp_path, "127.0.0.1", 8080)
    store: Any = None
    trusting = settings.model_copy(update={"oidc_file": own["LAUREL_OIDC_FILE"]})
    stack.application(own[stack.VARIABLE], trusting, store)
    both = yaml.safe_load((tmp_path / stack.TRUST).read_text())
    real = {**both["issuers"][0], "issuer": "https://login.example.com", "members": {"claim": "member"}}
    (tmp_path / "both.yaml").write_text(yaml.safe_dump({"issuers": [*both["issuers"], real]}))
    (tmp_path / "real.yaml").write_text(yaml.safe_dump({"issuers": [real]}))
    for file in ("both.yaml", "real.yaml", ""):
        given = settings.model_copy(update={"oidc_file": str(tmp_path / file) if file else ""})
        with pytest.raises(issuers.IssuersError):
            stack.application(own[stack.VARIABLE], given, store)
