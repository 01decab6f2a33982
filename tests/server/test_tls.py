"""TLS with an authority of our own: who gets through, and certificates changed under connections."""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
import uvicorn
from cryptography import x509
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import NameOID
from grpc_health.v1 import health_pb2, health_pb2_grpc

from server import tls
from server.domain.actor import CallerKind
from server.main import Server, running
from server.serving import StartError
from server.settings import Settings
from server.store.database import Database
from server.tls import Certificates, Files, TlsError
from tests.support.certificates import Authority, Folder
from tests.support.processes import run
from tests.support.programs import new_key, new_program


@pytest.fixture
def files(tmp_path: Path) -> Folder:
    return Folder(tmp_path, Authority())


@contextlib.asynccontextmanager
async def secured(settings: Settings, files: Folder, **more: str) -> AsyncIterator[Server]:
    async with running(settings.model_copy(update={**files.settings, **more})) as server:
        yield server


def channel(server: Server, roots: bytes, pair: tuple[bytes, bytes] | None = None) -> grpc.aio.Channel:
    """A connection of its own to the server."""
    certificate, key = pair or (None, None)
    credentials = grpc.ssl_channel_credentials(roots, key, certificate)
    options = (("grpc.use_local_subchannel_pool", 1),)
    return grpc.aio.secure_channel(f"127.0.0.1:{server.port}", credentials, options)


async def is_served(open_channel: grpc.aio.Channel) -> bool:
    stub = health_pb2_grpc.HealthStub(open_channel)
    reply = await stub.Check(health_pb2.HealthCheckRequest(), timeout=5)
    return reply.status == health_pb2.HealthCheckResponse.SERVING


def shown(port: int, protocol: str, **versions: ssl.TLSVersion) -> str:
    """The name in the certificate that a new connection is shown."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.set_alpn_protocols([protocol])
    for name, version in versions.items():
        setattr(context, name, version)
    with (
        socket.create_connection(("127.0.0.1", port), timeout=5) as connection,
        context.wrap_socket(connection) as wrapped,
    ):
        certificate = x509.load_der_x509_certificate(wrapped.getpeercert(binary_form=True) or b"")
    [name_attribute] = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(name_attribute.value)


async def test_calls_are_served_by_tls_and_not_in_plaintext(settings: Settings, files: Folder) -> None:
    async with secured(settings, files) as server:
        async with channel(server, files.authority.pem) as trusted:
            assert await is_served(trusted)
        async with channel(server, Authority().pem) as stranger:
            with pytest.raises(grpc.aio.AioRpcError):
                await is_served(stranger)
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as plain:
            with pytest.raises(grpc.aio.AioRpcError):
                await is_served(plain)


async def test_a_renewed_certificate_is_shown_to_new_connections_and_old_ones_go_on(
    settings: Settings, files: Folder
) -> None:
    files.renew("first")
    async with secured(settings, files) as server, channel(server, files.authority.pem) as standing:
        assert await is_served(standing)
        assert await asyncio.to_thread(shown, server.port, "h2") == "first"
        files.renew("second")
        assert server.certificates is not None
        server.certificates.refresh()
        assert await asyncio.to_thread(shown, server.port, "h2") == "second"
        assert await is_served(standing)
        async with channel(server, files.authority.pem) as new:
            assert await is_served(new)


async def test_files_are_looked_at_by_itself(
    settings: Settings, files: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tls, "LOOK_AGAIN_SECONDS", 0.01)
    async with secured(settings, files) as server:
        assert server.certificates is not None
        before = server.certificates.expires_at
        files.renew(days=200)
        async with asyncio.timeout(10):
            while server.certificates.expires_at == before:  # noqa: ASYNC110 - files have no events
                await asyncio.sleep(0.01)


async def test_while_the_files_do_not_fit_nothing_changes(
    settings: Settings, files: Folder, capsys: pytest.CaptureFixture[str]
) -> None:
    files.renew("first")
    async with secured(settings, files) as server:
        assert server.certificates is not None
        certificate, key = files.authority.issue("second")
        files.certificate.write_bytes(certificate)
        server.certificates.refresh()
        assert "certificate_not_renewed" in "".join(capsys.readouterr())
        assert await asyncio.to_thread(shown, server.port, "h2") == "first"
        files.key.unlink()
        server.certificates.refresh()
        assert await asyncio.to_thread(shown, server.port, "h2") == "first"
        files.key.write_bytes(key)
        server.certificates.refresh()
        assert await asyncio.to_thread(shown, server.port, "h2") == "second"


async def test_clients_show_a_certificate_where_one_is_asked_for(settings: Settings, files: Folder) -> None:
    theirs = Authority("Clients")
    path = files.ca.with_name("clients.pem")
    path.write_bytes(theirs.pem)
    async with secured(settings, files, tls_client_ca_file=str(path)) as server:
        async with channel(server, files.authority.pem, theirs.issue("till-7")) as till:
            assert await is_served(till)
        for pair in (None, files.authority.issue("till-8")):
            async with channel(server, files.authority.pem, pair) as stranger:
                with pytest.raises(grpc.aio.AioRpcError):
                    await is_served(stranger)


async def hello(scope: dict[str, Any], _receive: Any, send: Any) -> None:
    assert scope["type"] == "http"
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


@contextlib.asynccontextmanager
async def over_http(certificates: Certificates) -> AsyncIterator[int]:
    """A listener of uvicorn's, as the shim has one; its port."""
    config = uvicorn.Config(
        hello,
        port=0,
        lifespan="off",
        log_config=None,
        ssl_context_factory=lambda _config, _default: certificates.context(),
    )
    listener = uvicorn.Server(config)
    serving = asyncio.create_task(listener.serve())
    while not listener.started:  # noqa: ASYNC110 - uvicorn has no event
        await asyncio.sleep(0.01)
    try:
        yield listener.servers[0].sockets[0].getsockname()[1]
    finally:
        listener.should_exit = True
        await serving


