"""The document under /openapi.json, and under /docs Swagger UI, which comes with a package: nothing is
fetched from elsewhere, and the page may not. Under / is what this is, and where to find both."""

import json
from collections.abc import Awaitable, Callable, Mapping
from functools import cache
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route

DOCUMENT_PATH = "/openapi.json"
PAGE_PATH = "/docs"
PACKAGE = "flask_swagger_ui"
ASSETS: Mapping[str, str] = {
    "favicon-32x32.png": "image/png",
    "swagger-ui-bundle.js": "text/javascript",
    "swagger-ui.css": "text/css",
}
# Scripts and styles from here alone and none of them inline; calls to here alone. Swagger UI draws its
# icons from data: URLs.
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
GUARDED = {
    "Content-Security-Policy": POLICY,
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
KEPT = GUARDED | {"Cache-Control": "public, max-age=3600"}
ASKED_AGAIN = GUARDED | {"Cache-Control": "no-cache"}

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>REST API</title>
<link rel="icon" type="image/png" href="docs/favicon-32x32.png">
<link rel="stylesheet" href="docs/swagger-ui.css">
</head>
<body>
<div id="page"></div>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/start.js"></script>
</body>
</html>
"""
# No validator: it would be asked elsewhere. Credentials typed in are gone with the page.
SCRIPT = """SwaggerUIBundle({
  url: new URL("openapi.json", document.baseURI).href,
  dom_id: "#page",
  deepLinking: true,
  docExpansion: "list",
  persistAuthorization: false,
  tryItOutEnabled: true,
  validatorUrl: null,
});
"""

Endpoint = Callable[[Request], Awaitable[Response]]


def pages(document: Callable[[], Mapping[str, Any]], about: Mapping[str, str]) -> list[Route]:
    """The routes. The document is made when somebody asks for it, and once; ``about`` stands under / ."""
    front = json.dumps({**about, "docs": PAGE_PATH, "openapi": DOCUMENT_PATH}, indent=2) + "\n"

    @cache
    def written() -> tuple[bytes, str]:
        text = json.dumps(document(), separators=(",", ":"), ensure_ascii=False).encode()
        return text, f'"{sha256(text).hexdigest()[:32]}"'

    async def openapi(request: Request) -> Response:
        text, etag = written()
        headers = ASKED_AGAIN | {"ETag": etag}
        if etag in request.headers.get("If-None-Match", ""):
            return Response(status_code=304, headers=headers)
        return Response(text, media_type="application/json", headers=headers)

    return [
        Route("/", _text(front, "application/json")),
        Route(DOCUMENT_PATH, openapi),
        Route(PAGE_PATH, _text(PAGE, "text/html")),
        Route(f"{PAGE_PATH}/start.js", _text(SCRIPT, "text/javascript")),
        *(Route(f"{PAGE_PATH}/{name}", _file(name, kind)) for name, kind in ASSETS.items()),
    ]


def _text(text: str, kind: str) -> Endpoint:
    async def answer(_request: Request) -> Response:
        return Response(text, media_type=kind, headers=ASKED_AGAIN)

    return answer


def _file(name: str, kind: str) -> Endpoint:
    path = _folder() / name

    async def answer(_request: Request) -> Response:
        return FileResponse(path, media_type=kind, headers=KEPT)

    return answer


@cache
def _folder() -> Path:
    """Where the package keeps Swagger UI, found without importing it."""
    spec = find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise RuntimeError(f"{PACKAGE} isn't installed")
    return Path(spec.origin).parent / "dist"
