# amaranth: UnusedElaboratable=no
"""The C driver of an accelerator whose keys and values lie in memory: bit for bit, and errors."""

import ctypes
from typing import Any

import numpy as np
import pytest

from nearbit_hw.soc.registers import CacheSocError, Fault
from nearbit_model.config import Config, Memory, Rescore
from nearbit_model.golden import Result as Answer
from nearbit_model.golden import attend, attend_one
from nearbit_model.memory import MemoryImage, plan_memory
from nearbit_model.quantize import RescoreOperands, Values, codes_from_ints
from nearbit_model.structure import Error as QueryError

from .test_driver import Batch, Board, Query, Result, Selected, code_bytes


PLAIN = Config(key_bits=12, value_dim=10, value_bits=8, capacity=32, lanes=2, value_lanes=2,
               top_n=8, exp_tables=2,
               memory=Memory(heads=3, sequences=3, page_tokens=8, pages=7, bus_bits=32,
                             burst_bytes=16, queue_beats=16, address_bits=40))
"""Values and a scale that fill no beat, and addresses of more than a word."""

HASH = Config(key_bits=32, value_dim=8, value_bits=4, capacity=64, lanes=1, value_lanes=8,
              top_n=16, queries=2, rescore=Rescore(head_dim=16, lanes=16, element_bits=12,
                                                   shared=True),
              memory=Memory(heads=2, sequences=2, page_tokens=16, pages=8, bus_bits=64,
                            row_ports=2))
"""Several queries, rescoring with 12-bit elements, and rows on two buses."""


class Head(ctypes.Structure):
    """As in nearbit.h, like what follows."""

    _fields_ = (("codes", ctypes.c_uint64), ("rows", ctypes.c_uint64), ("stride", ctypes.c_uint32))


class Sequence(ctypes.Structure):
    _fields_ = (*((name, ctypes.c_uint32) for name in ("number", "tokens", "listed")),
                ("pages", ctypes.POINTER(ctypes.c_uint32)))


FLUSH = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)


