"""Who can log in at the local stack: the people of demo.yaml."""

from dataclasses import dataclass

from laurel import demo

# Where the members of the demo keep the name they log in by.
SYSTEM = "local-issuer"
AUDIENCE = "laurel"
STAFF_ROLES = {
    "support": ("members.*", "points.read", "households.*"),
    "admin": ("members.*", "points.read", "rules.*", "templates.*", "webhooks.*", "households.*"),
}
MEMBER_SCOPES = (
    "points.read",
    "points.redeem",
    "members.read",
    "members.write",
    "households.read",
    "households.write",
)
# A login, and a login with a second factor.
WEAK, STRONG = "1", "2"
STEP_UP_SECONDS = 300


@dataclass(frozen=True, slots=True)
class User:
    """A person of the demo. ``role`` is "" for members."""

    login: str
    name: str
    program: str
    role: str

    @property
    def what(self) -> str:
        """In words, for whoever chooses."""
        return f"staff of {self.program} ({self.role})" if self.role else f"member of {self.program}"


def users() -> dict[str, User]:
    """By login, in the order of the file."""
    return {
        person["login"]: User(person["login"], person["name"], program["name"], person.get("role", ""))
        for program in demo.programs()
        for person in program.get("people", ())
    }


def trust(url: str) -> dict[str, object]:
    """The issuer at ``url`` as LAUREL_OIDC_FILE names it."""
    return {
        "issuers": [
            {
                "issuer": url,
                "audience": AUDIENCE,
                "program_claim": "program",
                "algorithms": ["ES256"],
                "members": {"external_id_system": SYSTEM},
                "staff": {
                    "roles_claim": "roles",
                    "roles": {role: list(scopes) for role, scopes in STAFF_ROLES.items()},
                },
                "step_up": {"acr_values": [STRONG], "max_age_seconds": STEP_UP_SECONDS},
            }
        ]
    }