async def test_http_meets_the_renewed_certificate_too(files: Folder) -> None:
    files.renew("first")
    certificates = Certificates(Files(files.certificate, files.key))
    trust = ssl.create_default_context(cadata=files.authority.pem.decode())
    async with (
        over_http(certificates) as port,
        httpx.AsyncClient(base_url=f"https://127.0.0.1:{port}", verify=trust) as standing,
    ):
        assert (await standing.get("/")).text == "ok"
        files.renew("second")
        certificates.refresh()
        assert await asyncio.to_thread(shown, port, "http/1.1") == "second"
        assert (await standing.get("/")).text == "ok"
        async with httpx.AsyncClient(verify=trust) as new:
            assert (await new.get(f"https://127.0.0.1:{port}/")).text == "ok"


async def test_http_asks_for_the_certificates_of_clients_too(files: Folder, tmp_path: Path) -> None:
    theirs = Authority("Clients")
    (tmp_path / "clients.pem").write_bytes(theirs.pem)
    certificate, key = theirs.issue("till-7")
    (tmp_path / "till.pem").write_bytes(certificate + key)
    certificates = Certificates(Files(files.certificate, files.key, tmp_path / "clients.pem"))
    without = ssl.create_default_context(cadata=files.authority.pem.decode())
    shown_by_us = ssl.create_default_context(cadata=files.authority.pem.decode())
    shown_by_us.load_cert_chain(tmp_path / "till.pem")
    async with over_http(certificates) as port:
        async with httpx.AsyncClient(verify=shown_by_us) as till:
            assert (await till.get(f"https://127.0.0.1:{port}/")).text == "ok"
        async with httpx.AsyncClient(verify=without) as stranger:
            with pytest.raises(httpx.TransportError):
                await stranger.get(f"https://127.0.0.1:{port}/")


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
@pytest.mark.parametrize("protocol", ["h2", "http/1.1"])
async def test_older_tls_than_1_2_is_refused(settings: Settings, files: Folder, protocol: str) -> None:
    async with contextlib.AsyncExitStack() as opened:
        if protocol == "h2":
            port = (await opened.enter_async_context(secured(settings, files))).port
        else:
            certificates = Certificates(Files(files.certificate, files.key))
            port = await opened.enter_async_context(over_http(certificates))
        newer, older = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_1
        assert await asyncio.to_thread(shown, port, protocol, maximum_version=newer)
        with pytest.raises(ssl.SSLError, match=r"EOF|ALERT_PROTOCOL_VERSION"):
            await asyncio.to_thread(shown, port, protocol, minimum_version=older, maximum_version=older)


