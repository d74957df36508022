"""The cycle model of a core whose cache lies in memory predicts every cycle."""

import cocotb
import numpy as np
from cached_core import Driver

from nearbit_model.cycles import Command, Phase, predict
from nearbit_model.memory_timing import MemoryTiming
from nearbit_model.structure import Error


STREAMS = {"i_head": "heads", "i_page": "pages", "i_tokens": "tokens",
           "i_exp_table": "exp_tables", "i_rescore_query": "rescore_queries",
           "i_command": "commands"}


class Predictor(Driver):
    """A driver that notes the shapes of what it pushes, phase by phase."""

    def __init__(self, dut):
        super().__init__(dut, limit=2_000_000, reorder=False)
        self.shapes = []
        self.streams = [name for name in STREAMS if name != "i_rescore_query" or self.unit]

    def set_timing(self, timing):
        """Have all buses answer so."""
        for memory in self.reads.values():
            memory.latency = timing.latency, timing.latency
            memory.outstanding = timing.outstanding

    def ask(self, command, *, fails=None):
        super().ask(command, fails=fails)
        queries = command["queries"]
        self.shapes.append(Command(
            counts=tuple(query["count"] for query in queries),
            exp_tables=tuple(query["exp_table"] for query in queries),
            **{name: command[name] for name in ("n", "sink", "recent", "first", "head",
                                                "sequence")},
            **{name: bool(command[name]) for name in ("trace", "rescore", "shared")},
            bursts=tuple(self.bursts(command, query) for query in range(len(queries)))))

    def bursts(self, command, index):
        """Of each row that a query selects the beats of the first of two bursts, or 0."""
        query = command["queries"][index]
        if self.error(command, query) != Error.OK:
            return ()
        if command["shared"]:
            selected = self.share(
                {**command, "queries": [{**each, "multiplier": 0}
                                        for each in command["queries"]]},
                [[0] * self.unit.head_dim] * self.config.queries)[0].selected
        else:
            selected = self.answer({**command, "rescore": 0}, query, None).selected
        size = self.config.memory.bus_bits // 8
        beats = self.plan.layout.row_beats
        rooms = [(4096 - self.plan.row_address(command["head"], self.place(
            command["sequence"], token)) % 4096) // size
            for token in np.sort(selected)[::-1].tolist()]
        return tuple(room if room < beats else 0 for room in rooms)

    def accepted(self):
        """Cycles in which each source's payloads were accepted."""
        return {STREAMS[name]: list(self.bench.source(name).cycles) for name in self.streams}


def differs(name, expected, found):
    """Say where two lists of cycles first differ; empty, if they do not."""
    if expected == found:
        return ""
    at = next((index for index, (one, other) in enumerate(zip(expected, found, strict=False))
               if one != other), min(len(expected), len(found)))
    return (f"{name} {at} of {len(found)} ({len(expected)} predicted): "
            f"predicted {expected[at:at + 3]}, found {found[at:at + 3]}")


@cocotb.test()
async def predicted(dut):
    """Every transfer of random commands, with memories of several latencies."""
    driver = Predictor(dut)
    for latency, outstanding in driver.bench.parameters["timings"]:
        await compare(driver, MemoryTiming(latency=latency, outstanding=outstanding))


async def compare(driver, timing):
    """All phases after one reset."""
    bench, config = driver.bench, driver.config
    driver.set_timing(timing)
    driver.tokens.clear()
    driver.pages.clear()
    await driver.start()
    phases = [Phase(
        heads=list(range(config.memory.heads)), pages=len(driver.accepted()["pages"]),
        tokens=list(driver.counts.items()),
        exp_tables=[(number, distance, 1) for number in range(config.exp_tables)
                    for distance in range(config.key_bits + 1)])]
    for _ in range(driver.bench.parameters["rounds"]):
        end = 1 + max(cycles[-1] for cycles in driver.accepted().values() if cycles)
        if driver.rng.random() < 0.5:
            await bench.step(driver.rng.randrange(300))
        driver.shapes = []
        began = bench.cycle
        for _ in range(driver.rng.randint(1, driver.bench.parameters["steps"])):
            driver.command(faulty=driver.rng.random() < 0.15)
        beats = sum(command.rescore for command in driver.shapes) * config.queries * (
            driver.unit.beats if driver.unit else 0)
        phases.append(Phase(commands=driver.shapes, rescore_queries=beats, delay=began - end))
        await bench.until(lambda: not any(
            bench.source(name).pending for name in driver.streams))
        if driver.rng.random() < 0.3:
            await driver.finish()
    await driver.finish()
    timeline = predict(config, phases, memory=timing)
    problems = [differs(name, [cycle for phase in timeline.accepted
                               for cycle in getattr(phase, name)], cycles)
                for name, cycles in driver.accepted().items()]
    problems += [differs(name, getattr(timeline, which), list(bench.sink(name).cycles))
                 for name, which in (("o_result", "results"), ("o_trace", "trace"))]
    problems = [problem for problem in problems if problem]
    assert not problems, f"seed {bench.seed}, {timing}: {'; '.join(problems)}"
    for memory, traffic in zip(driver.reads.values(), timeline.traffic, strict=True):
        assert len(memory.log) == traffic.bursts
        assert sum(beats for _, beats in memory.log) == traffic.beats
