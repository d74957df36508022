"""The simulator's half of the ``icarus`` engine: a cocotb test that replays a program.

The environment variable NEARBIT_REPLAY names the directory in which :mod:`nearbit_sim.icarus` has
written the program, and to which the answer goes.
"""

import json
import os
import time
from pathlib import Path
from typing import Any

import cocotb
import numpy as np
from cocotb.triggers import Timer

from nearbit_model.memory_timing import MemoryTiming
from nearbit_model.transfers.buses import Bus
from nearbit_model.transfers.payload import Port, Words
from nearbit_model.transfers.program import TRAFFIC_LOG
from nearbit_sim.memory import SimulatedMemory


__all__ = ["replay"]


# Seconds between two looks of the other side at the progress.
_REPORT_SECONDS = 0.5

# Half a clock period, so that a waveform has the time scale of the compiled engine's.
_HALF = Timer(5, "ns")


def _numbers(words: Words) -> list[int]:
    """Join the 64-bit words of each row."""
    if words.shape[1] == 1:
        return [int(number) for number in words[:, 0]]
    rows = np.ascontiguousarray(words).astype("<u8")
    return [int.from_bytes(row.tobytes(), "little") for row in rows]


class _Input:
    def __init__(self, dut: Any, port: Port, words: Words) -> None:
        self.ready = getattr(dut, f"{port.name}__ready") if port.has_ready else None
        self.cycles: list[int] = []
        self.last = 0  # index after the phase's last payload
        self._valid = getattr(dut, f"{port.name}__valid") if port.has_valid else None
        self._payload = getattr(dut, f"{port.name}__payload") if port.shape.width else None
        self._numbers = _numbers(words)
        self._shown = (-1, -1)
        if self._valid is not None:
            self._valid.value = 0
        if self._payload is not None:
            self._payload.value = 0

    @property
    def offers(self) -> bool:
        return len(self.cycles) < self.last

    def drive(self) -> None:
        show = (len(self.cycles), int(self.offers))
        if show != self._shown:
            if self._valid is not None:
                self._valid.value = show[1]
            if self._payload is not None and self.offers:
                self._payload.value = self._numbers[show[0]]
            self._shown = show


class _Output:
    def __init__(self, dut: Any, port: Port, wanted: int, wanted_lasts: int) -> None:
        self.ready = getattr(dut, f"{port.name}__ready") if port.has_ready else None
        self.valid = getattr(dut, f"{port.name}__valid") if port.has_valid else None
        self.payload = getattr(dut, f"{port.name}__payload") if port.shape.width else None
        self._wanted = wanted
        self._wanted_lasts = wanted_lasts
        self._lasts = 0
        self._shape = port.shape if wanted_lasts else None
        self.cycles: list[int] = []
        self.numbers: list[int] = []
        self._words = port.words
        self._name = port.name
        if self.ready is not None:
            self.ready.value = 0

    def sample(self, cycle: int) -> bool:
        if self.valid is not None:
            valid = str(self.valid.value)
            if valid == "0":
                return False
            if valid != "1":
                raise RuntimeError(f"{self._name}: valid is {valid} in cycle {cycle}")
        if self.payload is not None:
            bits = str(self.payload.value)
            try:
                self.numbers.append(int(bits, 2))
            except ValueError:
                raise RuntimeError(f"{self._name}: payload is {bits} in cycle {cycle}") from None
        else:
            self.numbers.append(0)
        self.cycles.append(cycle)
        if self._shape is not None:
            payload = self._shape.unpack(self.numbers[-1])
            assert isinstance(payload, dict)
            self._lasts += payload["last"]
        return True

    @property
    def is_awaited(self) -> bool:
        return len(self.cycles) < self._wanted or self._lasts < self._wanted_lasts

    def words(self) -> Words:
        data = b"".join(number.to_bytes(8 * self._words, "little") for number in self.numbers)
        return np.frombuffer(data, dtype="<u8").reshape(-1, self._words)


class _Channel:
    """An AXI4 channel, seen from the memory."""

    def __init__(self, dut: Any, port: Port) -> None:
        self._port = port
        self._ready, self._valid, self._payload = (
            getattr(dut, f"{port.name}__{part}") for part in ("ready", "valid", "payload"))
        if port.is_input:
            self._valid.value = 0
            self._payload.value = 0
        else:
            self._ready.value = 0

    def drive(self, driven: dict[str, int] | bool | None) -> None:
        if not self._port.is_input:
            self._ready.value = int(bool(driven))
            return
        self._valid.value = int(driven is not None)
        if driven is not None:
            self._payload.value = self._port.shape.pack(driven)

    def sample(self, cycle: int) -> dict[str, int] | bool | None:
        if self._port.is_input:
            return self._bits(self._ready, "ready", cycle) == 1
        if not self._bits(self._valid, "valid", cycle):
            return None
        payload = self._port.shape.unpack(self._bits(self._payload, "payload", cycle))
        assert isinstance(payload, dict)
        return payload

    def _bits(self, handle: Any, what: str, cycle: int) -> int:
        bits = str(handle.value)
        try:
            return int(bits, 2)
        except ValueError:
            raise RuntimeError(f"{self._port.name}: {what} is {bits} in cycle {cycle}") from None


