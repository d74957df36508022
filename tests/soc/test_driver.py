# amaranth: UnusedElaboratable=no
"""The C driver against the compiled simulation of the accelerator, and the golden model."""

import ctypes
import functools
import importlib.util
import shutil
import subprocess
import sys
import tempfile
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nearbit.soc import exports
from nearbit_hw.soc.registers import CacheSocError, SocError, register_map
from nearbit_hw.soc.soc_core import SocCore, memory_buses
from nearbit_hw.verilog import generate
from nearbit_model.attention import attention
from nearbit_model.config import Config, Rescore
from nearbit_model.structure import Error as QueryError
from nearbit_sim import verilator
from nearbit_sim.cache import cached, key_of
from nearbit_sim.cxx import compiler


HERE = Path(__file__).parent
DATA = HERE.parent / "data" / "minilm-gpl3-64.npz"

HEAD = Config(key_bits=32, value_dim=16, capacity=64, lanes=4, value_lanes=8, top_n=32)
"""What the real head needs."""

HASH = Config(key_bits=12, value_dim=6, value_bits=5, capacity=32, queries=2, lanes=4,
              value_lanes=3,
              top_n=32, weight_bits=18, output_fraction_bits=12,
              rescore=Rescore(head_dim=12, lanes=6, element_bits=11, shared=True))
"""Everything else: several queries, rescoring, units that do not fill their beats, wide results."""

DRIVER = ("nearbit.c", "nearbit.h")

C_FLAGS = ("-std=c99", "-O1", "-fPIC", "-Wall", "-Wextra", "-Wpedantic", "-Wconversion",
           "-Wsign-conversion", "-Wshadow", "-Wstrict-prototypes", "-Wmissing-prototypes",
           "-Werror")


def c_compiler() -> list[str]:
    for name in ("gcc", "clang", "cc"):
        if shutil.which(name):
            return [name]
    assert importlib.util.find_spec("ziglang") is not None, "a C compiler is needed"
    return [sys.executable, "-m", "ziglang", "cc"]


def compile_driver(folder: Path, config: Config, *flags: str) -> Path:
    """Compile the driver against the registers of a configuration."""
    source = resources.files("nearbit.soc") / "driver"
    for name in DRIVER:
        (folder / name).write_text((source / name).read_text(encoding="utf-8"))
    (folder / "nearbit_registers.h").write_text(exports.c_header(register_map(config)))
    subprocess.run([*c_compiler(), *C_FLAGS, *flags, "-c", "nearbit.c", "-o", "nearbit.o"],
                   cwd=folder, check=True)
    return folder / "nearbit.o"


@functools.lru_cache
def library(config: Config, data_bits: int = 64) -> ctypes.CDLL:
    """Compile the driver, the AXI top and the bus between them, unless the cache has them."""
    verilog = generate(SocCore(config, data_bits=data_bits), "nearbit_axi")
    bus = (HERE / "bus.cc").read_text(encoding="utf-8")
    driver = resources.files("nearbit.soc") / "driver"
    key = key_of(verilog, bus, verilator.version(), str(C_FLAGS), str(len(memory_buses(config))),
                 exports.c_header(register_map(config)),
                 *((driver / name).read_text(encoding="utf-8") for name in DRIVER))

    def make(path: Path) -> None:
        with tempfile.TemporaryDirectory(prefix="nearbit-") as name:
            verilator.build(verilog, bus, path, command=compiler(), top="nearbit_axi", definitions=[
                f"NEARBIT_BEAT_BYTES={data_bits // 8}",
                f"NEARBIT_READ_PORTS={len(memory_buses(config))}"],
                objects=[compile_driver(Path(name), config)])

    return ctypes.CDLL(str(cached(key, ".so", make)))


class Port(ctypes.Structure):
    """As in nearbit.h, like what follows."""

    _fields_ = (*((name, ctypes.c_void_p) for name in (
        "registers", "read32", "write32", "send", "receive", "receive_trace", "context", "buffer")),
        ("buffer_bytes", ctypes.c_size_t), ("polls", ctypes.c_uint32),
        ("memory", ctypes.c_void_p), ("memory_address", ctypes.c_uint64),
        ("memory_bytes", ctypes.c_uint64), ("flush", ctypes.c_void_p))


