"""The processes: how a server starts and ends, what it does when a worker dies or is not fast enough."""

import asyncio
import logging
import os
import select
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from app.emulator import wire
from app.emulator.options import Options
from app.emulator.pool import AHEAD, Pool, Recognition, WorkerFailed
from app.emulator.server import Emulator
from tests.emulator_client import ROOT, Asked, google, pieces, port_of, speech, start_server

pytest.importorskip("onnxruntime")

WITHIN = 30_000  # milliseconds; a process that has not ended by then never will


async def test_it_runs_inside_another_program_too() -> None:
    """start() gives the port; after stop() no worker is left."""
    emulator = Emulator(Options(port=0, workers=1))
    port = await emulator.start()
    workers = [os.pidfd_open(pid) for pid in emulator.pool.process_ids]
    async with google("v2", port) as client:
        heard = await client.recognize(Asked(), pieces(speech(0, 2.4)))
    await emulator.stop()
    assert heard.text.startswith("it was the best")
    assert _all_end(workers)


def test_it_prints_one_line_and_ends_with_its_stdin() -> None:
    """The contract with the gateway that embeds it."""
    with start_server("--workers", "1") as server:
        assert port_of(server) > 0
        rest, _ = server.communicate()
    assert rest == ""
    assert server.returncode == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_well(number: signal.Signals) -> None:
    """With code 0, and its workers with it."""
    with start_server("--workers", "1") as server:
        port_of(server)
        workers = _children(server.pid)
        server.send_signal(number)
        assert server.wait(WITHIN / 1000) == 0
    assert _all_end(workers)


def test_workers_end_with_a_killed_server() -> None:
    """Nobody told them: their end of the socket pair closed."""
    with start_server("--workers", "2") as server:
        port_of(server)
        workers = _children(server.pid)
        assert len(workers) == 2
        server.kill()
        assert _all_end(workers)


async def test_streams_of_a_dead_worker_end_unavailable_and_another_takes_its_place(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The next call is served as ever."""
    emulator = Emulator(Options(port=0, workers=1))
    port = await emulator.start()
    try:
        async with google("v2", port) as client:
            call = await client.open(Asked(events=True), *pieces(speech(0, 2.4)))
            await call.read()  # speech began: the worker has it
            os.kill(emulator.pool.process_ids[0], signal.SIGKILL)
            with pytest.raises(Exception, match="The service is currently unavailable") as raised:
                await call.read()
            heard = await client.recognize(Asked(), pieces(speech(0, 2.4)))
    finally:
        await emulator.stop()
    assert getattr(raised.value, "grpc_status_code", None).name == "UNAVAILABLE"  # type: ignore[union-attr]
    assert "starting another" in caplog.text
    assert heard.text.startswith("it was the best")


async def test_a_call_that_is_left_leaves_nothing_behind() -> None:
    """No stream in a worker, no task."""
    emulator = Emulator(Options(port=0, workers=1))
    port = await emulator.start()
    before = len(asyncio.all_tasks())
    async with google("v2", port) as client:
        for _ in range(5):
            call = await client.open(Asked(events=True), *pieces(speech(0, 2.4)))
            await call.read()
            call.cancel()
        await client.recognize(Asked(), pieces(speech(0, 0.5)))  # behind the cancellations
    assert emulator.pool.stream_count == 0
    await emulator.stop()
    assert len(asyncio.all_tasks()) <= before


async def test_a_missing_model_is_said_before_anything_starts(tmp_path: Path) -> None:
    """One line that names what is missing."""
    command = [sys.executable, "-m", "app.emulator", "--port", "0", "--model", str(tmp_path)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: ASYNC221
    assert ended.returncode == 1
    assert ended.stdout == ""
    assert ended.stderr == f"no encoder_model.ort or encoder_model.onnx in the model directory {tmp_path}\n"


async def test_a_worker_that_cannot_load_ends_the_start(tmp_path: Path) -> None:
    """It is not tried again and again."""
    for name in ("encoder_model.ort", "decoder_model_merged.ort", "tokenizer.bin"):
        (tmp_path / name).write_bytes(b"no model")
    with pytest.raises(WorkerFailed, match="before it was ready"):
        await Emulator(Options(port=0, workers=1, model=tmp_path)).start()


# -- too much --------------------------------------------------------------------------------------------------------


class _IdleWorker:
    """Takes audio and recognizes none of it."""

    def __init__(self) -> None:
        self.streams: dict[int, Recognition] = {}
        self.seconds = 0.0

    def send(self, frame: bytes) -> None:
        for kind, _, payload in wire.Frames().feed(frame):
            if kind is wire.Kind.AUDIO:
                self.seconds += len(payload) / 32_000


async def test_no_more_is_taken_than_a_worker_can_have() -> None:
    """The sender waits, and goes on as soon as audio is recognized; nothing is dropped."""
    worker = _IdleWorker()
    recognition = _recognition(worker)
    sending = asyncio.create_task(recognition.send(bytes(32_000 * 60)))
    await asyncio.sleep(0)
    assert worker.seconds == AHEAD
    for recognized in range(1, 61):
        assert not sending.done()
        recognition.acknowledge(32_000)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert worker.seconds == min(60, AHEAD + recognized)
        if worker.seconds == 60:
            break
    recognition.acknowledge(32_000)
    await sending


async def test_an_upload_is_no_overload_but_a_late_worker_is(caplog: pytest.LogCaptureFixture) -> None:
    """One line in the log, however many streams wait."""
    caplog.set_level(logging.WARNING)
    pool = Pool(Options())
    upload, live, other = (_recognition(_IdleWorker(), pool) for _ in range(3))
    for recognition in (live, other):
        recognition._opened -= 60.0
    tasks = [asyncio.create_task(upload.send(bytes(32_000 * 10)))]
    await asyncio.sleep(0)
    assert not caplog.records
    tasks += [asyncio.create_task(recognition.send(bytes(32_000 * 10))) for recognition in (live, other)]
    await asyncio.sleep(0)
    assert ["overloaded" in record.message for record in caplog.records] == [True]
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


def _recognition(worker: Any, pool: Pool | None = None) -> Recognition:
    request = wire.Open(encoding="LINEAR16", rate=16_000)
    return Recognition(pool or Pool(Options()), worker, 1, request, lambda _: None)


def _children(pid: int) -> list[int]:
    """As descriptors that become readable when the process ends."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [os.pidfd_open(int(child)) for child in children]


def _all_end(processes: list[int]) -> bool:
    poll = select.poll()
    for descriptor in processes:
        poll.register(descriptor, select.POLLIN)
    for _ in processes:
        for descriptor, _ in poll.poll(WITHIN):
            poll.unregister(descriptor)
            os.close(descriptor)
            processes = [other for other in processes if other != descriptor]
    return not processes
