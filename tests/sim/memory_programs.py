"""Random programs for a core with a memory that fails at random, and what must come of them.

There are three kinds. In *whole* programs the memory answers all it is asked, with errors at some
addresses, so each answer is known. In *silent* ones it is silent for a while or for ever, and in
*impatient* ones the core gives it up too early: a query then is answered right, or with the error
of codes or rows. What is asked after a silence must be answered as in whole programs.
"""

import copy
import random
from dataclasses import dataclass
from typing import Any

import numpy as np

from nearbit_model.config import Config
from nearbit_model.golden import Result, attend
from nearbit_model.memory import MemoryImage, MemoryLayout, plan_memory
from nearbit_model.memory_timing import DECERR, SLVERR, MemoryTiming
from nearbit_model.quantize import RescoreOperands, Values
from nearbit_model.structure import Error
from nearbit_model.transfers.program import Outcome, Program
from nearbit_model.transfers.streams import core_ports


# Cycles after which a memory that answers is not given up, and which a drained bus takes at most.
PATIENT, DRAINED = 6000, 6000


class Tokens:
    """Random codes, values, scales and rescore keys, of any shape, with ties and extremes."""

    def __init__(self, config: Config, rng: np.random.Generator, *shape: int):
        words, spare = -(-config.key_bits // 64), -config.key_bits % 64
        codes = rng.integers(0, 1 << 64, (*shape, words), np.uint64)
        codes[..., -1] >>= np.uint64(spare)
        pool = codes.reshape(-1, words)[:5]
        self.codes = np.where(rng.random((*shape, 1)) < 0.3,
                              pool[rng.integers(len(pool), size=shape)], codes)
        self.values = _vectors(rng, shape, config.value_dim, config.value_bits)
        self.scales = rng.choice([0, 0xffff, *rng.integers(0, 1 << 16, 4)], shape)
        unit = config.rescore
        self.keys = None if unit is None else _vectors(
            rng, shape, unit.head_dim, unit.element_bits)

    def __setitem__(self, place: Any, token: "Tokens") -> None:
        for name in ("codes", "values", "scales", "keys"):
            if getattr(self, name) is not None:
                getattr(self, name)[place] = getattr(token, name)


def _vectors(rng, shape, size, bits):
    low, high = -(1 << bits - 1), (1 << bits - 1) - 1
    vectors = rng.integers(low, high + 1, (*shape, size))
    vectors[rng.random(shape) < 0.1] = low
    vectors[rng.random(shape) < 0.1] = high
    return vectors


class Cache:
    """A memory in which each place of each head has a token."""

    def __init__(self, config: Config, seed: int):
        rng = np.random.default_rng(seed)
        layout = MemoryLayout.of(config)
        self.plan = plan = plan_memory(
            config, stride=layout.least_stride + layout.row_unit * int(rng.integers(3)),
            origin=4096 * int(rng.integers(3)))
        heads, page_tokens = layout.memory.heads, layout.memory.page_tokens
        self.tokens = tokens = Tokens(config, rng, heads, plan.places)
        self.octets = np.frombuffer(rng.bytes(plan.end), np.uint8).copy()
        image = MemoryImage(plan, self.octets[plan.origin:])
        for head in range(heads):
            for page in range(config.memory_pages):
                at = head, slice(page * page_tokens, (page + 1) * page_tokens)
                image.write(head, [page], 0, tokens.codes[at], tokens.values[at],
                            tokens.scales[at], None if tokens.keys is None else tokens.keys[at])


@dataclass
class Query:
    """What must be answered to a query."""

    number: int
    error: Error
    golden: Result | None
    trace: bool
    exact: bool
    # Places in the list of appended tokens: of the one that raised the number of tokens so far that
    # the query's range is there, and of the one that is its last token.
    raised_by: int | None = None
    last_token: int | None = None


@dataclass
class Append:
    """A token that the core writes for a head."""

    head: int
    sequence: int
    number: int
    place: int | None # None: the head or the page is not there
    token: Tokens
    failed: bool | None = None # None: not known before


@dataclass
class _Tables:
    heads: list[bool]
    lists: list[list[int | None]]
    tokens: list[int]
    loaded: list[bool] # exp tables


class RandomProgram:
    """A program, when its memory answers, and what must come of it."""

    def __init__(self, config: Config, cache: Cache, seed: int):
        self.rng = rng = random.Random(seed)
        self.numbers = np.random.default_rng(seed)
        self.config, self.plan, self.unit = config, cache.plan, config.rescore
        self.memory, self.layout = config.memory, cache.plan.layout
        self.kind = rng.choices(["whole", "silent", "impatient"], [12, 7, 1])[0]
        self.tokens = copy.deepcopy(cache.tokens)
        self.undefined: set[tuple[int, int]] = set()
        self.program = Program(core_ports(config))
        size = len(cache.octets)
        if rng.random() < 0.1:
            size = rng.randrange(cache.plan.origin, size)
        self.octets = self.program.memory = cache.octets[:size].copy()
        self.queries: list[Query] = []
        self.appends: list[Append] = []
        self.beats = {"o_result": 0, "o_append": 0}
        listed = config.capacity // self.memory.page_tokens
        self.tables = _Tables(
            heads=[rng.random() < 0.9 for _ in range(self.memory.heads)],
            lists=[[self._page() for _ in range(listed)] for _ in range(self.memory.sequences)],
            tokens=[rng.choice([config.capacity, rng.randint(1, config.capacity), 0 if
                                rng.random() < 0.1 else 1]) for _ in range(self.memory.sequences)],
            loaded=[rng.random() < 0.9 for _ in range(config.exp_tables)])
        self.faults = {self._address(): rng.choice([SLVERR, DECERR])
                       for _ in range(rng.choice([0, 0, 0, 1, 2, 5]))}
        self.bad_beats = {address // self.layout.beat_bytes for address in self.faults}
        self._write()

    # ---- What is there.

    def _page(self) -> int | None:
        """A page of a list: mostly one that there is."""
        pages = self.config.memory_pages
        beyond = (1 << (pages - 1).bit_length()) - 1
        return self.rng.choices([self.rng.randrange(pages), None, beyond], [30, 1, 1])[0]

    def _address(self) -> int:
        """An address of a code or a row, of a sequence's token mostly."""
        rng, plan = self.rng, self.plan
        sequence = rng.randrange(self.memory.sequences)
        place = self._place(sequence, rng.randrange(
            max(1, min(self.tables.tokens[sequence] + 1, self.config.capacity))))
        if place is None:
            place = rng.randrange(plan.places)
        head = rng.randrange(self.memory.heads)
        if rng.random() < 0.4:
            return plan.code_address(head, place)
        return plan.row_address(head, place) + rng.randrange(self.layout.row_bytes)

    def _place(self, sequence: int, token: int) -> int | None:
        size = self.memory.page_tokens
        page = self.tables.lists[sequence][token // size]
        if page is None or page >= self.config.memory_pages:
            return None
        return page * size + token % size

    def _fails(self, address: int, length: int) -> bool:
        """Whether a beat of some bytes cannot be read or written."""
        size = self.layout.beat_bytes
        end = -(-(address + length) // size)
        return end * size > len(self.octets) or any(
            beat in self.bad_beats for beat in range(address // size, end))

    # ---- Phases.

    def _write(self) -> None:
        rng = self.rng
        self._set_tables()
        if self.kind == "whole":
            for _ in range(rng.randint(1, 3)):
                match rng.choice(["ask", "ask", "append", "set"]):
                    case "ask":
                        self._add(self._ask(rng.randint(1, 4)))
                    case "append":
                        self._add(self._append(rng.randint(1, 2)))
                        self._add(self._ask(1))
                    case "set":
                        self._change()
            self._add(self._ask(1))
            # Whatever is answered beyond what was asked for comes while nothing is asked.
            self._add({}, delay=100)
            self.timing = self._timing(silent_from=None)
        else:
            self._risk()
        self.program.lasts = {"o_result": len(self.queries), "o_trace": 0}
        self.program.expect({"o_result": 1, "o_trace": 0, "o_append": len(self.appends)})

    def _risk(self) -> None:
        """Ask and append while the memory is silent, and after."""
        rng = self.rng
        asked = self._ask(rng.randint(1, 6), exact=False)
        appended = self._append(1) if rng.random() < 0.4 else {}
        if rng.random() < 0.5:
            self.program.add({**asked, **appended})
        else:
            self.program.add(asked)
            self.program.add(appended, delay=rng.randrange(100))
        if self.kind == "impatient":
            self.program.levels = {"timeout": rng.choice([1, 2, rng.randint(3, 40)])}
            self.timing = self._timing(silent_from=None)
            return
        self.program.levels = {"timeout": rng.randint(250, 400)}
        begin = rng.choice([0, rng.randrange(600)])
        end = rng.choice([None, begin + rng.randrange(1500)])
        if rng.random() < 0.5:
            self.timing = self._timing(silent_from=begin, silent_to=end)
        else:
            self.timing = self._timing(silent_from=None, silent_to=end, silent_at=tuple(
                self._address() for _ in range(rng.randint(1, 3))))
        if end is not None:
            self.program.add(self._ask(rng.randint(1, 3)), delay=end + DRAINED)
            if self.appends:
                self.program.add(self._probe())

    def _add(self, inputs: dict[str, Any], delay: int | None = None) -> None:
        """Add a phase that begins when all so far is answered."""
        self.program.add(inputs, after=self.beats.copy(),
                         delay=self.rng.choice([0, 0, self.rng.randrange(80)])
                         if delay is None else delay)
        self.beats = {
            "o_append": len(self.appends),
            "o_result": sum(1 if query.error else self.config.value_dim
                            for query in self.queries)}

    def _timing(self, **silence: Any) -> MemoryTiming:
        rng = self.rng
        latency = rng.choice([1, rng.randint(1, 60)])

        def pause() -> float:
            return rng.choice([0.0, 0.0, rng.random() * 0.5])

        return MemoryTiming(
            latency=latency, latency_to=rng.choice([None, latency + rng.randrange(60)]),
            pace=rng.choice([1.0, rng.uniform(0.3, 1)]), shared_pace=rng.random() < 0.3,
            outstanding=rng.choice([1, 2, 5, 64]), reorder=rng.random() < 0.5,
            ar_pause=pause(), r_pause=pause(), aw_pause=pause(), w_pause=pause(),
            b_pause=pause(), faults=self.faults, seed=rng.getrandbits(60), **silence)

    def _set_tables(self) -> None:
        tables, rng = self.tables, self.rng
        set_heads = [head for head, is_set in enumerate(tables.heads) if is_set]
        entries = self.plan.head_entries()
        pages = [(sequence, index, page) for sequence, pages in enumerate(tables.lists)
                 for index, page in enumerate(pages) if page is not None]
        sequences = range(len(tables.tokens))
        weights = []
        for loaded in tables.loaded:
            top = (1 << self.config.weight_bits) - 1
            entry = sorted((rng.randint(0, top) for _ in range(self.config.key_bits + 1)),
                           reverse=True)
            weights.append([max(1, entry[0]) if loaded else 0, *entry[1:]])
        self.exp_tables = np.array(weights)
        self.program.levels = {"timeout": PATIENT}
        self.program.add({
            "i_head": {"head": np.array(set_heads, np.int64),
                       "set": np.ones(len(set_heads), np.int64),
                       "entry": {name: numbers[set_heads]
                                 for name, numbers in entries["entry"].items()}},
            "i_page": self._pages(pages),
            "i_tokens": {"sequence": np.array(sequences), "tokens": np.array(tables.tokens)},
            "i_exp_table": {
                "exp_table": np.repeat(np.arange(len(weights)), self.config.key_bits + 1),
                "distance": np.tile(np.arange(self.config.key_bits + 1), len(weights)),
                "weight": self.exp_tables.reshape(-1)}})

    @staticmethod
    def _pages(pages: list[tuple[int, int, int | None]]) -> dict[str, Any]:
        numbers = np.array([(sequence, index, page is not None, page or 0)
                            for sequence, index, page in pages], np.int64).reshape(-1, 4)
        return dict(zip(("sequence", "index", "set", "page"), numbers.T, strict=True))

    def _change(self) -> None:
        """Set or clear a head, pages and numbers of tokens, while nothing is in work."""
        rng, tables = self.rng, self.tables
        head, sequence = rng.randrange(self.memory.heads), rng.randrange(self.memory.sequences)
        tables.heads[head] = not tables.heads[head]
        entry = self.plan.head_entries()["entry"]
        index = rng.randrange(len(tables.lists[sequence]))
        tables.lists[sequence][index] = self._page()
        tables.tokens[sequence] = rng.randint(0, self.config.capacity)
        self._add({
            "i_head": {"head": np.array([head]), "set": np.array([int(tables.heads[head])]),
                       "entry": {name: numbers[[head]] for name, numbers in entry.items()}},
            "i_page": self._pages([(sequence, index, tables.lists[sequence][index])]),
            "i_tokens": {"sequence": np.array([sequence]),
                         "tokens": np.array([tables.tokens[sequence]])}})

    # ---- Tokens that the core writes.

    def _append(self, count: int) -> dict[str, Any]:
        """Append tokens to all heads of a sequence, or to one of them, or to one beyond the table.
        """
        rng, tables, config, memory = self.rng, self.tables, self.config, self.memory
        sequence = rng.randrange(memory.sequences)
        start = len(self.appends)
        raises: list[int] = []
        for _ in range(count):
            number = tables.tokens[sequence]
            page = tables.lists[sequence][min(number, config.capacity - 1) // memory.page_tokens]
            # Others see the page; or what is asked meanwhile would see the number, perhaps.
            if number == config.capacity or sum(
                    page == other for pages in tables.lists for other in pages) > 1 or (
                    self.kind != "whole" and not 0 < number < config.capacity - 1):
                break
            beyond = (1 << (memory.heads - 1).bit_length()) - 1
            heads = rng.choice([range(memory.heads), [rng.randrange(memory.heads)], [beyond]])
            for head in heads:
                is_there = head < memory.heads and tables.heads[head]
                append = Append(head, sequence, number,
                                self._place(sequence, number) if is_there else None,
                                Tokens(config, self.numbers))
                if self.kind == "whole":
                    self._write_token(append)
                self.appends.append(append)
                raises.append(int(head == heads[-1]))
            if self.kind == "whole" and not self.appends[-1].failed:
                tables.tokens[sequence] += 1
        new = self.appends[start:]
        if not new:
            return {}
        codes = np.stack([append.token.codes for append in new])
        rows = self.layout.pack_rows(
            np.stack([append.token.values for append in new]),
            np.stack([append.token.scales for append in new]),
            None if self.unit is None else np.stack([append.token.keys for append in new]))
        return {
            "i_append": {
                **{name: np.array([getattr(append, name) for append in new])
                   for name in ("head", "sequence")},
                "token": np.array([append.number for append in new]),
                "code": codes if config.key_bits > 64 else codes[:, 0],
                "raises": np.array(raises)},
            "i_row": self.layout.beats(rows)}

    def _write_token(self, append: Append) -> None:
        """Say how it ends, and what is there then."""
        head, place = append.head, append.place
        append.failed = place is None or self._fails(
            self.plan.code_address(head, place), self.layout.code_bytes) or self._fails(
            self.plan.row_address(head, place), self.layout.row_bytes)
        if place is None:
            return
        if append.failed:
            self.undefined.add((head, place))
        else:
            self.undefined.discard((head, place))
            self.tokens[head, place] = append.token

    # ---- Commands.

    def _ask(self, count: int, *, exact: bool = True) -> dict[str, Any]:
        """Ask some commands, some of them wrong."""
        commands = [self._command() for _ in range(count)]
        vectors: list[Any] = []
        for command in commands:
            if self._sees_undefined(command):
                command["n"] = 0 # an error, whatever is there
            vectors += self._expect(command, exact=exact)
        return self._asked(commands, vectors)

    def _asked(self, commands: list[dict[str, Any]], vectors: list[Any]) -> dict[str, Any]:
        inputs: dict[str, Any] = {"i_command": _stacked(commands, self.config)}
        if vectors:
            inputs["i_rescore_query"] = np.concatenate(vectors)
        return inputs

    def _sees_undefined(self, command: dict[str, Any]) -> bool:
        end = command["first"] + max(query["count"] for query in command["queries"])
        return command["sequence"] < self.memory.sequences and any(
            (command["head"], self._place(command["sequence"], token)) in self.undefined
            for token in range(min(end, self.config.capacity)))

    def _probe(self) -> dict[str, Any]:
        """Ask for all tokens that there are if the last one was appended."""
        command = self._command()
        last = len(self.appends) - 1
        own = self.rng.choice([index for index, append in enumerate(self.appends)
                               if append.number == self.appends[last].number])
        append = self.appends[own]
        head, sequence = append.head, append.sequence
        count = append.number + 1
        command |= {"head": head, "sequence": sequence, "first": 0, "n": 1, "sink": 0, "recent": 0,
                    "rescore": 0, "shared": 0}
        for query in command["queries"]:
            query["count"] = count
        if append.place is not None:
            self.tokens[head, append.place] = append.token
        self.tables.tokens[sequence] = count
        asked = self._asked([command], self._expect(command, exact=True))
        for query in self.queries[-self.config.queries:]:
            query.raised_by, query.last_token = last, own
        return asked

    def _command(self) -> dict[str, Any]:
        config, rng, tables, memory = self.config, self.rng, self.tables, self.memory
        head, sequence = rng.randrange(memory.heads), rng.randrange(memory.sequences)
        there = max(1, tables.tokens[sequence])
        first = rng.choice([0, rng.randrange(there)])
        n = rng.choice([1, rng.randint(1, config.top_n), config.top_n])
        sink = rng.choice([0, rng.randint(0, config.top_n - n)])
        recent = rng.choice([0, rng.randint(0, config.top_n - n - sink)])
        rescore = rng.randrange(2) if self.unit is not None else 0
        shared = int(bool(rescore and self.unit.shared and rng.random() < 0.6))
        alike = rng.randint(1, there - first)
        counts = [alike if shared else rng.choice([rng.randint(1, there - first), there - first])
                  for _ in range(config.queries)]
        query = rng.randrange(config.queries)
        if rng.random() < 0.3:
            match rng.choice(["n", "many", "empty", "range", "head", "sequence", "rescore",
                              "shared"]):
                case "n":
                    n = 0
                case "many":
                    n = min(config.capacity, config.top_n + rng.randint(1, 9) - sink - recent)
                case "empty":
                    counts[query] = 0
                case "range":
                    # Beyond what an append of this moment would let it see.
                    counts[query] = min(config.capacity, there - first + rng.randint(2, 9))
                case "head":
                    head = (1 << (memory.heads - 1).bit_length()) - 1
                case "sequence":
                    sequence = (1 << (memory.sequences - 1).bit_length()) - 1
                case "rescore":
                    rescore = 1
                case "shared":
                    shared = 1
                    counts[query] = rng.randint(1, there - first)
        return {
            "head": head, "sequence": sequence, "first": first, "n": n, "sink": sink,
            "recent": recent, "trace": rng.randrange(2), "rescore": rescore, "shared": shared,
            "queries": [{"code": self._code(), "count": count,
                         "exp_table": rng.randrange(config.exp_tables),
                         **({} if self.unit is None else {"multiplier": self._multiplier()})}
                        for count in counts]}

    def _code(self):
        codes = self.tokens.codes.reshape(-1, self.tokens.codes.shape[-1])
        if self.rng.random() < 0.3:
            return codes[self.rng.randrange(len(codes))]
        return Tokens(self.config, self.numbers).codes

    def _multiplier(self) -> int:
        span = 2 ** 24 * 256 * 20 // (2 * self.config.score_max)
        return self.rng.choice([0, self.rng.randrange(min(1 << 32, span + 2))])

    def _expect(self, command: dict[str, Any], *, exact: bool) -> list[Any]:
        """Say what must be answered to a command; give the beats of its queries to be rescored."""
        unit = self.unit
        vectors = [] if unit is None else [
            _vectors(self.numbers, (), unit.head_dim, unit.element_bits)
            for _ in command["queries"]]
        errors = [self._error(command, query) for query in command["queries"]]
        good = [index for index, error in enumerate(errors) if error == Error.OK]
        goldens: dict[int, Result] = {}
        if good:
            goldens = self._golden(command, good, vectors)
            codes_fail = self._codes_fail(command, good)
        for index in range(len(errors)):
            error = errors[index]
            if error == Error.OK and codes_fail:
                error = Error.CODES
            elif error == Error.OK and any(
                    self._fails(self.plan.row_address(command["head"], self._place(
                        command["sequence"], int(token))), self.layout.row_bytes)
                    for token in goldens[index].selected):
                error = Error.ROWS
            self.queries.append(Query(index, error, goldens.get(index),
                                      bool(command["trace"]), exact))
        if not command["rescore"]:
            return []
        return [vector.reshape(unit.beats, unit.lanes) for vector in vectors]

    def _error(self, command: dict[str, Any], query: dict[str, Any]) -> Error:
        """What is wrong with a query that has nothing to do with what is read."""
        config, memory, tables = self.config, self.memory, self.tables
        head, sequence, end = (command["head"], command["sequence"],
                               command["first"] + query["count"])
        unit = self.unit
        if command["n"] == 0:
            return Error.NO_N
        if command["n"] + command["sink"] + command["recent"] > config.top_n:
            return Error.TOO_MANY
        if query["count"] == 0:
            return Error.EMPTY
        if head >= memory.heads or sequence >= memory.sequences or end > tables.tokens[sequence]:
            return Error.RANGE
        page = tables.lists[sequence][command["first"] // memory.page_tokens]
        # A head that is not set is not looked at further, nor is its page.
        if tables.heads[head] and page is not None and page >= config.memory_pages:
            return Error.RANGE
        if not command["rescore"] and not tables.loaded[query["exp_table"]]:
            return Error.EXP_TABLE
        if (command["rescore"] and unit is None) or (
                command["shared"] and (unit is None or not unit.shared)):
            return Error.RESCORE
        if command["shared"] and (not command["rescore"] or len(
                {each["count"] for each in command["queries"]}) > 1):
            return Error.SHARED
        return Error.OK if tables.heads[head] and page is not None else Error.NOT_SET

    def _codes_fail(self, command: dict[str, Any], good: list[int]) -> bool:
        """Whether what is read for some queries, whole words and beats, cannot be."""
        size, lanes = self.layout.code_bytes, self.config.lanes
        first = command["first"] // lanes * lanes
        end = command["first"] + max(command["queries"][index]["count"] for index in good)
        end = -(-end // lanes) * lanes
        for token in range(first, end):
            place = self._place(command["sequence"], token)
            if place is None or self._fails(self.plan.code_address(command["head"], place), size):
                return True
        return False

    def _golden(self, command: dict[str, Any], good: list[int], vectors: list[Any]
                ) -> dict[int, Result]:
        """Answers of the golden model, if it can know what is in the pages."""
        head, first = command["head"], command["first"]
        asked = [command["queries"][index] for index in good]
        end = first + max(query["count"] for query in asked)
        places = [self._place(command["sequence"], token) or 0 for token in range(end)]
        tokens = self.tokens
        rescore = None
        if command["rescore"]:
            rescore = RescoreOperands(
                np.stack([vectors[index] for index in good])[:, None],
                tokens.keys[head, places][None],
                np.array([[query["multiplier"]] for query in asked]))

        def ask(rows: slice, count: int, *, shared: bool) -> Result:
            return attend(
                np.stack([query["code"] for query in asked[rows]])[:, None],
                tokens.codes[head, places][None],
                Values(tokens.values[head, places][None], tokens.scales[head, places][None]),
                [self.exp_tables[query["exp_table"]] if rescore is None
                 else [1] * (self.config.key_bits + 1) for query in asked[rows]],
                config=self.config, counts=count, first=first, n=command["n"],
                sink=command["sink"], recent=command["recent"], shared=shared,
                rescore=None if rescore is None else RescoreOperands(
                    rescore.queries[rows], rescore.keys, rescore.multipliers[rows]))

        def one(result: Result, row: int) -> Result:
            return Result(*(None if part is None else part[row, 0] for part in (
                result.output_int, result.selected, result.distances, result.weights,
                result.scores)))

        if command["shared"]:
            result = ask(slice(None), asked[0]["count"], shared=True)
            return {index: one(result, row) for row, index in enumerate(good)}
        return {index: one(ask(slice(row, row + 1), query["count"], shared=False), 0)
                for row, (index, query) in enumerate(zip(good, asked, strict=True))}

    # ---- What came of it.

    def check(self, outcome: Outcome) -> list[Error]:
        """Compare with what must be; return what was answered to each query."""
        appended = outcome.outputs["o_append"].payloads["failed"].tolist()
        assert len(appended) == len(self.appends), "tokens"
        self._check_memory(outcome, appended)
        results = outcome.outputs["o_result"].payloads
        ends = np.flatnonzero(results["last"])
        assert len(ends) == len(self.queries), "answers"
        assert ends[-1] == len(results["last"]) - 1, "beats after the last answer"
        traces = _traces(outcome)
        answered: list[Error] = []
        start = 0
        for number, (query, end) in enumerate(zip(self.queries, ends.tolist(), strict=True)):
            beats = slice(start, end + 1)
            start = end + 1
            error = Error(int(results["error"][end]))
            answered.append(error)
            where = f"answer {number}: {error.name}, {query.error.name} expected"
            assert set(results["query"][beats]) == {query.number}, where
            wanted = query.error
            if query.raised_by is not None:
                if appended[query.raised_by]:
                    wanted = Error.RANGE
                elif appended[query.last_token]:
                    continue # undefined
            allowed = {wanted}
            if not query.exact and wanted in (Error.OK, Error.ROWS):
                allowed |= {Error.CODES, Error.ROWS}
            assert error in allowed, where
            trace = None
            if query.trace and wanted in (Error.OK, Error.CODES, Error.ROWS):
                trace = next(traces)
            if error != Error.OK:
                assert results["output"][beats].tolist() == [0], where
                continue
            assert set(results["error"][beats]) == {Error.OK.value}, where
            np.testing.assert_array_equal(results["output"][beats], query.golden.output_int, where)
            if trace is not None:
                self._check_trace(query, trace, where)
        assert next(traces, None) is None, "traces"
        return answered

    def _check_trace(self, query: Query, trace: dict[str, Any], where: str) -> None:
        order = np.argsort(-query.golden.selected)
        order = order[query.golden.selected[order] >= 0]
        assert set(trace["query"]) == {query.number}, where
        for name, expected in (("index", query.golden.selected),
                               ("distance", query.golden.distances),
                               ("weight", query.golden.weights), *(
                [] if query.golden.scores is None else [("score", query.golden.scores)])):
            np.testing.assert_array_equal(trace[name], expected[order], where)

    def _check_memory(self, outcome: Outcome, appended: list[int]) -> None:
        """Tokens that did not fail are there, and nothing else was written."""
        found, octets = outcome.memory, self.octets.copy()
        image = MemoryImage(self.plan, np.concatenate(
            [octets, np.zeros(self.plan.end, np.uint8)])[self.plan.origin:])
        for append, failed in zip(self.appends, appended, strict=True):
            assert append.failed in (None, bool(failed)), f"token {append.number}"
            head, place, token = append.head, append.place, append.token
            if place is None:
                assert failed, "a token without a place"
                continue
            page, number = divmod(place, self.memory.page_tokens)
            if failed:
                # Undefined.
                for at, size in ((self.plan.code_address(head, place), self.layout.code_bytes),
                                 (self.plan.row_address(head, place), self.layout.row_bytes)):
                    at -= self.plan.origin
                    there = found[self.plan.origin:][at:at + size]
                    image.octets[at:at + len(there)] = there
                continue
            image.write(head, [page], number, token.codes[None], token.values[None],
                        token.scales[None], None if token.keys is None else token.keys[None])
        np.testing.assert_array_equal(
            found[self.plan.origin:],
            image.octets[:max(0, len(found) - self.plan.origin)])


def _stacked(commands: list[dict[str, Any]], config: Config) -> dict[str, Any]:
    """Commands as what :meth:`Program.add` takes."""
    def gather(name: str) -> Any:
        found = np.array([[query[name] for query in command["queries"]] for command in commands])
        if name == "code" and config.key_bits <= 64:
            return found[..., 0]
        return found

    return {**{name: np.array([command[name] for command in commands])
               for name in commands[0] if name != "queries"},
            "queries": {name: gather(name) for name in commands[0]["queries"][0]}}


def _traces(outcome: Outcome):
    """The traces one after another."""
    fields = outcome.outputs["o_trace"].payloads
    start = 0
    for end in (np.flatnonzero(fields["last"]) + 1).tolist():
        yield {name: values[start:end] for name, values in fields.items()}
        start = end
    assert start == len(fields["last"]), "a trace without an end"
