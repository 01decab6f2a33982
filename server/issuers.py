"""Issuers of people's tokens, as configured: which are trusted, for whom, and what a claim means.

One by LAUREL_OIDC_ISSUER and its neighbours, or any number by the file of LAUREL_OIDC_FILE:

    issuers:
      - issuer: https://login.example.com/realms/shop
        audience: laurel
        program: cafe                      # or program_claim: the claim that names it
        token_types: [at+jwt]              # what the header `typ` of an access token says
        members:
          external_id_system: shop-login   # the subject is the member's external id there,
                                           # or claim: the one that holds the member's id
          scopes: [members.read]           # for every member, besides the token's own scopes
        staff:
          roles_claim: [realm_access, roles]
          roles: {loyalty-support: [members.*, points.read]}
        step_up:
          acr_values: ["2"]
          max_age_seconds: 300

Two entries may share an issuer if their audiences differ, as for members and for staff.
"""

from collections.abc import Collection, Mapping, Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Self
from urllib.parse import urlsplit

import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from server.domain.scopes import expand
from server.settings import Settings

# Asymmetric only: with a shared secret everybody who can verify could also sign.
ALGORITHMS = (
    "RS256",
    "RS384",
    "RS512",
    "PS256",
    "PS384",
    "PS512",
    "ES256",
    "ES384",
    "ES512",
    "EdDSA",
)
DEFAULT_SYSTEM = "oidc"

# Goes into a quoted string of a challenge, and into logs.
Word = Annotated[str, StringConstraints(pattern=r"^[!#-\[\]-~]{1,64}$")]
Claim = Annotated[str, StringConstraints(min_length=1, max_length=128)]
System = Annotated[str, StringConstraints(pattern=r"^[a-z0-9_.-]{1,64}$")]


class IssuersError(Exception):
    """The configuration can't be used; the message says where and why."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class MemberTerms(_Part):
    """How a login becomes a member: exactly one of the first two."""

    claim: Claim | None = None
    external_id_system: System | None = None
    scopes: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if (self.claim is None) == (self.external_id_system is None):
            raise ValueError("must have either claim or external_id_system")
        return self


class StaffTerms(_Part):
    """How a login becomes staff: by roles, each with patterns of scopes."""

    roles_claim: Claim | Annotated[tuple[Claim, ...], Field(min_length=1)]
    roles: Annotated[Mapping[str, tuple[str, ...]], Field(min_length=1)]
    name_claim: Claim = "sub"


class StepUpTerms(_Part):
    """What counts as a strong login of this issuer, and for how long."""

    acr_values: Annotated[tuple[Word, ...], Field(min_length=1, max_length=3)]
    max_age_seconds: Annotated[int, Field(ge=1, le=86_400)] = 300


class Issuer(_Part):
    """One issuer and audience. ``jwks_uri`` empty: found by discovery."""

    issuer: str
    audience: Annotated[str, StringConstraints(min_length=1)]
    program: str = ""
    program_claim: Claim | None = None
    jwks_uri: str = ""
    algorithms: Annotated[tuple[str, ...], Field(min_length=1)] = ("RS256", "PS256", "ES256", "EdDSA")
    token_types: Annotated[tuple[str, ...], Field(min_length=1)] = ("at+jwt",)
    clock_skew_seconds: Annotated[int, Field(ge=0, le=300)] = 30
    members: MemberTerms | None = None
    staff: StaffTerms | None = None
    step_up: StepUpTerms

    @model_validator(mode="after")
    def _complete(self) -> Self:
        for name, url in (("issuer", self.issuer), ("jwks_uri", self.jwks_uri)):
            if url and not is_safe(url):
                raise ValueError(f"{name} must be an https URL without query and fragment")
        if not self.issuer:
            raise ValueError("issuer is missing")
        if bool(self.program) == (self.program_claim is not None):
            raise ValueError("must have either program or program_claim")
        if unfit := set(self.algorithms) - set(ALGORITHMS):
            raise ValueError(f"algorithms: {', '.join(sorted(unfit))} must be of {', '.join(ALGORITHMS)}")
        if self.members is None and self.staff is None:
            raise ValueError("must have members or staff, or both")
        return self


def is_safe(url: str) -> bool:
    """Whether keys may be fetched from there: by https, or from this machine."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        return False
    if not host or parts.query or parts.fragment or parts.username is not None:
        return False
    return parts.scheme == "https" or (parts.scheme == "http" and is_loopback(host))


