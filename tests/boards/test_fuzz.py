# amaranth: UnusedElaboratable=no
"""Random and mutated messages to the simulated device.

A second receiver, written from docs/host-link.md alone, says what each byte must lead to.
"""

import random

import numpy as np
import pytest

from nearbit_boards.simulated import PinTransport, SimulatedTransport
from nearbit_model import golden
from nearbit_model.config import PRESETS, Config, Rescore
from nearbit_model.quantize import RescoreOperands, codes, exp_table, values


TINY = PRESETS["tiny"]
RESCORE = Config(key_bits=4, value_dim=2, capacity=8, lanes=1, value_lanes=2, top_n=3, exp_tables=1,
                 queries=2, weight_bits=8, rescore=Rescore(head_dim=4, lanes=2, shared=True))
SMALL = Config(key_bits=4, value_dim=2, capacity=4, lanes=1, value_lanes=2, top_n=2, exp_tables=1)
TIMEOUT = 256
OK, CRC, TYPE, LENGTH, SILENCE, FIELD, ORDER = range(7)
IDENTIFY, STATUS, RESET, COMMAND, KEY, VALUE, EXP_TABLE, RESCORE_KEY, RESCORE_QUERY = range(1, 10)


def crc16(octets):
    """CRC-16/IBM-3740, bit by bit."""
    value = 0xFFFF
    for octet in octets:
        value ^= octet << 8
        for _ in range(8):
            value = (value << 1 ^ (0x1021 if value & 0x8000 else 0)) & 0xFFFF
    return value


def message(kind, sequence, payload=b""):
    body = bytes([kind, sequence, len(payload)]) + payload
    return b"\xA5" + body + crc16(body).to_bytes(2, "big")


def bits_of(number):
    """Bits for numbers up to this one."""
    return number.bit_length()


