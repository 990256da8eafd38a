"""Decoder processes: a hostile file affects no other file."""

import asyncio
import io
import os
import signal
import struct
import sys
from asyncio.subprocess import DEVNULL, PIPE
from fractions import Fraction
from pathlib import Path

import av
import msgspec
import pytest

from storage.decoders import Decoders
from storage.decoding import DecodeRequest, Inspection
from storage.errors import DecoderFailed, DecoderNotStarted, Rejected
from tests.storage.unit.test_inspection import black_png
from tests.storage.unit.test_uploads_as_they_are import ORIENTATION, RESOLUTION, noise, photograph, saved
from tests.support.media import endless_photograph, picture

PIXELS = 1_000_000


@pytest.fixture
def good(tmp_path: Path) -> Path:
    path = tmp_path / "good.png"
    path.write_bytes(picture())
    return path


def process_ids(decoders: Decoders) -> list[int]:
    return [decoder._process.pid for decoder in decoders._all if decoder._process is not None]


async def test_a_stalled_decoder_is_replaced_and_the_other_one_goes_on(good: Path) -> None:
    decoders = Decoders(2, picture_seconds=3.0)
    try:
        await decoders.start()
        stalled, other = process_ids(decoders)
        os.kill(stalled, signal.SIGSTOP)
        inspections = (decoders.inspect(good, "image", PIXELS) for _ in range(2))
        outcomes = await asyncio.gather(*inspections, return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} == {Inspection, DecoderFailed}
        outcomes = await asyncio.gather(*(decoders.inspect(good, "image", PIXELS) for _ in range(4)))
        assert len(outcomes) == 4
        assert other in process_ids(decoders)
        assert stalled not in process_ids(decoders)
    finally:
        await decoders.stop()


async def test_any_picture_occupies_its_decoder_for_seconds_only(tmp_path: Path) -> None:
    path = tmp_path / "endless.jpg"
    await asyncio.to_thread(path.write_bytes, endless_photograph(scans=20_000))
    decoders = Decoders(1)
    try:
        await decoders.start()
        async with asyncio.timeout(30):
            with pytest.raises(DecoderFailed):
                await decoders.inspect(path, "image", 50_000_000, is_input=True)
    finally:
        await decoders.stop()


async def test_a_decoder_that_died_is_reported_and_replaced(good: Path) -> None:
    decoders = Decoders(1)
    try:
        await decoders.start()
        (doomed,) = process_ids(decoders)
        os.kill(doomed, signal.SIGSTOP)
        inspection = asyncio.ensure_future(decoders.inspect(good, "image", PIXELS))
        await asyncio.sleep(0)
        os.kill(doomed, signal.SIGKILL)
        with pytest.raises(DecoderFailed):
            await inspection
        assert (await decoders.inspect(good, "image", PIXELS)).media.width_pixels == 320
    finally:
        await decoders.stop()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_to_the_process_group_does_not_end_a_decoder(good: Path, number: signal.Signals) -> None:
    """A stop can signal the whole process group. The service alone decides when its decoders exit."""
    decoders = Decoders(1)
    try:
        await decoders.start()
        (signalled,) = process_ids(decoders)
        os.kill(signalled, number)
        assert (await decoders.inspect(good, "image", PIXELS)).media.width_pixels == 320
        assert process_ids(decoders) == [signalled]
    finally:
        await decoders.stop()


async def test_a_cancelled_inspection_leaves_no_result_for_the_next_one(good: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.png"
    other.write_bytes(picture(width=64, height=64))
    decoders = Decoders(1)
    try:
        await decoders.start()
        inspection = asyncio.ensure_future(decoders.inspect(good, "image", PIXELS))
        await asyncio.sleep(0)
        inspection.cancel()
        assert (await decoders.inspect(other, "image", PIXELS)).media.width_pixels == 64
    finally:
        await decoders.stop()


async def test_a_service_whose_decoders_do_not_start_does_not_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(broken))
    decoders = Decoders(2)
    with pytest.raises(DecoderNotStarted):
        await decoders.start()
    await decoders.stop()


async def test_a_decoder_in_the_middle_of_a_file_exits_with_the_service(tmp_path: Path) -> None:
    """Without the service, no process would enforce the time limit."""
    path = tmp_path / "endless.mp4"
    await asyncio.to_thread(path.write_bytes, slow_clip())
    decoder = await asyncio.create_subprocess_exec(
        *(sys.executable, "-I", "-m", "storage.decoder_process"), stdin=PIPE, stdout=DEVNULL
    )
    try:
        assert decoder.stdin is not None
        decoder.stdin.write(msgspec.json.encode(DecodeRequest(str(path), "video", 50_000_000)) + b"\n")
        # This is all that a decoder notices when its service is killed.
        decoder.stdin.close()
        await asyncio.wait_for(decoder.wait(), 15)
    finally:
        if decoder.returncode is None:
            decoder.kill()
        await decoder.wait()


def slow_clip() -> bytes:
    """Hundreds of large black pictures, which take minutes to decode."""
    packet_body, buffer = black_png(6000, 6000), io.BytesIO()
    with av.open(buffer, "w", format="mp4") as output:
        stream = output.add_stream("png", rate=8)
        stream.width, stream.height, stream.pix_fmt = 6000, 6000, "rgb24"
        stream.codec_context.open()
        for number in range(600):
            packet = av.Packet(packet_body)
            packet.stream, packet.pts, packet.dts, packet.time_base = stream, number, number, Fraction(1, 8)
            output.mux(packet)
    return buffer.getvalue()


async def test_a_rejection_is_raised_with_its_code(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_bytes(b"<html>")
    decoders = Decoders(1)
    try:
        with pytest.raises(Rejected) as refusal:
            await decoders.inspect(path, "image", PIXELS)
        assert refusal.value.code == "undecodable"
    finally:
        await decoders.stop()


async def test_an_odd_file_is_answered_at_once_and_its_decoder_lives(tmp_path: Path) -> None:
    photo, cut = tmp_path / "photo.jpg", tmp_path / "cut.webp"
    photo.write_bytes(photograph(ORIENTATION, (RESOLUTION, 10, struct.pack("<ii", -1, 0))))
    cut.write_bytes(saved(noise(), form="WEBP")[:-10])
    decoders = Decoders(1)
    try:
        await decoders.start()
        started = process_ids(decoders)
        assert (await decoders.inspect(photo, "image", PIXELS, is_input=True)).media.width_pixels == 64
        with pytest.raises(Rejected):
            await decoders.inspect(cut, "image", PIXELS, is_input=True)
        assert process_ids(decoders) == started
    finally:
        await decoders.stop()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
async def test_a_decoder_does_not_get_the_secrets_of_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STORAGE_S3_SECRET_ACCESS_KEY", "not for hostile files")
    decoders = Decoders(1)
    try:
        await decoders.start()
        (process_id,) = process_ids(decoders)
        environment = await asyncio.to_thread(Path(f"/proc/{process_id}/environ").read_bytes)
        assert b"STORAGE" not in environment
    finally:
        await decoders.stop()
