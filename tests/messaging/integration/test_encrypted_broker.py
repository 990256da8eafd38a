"""TLS to NATS, with a real server."""

import asyncio
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from local_platform.servers.binaries import program
from local_platform.servers.ports import free_port
from messaging.broker import Broker
from tests.support.certificates import make_certificates
from tests.support.waiting import eventually


async def test_a_broker_of_the_right_authority_is_believed_and_another_is_not(tmp_path: Path) -> None:
    certificates = make_certificates(tmp_path)
    (tmp_path / "other").mkdir()
    other = make_certificates(tmp_path / "other")
    port = free_port()
    configuration = tmp_path / "nats.conf"
    configuration.write_text(
        f'host: "127.0.0.1"\nport: {port}\n'
        f'tls {{ cert_file: "{certificates.certificate}", key_file: "{certificates.key}" }}\n'
        "authorization { user: billing, password: secret }\n"
    )
    server = await asyncio.create_subprocess_exec(
        program("nats-server"), "--config", configuration, stderr=asyncio.subprocess.DEVNULL
    )
    url = f"tls://localhost:{port}"
    believed = Broker(url, "billing", "secret", "test", certificates.authority)
    doubted = Broker(url, "billing", "secret", "test", other.authority)
    try:
        await asyncio.wait_for(believed.connect(), 20)
        assert believed.client.is_connected
        with capture_logs() as logged:
            trying = asyncio.create_task(doubted.connect())
            await eventually(lambda: "CERTIFICATE_VERIFY_FAILED" in str(logged), what="the refusal in the log")
            assert not trying.done()
            trying.cancel()
            with pytest.raises(asyncio.CancelledError):
                await trying
    finally:
        await believed.close()
        server.kill()
        await server.wait()
