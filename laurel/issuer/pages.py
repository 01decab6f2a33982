"""The issuer's pages: plain HTML, nothing from elsewhere, no script."""

import base64
import hashlib
from collections.abc import Iterable
from html import escape

from laurel.issuer.users import User

STYLE = """
:root { color-scheme: light dark; --ink: #1c2b21; --quiet: #5b6b60; --line: #d7ded9; --leaf: #2f6b46;
        --paper: #fff; --ground: #eef3ef; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8efe9; --quiet: #9fb0a5; --line: #33443a; --leaf: #7cc596; --paper: #1a231d;
          --ground: #111813; } }
* { box-sizing: border-box; }
body { margin: 0; min-height: 100vh; display: grid; place-items: center; background: var(--ground);
       color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
main { width: min(28rem, 94vw); margin: 2rem 0; padding: 2rem; background: var(--paper);
       border: 1px solid var(--line); border-radius: 12px; }
h1 { margin: 0 0 .25rem; font-size: 1.4rem; }
p { margin: .5rem 0 1rem; color: var(--quiet); overflow-wrap: anywhere; }
form { margin: 0; }
button { width: 100%; margin: .3rem 0; padding: .75rem 1rem; text-align: left; font: inherit; color: inherit;
         background: transparent; border: 1px solid var(--line); border-radius: 8px; cursor: pointer; }
button:hover, button:focus-visible { border-color: var(--leaf); outline: 2px solid var(--leaf); }
button small { display: block; color: var(--quiet); }
button.go { text-align: center; color: var(--paper); background: var(--leaf); font-weight: 600; }
input { width: 100%; padding: .75rem 1rem; font: 1.4rem ui-monospace, monospace; letter-spacing: .3em;
        color: inherit; background: transparent; border: 1px solid var(--line); border-radius: 8px; }
code, kbd { font-family: ui-monospace, monospace; color: var(--ink); }
.wrong { color: #b3261e; }
footer { margin-top: 1.5rem; font-size: .85rem; color: var(--quiet); }
"""
STYLE_HASH = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
# The answer to a form may lead back to an application on this machine.
POLICY = (
    f"default-src 'none'; style-src 'sha256-{STYLE_HASH}'; base-uri 'none'; frame-ancestors 'none'; "
    "form-action 'self' http://127.0.0.1:* http://localhost:* http://[::1]:*"
)


def welcome(users: Iterable[User], discovery: str) -> str:
    """What this is, and who there is."""
    people = "".join(
        f"<p><code>{escape(u.login)}</code> {escape(u.name)}, {escape(u.what)}</p>" for u in users
    )
    return _page(
        "Demo logins",
        f"<h1>Demo logins</h1><p>The issuer of this local stack. Its people need no password:</p>{people}"
        "<p>A token for curl: <code>laurel login --user asha</code></p>"
        f"<p>For applications: <code>{escape(discovery)}</code></p>",
    )


def choose(users: Iterable[User], action: str, request: str, hint: str) -> str:
    """The login page: one click says who you are."""
    buttons = "".join(
        f'<button name="user" value="{escape(u.login)}"{" autofocus" if u.login == hint else ""}>'
        f"{escape(u.name)}<small>{escape(u.login)}, {escape(u.what)}</small></button>"
        for u in users
    )
    return _page(
        "Log in",
        "<h1>Log in</h1><p>Who are you today? This is a demo: nobody has a password.</p>"
        f'<form method="post" action="{escape(action)}"><input type="hidden" name="request" '
        f'value="{escape(request)}">{buttons}</form>',
    )


def second_factor(user: User, action: str, step: str, code: str, wrong: bool) -> str:
    """The second factor: a code, which in a demo stands beside the field."""
    said = '<p class="wrong">That is not the code.</p>' if wrong else ""
    return _page(
        "Confirm that it is you",
        f"<h1>Is it you, {escape(user.name)}?</h1><p>This takes a second factor. A real issuer would ask "
        f"your phone; here the code is <kbd>{escape(code)}</kbd>.</p>{said}"
        f'<form method="post" action="{escape(action)}"><input type="hidden" name="step" '
        f'value="{escape(step)}"><input name="code" inputmode="numeric" autocomplete="one-time-code" '
        'maxlength="6" required autofocus aria-label="Code">'
        '<button class="go">Confirm</button></form>',
    )


def refused(why: str) -> str:
    """What is wrong with a request that can't be answered to the application."""
    return _page("Not possible", f"<h1>Not possible</h1><p>{escape(why)}</p>")


def _page(title: str, body: str) -> str:
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)} - Laurel</title><style>{STYLE}</style></head>"
        f"<body><main>{body}<footer>Laurel, local stack. Not for production.</footer></main></body></html>"
    )