class CachedBoard(Board):
    """An accelerator, its memory as the processor and as its buses see it, and a copy of tokens.

    What the processor writes is on the buses only after it was flushed.
    """

    def __init__(self, config: Config, **options: Any) -> None:
        super().__init__(config, **options)
        self.rng = np.random.default_rng(7)
        self.given = config
        layout_stride = plan_memory(config).heads[0].stride
        self.plan = plan_memory(config, origin=(1 << config.memory.address_bits - 1) - 4096,
                                stride=layout_stride + plan_memory(config).layout.row_unit)
        # What nobody has written is anything.
        self.seen = self.rng.integers(0, 256, self.plan.size, np.uint8)
        self.there = self.rng.integers(0, 256, self.plan.size, np.uint8)
        self.flushed: list[tuple[int, int]] = []
        self.port.memory = self.seen.ctypes.data
        self.port.memory_address, self.port.memory_bytes = self.plan.origin, self.plan.size
        self.flush = FLUSH(self._flush)
        self.hook("flush", self.flush)
        self.library.bus_memory(self.bus, self.there.ctypes.data_as(ctypes.c_void_p),
                                ctypes.c_uint64(self.plan.origin), ctypes.c_uint64(self.plan.size))
        self.library.nearbit_faults.restype = ctypes.c_uint32
        self.tokens: dict[tuple[int, int], tuple[int, Any, int, Any]] = {}
        self.exp_tables: list[Any] = []

    def _flush(self, _: int, address: int, length: int) -> int:
        at = address - self.seen.ctypes.data
        self.there[at:at + length] = self.seen[at:at + length]
        self.flushed.append((at, length))
        return 0

    def head(self, number: int) -> Head:
        place = self.plan.heads[number]
        return Head(place.codes, place.rows, place.stride)

    def start(self) -> None:
        assert self.probe() == "OK"
        for number in range(self.given.memory.heads):
            assert self.call("set_head", number, ctypes.byref(self.head(number))) == "OK"
        for number in range(self.given.exp_tables):
            weights = np.sort(self.rng.integers(
                1, 1 << self.given.weight_bits, self.given.key_bits + 1, np.uint32))[::-1].copy()
            assert self.call("load_exp_table", number, weights) == "OK"
            self.exp_tables.append(weights.tolist())

    def sequence(self, number: int) -> Sequence:
        """Open a sequence."""
        config = self.given
        pages = (ctypes.c_uint32 * (config.capacity // config.memory.page_tokens))()
        made = Sequence(number, 99, 99, pages)
        assert self.call("open", ctypes.byref(made)) == "OK"
        assert (made.tokens, made.listed) == (0, 0)
        return made

    def place(self, sequence: Sequence, token: int) -> int:
        size = self.given.memory.page_tokens
        return int(sequence.pages[token // size]) * size + token % size

    def signed(self, bits: int, *shape: int) -> np.ndarray:
        found = self.rng.integers(-(1 << bits - 1), 1 << bits - 1, shape, np.int16)
        found.flat[:2] = -(1 << bits - 1), (1 << bits - 1) - 1
        return found

    def append(self, sequence: Sequence, heads: list[int], *, sends: bool = False) -> str:
        """Append a random token; with ``sends`` the accelerator writes it."""
        config, count, unit = self.given, len(heads), self.given.rescore
        codes = self.rng.integers(0, 1 << config.key_bits, count, np.uint64)
        values = self.signed(config.value_bits, count, config.value_dim)
        scales = self.rng.integers(0, 1 << 16, count, np.uint16)
        keys = None if unit is None else self.signed(unit.element_bits, count, unit.head_dim)
        number = sequence.tokens
        places = (ctypes.c_uint32 * count)(*heads) if sends else \
            (Head * count)(*map(self.head, heads))
        status = self.call("send_token" if sends else "append", places, count,
                           ctypes.byref(sequence), code_bytes(codes[:, None], config.key_bits),
                           keys, values, scales)
        if status == "OK":
            for index, head in enumerate(heads):
                self.tokens[head, self.place(sequence, number)] = (
                    int(codes[index]), values[index], int(scales[index]),
                    [] if keys is None else keys[index])
        return status

    def extend(self, sequence: Sequence, tokens: int, free: list[int], *,
               sends: bool = False) -> None:
        """Append random tokens to all heads, with pages from a list."""
        for _ in range(tokens):
            if sequence.tokens == sequence.listed * self.given.memory.page_tokens:
                assert self.call("grow", ctypes.byref(sequence), free.pop()) == "OK"
            assert self.append(sequence, list(range(self.given.memory.heads)),
                               sends=sends) == "OK"

    def ask(self, head: int, sequence: Sequence, counts: list[int], *, first: int = 0, n: int = 4,
            rescore: bool = False, shared: bool = False, trace: bool = True
            ) -> tuple[list[int], list[np.ndarray]]:
        """Ask a batch with random codes; compare answers and traces, and return the errors."""
        config, rng = self.given, self.rng
        codes = rng.integers(0, 1 << config.key_bits, config.queries, np.uint64)
        multipliers = rng.integers(0, 1 << 20, config.queries)
        tables = rng.integers(0, config.exp_tables, config.queries)
        elements = None if config.rescore is None else self.signed(
            config.rescore.element_bits, config.queries, config.rescore.head_dim)
        queries = (Query * config.queries)(*(
            Query(count, int(table), int(multiplier))
            for count, table, multiplier in zip(counts, tables, multipliers, strict=True)))
        asked = Batch(first, n, 1, 0, trace, rescore, shared, queries, head, sequence.number)
        assert self.call("ask", ctypes.byref(asked), 1, code_bytes(codes[:, None], config.key_bits),
                         elements if rescore else None) == "OK"
        found: list[int] = []
        golden = None
        for query in range(config.queries):
            result, outputs = Result(), np.zeros(config.value_dim, np.int32)
            assert self.call("take", ctypes.byref(result), outputs) == "OK"
            assert result.query == query
            found.append(result.error)
            if result.error:
                continue
            known = [list(part) for part in zip(*(
                self.tokens[head, self.place(sequence, token)]
                for token in range(first + counts[query])), strict=True)]
            if shared:
                golden = golden or self._share(known, codes, elements, multipliers, counts[0],
                                               first, n)
                answer = golden[query]
            else:
                answer = attend_one(
                    int(codes[query]), known[0], np.array(known[1]).tolist(), known[2],
                    self.exp_tables[tables[query]], config=config, count=counts[query],
                    first=first, n=n, sink=1, recent=0,
                    rescore=RescoreOperands(elements[None, query:query + 1],
                                            np.array([known[3]]),
                                            multipliers[None, query:query + 1])
                    if rescore else None)
            assert outputs.tolist() == answer.output_int.tolist()
            if trace:
                self._check_trace(query, answer)
        return found, []

    def _share(self, known: Any, codes: Any, elements: Any, multipliers: Any, count: int,
               first: int, n: int) -> list[Answer]:
        config = self.given
        found = attend(
            np.array([codes_from_ints([int(code)], config.key_bits) for code in codes]),
            codes_from_ints(known[0], config.key_bits)[None],
            Values(np.array([known[1]]), np.array([known[2]])),
            [[1] * (config.key_bits + 1)] * len(codes), config=config, counts=count, first=first,
            n=n, sink=1, recent=0, shared=True,
            rescore=RescoreOperands(elements[:, None], np.array([known[3]]), multipliers[:, None]))
        return [Answer(found.output_int[query, 0], found.selected[query, 0],
                       found.distances[query, 0], found.weights[query, 0], found.scores[query, 0])
                for query in range(len(codes))]

    def _check_trace(self, query: int, answer: Any) -> None:
        keys, number = (Selected * 64)(), ctypes.c_size_t()
        assert self.call("take_trace", keys, 64, ctypes.byref(number)) == "OK"
        order = np.argsort(-answer.selected)
        assert [(key.index, key.query, key.weight) for key in keys[:number.value]] == [
            (int(answer.selected[place]), query, int(answer.weights[place])) for place in order]


@pytest.fixture
def cached():
    """Make boards, and throw them away."""
    made: list[CachedBoard] = []

    def make(config: Config, **options: Any) -> CachedBoard:
        made.append(CachedBoard(config, **options))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.mark.parametrize("pause", [0, 120])
def test_sequences(cached, pause):
    """Sequences of several heads grow, share a beginning, end and begin anew."""
    device = cached(PLAIN, pause=pause)
    device.start()
    config, memory = device.config, PLAIN.memory
    assert (config.has_memory, config.heads, config.sequences, config.page_tokens, config.pages,
            config.address_bits, config.code_bytes, config.row_bytes) == (
        1, 3, 3, 8, 7, 40, 2, device.plan.layout.row_bytes)
    free = list(range(memory.pages))
    first, second = device.sequence(0), device.sequence(1)
    for _ in range(5):
        device.extend(first, 4, free)
        device.extend(second, 1, free)
        for head in range(memory.heads):
            assert device.ask(head, first, [first.tokens])[0] == [0]
            assert device.ask(head, second, [second.tokens], n=1)[0] == [0]
    assert device.ask(0, second, [second.tokens + 1])[0] == [QueryError.RANGE.value]
    assert device.call("clear") == "OK"
    # A third one begins with full pages of the first, and goes its own way.
    third = device.sequence(2)
    assert device.call("share", ctypes.byref(third), ctypes.byref(first), 16) == "OK"
    assert (third.tokens, third.pages[0], third.pages[1]) == (16, first.pages[0], first.pages[1])
    assert device.ask(1, third, [16])[0] == [0]
    device.extend(third, 3, free)
    device.extend(first, 2, free)
    for each in (first, third):
        assert device.ask(2, each, [each.tokens - 3], first=3, n=7)[0] == [0]
    # Pages of one that has ended are used again.
    page = int(second.pages[0])
    assert device.call("close", ctypes.byref(second)) == "OK"
    assert (second.tokens, second.listed) == (0, 0)
    assert device.ask(0, second, [1])[0] == [QueryError.RANGE.value]
    assert device.call("clear") == "OK"
    again = device.sequence(1)
    device.extend(again, 6, [page])
    assert device.ask(0, again, [6])[0] == [0]
    assert device.call("clear_head", 1) == "OK"
    assert device.ask(1, again, [6])[0] == [QueryError.NOT_SET.value]
    error = device.error()
    assert (error.query, error.query_error) == (0, QueryError.NOT_SET.value)
    assert device.library.nearbit_faults(ctypes.byref(device.device)) == 1 << Fault.NOT_SET
    device.raw("clear_faults", 1 << Fault.NOT_SET)
    assert device.library.nearbit_faults(ctypes.byref(device.device)) == 0
    assert device.bus_errors() == 0


def test_bytes(cached):
    """What is written is what the models write, and it is flushed; nothing else is touched."""
    for config in (PLAIN, HASH):
        device = cached(config)
        device.start()
        image = MemoryImage(device.plan, device.seen.copy())
        sequence = device.sequence(1)
        device.extend(sequence, config.memory.page_tokens + 3, [5, 2])
        pages = sequence.pages[:sequence.listed]
        for token in range(sequence.tokens):
            for head in range(config.memory.heads):
                code, values, scale, key = device.tokens[head, device.place(sequence, token)]
                image.write(head, pages, token, codes_from_ints([code], config.key_bits),
                            values[None], np.array([scale]),
                            None if config.rescore is None else key[None])
        assert device.seen.tobytes() == image.octets.tobytes()
        layout = device.plan.layout
        assert len(device.flushed) == 2 * sequence.tokens * config.memory.heads
        assert {length for _, length in device.flushed} == {layout.code_bytes, layout.row_bytes}


@pytest.mark.parametrize("pause", [0, 90])
def test_rescoring(cached, pause):
    device = cached(HASH, pause=pause)
    device.start()
    free = list(range(HASH.memory.pages))
    sequence = device.sequence(0)
    for _ in range(4):
        device.extend(sequence, 9, free)
        count = sequence.tokens
        for head in range(HASH.memory.heads):
            assert device.ask(head, sequence, [count, count - 2])[0] == [0, 0]
            assert device.ask(head, sequence, [count, count - 1], rescore=True)[0] == [0, 0]
            assert device.ask(head, sequence, [count, count], rescore=True,
                              shared=True)[0] == [0, 0]
    assert device.bus_errors() == 0


def test_faults(cached):
    """Errors and silence of the memory are those of a query, and all goes on after."""
    device = cached(PLAIN)
    device.start()
    sequence = device.sequence(0)
    device.extend(sequence, 8, [3])
    assert device.call("set_timeout", 1 << 16) == "ARGUMENT"
    assert device.call("set_timeout", 500) == "OK"
    for name, address in (
            ("CODES", device.plan.code_address(0, device.place(sequence, 0))),
            ("ROWS", device.plan.row_address(0, device.place(sequence, 5)) + 4)):
        assert device.ask(0, sequence, [7], n=7, trace=False)[0] == [0]
        device.library.bus_fault(device.bus, ctypes.c_uint64(address))
        assert device.ask(0, sequence, [7], n=7, trace=False)[0] == [QueryError[name].value]
        assert device.library.nearbit_faults(ctypes.byref(device.device)) == 1 << Fault[name]
        assert device.error().query_error == QueryError[name].value
        assert b"memory" in device.library.nearbit_query_text(device.error().query_error)
        device.raw("clear_faults", 7)
        device.library.bus_fault(device.bus, ctypes.c_uint64((1 << 64) - 1))
        assert device.call("clear") == "OK"
    device.library.bus_silence(device.bus, 1)
    assert device.ask(0, sequence, [7], trace=False)[0] == [QueryError.CODES.value]
    device.library.bus_silence(device.bus, 0)
    device.library.bus_run(device.bus, 2000)
    assert device.ask(0, sequence, [7])[0] == [0]
    assert device.bus_errors() == 0


@pytest.mark.parametrize("pause", [0, 120])
@pytest.mark.parametrize("config", [PLAIN, HASH], ids=["plain", "hash"])
def test_sent_tokens(cached, config, pause):
    """What the accelerator writes is what the driver would have, and queries see it."""
    device = cached(config, pause=pause)
    device.start()
    image = MemoryImage(device.plan, device.there.copy())
    sequence, free = device.sequence(1), list(range(config.memory.pages))
    device.port.memory = None
    for _ in range(3):
        device.extend(sequence, 5, free, sends=True)
        for head in range(config.memory.heads):
            counts = [sequence.tokens] * config.queries
            assert device.ask(head, sequence, counts, n=7)[0] == [0] * config.queries
    pages = sequence.pages[:sequence.listed]
    for token in range(sequence.tokens):
        for head in range(config.memory.heads):
            code, values, scale, key = device.tokens[head, device.place(sequence, token)]
            image.write(head, pages, token, codes_from_ints([code], config.key_bits),
                        values[None], np.array([scale]),
                        None if config.rescore is None else key[None])
    assert device.there.tobytes() == image.octets.tobytes()
    assert not device.flushed
    assert device.bus_errors() == 0


def test_token_that_fails(cached):
    """It is not seen, and can be sent again."""
    device = cached(PLAIN)
    device.start()
    sequence = device.sequence(0)
    device.extend(sequence, 3, [3], sends=True)
    assert device.call("set_timeout", 500) == "OK"
    place = device.place(sequence, 3)

    def fails(heads: list[int]) -> None:
        assert device.append(sequence, heads, sends=True) == "REFUSED"
        assert sequence.tokens == 3
        assert device.error().code == CacheSocError.APPEND
        assert b"append" in device.library.nearbit_error_text(CacheSocError.APPEND)
        # Whoever does not look at the error is told again.
        assert device.append(sequence, heads, sends=True) == "REFUSED"
        assert device.call("clear") == "OK"
        assert device.ask(0, sequence, [4])[0] == [QueryError.RANGE.value]
        assert device.call("clear") == "OK"

    for address in (device.plan.code_address(1, place) & ~3, device.plan.row_address(1, place)):
        device.library.bus_fault(device.bus, ctypes.c_uint64(address))
        fails([0, 1])
        device.library.bus_fault(device.bus, ctypes.c_uint64((1 << 64) - 1))
    device.library.bus_silence(device.bus, 1)
    fails([0])
    device.library.bus_silence(device.bus, 0)
    device.library.bus_run(device.bus, 2000)
    assert device.call("clear_head", 1) == "OK"
    fails([1])
    assert device.call("set_head", 1, ctypes.byref(device.head(1))) == "OK"
    assert device.append(sequence, [0, 1, 2], sends=True) == "OK"
    assert device.ask(1, sequence, [4])[0] == [0]
    # What has no place, or is nobody's.
    assert device.append(sequence, [], sends=True) == "ARGUMENT"
    assert device.append(sequence, [3], sends=True) == "ARGUMENT"
    device.extend(sequence, 4, [], sends=True)
    assert device.append(sequence, [0], sends=True) == "ARGUMENT"
    assert sequence.tokens == 8
    assert device.bus_errors() == 0


def test_arguments(cached):
    """What the accelerator has no room for never reaches it."""
    device = cached(PLAIN)
    device.start()
    sequence = device.sequence(0)
    some = np.zeros(64, np.uint8)
    assert device.call("load_keys", 0, 1, some) == "ARGUMENT"
    assert device.call("load_values", 0, 1, some, some) == "ARGUMENT"
    sound = device.head(0)
    unit, end = device.plan.layout.row_unit, 1 << 40
    for fields in ({"codes": sound.codes + 8}, {"rows": sound.rows + unit // 2},
                   {"stride": sound.stride + 1}, {"stride": 0}, {"stride": 256 * unit},
                   {"codes": end - 16}, {"rows": end - unit}, {"codes": (1 << 64) - 16},
                   {"rows": (1 << 64) - unit}):
        wrong = Head(**{"codes": sound.codes, "rows": sound.rows, "stride": sound.stride, **fields})
        assert device.call("set_head", 0, ctypes.byref(wrong)) == "ARGUMENT", fields
    assert device.call("set_head", 3, ctypes.byref(sound)) == "ARGUMENT"
    assert device.call("clear_head", 3) == "ARGUMENT"
    assert device.call("grow", ctypes.byref(sequence), 7) == "ARGUMENT"
    assert device.append(sequence, [0]) == "ARGUMENT"
    assert device.call("set_tokens", ctypes.byref(sequence), 1) == "ARGUMENT"
    device.extend(sequence, 32, [0, 1, 2, 3])
    assert device.call("grow", ctypes.byref(sequence), 4) == "ARGUMENT"
    assert device.append(sequence, [0]) == "ARGUMENT"
    other = device.sequence(1)
    for tokens in (40, 12):
        assert device.call("share", ctypes.byref(other), ctypes.byref(sequence),
                           tokens) == "ARGUMENT"
    beyond = Sequence(3, 0, 0, sequence.pages)
    assert device.call("open", ctypes.byref(beyond)) == "ARGUMENT"
    for head, number in ((3, 0), (0, 3)):
        asked = Batch(0, 1, 0, 0, 0, 0, 0, (Query * 1)(Query(1, 0, 0)), head, number)
        assert device.call("ask", ctypes.byref(asked), 1, some, None) == "ARGUMENT"
    # Memory that the processor does not see, and a port without the means.
    device.port.memory_bytes = device.plan.heads[0].rows - device.plan.origin
    again = device.sequence(1)
    assert device.call("grow", ctypes.byref(again), 4) == "OK"
    assert device.append(again, [0]) == "ARGUMENT"
    device.port.memory_bytes = device.plan.size
    # Nobody would have written the token.
    assert device.call("append", None, 0, ctypes.byref(again), None, None, None, None) == "ARGUMENT"
    assert again.tokens == 0
    failing = FLUSH(lambda *_: 1)
    device.hook("flush", failing)
    assert device.append(again, [0]) == "TRANSPORT"
    assert again.tokens == 0
    for name in ("memory", "flush"):
        kept = getattr(device.port, name)
        setattr(device.port, name, None)
        assert device.append(again, [0]) == "NO_PORT"
        setattr(device.port, name, kept)
    device.hook("flush", device.flush)
    assert device.append(again, [0]) == "OK"
    assert device.ask(0, again, [1], n=1)[0] == [0]
    assert device.bus_errors() == 0
