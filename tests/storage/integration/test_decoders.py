"""Decoder processes: whatever a file does to one costs that file alone."""

import asyncio
import io
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE
from fractions import Fraction
from pathlib import Path

import av
import msgspec
import pytest

from storage.decoders import Decoders
from storage.decoding import Inspection, Question
from storage.errors import DecoderFailed, DecoderNotStarted, Rejected
from tests.storage.unit.test_inspection import black_png
from tests.support.media import endless_photograph, picture

PIXELS = 1_000_000


@pytest.fixture
def good(tmp_path: Path) -> Path:
    path = tmp_path / "good.png"
    path.write_bytes(picture())
    return path


def process_ids(decoders: Decoders) -> list[int]:
    return [decoder._process.pid for decoder in decoders._all if decoder._process is not None]


async def test_a_stalled_decoder_is_replaced_and_its_neighbour_goes_on(good: Path) -> None:
    decoders = Decoders(2, picture_seconds=3.0)
    try:
        await decoders.warm()
        stalled, neighbour = process_ids(decoders)
        os.kill(stalled, signal.SIGSTOP)
        looks = (decoders.inspect(good, "image", PIXELS) for _ in range(2))
        outcomes = await asyncio.gather(*looks, return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} == {Inspection, DecoderFailed}
        outcomes = await asyncio.gather(*(decoders.inspect(good, "image", PIXELS) for _ in range(4)))
        assert len(outcomes) == 4
        assert neighbour in process_ids(decoders)
        assert stalled not in process_ids(decoders)
    finally:
        await decoders.close()


async def test_a_picture_holds_its_decoder_for_seconds_whatever_is_in_it(tmp_path: Path) -> None:
    path = tmp_path / "endless.jpg"
    await asyncio.to_thread(path.write_bytes, endless_photograph(scans=20_000))
    decoders = Decoders(1)
    try:
        await decoders.warm()
        async with asyncio.timeout(30):
            with pytest.raises(DecoderFailed):
                await decoders.inspect(path, "image", 50_000_000, is_input=True)
    finally:
        await decoders.close()


async def test_a_decoder_that_dies_over_a_file_says_so_and_the_next_file_gets_another(good: Path) -> None:
    decoders = Decoders(1)
    try:
        await decoders.warm()
        (doomed,) = process_ids(decoders)
        os.kill(doomed, signal.SIGSTOP)
        look = asyncio.ensure_future(decoders.inspect(good, "image", PIXELS))
        await asyncio.sleep(0)
        os.kill(doomed, signal.SIGKILL)
        with pytest.raises(DecoderFailed):
            await look
        assert (await decoders.inspect(good, "image", PIXELS)).media.width_pixels == 320
    finally:
        await decoders.close()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_to_the_whole_group_is_held_against_no_file(good: Path, number: signal.Signals) -> None:
    """Whoever stops a service may tell all of its processes at once; the service decides when its decoders end."""
    decoders = Decoders(1)
    try:
        await decoders.warm()
        (told,) = process_ids(decoders)
        os.kill(told, number)
        assert (await decoders.inspect(good, "image", PIXELS)).media.width_pixels == 320
        assert process_ids(decoders) == [told]
    finally:
        await decoders.close()


async def test_a_look_that_is_given_up_leaves_no_answer_for_the_next_one(good: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.png"
    other.write_bytes(picture(width=64, height=64))
    decoders = Decoders(1)
    try:
        await decoders.warm()
        look = asyncio.ensure_future(decoders.inspect(good, "image", PIXELS))
        await asyncio.sleep(0)
        look.cancel()
        assert (await decoders.inspect(other, "image", PIXELS)).media.width_pixels == 64
    finally:
        await decoders.close()


async def test_a_service_whose_decoders_do_not_start_does_not_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(broken))
    decoders = Decoders(2)
    with pytest.raises(DecoderNotStarted):
        await decoders.warm()
    await decoders.close()


async def test_a_decoder_in_the_middle_of_a_file_ends_with_the_service(tmp_path: Path) -> None:
    """Nobody would be left to end it when its time is up."""
    path = tmp_path / "endless.mp4"
    await asyncio.to_thread(path.write_bytes, slow_clip())
    decoder = await asyncio.create_subprocess_exec(
        *(sys.executable, "-I", "-m", "storage.decoder_process"), stdin=PIPE, stdout=DEVNULL
    )
    try:
        assert decoder.stdin is not None
        decoder.stdin.write(msgspec.json.encode(Question(str(path), "video", 50_000_000)) + b"\n")
        # All that a decoder notices when its service is killed.
        decoder.stdin.close()
        await asyncio.wait_for(decoder.wait(), 15)
    finally:
        if decoder.returncode is None:
            decoder.kill()
        await decoder.wait()


def slow_clip() -> bytes:
    """Hundreds of large black pictures, which take minutes to unpack."""
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


async def test_a_refusal_comes_back_with_its_code(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_bytes(b"<html>")
    decoders = Decoders(1)
    try:
        with pytest.raises(Rejected) as refusal:
            await decoders.inspect(path, "image", PIXELS)
        assert refusal.value.code == "undecodable"
    finally:
        await decoders.close()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
async def test_a_decoder_knows_none_of_the_services_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STORAGE_S3_SECRET_ACCESS_KEY", "not for hostile files")
    decoders = Decoders(1)
    try:
        await decoders.warm()
        (process_id,) = process_ids(decoders)
        environment = await asyncio.to_thread(Path(f"/proc/{process_id}/environ").read_bytes)
        assert b"STORAGE" not in environment
    finally:
        await decoders.close()