def _encrypted(key: bytes) -> bytes:
    private = load_pem_private_key(key, None)
    return private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"hunter2"))


def test_files_that_can_not_be_used_are_named_with_what_is_wrong(files: Folder, tmp_path: Path) -> None:
    certificate, key = files.certificate.read_bytes(), files.key.read_bytes()
    absent, garbage = tmp_path / "absent.pem", tmp_path / "garbage.pem"
    garbage.write_bytes(b"-----BEGIN CERTIFICATE-----\nhunter2\n-----END CERTIFICATE-----\n")
    locked, other = tmp_path / "locked.key", tmp_path / "other.key"
    locked.write_bytes(_encrypted(key))
    other.write_bytes(files.authority.issue()[1])
    chain = tmp_path / "chain.pem"
    chain.write_bytes(files.authority.pem + certificate)
    for wrong, words in (
        (Files(absent, files.key), "absent.pem of LAUREL_TLS_CERTIFICATE_FILE can't be read: No such file"),
        (Files(files.certificate, absent), "absent.pem of LAUREL_TLS_KEY_FILE can't be read: No such file"),
        (Files(garbage, files.key), "garbage.pem holds no certificates in PEM"),
        (
            Files(files.certificate, garbage),
            "garbage.pem holds no private key in PEM, or one behind a password",
        ),
        (
            Files(files.certificate, locked),
            "locked.key holds no private key in PEM, or one behind a password",
        ),
        (Files(files.certificate, other), "other.key is not that of the first certificate in"),
        (Files(chain, files.key), "is not that of the first certificate in"),
        (Files(files.certificate, files.key, garbage), "garbage.pem holds no certificates in PEM"),
    ):
        with pytest.raises(TlsError) as caught:
            wrong.read()
        assert words in str(caught.value)
        assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("missing", ["tls_certificate_file", "tls_key_file"])
async def test_a_server_with_half_of_the_settings_does_not_start(
    settings: Settings, files: Folder, missing: str
) -> None:
    half = settings.model_copy(update={**files.settings, missing: ""})
    with pytest.raises(StartError, match="both LAUREL_TLS_CERTIFICATE_FILE and LAUREL_TLS_KEY_FILE"):
        await Server(half).start()


async def test_the_command_line_speaks_tls_and_doctor_tells_when_certificates_expire(
    settings: Settings, database: Database, files: Folder, tmp_path: Path
) -> None:
    program = await new_program(database)
    key = await new_key(database, program, CallerKind.SERVICE)
    files.renew(days=10.5)
    async with secured(settings, files) as server:
        environment = {
            "LAUREL_ADDRESS": f"127.0.0.1:{server.port}",
            "LAUREL_API_KEY": key,
            "LAUREL_CA_FILE": str(files.ca),
            "LAUREL_DATA": str(tmp_path),
        }
        listed = await asyncio.to_thread(run, "members", "list", "--json", **environment)
        assert listed.returncode == 0, listed.stderr
        del environment["LAUREL_CA_FILE"]
        refused = await asyncio.to_thread(run, "members", "list", **environment)
        assert refused.returncode == 1
        environment |= {
            "LAUREL_CA_FILE": str(files.ca),
            "LAUREL_TLS_CERTIFICATE_FILE": str(files.certificate),
            "LAUREL_TLS_KEY_FILE": str(files.key),
        }
        told = (await asyncio.to_thread(run, "doctor", **environment)).stdout
    day = (datetime.now(UTC) + timedelta(days=10.5)).strftime("%Y-%m-%d")
    assert "ok     server" in told
    assert [line.split()[0] for line in told.splitlines() if f"expires on {day}" in line] == ["warn", "warn"]