class _Replay:
    """The clock, and what all streams have done so far."""

    def __init__(self, dut: Any, directory: Path) -> None:
        task = json.loads((directory / "task.json").read_text(encoding="utf-8"))
        self._patience: int = task["patience"]
        self.after: list[dict[str, int]] = task["after"]
        self._clock = getattr(dut, "clk", None)
        self._reset = getattr(dut, "rst", None)
        self._progress = directory / "progress"
        self._reported = time.monotonic()
        self.cycle = 0
        self.active = -1
        self._began = 0  # of what is waited for
        with np.load(directory / "program.npz") as arrays:
            self.counts = arrays["counts"]
            self.delays = arrays["delays"]
            buses = [Bus(**bus) for bus in task["memory"]["buses"]]
            self.contents = arrays["memory"]
            self.memory = SimulatedMemory(
                buses, MemoryTiming.from_json(task["memory"]["timing"]), self.contents)
            self.log: bool = task["memory"]["log"]
            self._channels = {port.name: _Channel(dut, port)
                              for bus in buses for port in bus.channels.values()}
            found = [Port.from_json(port) for port in task["ports"]]
            self.inputs = {port.name: _Input(dut, port, arrays[f"words_{port.name}"])
                           for port in found if port.is_input}
            self.outputs = {port.name: _Output(dut, port, task["beats"].get(port.name, 0),
                                               task["lasts"].get(port.name, 0))
                            for port in found if not port.is_input}

        for name, value in task["levels"].items():
            getattr(dut, name).value = value

    async def reset(self) -> None:
        for value in (1, 0):
            if self._reset is not None:
                self._reset.value = value
            if value:
                await self._settle()
                await self._edge()
        for output in self.outputs.values():
            if output.ready is not None:
                output.ready.value = 1

    async def _settle(self) -> None:
        if self._clock is not None:
            self._clock.value = 0
        await _HALF

    async def _edge(self) -> None:
        if self._clock is not None:
            self._clock.value = 1
        await _HALF

    async def step(self) -> None:
        for port in self.inputs.values():
            port.drive()
        for name, driven in self.memory.drive(self.cycle).items():
            self._channels[name].drive(driven)
        await self._settle()
        for port in self.inputs.values():
            if port.offers and (port.ready is None or str(port.ready.value) == "1"):
                port.cycles.append(self.cycle)
                self.active = self.cycle
        for output in self.outputs.values():
            if output.sample(self.cycle):
                self.active = self.cycle
        self.memory.sample(self.cycle, {name: channel.sample(self.cycle)
                                        for name, channel in self._channels.items()})
        await self._edge()
        self.cycle += 1
        if self.cycle - max(self._began, self.active, self.memory.last) > self._patience:
            raise RuntimeError(f"the hardware has stopped: nothing moved in the "
                               f"{self._patience} cycles before cycle {self.cycle}")
        if time.monotonic() - self._reported > _REPORT_SECONDS:
            self._reported = time.monotonic()
            done = sum(len(port.cycles) for port in self.inputs.values())
            done += sum(len(port.cycles) for port in self.outputs.values())
            self._progress.write_text(f"{self.cycle} {done}\n", encoding="ascii")

    async def run(self) -> None:
        for counts, delay, after in zip(self.counts, self.delays, self.after, strict=True):
            while any(len(self.outputs[name].cycles) < beats for name, beats in after.items()):
                await self.step()
            for _ in range(delay):
                self._began = self.cycle
                await self.step()
            for port, count in zip(self.inputs.values(), counts, strict=True):
                port.last += int(count)
            while any(port.offers for port in self.inputs.values()):
                await self.step()
        while any(output.is_awaited for output in self.outputs.values()):
            await self.step()


@cocotb.test()
async def replay(dut: Any) -> None:
    """Run the program and write the answer, or one sentence saying why there is none."""
    directory = Path(os.environ["NEARBIT_REPLAY"])
    run = _Replay(dut, directory)
    started = time.perf_counter()
    try:
        await run.reset()
        await run.run()
    except RuntimeError as error:
        (directory / "error.txt").write_text(str(error), encoding="utf-8")
        return
    answer: dict[str, Any] = {"cycles": run.active + 1, "seconds": time.perf_counter() - started}
    for name, port in run.inputs.items():
        answer[f"accepted_{name}"] = np.array(port.cycles, dtype=np.int64)
    for name, output in run.outputs.items():
        answer[f"words_{name}"] = output.words()
        answer[f"cycles_{name}"] = np.array(output.cycles, dtype=np.int64)
    answer["memory"] = run.contents
    for traffic in run.memory.traffic(log=run.log):
        name = traffic.name
        answer |= {f"traffic_{name}": np.array([traffic.bursts, traffic.beats, traffic.failed]),
                   **{f"{part}_of_{name}": getattr(traffic, part) for part in TRAFFIC_LOG}}
    # Under its name only when it is complete.
    np.savez(directory / "part.npz", **answer)
    (directory / "part.npz").rename(directory / "answer.npz")
