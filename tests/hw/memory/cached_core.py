"""A core whose cache lies in memory: answers of the golden model, or errors in their place."""

import cocotb
import numpy as np
from memory_model import MemoryBench, ReadMemory, WriteMemory

from nearbit_model.config import Config
from nearbit_model.golden import Result, attend, attend_one
from nearbit_model.memory import MemoryImage, plan_memory
from nearbit_model.quantize import RescoreOperands, Values, codes_from_ints
from nearbit_model.structure import Error
from nearbit_sim.stream import MATRIX


SLVERR = 2


class Driver:
    """A core, its memory, a copy of what is in it, and what must be answered."""

    def __init__(self, dut, *, idle=0.0, stall=0.0, limit=400_000, **memory):
        self.bench = bench = MemoryBench(dut, idle=idle, stall=stall, limit=limit)
        self.rng = bench.rng
        self.config = config = Config.from_dict(bench.parameters["config"])
        self.unit = config.rescore
        self.page_tokens = config.memory.page_tokens
        self.plan = plan_memory(config, stride=bench.parameters.get("stride"),
                                origin=4096 * self.rng.randrange(3))
        self.image = MemoryImage(self.plan, np.frombuffer(bytearray(
            self.rng.randbytes(self.plan.size)), np.uint8))
        contents = bytearray(self.plan.origin) + bytearray(self.image.octets.tobytes())
        self.contents = contents
        self.image = MemoryImage(self.plan, np.frombuffer(contents, np.uint8)[self.plan.origin:])
        bus = {"data_bits": config.memory.bus_bits}
        names = ["axi_codes"] + ([] if config.memory.one_bus else [
            f"axi_rows__{port}" for port in range(config.memory.row_ports)])
        self.reads = {name: ReadMemory(bench, name, contents, **bus, **{
            "latency": (1, 20), "reorder": name != "axi_codes" or config.memory.one_bus,
            **memory}) for name in names}
        self.writes = WriteMemory(bench, "axi_append", contents, **bus,
                                  latency=memory.get("latency", (1, 20)))
        self.faults = {}
        for each in self.reads.values():
            each.faults = self.faults
        dut.timeout.value = 0
        self.exp_tables = {}
        self.pages = {}
        self.tokens = {}
        self.counts = {}
        self.heads = set()

    # ---- What is in memory.

    def code(self):
        known = [token[0] for token in self.tokens.values()]
        if known and self.rng.random() < 0.3:
            return self.rng.choice(known) # ties
        return self.rng.getrandbits(self.config.key_bits)

    def vector(self, size, bits):
        low, high = -(1 << bits - 1), (1 << bits - 1) - 1
        extreme = self.rng.choice([None, None, None, low, high])
        return [self.rng.randint(low, high) if extreme is None else extreme for _ in range(size)]

    def token(self):
        config, rng = self.config, self.rng
        key = self.vector(self.unit.head_dim, self.unit.element_bits) if self.unit else []
        return (self.code(), self.vector(config.value_dim, config.value_bits),
                rng.choice([rng.randrange(1 << 16), 0xffff, 0]), key)

    def write(self, head, sequence, first, tokens):
        """Put tokens into memory, as a processor does."""
        codes, values, scales, keys = zip(*tokens, strict=True)
        self.image.write(head, self.pages[sequence], first,
                         codes_from_ints(codes, self.config.key_bits), np.array(values),
                         np.array(scales), np.array(keys) if self.unit else None)
        self.know(head, sequence, first, tokens)

    def know(self, head, sequence, first, tokens):
        for number, token in enumerate(tokens):
            self.tokens[head, self.place(sequence, first + number)] = token

    def place(self, sequence, token):
        return (self.pages[sequence][token // self.page_tokens] * self.page_tokens
                + token % self.page_tokens)

    def known(self, head, sequence, first, count):
        """Tokens of a sequence as lists: codes, values, scales, rescore keys."""
        return [list(part) for part in zip(*(
            self.tokens[head, self.place(sequence, token)]
            for token in range(first, first + count)), strict=True)]

    # ---- What the core knows.

    async def settle(self):
        await self.bench.until(lambda: not any(
            self.bench.source(name).pending
            for name in ("i_head", "i_page", "i_tokens", "i_exp_table")))

    def set_heads(self, heads):
        entries = self.plan.head_entries()
        for head in heads:
            self.bench.source("i_head").send({"head": head, "set": 1, "entry": {
                name: int(numbers[head]) for name, numbers in entries["entry"].items()}})
            self.heads.add(head)

    def set_pages(self, sequence, pages):
        self.pages[sequence] = pages
        for index, page in enumerate(pages):
            self.bench.source("i_page").send(
                {"sequence": sequence, "index": index, "set": 1, "page": page})

    def set_tokens(self, sequence, count):
        self.counts[sequence] = count
        self.bench.source("i_tokens").send({"sequence": sequence, "tokens": count})

    def load_exp_table(self, number):
        top, rng = (1 << self.config.weight_bits) - 1, self.rng
        weights = sorted((rng.randint(0, top) for _ in range(self.config.key_bits)), reverse=True)
        weights.insert(0, rng.choice([top, rng.randint(1, top), 1]))
        for distance, weight in enumerate(weights):
            self.bench.source("i_exp_table").send(
                {"exp_table": number, "distance": distance, "weight": weight})
        self.exp_tables[number] = weights

    async def start(self):
        """All heads, and sequences of some length, of which some share the first pages."""
        config, memory, rng = self.config, self.config.memory, self.rng
        await self.bench.reset()
        self.set_heads(range(memory.heads))
        listed = config.capacity // self.page_tokens
        free = rng.sample(range(config.memory_pages), config.memory_pages)
        for sequence in range(memory.sequences):
            shared = self.pages[0][:listed // 2] if sequence and rng.random() < 0.5 else []
            need = listed - len(shared)
            if len(free) < need:
                shared, need = self.pages[0], 0
            self.set_pages(sequence, [*shared, *free[:need]])
            del free[:need]
            count = rng.choice([config.capacity, rng.randint(1, config.capacity)])
            self.set_tokens(sequence, count)
            for head in range(memory.heads):
                for token in range(count):
                    if (head, self.place(sequence, token)) not in self.tokens:
                        self.write(head, sequence, token, [self.token()])
        for number in range(config.exp_tables):
            self.load_exp_table(number)
        await self.settle()

    # ---- Commands.

    def command(self, *, faulty=False, **given):
        config, rng = self.config, self.rng
        head, sequence = rng.randrange(config.memory.heads), rng.randrange(config.memory.sequences)
        count = self.counts[sequence]
        first = rng.choice([0, rng.randrange(count)])
        n = rng.choice([1, rng.randint(1, config.top_n), config.top_n])
        sink = rng.choice([0, rng.randint(0, config.top_n - n)])
        recent = rng.choice([0, rng.randint(0, config.top_n - n - sink)])
        shared = int(bool(self.unit and self.unit.shared and rng.random() < 0.5))
        rescore = shared or (rng.randrange(2) if self.unit else 0)
        alike = rng.randint(1, count - first)
        queries = [{"code": rng.choice([rng.getrandbits(config.key_bits), self.code()]),
                    "count": alike if shared else rng.choice(
                        [rng.randint(1, count - first), count - first]),
                    "exp_table": rng.randrange(config.exp_tables)} for _ in range(config.queries)]
        if faulty:
            match rng.choice(["n", "many", "empty", "range"]):
                case "n":
                    n = 0
                case "many":
                    n = min(config.capacity, config.top_n + rng.randint(1, 9) - sink - recent)
                case "empty":
                    rng.choice(queries)["count"] = 0
                case "range":
                    rng.choice(queries)["count"] = min(config.capacity,
                                                       count - first + rng.randint(1, 3))
        self.ask({"head": head, "sequence": sequence, "first": first, "n": n, "sink": sink,
                  "recent": recent, "trace": rng.randrange(2), "rescore": rescore,
                  "shared": shared, "queries": queries, **given})

    def error(self, command, query):
        config = self.config
        if command["n"] == 0:
            return Error.NO_N
        if command["n"] + command["sink"] + command["recent"] > config.top_n:
            return Error.TOO_MANY
        if query["count"] == 0:
            return Error.EMPTY
        if command["first"] + query["count"] > self.counts.get(command["sequence"], 0):
            return Error.RANGE
        if command["shared"] and len({each["count"] for each in command["queries"]}) > 1:
            return Error.SHARED
        if command["head"] not in self.heads:
            return Error.NOT_SET
        return Error.OK

    def ask(self, command, *, fails=None):
        """Send a command, and expect its answer, or the error with which all good queries fail."""
        bench, rng, config = self.bench, self.rng, self.config
        if self.unit:
            span = 2 ** 24 * 256 * 20 // (2 * config.score_max)
            command = {**command, "queries": [
                {**query, "multiplier": rng.choice([0, rng.randrange(min(1 << 32, span + 2))])}
                for query in command["queries"]]}
        bench.source("i_command").send(command)
        vectors = [self.vector(self.unit.head_dim, self.unit.element_bits) if self.unit else None
                   for _ in command["queries"]]
        if command["rescore"]:
            for vector in vectors:
                bench.source("i_rescore_query").send(*(
                    vector[start:start + self.unit.lanes]
                    for start in range(0, len(vector), self.unit.lanes)))
        errors = [self.error(command, query) for query in command["queries"]]
        if fails is not None:
            errors = [fails if error == Error.OK else error for error in errors]
        answers = {}
        if command["shared"] and errors[0] == Error.OK:
            answers = self.share(command, vectors)
        for index, query in enumerate(command["queries"]):
            if errors[index] != Error.OK:
                bench.sink("o_result").expect({"query": index, "error": errors[index].value,
                                               "output": 0, "last": 1})
                continue
            golden = answers.get(index) or self.answer(command, query, vectors[index])
            outputs = golden.output_int.tolist()
            bench.sink("o_result").expect(*(
                {"query": index, "error": 0, "output": output,
                 "last": int(place == len(outputs) - 1)} for place, output in enumerate(outputs)))
            if command["trace"]:
                self.expect_trace(index, golden)

    def answer(self, command, query, vector):
        codes, values, scales, keys = self.known(
            command["head"], command["sequence"], 0, command["first"] + query["count"])
        rescore = RescoreOperands(np.array([[vector]]), np.array([keys]),
                                  np.array([[query["multiplier"]]])) if command["rescore"] else None
        return attend_one(
            query["code"], codes, values, scales, self.exp_tables[query["exp_table"]],
            config=self.config, count=query["count"], first=command["first"], n=command["n"],
            sink=command["sink"], recent=command["recent"], rescore=rescore)

    def share(self, command, vectors):
        config, asked = self.config, command["queries"]
        codes, values, scales, keys = self.known(
            command["head"], command["sequence"], 0, command["first"] + asked[0]["count"])
        result = attend(
            np.array([codes_from_ints([each["code"]], config.key_bits) for each in asked]),
            codes_from_ints(codes, config.key_bits)[None],
            Values(np.array([values]), np.array([scales])),
            [[1] * (config.key_bits + 1)] * len(asked), config=config, counts=asked[0]["count"],
            first=command["first"], n=command["n"], sink=command["sink"],
            recent=command["recent"], shared=True,
            rescore=RescoreOperands(np.array(vectors)[:, None], np.array([keys]),
                                    np.array([[each["multiplier"]] for each in asked])))
        return {query: Result(result.output_int[query, 0], result.selected[query, 0],
                              result.distances[query, 0], result.weights[query, 0],
                              result.scores[query, 0]) for query in range(len(asked))}

    def expect_trace(self, index, golden):
        order = np.argsort(-golden.selected).tolist()
        scores = -golden.distances if golden.scores is None else golden.scores
        for place in order:
            self.bench.sink("o_trace").expect({
                "query": index, "index": int(golden.selected[place]),
                "distance": int(golden.distances[place]),
                **({"score": int(scores[place])} if self.unit else {}),
                "weight": int(golden.weights[place]), "last": int(place == order[-1])})

    def append_somewhere(self):
        """Append a token that nobody asks for, if there is room for one."""
        bench, config, rng = self.bench, self.config, self.rng
        free = [(head, sequence, token) for head in range(config.memory.heads)
                for sequence in self.pages for token in range(config.capacity)
                if (head, self.place(sequence, token)) not in self.tokens]
        if not free:
            return
        head, sequence, token = rng.choice(free)
        bench.source("i_append").send({"head": head, "sequence": sequence, "token": token,
                                       "code": self.code(), "raises": 0})
        bench.source("i_row").send(*(rng.getrandbits(config.memory.bus_bits)
                                     for _ in range(self.plan.layout.row_beats)))
        bench.sink("o_append").expect({"failed": 0})

    async def finish(self):
        """All is answered, and nothing is left on the buses."""
        await self.bench.finish()
        assert not any(memory.monitor.bursts for memory in self.reads.values())

    def plain(self, **given):
        """A command for all tokens of a sequence, without a trace."""
        sequence = given.get("sequence", 0)
        return {"head": 0, "sequence": sequence, "first": 0, "n": self.config.top_n, "sink": 0,
                "recent": 0, "trace": 0, "rescore": 0, "shared": 0,
                "queries": [{"code": self.code(), "count": self.counts[sequence],
                             "exp_table": 0} for _ in range(self.config.queries)], **given}


@cocotb.test()
@cocotb.parametrize(MATRIX)
async def random_mix(dut, idle, stall):
    """Commands of several heads and sequences back to back, some of them wrong."""
    driver = Driver(dut, idle=idle, stall=stall)
    await driver.start()
    for _ in range(driver.bench.parameters["steps"]):
        driver.command(faulty=driver.rng.random() < 0.2)
    await driver.finish()


@cocotb.test()
async def slow_memory(dut):
    """Latency, pauses and a slow pace change nothing but cycles."""
    driver = Driver(dut, latency=(20, 200), pace=0.4, ar_stall=0.3, r_idle=0.3, outstanding=4)
    await driver.start()
    for _ in range(driver.bench.parameters["steps"] // 3):
        driver.command()
    await driver.finish()


@cocotb.test()
async def appended_by_the_core(dut):
    """A token is in memory, for all heads, when its sequence has it."""
    driver = Driver(dut)
    bench, config, rng = driver.bench, driver.config, driver.rng
    await driver.start()
    memory = config.memory
    for sequence in range(memory.sequences):
        # Pages that are shared are not written; those that are not may be.
        own = min((index * driver.page_tokens for index, page in enumerate(driver.pages[sequence])
                   if all(page not in pages for other, pages in driver.pages.items()
                          if other != sequence)), default=config.capacity)
        start = max(rng.randrange(1, config.capacity), own)
        for head in range(memory.heads):
            for token in range(start):
                if (head, driver.place(sequence, token)) not in driver.tokens:
                    driver.write(head, sequence, token, [driver.token()])
        # What was above the number is written again: nobody may be reading it.
        await driver.finish()
        driver.set_tokens(sequence, start)
        await driver.settle()
        for number in range(start, min(start + 3, config.capacity)):
            for head in range(memory.heads):
                token = driver.token()
                raises = int(head == memory.heads - 1)
                bench.source("i_append").send({
                    "head": head, "sequence": sequence, "token": number, "code": token[0],
                    "raises": raises})
                row = driver.plan.layout.pack_rows([token[1]], [token[2]],
                                                   [token[3]] if driver.unit else None)
                size = memory.bus_bits // 8
                octets = row[0].tobytes()
                octets += bytes(-len(octets) % size)
                bench.source("i_row").send(*(
                    int.from_bytes(octets[at:at + size], "little")
                    for at in range(0, driver.plan.layout.row_beats * size, size)))
                bench.sink("o_append").expect({"failed": 0})
                driver.command()
                await bench.until(lambda: not bench.source("i_command").pending)
                await bench.until(lambda: not bench.sink("o_append").pending)
                driver.know(head, sequence, number, [token])
            driver.counts[sequence] = number + 1
            driver.command(sequence=sequence)
            # What a command may see is what there is when it is checked.
            await bench.until(lambda: not bench.source("i_command").pending)
    await driver.finish()


@cocotb.test()
async def errors_of_reading(dut):
    """An error of the bus fails the command that meets it, and no other."""
    driver = Driver(dut)
    _bench, config = driver.bench, driver.config
    await driver.start()
    size = config.memory.bus_bits // 8
    layout = driver.plan.layout
    for round_ in range(2):
        token = driver.rng.randrange(driver.counts[0])
        place = driver.place(0, token)
        for error, address in (
                (Error.CODES, driver.plan.code_address(0, place)),
                (Error.ROWS, driver.plan.row_address(0, place)
                 + size * driver.rng.randrange(layout.row_beats))):
            for rescore in range(2 if driver.unit else 1):
                # Also the first of the range, if the error is to be met: all are selected.
                given = {"rescore": rescore}
                if driver.counts[0] > config.top_n:
                    count = config.top_n
                    given["first"] = max(0, token - count + 1)
                    given["queries"] = [{"code": 0, "count": count, "exp_table": 0}
                                        for _ in range(config.queries)]
                driver.ask(driver.plain(**given))
                await driver.finish()
                driver.faults[address // size * size] = SLVERR + round_ % 2
                driver.ask(driver.plain(**given), fails=error)
                await driver.finish()
                driver.faults.clear()
                driver.ask(driver.plain(**given))
    await driver.finish()


@cocotb.test()
async def an_unused_query_beside_those_that_fail(dut):
    """Whichever it is, the next command is not taken for the one whose codes failed."""
    driver = Driver(dut)
    config = driver.config
    if config.queries == 1:
        return
    await driver.start()
    size = config.memory.bus_bits // 8
    address = driver.plan.code_address(0, driver.place(0, 0)) // size * size
    for unused in range(config.queries):
        for fails in (Error.CODES, None):
            driver.faults.clear()
            if fails is not None:
                driver.faults[address] = SLVERR
            command = driver.plain()
            command["queries"][unused]["count"] = 0
            driver.ask(command, fails=fails)
            await driver.finish()
        driver.ask(driver.plain())
        await driver.finish()


@cocotb.test()
async def silence(dut):
    """A memory that does not answer fails what is asked of it, until it has answered."""
    driver = Driver(dut)
    bench = driver.bench
    await driver.start()
    dut.timeout.value = 300
    for name, memory in driver.reads.items():
        driver.ask(driver.plain())
        await driver.finish()
        memory.silent = True
        shared = driver.config.memory.one_bus or name == "axi_codes"
        for _ in range(3):
            driver.ask(driver.plain(), fails=Error.CODES if shared else Error.ROWS)
        await bench.finish()
        memory.silent = False
        await bench.step(600)
        for _ in range(3):
            driver.ask(driver.plain())
        await driver.finish()


@cocotb.test()
async def heads_and_pages_that_are_not_set(dut):
    driver = Driver(dut)
    bench, config = driver.bench, driver.config
    await driver.start()
    bench.source("i_head").send({"head": 0, "set": 0,
                                 "entry": {"codes": 0, "rows": 0, "stride": 0}})
    driver.heads.remove(0)
    await driver.settle()
    driver.ask(driver.plain())
    driver.ask(driver.plain(n=0))
    await driver.finish()
    driver.set_heads([0])
    await driver.settle()
    driver.ask(driver.plain())
    await driver.finish()
    # The page of the first token is looked up before, others with their codes.
    driver.set_tokens(0, config.capacity)
    for token in range(config.capacity):
        if (0, driver.place(0, token)) not in driver.tokens:
            driver.write(0, 0, token, [driver.token()])
    last = config.capacity // driver.page_tokens - 1
    for index, error in ((0, Error.NOT_SET), (last, Error.CODES if last else Error.NOT_SET)):
        bench.source("i_page").send({"sequence": 0, "index": index, "set": 0, "page": 0})
        await driver.settle()
        driver.ask(driver.plain(), fails=error)
        await driver.finish()
        driver.set_pages(0, driver.pages[0])
        await driver.settle()
        driver.ask(driver.plain())
        await driver.finish()
    # A sequence without tokens.
    driver.set_tokens(0, 0)
    await driver.settle()
    driver.ask(driver.plain(queries=[{"code": 0, "count": 1, "exp_table": 0}] * config.queries))
    await driver.finish()


@cocotb.test()
async def reset_in_the_middle(dut):
    """Of bursts that are read and written, of which a memory owes some that is silent."""
    driver = Driver(dut)
    bench, rng = driver.bench, driver.rng
    await driver.start()
    for cycles in (1, 30, 70, 200, rng.randrange(300)):
        silent = rng.randrange(2)
        for memory in (*driver.reads.values(), driver.writes):
            memory.silent = silent
        for _ in range(4):
            driver.command()
        driver.append_somewhere()
        await bench.step(cycles)
        # Memory and core are reset together; tables are empty then, what is in memory stays.
        for memory in (*driver.reads.values(), driver.writes):
            memory.silent = False
        driver.pages.clear()
        await driver.start()
        for _ in range(3):
            driver.command()
        await driver.finish()


@cocotb.test()
async def cycles_do_not_depend_on_data(dut):
    """With a memory of constant latency."""
    driver = Driver(dut, latency=(30, 30), reorder=False)
    bench, config = driver.bench, driver.config
    if 4096 % driver.plan.layout.least_stride:
        return # Which rows are read in two bursts depends on the selection.
    seen = set()
    for kind in ("random", "all equal", "ascending"):
        driver.tokens.clear()
        driver.pages.clear()
        await driver.start()
        driver.set_tokens(0, config.capacity)
        await driver.settle()
        for token in range(config.capacity):
            ones = {"random": driver.rng.randint(0, config.key_bits), "all equal": 0,
                    "ascending": token * config.key_bits // config.capacity}
            driver.write(0, 0, token, [((1 << ones[kind]) - 1, *driver.token()[1:])])
        await bench.step(bench.cycle % 2)
        start = bench.cycle
        for size in (1, 3, config.capacity // 2, config.capacity):
            for _ in range(2):
                driver.ask(driver.plain(n=min(3, config.top_n), queries=[
                    {"code": 0, "count": size, "exp_table": 0}] * config.queries))
        await driver.finish()
        seen.add(tuple(cycle - start for cycle in bench.sink("o_result").cycles))
    assert len(seen) == 1