def packed(*fields):
    """Bytes of fields of (value, bits), the first lowest."""
    bits, offset = 0, 0
    for value, width in fields:
        assert -1 << width <= value < 1 << width
        bits |= (value & (1 << width) - 1) << offset
        offset += width
    return bits.to_bytes(max(1, -(-offset // 8)), "little")


class Problem:
    """What is loaded, the loads, and queries with the answers of the golden model."""

    def __init__(self, config, seed):
        self.config = config
        rng = np.random.default_rng(seed)
        self.tokens = config.capacity - 1
        key_words = codes(rng.normal(size=(self.tokens, config.key_bits)))
        self.values = values(rng.normal(size=(1, self.tokens, config.value_dim)),
                             config.value_bits)
        self.exp_tables = exp_table(np.full(1, 0.4), config.key_bits, config.weight_bits)
        self.keys = key_words[None]
        self.unit = config.rescore
        if self.unit is not None:
            limit = 1 << self.unit.element_bits - 1
            self.rescore_keys = rng.integers(-limit, limit, (1, self.tokens, self.unit.head_dim))
        self.rng = rng
        self.token_bits = bits_of(config.capacity - 1)

    def loads(self):
        config = self.config
        for token in range(self.tokens):
            yield KEY, packed((token, self.token_bits),
                              (int(self.keys[0, token, 0]), config.key_bits))
            for beat in range(config.beats):
                start = beat * config.value_lanes
                elements = self.values.elements[0, token, start:start + config.value_lanes].tolist()
                yield VALUE, packed((token, self.token_bits), (beat, bits_of(config.beats - 1)),
                                    *((element, config.value_bits) for element in elements),
                                    (int(self.values.scales[0, token]), 16))
            if self.unit is not None:
                for beat in range(self.unit.beats):
                    start = beat * self.unit.lanes
                    elements = self.rescore_keys[0, token, start:start + self.unit.lanes].tolist()
                    yield RESCORE_KEY, packed(
                        (token, self.token_bits), (beat, bits_of(self.unit.beats - 1)),
                        *((element, self.unit.element_bits) for element in elements))
        for distance in range(config.key_bits + 1):
            yield EXP_TABLE, packed((0, bits_of(config.exp_tables - 1)),
                                    (distance, bits_of(config.key_bits)),
                                    (int(self.exp_tables[0, distance]), config.weight_bits))

    def query(self, *, rescore=False):
        """Payloads of a query's beats and of the command, and the command for the golden model."""
        config, rng = self.config, self.rng
        capacity_bits = bits_of(config.capacity)
        first = int(rng.integers(self.tokens))
        # Some of them fail, each in its own way.
        n = int(rng.integers(config.top_n + 2))
        q_codes = codes(rng.normal(size=(config.queries, 1, config.key_bits)))
        counts = rng.integers(self.tokens - first + 2, size=config.queries)
        multipliers = rng.integers(1 << 28, size=(config.queries, 1))
        beats = []
        if rescore:
            limit = 1 << self.unit.element_bits - 1
            vectors = rng.integers(-limit, limit, (config.queries, self.unit.head_dim))
            place_bits = bits_of(config.queries * self.unit.beats - 1)
            beats = [packed((place, place_bits), *((element, self.unit.element_bits)
                                                   for element in elements))
                     for place, elements in enumerate(
                         vectors.reshape(-1, self.unit.lanes).tolist())]
        fields = [(first, self.token_bits), (n, capacity_bits), (0, capacity_bits),
                  (0, capacity_bits), (0, 1), (int(rescore), 1), (0, 1)]
        for query in range(config.queries):
            fields += [(int(q_codes[query, 0, 0]), config.key_bits),
                       (int(counts[query]), capacity_bits), (0, bits_of(config.exp_tables - 1))]
            if self.unit is not None:
                fields.append((int(multipliers[query, 0]), 32))
        return beats, packed(*fields), (first, n, q_codes, counts, multipliers)

    def solve(self, command, beats):
        """Blocks of the answer to a command, with rescoring if there are beats."""
        first, n, q_codes, counts, multipliers = command
        config, unit = self.config, self.unit
        vectors = None
        if beats:
            place_bits = bits_of(config.queries * unit.beats - 1)
            elements = []
            for beat in beats:
                bits = int.from_bytes(beat, "little") >> place_bits
                for index in range(unit.lanes):
                    part = bits >> index * unit.element_bits & (1 << unit.element_bits) - 1
                    elements.append(part - (part >> unit.element_bits - 1 << unit.element_bits))
            vectors = np.array(elements).reshape(config.queries, 1, unit.head_dim)
        blocks = []
        for query in range(config.queries):
            count = int(counts[query])
            error = 1 if n == 0 else 2 if n > config.top_n else 3 if count == 0 else \
                4 if first + count > self.tokens else 0
            if error:
                blocks.append((8 + error, b""))
                continue
            rescore = None if vectors is None else RescoreOperands(
                vectors[query:query + 1], self.rescore_keys,
                multipliers[query:query + 1].astype(np.uint32))
            answer = golden.attend(
                q_codes[query:query + 1], self.keys, self.values, self.exp_tables, config=config,
                counts=count, first=first, n=n, rescore=rescore)
            blocks.append((3, b"".join(
                int(output).to_bytes(-(-config.output_bits // 8), "little", signed=True)
                for output in answer.output_int[0, 0])))
        return blocks


class Model:
    """The device as the document describes it."""

    def __init__(self, problem):
        self.problem = problem
        config, unit = problem.config, problem.unit

        def octets(bits):
            return max(1, -(-bits // 8))

        token, capacity = problem.token_bits, bits_of(config.capacity)
        exp_table = bits_of(config.exp_tables - 1)
        # Bits of a command's queries, and of all of it.
        self.command_head = token + 3 * capacity + 3
        self.each_query = config.key_bits + capacity + exp_table + (32 if unit else 0)
        bits = {
            COMMAND: self.command_head + config.queries * self.each_query,
            KEY: token + config.key_bits,
            VALUE: token + bits_of(config.beats - 1) + config.value_lanes * config.value_bits + 16,
            EXP_TABLE: exp_table + bits_of(config.key_bits) + config.weight_bits,
        }
        if unit is not None:
            elements = unit.lanes * unit.element_bits
            self.beats = config.queries * unit.beats
            self.beat_bits = bits_of(self.beats - 1)
            bits |= {RESCORE_KEY: token + bits_of(unit.beats - 1) + elements,
                     RESCORE_QUERY: self.beat_bits + elements}
        self.bits = bits
        self.lengths = {IDENTIFY: 0, STATUS: 0, RESET: 0,
                        **{kind: octets(width) for kind, width in bits.items()}}
        self.loaded = {}
        self.commands = {}
        self.beats_taken = []
        self.rejected = self.lost = 0
        self.gap = False
        self.sequence = 0
        self.part = bytearray()
        self.replies = []
        self.accepted = []

    def answer(self, status, blocks=()):
        self.lost += self.gap
        self.gap = False
        self.rejected += status != OK
        if blocks == "state":
            state = bytes([self.rejected % 256, self.lost % 256])
            state += self.problem.tokens.to_bytes(3, "little")
            state += (1).to_bytes(-(-self.problem.config.exp_tables // 8), "little")
            if self.problem.unit is not None:
                state += self.problem.tokens.to_bytes(3, "little")
                state += len(self.beats_taken).to_bytes(2, "little")
            blocks = [(2, state)]
        self.replies.append((self.sequence, status, list(blocks)))
        self.part.clear()

    def feed(self, octets):
        for octet in octets:
            part = self.part
            if not part and octet != 0xA5:
                self.gap = True
                continue
            part.append(octet)
            if len(part) == 3:
                self.sequence = octet
                if part[1] not in self.lengths:
                    self.answer(TYPE)
            elif len(part) == 4 and octet != self.lengths[part[1]]:
                self.answer(LENGTH)
            elif len(part) > 4 and len(part) == 6 + part[3]:
                if crc16(part[1:-2]) != int.from_bytes(part[-2:], "big"):
                    self.answer(CRC)
                else:
                    self.take(part[1], bytes(part[4:-2]))

    def silence(self):
        if self.part:
            self.answer(SILENCE)

    def take(self, kind, payload):
        config = self.problem.config
        bits = int.from_bytes(payload, "little")

        def field(offset, width):
            return bits >> offset & (1 << width) - 1

        wrong = bits >> self.bits.get(kind, 0)
        if kind == EXP_TABLE:
            exp_table = bits_of(config.exp_tables - 1)
            wrong |= field(exp_table, bits_of(config.key_bits)) > config.key_bits
        if wrong:
            return self.answer(FIELD)
        if kind == RESCORE_QUERY:
            beat = field(0, self.beat_bits)
            if beat > len(self.beats_taken):
                return self.answer(ORDER)
            if beat == len(self.beats_taken):
                self.beats_taken.append(payload)
        if kind == COMMAND:
            beats = []
            if self.problem.unit is not None and field(self.command_head - 2, 1):
                if len(self.beats_taken) < self.beats:
                    return self.answer(ORDER)
                beats, self.beats_taken = self.beats_taken, []
            # All queries are known: another one would be a mutant with the right CRC.
            return self.answer(OK, self.problem.solve(self.commands[payload], beats))
        if kind in (KEY, VALUE, EXP_TABLE, RESCORE_KEY, RESET):
            # Only what is loaded already is loaded again.
            assert payload in self.loaded.get(kind, ()), "a mutant is a good request by chance"
        return self.answer(OK, "state" if kind == STATUS else
                           [(1, None)] if kind == IDENTIFY else ())


def read_replies(octets, config):
    """All replies of bytes that are nothing else: sequence, status, blocks but for the cycles."""
    sizes = {1: 73, 2: 5 + -(-config.exp_tables // 8) + (5 if config.rescore else 0),
             3: config.value_dim * -(-config.output_bits // 8)}
    replies, place = [], 0
    while place < len(octets):
        start = place
        assert octets[place] == 0x5A
        sequence, status = octets[place + 1], octets[place + 2]
        place += 3
        blocks = []
        while (tag := octets[place]) != 0:
            size = 3 if tag == 5 else 0 if tag > 8 else sizes[tag]
            if tag != 5:
                blocks.append((tag, None if tag == 1 else octets[place + 1:place + 1 + size]))
            place += 1 + size
        place += 3
        assert crc16(octets[start + 1:place - 2]) == int.from_bytes(octets[place - 2:place], "big")
        replies.append((sequence, status, blocks))
    return replies


class Fuzzer:
    """Makes messages of all kinds, most of them bad."""

    def __init__(self, problem, model, seed):
        self.problem, self.model = problem, model
        self.rng = random.Random(seed)
        self.loads = list(problem.loads())
        for kind, payload in self.loads:
            model.loaded.setdefault(kind, set()).add(payload)
        self.queries = [problem.query(rescore=problem.unit is not None and index % 2 == 1)
                        for index in range(40)]
        model.commands = {payload: command for _, payload, command in self.queries}

    def good(self):
        """A good request, or those of a query with its beats."""
        rng = self.rng
        match rng.randrange(4):
            case 0:
                kind, payload = rng.choice(self.loads)
                return message(kind, rng.randrange(256), payload)
            case 1:
                return message(rng.choice([IDENTIFY, STATUS, STATUS]), rng.randrange(256))
        beats, payload, _ = rng.choice(self.queries)
        octets = b"".join(message(RESCORE_QUERY, rng.randrange(256), beat)
                          for beat in beats[len(self.model.beats_taken):])
        return octets + message(COMMAND, rng.randrange(256), payload)

    def bad(self):
        rng = self.rng
        octets = bytearray(self.good())
        match rng.randrange(8):
            case 0: # up to three flipped bits
                for _ in range(rng.randrange(1, 4)):
                    octets[rng.randrange(len(octets))] ^= 1 << rng.randrange(8)
            case 1: # cut off
                del octets[rng.randrange(len(octets)):]
            case 2: # a byte lost
                del octets[rng.randrange(len(octets))]
            case 3: # bytes added
                place = rng.randrange(len(octets) + 1)
                octets[place:place] = rng.randbytes(rng.randrange(1, 5))
            case 4: # garbage
                octets = bytearray(rng.randbytes(rng.randrange(1, 40)))
            case 5: # garbage behind a header
                octets = bytearray(b"\xA5" + bytes([rng.randrange(12), rng.randrange(256),
                                                    rng.randrange(20)])
                                   + rng.randbytes(rng.randrange(20)))
            case 6: # a wrong payload with the right CRC: only where it is refused
                kind = rng.choice([kind for kind in self.model.bits if self.model.bits[kind] % 8])
                spare = self.model.bits[kind] % 8
                payload = bytearray(rng.randbytes(self.model.lengths[kind]))
                payload[-1] |= 1 << rng.randrange(spare, 8)
                octets = bytearray(message(kind, rng.randrange(256), bytes(payload)))
            case 7: # another length or type with the right CRC
                kind = rng.choice([0, 10, 0x14, 0xA5, 255, *self.model.lengths])
                length = rng.randrange(255)
                length += length >= self.model.lengths.get(kind, 255)
                octets = bytearray(message(kind, rng.randrange(256), rng.randbytes(length)))
        return bytes(octets)


def run(config, count, seed, transport, *, settle, batch=150):
    """Send messages in batches; after each, compare all replies and ask what is loaded."""
    problem = Problem(config, seed)
    model = Model(problem)
    fuzzer = Fuzzer(problem, model, seed)
    rng = fuzzer.rng
    came = b""

    def send(octets):
        model.feed(octets)
        transport.write(octets)

    def silence():
        nonlocal came
        model.silence()
        came += settle(transport)

    def compare():
        nonlocal came
        assert read_replies(came, config) == model.replies
        came = b""
        model.replies.clear()

    for kind, payload in fuzzer.loads:
        send(message(kind, 0, payload))
        if hasattr(transport, "levels"):
            silence()
    silence()
    compare()
    statuses = set()
    sent = 0
    while sent < count:
        for _ in range(min(batch, count - sent)):
            sent += 1
            send(fuzzer.bad() if rng.random() < 0.7 else fuzzer.good())
            if rng.random() < 0.2 or hasattr(transport, "levels"):
                silence()
        silence()
        statuses |= {status for _, status, _ in model.replies}
        compare()
        # What was loaded still answers right, and every error was counted.
        for beats, payload, _ in rng.sample(fuzzer.queries, 3):
            for beat in beats[len(model.beats_taken):]:
                send(message(RESCORE_QUERY, 1, beat))
            send(message(COMMAND, 2, payload))
            silence()
        send(message(STATUS, 3))
        silence()
        assert model.replies[-1][:2] == (3, OK)
        compare()
    return statuses, model


def fuzz(config, count, seed):
    transport = SimulatedTransport(config, version=(0, 1, 0), clock=12_000_000, timeout=TIMEOUT)

    def settle(transport):
        # Longer than the device's own time-out.
        transport.wait(2 * TIMEOUT)
        came = b""
        while octets := transport.read(2 * TIMEOUT / 12e6):
            came += octets
        return came

    statuses, model = run(config, count, seed, transport, settle=settle)
    transport.close()
    assert statuses == set(range(6 if config.rescore is None else 7))
    return model


def test_fuzz():
    model = fuzz(TINY, 3000, 1)
    assert model.rejected > 1000
    assert model.lost > 500


def test_fuzz_with_rescoring():
    fuzz(RESCORE, 1000, 2)


def test_fuzz_at_the_pins():
    """With pauses, as a UART has no flow control."""
    transport = PinTransport(SMALL, timeout_bytes=20)

    def settle(transport):
        came = b""
        while octets := transport.read(500e-6):
            came += octets
        return came

    statuses, _ = run(SMALL, 150, 3, transport, settle=settle, batch=50)
    assert len(statuses) > 4


@pytest.mark.slow
@pytest.mark.parametrize(("config", "count"), [(TINY, 100_000), (RESCORE, 20_000)])
def test_fuzz_long(config, count):
    fuzz(config, count, 4)