class HardwareConfig(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_uint32) for name in (
        "version", "revision", "key_bits", "value_dim", "capacity", "value_bits", "queries",
        "lanes",
        "value_lanes", "top_n", "weight_bits", "output_fraction_bits", "exp_tables", "head_dim",
        "rescore_lanes", "element_bits", "has_rescore", "has_shared", "data_bits", "result_bits",
        "trace_bits", "has_memory", "heads", "sequences", "page_tokens", "pages", "bus_bits",
        "address_bits", "timeout_bits", "code_bytes", "code_alignment", "row_bytes",
        "row_alignment", "row_values", "row_scale", "row_stride"))


class Device(ctypes.Structure):
    _fields_ = (("port", ctypes.c_void_p), ("config", HardwareConfig))


class Query(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_uint32) for name in ("count", "exp_table", "multiplier"))


class Batch(ctypes.Structure):
    _fields_ = (*((name, ctypes.c_uint32) for name in ("first", "n", "sink", "recent")),
                *((name, ctypes.c_int) for name in ("trace", "rescore", "shared")),
                ("queries", ctypes.POINTER(Query)),
                ("head", ctypes.c_uint32), ("sequence", ctypes.c_uint32))


class Result(ctypes.Structure):
    _fields_ = (("query", ctypes.c_uint32), ("error", ctypes.c_uint32))


class Selected(ctypes.Structure):
    _fields_ = (*((name, ctypes.c_uint32) for name in ("index", "query", "distance", "weight")),
                ("score", ctypes.c_int32))


class Error(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_uint32) for name in ("code", "address", "query",
                                                          "query_error"))


STATUS = ("OK", "NO_DEVICE", "NO_PORT", "ARGUMENT", "NO_ROOM", "IS_BUSY", "TIMEOUT", "TRANSPORT",
          "REFUSED", "PACKET")
"""The enumeration nearbit_status."""

SEND = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.POINTER(ctypes.c_uint8),
                        ctypes.c_size_t)


class Board:
    """An accelerator in simulation, with the driver's functions as methods.

    Those return the status in words.
    """

    def __init__(self, config: Config, *, seed: int = 1, pause: int = 0, buffer_bytes: int = 4096,
                 data_bits: int = 64, polls: int = 10_000) -> None:
        self.library = library(config, data_bits)
        for name, result in {"bus_create": ctypes.c_void_p, "bus_cycle": ctypes.c_uint64,
                             "nearbit_counter": ctypes.c_uint64, "nearbit_error": Error,
                             "nearbit_room": ctypes.c_size_t, "nearbit_code_bytes": ctypes.c_size_t,
                             "nearbit_irq_pending": ctypes.c_uint32}.items():
            getattr(self.library, name).restype = result
        for name in ("nearbit_text", "nearbit_error_text", "nearbit_query_text"):
            getattr(self.library, name).restype = ctypes.c_char_p
        self.bus = ctypes.c_void_p(self.library.bus_create(ctypes.c_uint64(seed), pause))
        self.buffer = ctypes.create_string_buffer(buffer_bytes)
        self.port = Port(context=self.bus, polls=polls, buffer_bytes=buffer_bytes,
                         buffer=ctypes.cast(self.buffer, ctypes.c_void_p))
        for name in ("read32", "write32", "send", "receive", "receive_trace"):
            self.hook(name, getattr(self.library, f"bus_{name}"))
        self.device = Device()

    def hook(self, name: str, function: Any) -> None:
        """Put a function into the port."""
        setattr(self.port, name, ctypes.cast(function, ctypes.c_void_p))

    def close(self) -> None:
        self.library.bus_destroy(self.bus)

    def probe(self) -> str:
        return STATUS[self.library.nearbit_probe(ctypes.byref(self.device),
                                                 ctypes.byref(self.port))]

    @property
    def config(self) -> HardwareConfig:
        return self.device.config

    def raw(self, name: str, *arguments: Any) -> Any:
        """Call a function of the driver; arrays go as pointers."""
        return getattr(self.library, f"nearbit_{name}")(
            ctypes.byref(self.device),
            *(each.ctypes.data_as(ctypes.c_void_p) if isinstance(each, np.ndarray) else each
              for each in arguments))

    def call(self, name: str, *arguments: Any) -> str:
        return STATUS[self.raw(name, *arguments)]

    def error(self) -> Error:
        found: Error = self.library.nearbit_error(ctypes.byref(self.device))
        return found

    def counter(self, name: str, config: Config) -> int:
        address = register_map(config).register(f"{name}_LOW").address
        return int(self.library.nearbit_counter(ctypes.byref(self.device),
                                                ctypes.c_uint32(address)))

    def bus_errors(self) -> int:
        return int(self.library.bus_errors(self.bus))