def is_loopback(host: str) -> bool:
    """Whether the name or address is this machine's own, whoever looks it up."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def load(settings: Settings, declared_scopes: Collection[str]) -> tuple[Issuer, ...]:
    """The issuers of the settings; none if there are none. Raises IssuersError."""
    single = {
        "LAUREL_OIDC_ISSUER": settings.oidc_issuer,
        "LAUREL_OIDC_AUDIENCE": settings.oidc_audience,
        "LAUREL_OIDC_PROGRAM": settings.oidc_program,
        "LAUREL_OIDC_ACR_VALUES": settings.oidc_acr_values,
    }
    given = [name for name, value in single.items() if value]
    if settings.oidc_file:
        if given:
            raise IssuersError(f"LAUREL_OIDC_FILE and {given[0]} are set; one of them must go")
        return read(Path(settings.oidc_file), declared_scopes)
    if not given:
        return ()
    if missing := [name for name, value in single.items() if not value]:
        raise IssuersError(f"{given[0]} is set and {missing[0]} is missing")
    entry = {
        "issuer": settings.oidc_issuer,
        "audience": settings.oidc_audience,
        "program": settings.oidc_program,
        "token_types": [settings.oidc_token_type],
        "members": {"external_id_system": DEFAULT_SYSTEM},
        "step_up": {"acr_values": settings.oidc_acr_values.split()},
    }
    return _checked("LAUREL_OIDC_*", [entry], declared_scopes)


def read(path: Path, declared_scopes: Collection[str]) -> tuple[Issuer, ...]:
    """The issuers of a file. Raises IssuersError."""
    try:
        content = yaml.safe_load(path.read_text())
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise IssuersError(f"{path}: {type(error).__name__}; is it readable YAML?") from None
    entries = content.get("issuers") if isinstance(content, dict) else None
    if not isinstance(entries, list) or not entries:
        raise IssuersError(f"{path}: must hold a list `issuers` with at least one entry")
    return _checked(str(path), entries, declared_scopes)


def _checked(source: str, entries: Sequence[Any], declared_scopes: Collection[str]) -> tuple[Issuer, ...]:
    issuers = []
    for place, entry in enumerate(entries):
        try:
            issuers.append(Issuer.model_validate(entry))
        except ValidationError as error:
            wrong = error.errors(include_url=False, include_input=False)[0]
            path = ".".join(map(str, ("issuers", place, *wrong["loc"])))
            raise IssuersError(f"{source}: {path}: {wrong['msg'].removeprefix('Value error, ')}") from None
    for place, issuer in enumerate(issuers):
        asked = [*(issuer.members.scopes if issuer.members else ())]
        asked += [
            scope for scopes in (issuer.staff.roles.values() if issuer.staff else ()) for scope in scopes
        ]
        if unknown := expand(asked, declared_scopes)[1]:
            raise IssuersError(
                f"{source}: issuers.{place}: {unknown[0]!r} matches no scope of the contracts: "
                f"{', '.join(sorted(declared_scopes))}"
            )
    _no_two_alike(source, issuers)
    return tuple(issuers)


def _no_two_alike(source: str, issuers: Sequence[Issuer]) -> None:
    seen: set[tuple[str, str]] = set()
    owners: dict[str, str] = {}
    for issuer in issuers:
        if (issuer.issuer, issuer.audience) in seen:
            raise IssuersError(f"{source}: {issuer.issuer} stands there twice for audience {issuer.audience}")
        seen.add((issuer.issuer, issuer.audience))
        system = issuer.members.external_id_system if issuer.members else None
        # Subjects are unique within an issuer only: another's could be somebody else's.
        if system and owners.setdefault(system, issuer.issuer) != issuer.issuer:
            raise IssuersError(f"{source}: two issuers share the external_id_system {system}")