def batch(queries: list[tuple[int, int, int]], *, first: int = 0, n: int = 1, sink: int = 0,
          recent: int = 0, trace: bool = False, rescore: bool = False,
          shared: bool = False) -> Batch:
    """Make a batch; the queries are counts, exp tables and multipliers."""
    array = (Query * len(queries))(*(Query(*each) for each in queries))
    return Batch(first, n, sink, recent, trace, rescore, shared, array)


@pytest.fixture
def board():
    """Make boards, and throw them away."""
    made: list[Board] = []

    def make(config: Config, **options: Any) -> Board:
        made.append(Board(config, **options))
        return made[-1]

    yield make
    for each in made:
        each.close()


def code_bytes(codes: np.ndarray, bits: int) -> np.ndarray:
    """Words of 64 bits as the driver takes them."""
    return np.ascontiguousarray(codes.astype("<u8").view(np.uint8)[..., :-(-bits // 8)])


def load(board: Board, prepared: Any, kv_head: int = 0) -> None:
    """Load a head of keys, and the exp tables of its query heads."""
    config = prepared.config
    codes = code_bytes(prepared.k_codes[kv_head], config.key_bits)
    elements = np.ascontiguousarray(prepared.values.elements[kv_head].astype(np.int16))
    scales = np.ascontiguousarray(prepared.values.scales[kv_head].astype(np.uint16))
    assert board.call("load_keys", 0, len(codes), codes) == "OK"
    assert board.call("load_values", 0, len(codes), elements, scales) == "OK"
    if prepared.rescore is None:
        for exp_table in range(min(config.exp_tables, prepared.heads)):
            weights = np.ascontiguousarray(prepared.exp_tables[exp_table].astype(np.uint32))
            assert board.call("load_exp_table", exp_table, weights) == "OK"
    else:
        rescore_keys = np.ascontiguousarray(prepared.rescore.keys[kv_head].astype(np.int16))
        assert board.call("load_rescore_keys", 0, len(codes), rescore_keys) == "OK"


def check(board: Board, golden: Any, head: int, query: int, position: int, outputs: np.ndarray
          ) -> None:
    """Compare an answer and its trace with the golden model."""
    wanted = golden.selected[head, position]
    used = wanted >= 0
    order = np.argsort(-wanted[used])
    assert outputs.tolist() == golden.output_int[head, position].tolist()
    keys, number = (Selected * 64)(), ctypes.c_size_t()
    assert board.call("take_trace", keys, 64, ctypes.byref(number)) == "OK"
    found = keys[:number.value]
    assert [key.index for key in found] == wanted[used][order].tolist()
    assert [key.distance for key in found] == golden.distances[head, position][used][order].tolist()
    assert [key.weight for key in found] == golden.weights[head, position][used][order].tolist()
    scores = -golden.distances if golden.scores is None else golden.scores
    assert [key.score for key in found] == scores[head, position][used][order].tolist()
    assert {key.query for key in found} == {query}


@pytest.mark.parametrize(("pause", "buffer_bytes"), [(0, 4096), (100, 264), (200, 4096)])
def test_real_head(board, pause, buffer_bytes):
    """A head of a language model, bit for bit, also with a buffer that just holds an exp table."""
    with np.load(DATA) as file:
        golden = attention(file["q"], file["k"], file["v"], HEAD, n=24, sink=2, recent=3)
    prepared = golden.prepared
    device = board(HEAD, pause=pause, buffer_bytes=buffer_bytes)
    assert device.probe() == "OK"
    assert device.config.capacity == 64
    load(device, prepared)
    asked = batch([(int(prepared.counts[0]), 0, 0)], n=24, sink=2, recent=3, trace=True)
    codes = code_bytes(prepared.q_codes[0], HEAD.key_bits)
    device.raw("clear_counters")
    # All of them first: the bus has room for their answers.
    assert device.call("ask", ctypes.byref(asked), len(codes), codes, None) == "OK"
    result, outputs = Result(), np.zeros(HEAD.value_dim, np.int32)
    for position in range(len(codes)):
        assert device.call("take", ctypes.byref(result), outputs) == "OK"
        assert (result.query, result.error) == (0, 0)
        check(device, golden, 0, 0, position, outputs)
    assert device.counter("BATCHES", HEAD) == len(codes)
    assert device.counter("KEYS", HEAD) == len(codes) * 64 // HEAD.lanes
    assert device.counter("CYCLES", HEAD) > 0
    assert device.raw("is_active") == 0
    assert device.bus_errors() == 0


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("data_bits", [64, pytest.param(128, marks=pytest.mark.slow)])
def test_rescoring(board, shared, data_bits):
    rng = np.random.default_rng(5)
    q = rng.standard_normal((2, 3, 12))
    k, v = rng.standard_normal((1, 20, 12)), rng.standard_normal((1, 20, 6))
    golden = attention(q, k, v, HASH, n=7, sink=1, method="hash", shared=shared, rotate=False)
    prepared = golden.prepared
    rescore = prepared.rescore
    assert rescore is not None
    device = board(HASH, pause=64, data_bits=data_bits)
    assert device.probe() == "OK"
    assert (device.config.has_rescore, device.config.trace_bits) == (1, 128)
    load(device, prepared)
    result, outputs = Result(), np.zeros(HASH.value_dim, np.int32)
    for position in range(3):
        queries = [(int(prepared.counts[position]), 0, int(rescore.multipliers[head, position]))
                   for head in range(2)]
        asked = batch(queries, n=7, sink=1, trace=True, rescore=True, shared=shared)
        codes = code_bytes(prepared.q_codes[:, position], HASH.key_bits)
        elements = np.ascontiguousarray(rescore.queries[:, position].astype(np.int16))
        assert device.call("ask", ctypes.byref(asked), 1, codes, elements) == "OK"
        for query in range(2):
            assert device.call("take", ctypes.byref(result), outputs) == "OK"
            assert (result.query, result.error) == (query, 0)
            check(device, golden, query, query, position, outputs)
    assert device.bus_errors() == 0


def loaded(board: Any, **options: Any) -> tuple[Board, Any]:
    """Make a board with a small head of keys."""
    rng = np.random.default_rng(3)
    q, k, v = (rng.standard_normal((1, count, dim)) for count, dim in
               ((3, 32), (20, 32), (20, 16)))
    golden = attention(q, k, v, HEAD, n=5)
    device = board(HEAD, **options)
    assert device.probe() == "OK"
    load(device, golden.prepared)
    return device, golden


def ask_all(device: Board, golden: Any, **fields: Any) -> list[int]:
    """Ask all batches one by one, compare the answers, and return the errors."""
    prepared = golden.prepared
    codes = code_bytes(prepared.q_codes[0], HEAD.key_bits)
    asked = batch([(20, 0, 0)], **{"n": 5, **fields})
    results = (Result * len(codes))()
    outputs = np.full((len(codes), HEAD.value_dim), -1, np.int32)
    assert device.call("query", ctypes.byref(asked), len(codes), codes, None, results,
                       outputs) == "OK"
    for index, result in enumerate(results):
        wanted = np.full(HEAD.value_dim, -1) if result.error else golden.output_int[0, index]
        assert outputs[index].tolist() == wanted.tolist()
    return [result.error for result in results]


def test_batch(board):
    device, golden = loaded(board, pause=50)
    assert ask_all(device, golden) == [0, 0, 0]
    assert device.bus_errors() == 0


def test_query_errors(board):
    """A batch that cannot be answered says why, and hinders nothing."""
    device, golden = loaded(board)
    assert ask_all(device, golden, n=0) == [1, 1, 1]
    error = device.error()
    assert (error.code, error.query, error.query_error) == (7, 0, 1)
    assert device.library.nearbit_query_text(error.query_error) == b"n is 0"
    assert ask_all(device, golden, n=33) == [2, 2, 2]
    assert ask_all(device, golden, first=1) == [4, 4, 4]
    assert ask_all(device, golden) == [0, 0, 0]
    assert device.call("clear") == "OK"
    assert device.error().code == 0
    assert device.bus_errors() == 0


@pytest.mark.parametrize(("change", "code", "text"), [
    (-1, 5, b"the packet ended before the operation did"),
    (1, 6, b"the packet did not end with the operation")], ids=["early", "late"])
def test_wrong_end(board, change, code, text):
    """A packet of another length: what was loaded stays, and all goes on after a clear."""
    device, golden = loaded(board)
    sound = device.port.send

    @SEND
    def send(context, data, length):
        return device.library.bus_send(ctypes.c_void_p(context), data,
                                       ctypes.c_size_t(length + 8 * change))

    device.hook("send", send)
    codes = code_bytes(np.arange(4, dtype=np.uint64)[:, None], HEAD.key_bits)
    assert device.call("load_keys", 20, 4, codes) == "REFUSED"
    assert device.error().code == code
    assert device.library.nearbit_error_text(code) == text
    device.port.send = sound
    assert device.call("load_keys", 20, 4, codes) == "REFUSED"
    assert device.call("clear") == "OK"
    assert ask_all(device, golden) == [0, 0, 0]
    assert device.call("load_keys", 20, 4, codes) == "OK"
    assert ask_all(device, golden) == [0, 0, 0]
    assert device.bus_errors() == 0


@pytest.mark.parametrize("end", ["clear", "abandon"])
def test_lost_packet(board, end):
    """A packet of which a part is lost: its operation is ended, in either way."""
    device, golden = loaded(board, polls=50)
    sound = device.port.send

    @SEND
    def send(context, data, length):
        return device.library.bus_beats(ctypes.c_void_p(context), data,
                                        ctypes.c_size_t(length // 2), 0)

    device.hook("send", send)
    codes = code_bytes(np.arange(4, dtype=np.uint64)[:, None], HEAD.key_bits)
    assert device.call("load_keys", 20, 4, codes) == "TIMEOUT"
    assert device.call("load_keys", 20, 4, codes) == "IS_BUSY"
    device.port.send = sound
    if end == "clear":
        # The rest of the packet is waited for, and then dropped.
        assert device.call("clear") == "TIMEOUT"
        beats = np.zeros(16, np.uint8)
        device.library.bus_beats(device.bus, beats.ctypes.data_as(ctypes.c_void_p),
                                 ctypes.c_size_t(16), 1)
    assert device.call(end) == "OK"
    assert ask_all(device, golden) == [0, 0, 0]
    assert device.bus_errors() == 0


@pytest.mark.parametrize("engines", [True, False])
def test_reset_within_a_packet(board, engines):
    """If what sends is not reset as well, the next operation gets the rest of the packet."""
    device, golden = loaded(board, polls=50)
    sound = device.port.send

    @SEND
    def send(context, data, length):
        # One token is taken before the reset, the rest waits.
        device.library.bus_beats(ctypes.c_void_p(context), data, ctypes.c_size_t(8), 0)
        rest = ctypes.cast(ctypes.addressof(data.contents) + 8, ctypes.POINTER(ctypes.c_uint8))
        device.library.bus_offer(ctypes.c_void_p(context), rest, ctypes.c_size_t(length - 8), 1)
        device.library.bus_reset(ctypes.c_void_p(context), int(engines))
        return 0

    device.hook("send", send)
    codes = code_bytes(np.arange(4, dtype=np.uint64)[:, None], HEAD.key_bits)
    assert device.call("load_keys", 20, 4, codes) == "OK"
    device.port.send = sound
    assert device.call("clear") == "OK"
    codes = code_bytes(golden.prepared.k_codes[0], HEAD.key_bits)
    if not engines:
        assert device.call("load_keys", 0, len(codes), codes) == "REFUSED"
        # The tlast of the packet before.
        assert device.error().code == SocError.EARLY
        return
    # What was loaded is not, as far as queries are concerned; everything is to be loaded again.
    load(device, golden.prepared)
    assert ask_all(device, golden) == [0, 0, 0]


def test_arguments(board):
    """What the accelerator has no room for never reaches it."""
    device, golden = loaded(board)
    some = np.zeros(1000, np.uint8)
    for token, number in ((64, 1), (63, 2), (0, 65), (0, 0), (2**32 - 1, 2)):
        assert device.call("load_keys", token, number, some) == "ARGUMENT"
    assert device.call("load_exp_table", 2, some) == "ARGUMENT"
    assert device.call("load_rescore_keys", 0, 1, some) == "ARGUMENT"
    for fields in ({"first": 64}, {"n": 65}, {"sink": 65}, {"recent": 65}, {"rescore": True},
                   {"shared": True}):
        asked = batch([(1, 0, 0)], **{"n": 1, **fields})
        assert device.call("ask", ctypes.byref(asked), 1, some, None) == "ARGUMENT"
    for query in ((65, 0, 0), (1, 2, 0)):
        assert device.call("ask", ctypes.byref(batch([query])), 1, some, None) == "ARGUMENT"
    assert device.call("ask", ctypes.byref(batch([(1, 0, 0)])), 0, some, None) == "ARGUMENT"
    assert ask_all(device, golden) == [0, 0, 0]
    assert device.bus_errors() == 0


def test_port(board):
    """A port that lacks something, and one behind which there is another device."""
    device = board(HEAD)
    for name in ("read32", "write32", "send", "receive", "buffer"):
        kept = getattr(device.port, name)
        setattr(device.port, name, None)
        assert device.probe() == "NO_PORT"
        setattr(device.port, name, kept)
    memory = (ctypes.c_uint32 * 1024)()
    device.port.registers = ctypes.addressof(memory)
    assert device.probe() == "NO_DEVICE"
    device.port.registers = None
    device.port.buffer_bytes = 8
    assert device.probe() == "NO_ROOM"
    room = device.library.nearbit_room(ctypes.byref(device.device))
    device.port.buffer_bytes = room - 1
    assert device.probe() == "NO_ROOM"
    device.port.buffer_bytes = room
    assert device.probe() == "OK"
    failing = SEND(lambda *_: 1)
    device.hook("send", failing)
    assert device.call("load_keys", 0, 1, np.zeros(4, np.uint8)) == "TRANSPORT"


def test_memory(board):
    """Registers in memory: those of the map's reset values are an accelerator."""
    memory = (ctypes.c_uint32 * 1024)()
    for register in register_map(HASH).registers:
        memory[register.address // 4] = register.reset
    device = board(HEAD)
    device.port.registers = ctypes.addressof(memory)
    assert device.probe() == "OK"
    config = device.config
    assert (config.key_bits, config.queries, config.head_dim, config.rescore_lanes,
            config.element_bits, config.has_shared, config.result_bits) == (12, 2, 12, 6, 11, 1, 32)
    # CONTROL.CLEAR was written.
    assert memory[0x80 // 4] == 1


def test_interrupt(board):
    device, golden = loaded(board)
    device.raw("irq_clear", 3)
    assert device.raw("irq_pending") == 0
    device.raw("irq_enable", 1)
    assert device.library.bus_irq(device.bus) == 0
    assert ask_all(device, golden) == [0, 0, 0]
    device.library.bus_run(device.bus, 10)
    assert device.library.bus_irq(device.bus) == 1
    assert device.raw("irq_pending") == 1
    device.raw("irq_clear", 1)
    device.library.bus_run(device.bus, 2)
    assert device.library.bus_irq(device.bus) == 0


def test_texts(board):
    """Every status and error has words of its own."""
    device = board(HEAD)
    for name, count in (("text", len(STATUS)), ("error_text", len(CacheSocError)),
                        ("query_text", len(QueryError))):
        texts = [getattr(device.library, f"nearbit_{name}")(code) for code in range(count + 1)]
        assert len(set(texts)) == count + 1
        assert texts[-1].startswith(b"unknown")


@pytest.mark.parametrize("name", ["reference", "hash64gqa3"])
def test_compiles(tmp_path, name):
    """No warning of the C compiler, for any configuration's header; nor as C++."""
    compile_driver(tmp_path, Config.preset(name))
    (tmp_path / "main.cc").write_text('#include "nearbit.h"\n#include "nearbit_registers.h"\n')
    subprocess.run([*compiler(), "-std=c++17", "-Wall", "-Wextra", "-Werror", "-fsyntax-only",
                    "main.cc"], cwd=tmp_path, check=True)
