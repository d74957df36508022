# amaranth: UnusedElaboratable=no
"""The cycle model predicts what the engines report, to the cycle."""

import random

import numpy as np
import pytest

from nearbit_model.config import Config, Rescore
from nearbit_model.cycles import Error, predict
from nearbit_model.transfers.program import Program
from nearbit_model.transfers.shapes import shapes
from nearbit_sim.simulation import core_engine


class Author:
    """Writes a random program for a core."""

    def __init__(self, config, engine, seed):
        self.config = config
        self.rng = random.Random(seed)
        self.program = Program(engine.ports)
        self.loaded = 0
        self.exp_tables = set()

    def codes(self, count):
        """Codes of every kind: spread, all equal, few different ones, sorted by distance to 0."""
        bits, rng = self.config.key_bits, self.rng
        kind = rng.choice(["random", "equal", "few", "up", "down", "far", "near"])
        if kind == "random":
            return [rng.getrandbits(bits) for _ in range(count)]
        if kind == "equal":
            return [rng.getrandbits(bits)] * count
        if kind == "few":
            few = [(1 << rng.randint(0, bits)) - 1 for _ in range(rng.randint(2, 3))]
            return rng.choices(few, rng.choices([1, 2, 20], k=len(few)), k=count)
        ones = {"up": [index * bits // count for index in range(count)],
                "down": [bits - index * bits // count for index in range(count)],
                "far": [bits] * count, "near": [0] * count}[kind]
        return [(1 << one) - 1 for one in ones]

    def payload(self, code):
        """A code as programs have it: a number, or 64-bit words if it has more bits."""
        words = [code >> start & (1 << 64) - 1 for start in range(0, self.config.key_bits, 64)]
        return words if len(words) > 1 else words[0]

    def keys(self, tokens):
        config, rng = self.config, self.rng
        beats = [(token, beat) for token in tokens for beat in range(config.beats)]
        codes = [self.payload(code) for code in self.codes(max(1, len(tokens)))[:len(tokens)]]
        unit, rescore = config.rescore, {}
        if unit is not None and tokens and rng.random() < 0.9:
            places = [(token, beat) for token in tokens for beat in range(unit.beats)]
            rescore = {"i_rescore_key": {
                "token": [token for token, _ in places], "beat": [beat for _, beat in places],
                "elements": np.array([self.elements() for _ in places])}}
        return {
            **rescore,
            "i_key": {"token": tokens, "code": np.array(codes, np.uint64)},
            "i_value": {"token": [token for token, _ in beats], "beat": [beat for _, beat in beats],
                        "elements": np.full((len(beats), config.value_lanes), rng.randint(-3, 3)),
                        "scale": [rng.randrange(1 << 16)] * len(beats)},
        } if tokens else {}

    def elements(self):
        """A beat of a key or of a query for rescoring."""
        limit = 1 << self.config.rescore.element_bits - 1
        return [self.rng.randrange(-limit, limit) for _ in range(self.config.rescore.lanes)]

    def exp_table(self, exp_table, whole=True):
        distances = list(range(self.config.key_bits + 1)) if whole else [0]
        first = self.rng.choice([0, 1, 1, 1])
        (self.exp_tables.add if first else self.exp_tables.discard)(exp_table)
        return {"i_exp_table": {"exp_table": [exp_table] * len(distances), "distance": distances,
                                "weight": [first] + [1] * (len(distances) - 1)}}

    def append(self, most):
        count = self.rng.randint(0, min(most, self.config.capacity - self.loaded))
        tokens = list(range(self.loaded, self.loaded + count))
        self.loaded += count
        return self.keys(tokens)

    def overwrite(self):
        tokens = [self.rng.randrange(self.config.capacity) for _ in range(self.rng.randint(1, 4))]
        self.loaded = max(self.loaded, *(token + 1 for token in tokens))
        return self.keys(tokens)

    def commands(self, count):
        config, rng = self.config, self.rng
        full, short = rng.random() < 0.3, rng.random() < 0.3
        trace = rng.choice([0, 1, None])
        unit = config.rescore
        # Mostly commands of one kind, and sometimes those that the core cannot run.
        kind = rng.choice([0, 1, 1, None]) if unit else 0
        fields = {name: [] for name in ("first", "n", "sink", "recent", "trace", "rescore",
                                     "shared")}
        asked = {name: [] for name in ("code", "count", "exp_table",
                                       *(["multiplier"] if unit else []))}
        fixed = rng.randint(1, config.top_n) if rng.random() < 0.3 else None
        for _ in range(count):
            loaded = max(1, self.loaded)
            first = 0 if full else rng.choice([0, rng.randrange(loaded)])
            n = rng.choice([1, config.top_n, rng.randint(1, config.top_n)]) if fixed is None \
                else fixed
            sink = rng.choice([0, 0, rng.randint(0, config.top_n - n)])
            recent = rng.choice([0, 0, rng.randint(0, config.top_n - n - sink)])
            counts = []
            for _ in range(config.queries):
                longest = loaded - first
                counts.append(longest if full else rng.randint(1, min(3, longest)) if short else
                              rng.choice([longest, rng.randint(1, longest),
                                          min(longest, n + sink + recent)]))
            exp_tables = [rng.choice(sorted(self.exp_tables) or [0]) for _ in range(config.queries)]
            rescore = rng.randrange(2) if kind is None else kind
            shared = int(unit is not None and unit.shared and rescore and rng.random() < 0.6)
            if shared:
                counts = counts[:1] * config.queries
            if rng.random() < 0.15:
                match rng.choice(["n", "many", "empty", "range", "exp_table", "queries",
                                  "rescore"]):
                    case "rescore":
                        rescore, shared = rng.randrange(2), rng.randrange(2)
                    case "n":
                        n = 0
                    case "many":
                        recent = min(config.capacity, recent + config.top_n)
                    case "empty":
                        counts = [0] * config.queries
                    case "range":
                        counts[rng.randrange(config.queries)] = config.capacity
                    case "exp_table":
                        exp_tables[rng.randrange(config.queries)] = rng.randrange(config.exp_tables)
                    case "queries":
                        counts = [count * rng.randrange(2) for count in counts]
            for name, value in (("first", first), ("n", n), ("sink", sink), ("recent", recent),
                                ("trace", rng.randrange(2) if trace is None else trace),
                                ("rescore", rescore), ("shared", shared)):
                fields[name].append(value)
            if unit:
                asked["multiplier"].append([rng.getrandbits(rng.choice([8, 32]))
                                            for _ in range(config.queries)])
            asked["code"].append([self.payload(rng.choice([
                0, (1 << config.key_bits) - 1, rng.getrandbits(config.key_bits)]))
                for _ in range(config.queries)])
            asked["count"].append(counts)
            asked["exp_table"].append(exp_tables)
        rescored = sum(fields["rescore"]) * config.queries if unit else 0
        rescore = {} if rescored == 0 else {"i_rescore_query": np.array(
            [self.elements() for _ in range(rescored * unit.beats)])}
        return {**rescore, "i_command": {**fields, "queries": {
            name: np.array(asked[name], np.uint64 if name == "code" else np.int64)
            for name in asked}}}

    def write(self, sequences):
        """Add a number of sequences: loads, commands, or both at once, after pauses or none."""
        rng, config = self.rng, self.config
        self.program.add({**self.append(config.capacity // 2), **self.exp_table(0)})
        for _ in range(sequences):
            delay = rng.choice([0, 0, 0, rng.randint(0, 9), rng.randint(0, 400)])
            burst = rng.choice([1, 1, 2, rng.randint(1, 8), rng.randint(1, 16)])
            match rng.choices(["commands", "append", "overwrite", "exp_table", "together"],
                              [10, 3, 1, 2, 2])[0]:
                case "commands":
                    inputs = self.commands(burst)
                case "append":
                    inputs = self.append(rng.choice([1, 2, config.capacity]))
                case "overwrite":
                    inputs = self.overwrite()
                case "exp_table":
                    inputs = self.exp_table(rng.randrange(config.exp_tables), rng.random() < 0.3)
                case "together":
                    inputs = {**self.commands(burst),
                              **rng.choice([self.append(3), self.overwrite(), {}]),
                              **(self.exp_table(rng.randrange(config.exp_tables), False)
                                 if rng.random() < 0.5 else {})}
            self.program.add(inputs, delay=delay)


def first_difference(expected, found):
    """Where two sequences differ first (pytest would explain all of it, which takes minutes)."""
    for index, (one, other) in enumerate(zip(expected, found, strict=False)):
        if one != other:
            return index, one, other
    return None if len(expected) == len(found) else (len(expected), len(found))


def compare(config, program, engine):
    """Simulate a program and compare everything with the prediction."""
    timeline = predict(config, shapes(program))
    program.beats = {"o_result": len(timeline.results), "o_trace": len(timeline.trace)}
    outcome = engine.run(program, patience=50_000)
    names = {"i_key": "keys", "i_value": "values", "i_exp_table": "exp_tables",
             "i_command": "commands",
             "i_rescore_key": "rescore_keys", "i_rescore_query": "rescore_queries"}
    beats = outcome.outputs["o_result"]
    payloads = beats.payloads
    last = payloads["last"] == 1
    assert first_difference([int(answer.error) for answer in timeline.answers],
                            payloads["error"][last].tolist()) is None
    for index, (expected, found) in enumerate(zip(timeline.accepted, outcome.accepted,
                                                  strict=True)):
        for stream, cycles in found.items():
            assert first_difference(getattr(expected, names[stream]), cycles.tolist()) is None, (
                f"{stream} of phase {index}")
    assert first_difference([answer.end for answer in timeline.answers],
                            beats.cycles[last].tolist()) is None
    assert first_difference(timeline.results, beats.cycles.tolist()) is None
    assert first_difference(timeline.trace,
                            outcome.outputs["o_trace"].cycles.tolist()) is None
    assert timeline.cycles == outcome.cycles
    return timeline


SMALL = {
    "tiny": Config.preset("tiny"),
    # Several beats of an odd number, a wide second pass, a slow normalizer.
    "odd": Config(key_bits=16, value_dim=6, capacity=40, lanes=2, value_lanes=3, top_n=7,
                  exp_tables=3,
                  refine_lanes=8, normalizer="divider", divider_cycles=2, value_ports=1),
    # Scales and values in one memory: one beat, and several queries; outputs of a reciprocal.
    "single port": Config(key_bits=6, value_dim=3, capacity=24, lanes=2, value_lanes=3, top_n=4,
                          normalizer="divider", divider_cycles=4, value_ports=1),
    "single port queries": Config(key_bits=9, value_dim=4, capacity=32, queries=2, lanes=4,
                                  value_lanes=1, top_n=5, value_ports=1),
    # The queue of keys has no room to spare.
    "tight": Config(key_bits=7, value_dim=2, capacity=32, lanes=2, value_lanes=2, top_n=6),
    # Nothing is wider than 1, and the longest division.
    "narrow": Config(key_bits=5, value_dim=2, capacity=13, queries=2, lanes=1, value_lanes=1,
                     top_n=3,
                     value_bits=16, weight_bits=24, output_fraction_bits=16, normalizer="divider",
                     divider_cycles=32),
    # The longest division, by the reciprocal: refined, and not in the exp table.
    "fine": Config(key_bits=5, value_dim=3, capacity=13, queries=2, lanes=1, value_lanes=1, top_n=3,
                   value_bits=16, weight_bits=24, output_fraction_bits=16),
    "one": Config(key_bits=1, value_dim=1, capacity=1, lanes=1, value_lanes=1, top_n=1,
                  exp_tables=1),
    # More words than one group of summaries; a single beat; one output in many cycles.
    "long": Config(key_bits=9, value_dim=4, capacity=256, lanes=2, value_lanes=4, top_n=40,
                   normalizer="divider", divider_cycles=8),
    # Many queries: results, commands and banks wait for each other.
    "queries": Config(key_bits=9, value_dim=3, capacity=32, queries=6, lanes=4, value_lanes=1,
                      top_n=20,
                      value_bits=5, weight_bits=7, output_fraction_bits=0, divider_cycles=1,
                      exp_tables=5,
                      fan_in=2),
    # Scoring is much faster than all that follows.
    "wide": Config(key_bits=12, value_dim=8, capacity=64, lanes=8, value_lanes=8, top_n=16,
                   refine_lanes=32, fan_in=12, cell="ecp5"),
    # Memories are registered among so many lanes.
    "far": Config(key_bits=6, value_dim=4, capacity=320, lanes=32, value_lanes=4, top_n=28,
                  normalizer="divider", divider_cycles=2),
    # Rescoring: of a beat, of several, slower and faster than what comes before and after.
    "rescore": Config(key_bits=8, value_dim=8, capacity=64, queries=2, lanes=4, value_lanes=4,
                      top_n=16,
                      rescore=Rescore(head_dim=8, lanes=4)),
    "rescore slow": Config(key_bits=9, value_dim=3, capacity=32, lanes=4, value_lanes=3, top_n=6,
                           rescore=Rescore(head_dim=5, lanes=1, element_bits=12)),
    "rescore fast": Config(key_bits=7, value_dim=6, capacity=32, queries=3, lanes=2, value_lanes=2,
                           top_n=30, normalizer="divider", divider_cycles=4,
                           rescore=Rescore(head_dim=16, lanes=16)),
    "shared": Config(key_bits=8, value_dim=8, capacity=64, queries=3, lanes=4, value_lanes=4,
                     top_n=16,
                     rescore=Rescore(head_dim=8, lanes=4, shared=True)),
    "rescore one": Config(key_bits=1, value_dim=1, capacity=1, lanes=1, value_lanes=1, top_n=1,
                          exp_tables=1, rescore=Rescore(head_dim=1, lanes=1, element_bits=2)),
}
SMALL = {name: config.replace(selection="counters") for name, config in SMALL.items()}


# Other ways to select.
OTHERS = {
    f"{selection} {name}": config.replace(selection=selection)
    for selection in ("histograms", "serial")
    for name, config in {
        "tiny": SMALL["tiny"], "tight": SMALL["tight"], "one": SMALL["one"],
        "queries": SMALL["queries"],
        "rescore": SMALL["rescore"], "shared": SMALL["shared"],
        "wide": SMALL["wide"].replace(refine_lanes=16),
        "parted": Config(key_bits=16, value_dim=1, capacity=64, lanes=2, value_lanes=1, top_n=20,
                         refine_lanes=4),
        "short": Config(key_bits=3, value_dim=1, capacity=64, lanes=2, value_lanes=1, top_n=20),
        # Fewer bins than what is summed of them in levels.
        "far": Config(key_bits=4, value_dim=1, capacity=128, lanes=32, value_lanes=1, top_n=5,
                      refine_lanes=64),
    }.items()}


# Keys selected block by block, as fast as blocks are scored; ranges of many blocks.
BLOCKS = {f"blocks {name}": config.replace(selection="histograms", selection_block=block)
          for name, config, block in [
    ("tiny", SMALL["tiny"].replace(capacity=1024, top_n=6, refine_lanes=8), 256),
    ("one lane", Config(key_bits=7, value_dim=2, capacity=400, lanes=1, value_lanes=2, top_n=9,
                        refine_lanes=2), 64),
    ("queries", SMALL["queries"].replace(capacity=512, top_n=5, refine_lanes=8), 256),
    ("rescore", SMALL["rescore"].replace(capacity=1024, top_n=7, refine_lanes=16), 256),
    ("shared", SMALL["shared"].replace(capacity=512, top_n=4, refine_lanes=8), 256),
    ("three banks", Config(key_bits=1, value_dim=1, capacity=300, lanes=1, value_lanes=1, top_n=1,
                           refine_lanes=4), 64),
]}


LARGE = {
    "reference": Config.preset("reference"),
    "head32": Config.preset("head32"),
    # A code of several words, and a GQA group.
    "rescore reference": Config.preset("reference").replace(
        rescore=Rescore(head_dim=64, lanes=32)),
    "group": Config(key_bits=96, value_dim=16, capacity=256, queries=3, lanes=8, value_lanes=8,
                    top_n=62, exp_tables=3, refine_lanes=16, normalizer="divider",
                    divider_cycles=2, selection="counters"),
}


def check(config, engine, *, programs, sequences, first=0):
    answers = []
    for seed in range(first, first + programs):
        author = Author(config, engine, seed)
        author.write(sequences)
        answers += compare(config, author.program, engine).answers
    good = sum(answer.error == Error.OK for answer in answers)
    assert 0.3 * len(answers) < good < len(answers)


@pytest.mark.parametrize("name", [
    pytest.param(name, marks=pytest.mark.slow if name in ("rescore slow", "rescore fast") else [])
    for name in SMALL])
def test_random_programs(name):
    """Hundreds of sequences for each configuration."""
    check(SMALL[name], core_engine(SMALL[name]), programs=20, sequences=20)


@pytest.mark.parametrize("name", [
    "blocks one lane", "blocks shared", *(pytest.param(name, marks=pytest.mark.slow) for name in (
        "blocks tiny", "blocks queries", "blocks rescore", "blocks three banks"))])
def test_random_programs_of_blocks(name):
    check(BLOCKS[name], core_engine(BLOCKS[name]), programs=5, sequences=20)


@pytest.mark.parametrize("name", [
    "histograms rescore", "histograms parted", "serial queries",
    *(pytest.param(name, marks=pytest.mark.slow) for name in (
        "histograms tiny", "histograms wide", "histograms far", "serial tight",
        "serial shared"))])
def test_random_programs_of_other_selections(name):
    check(OTHERS[name], core_engine(OTHERS[name]), programs=5, sequences=20)


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL | OTHERS)
def test_more_random_programs(name):
    config = (SMALL | OTHERS)[name]
    check(config, core_engine(config), programs=200, sequences=40, first=20)


@pytest.mark.slow
@pytest.mark.parametrize("name", LARGE)
def test_random_programs_of_larger_cores(name):
    check(LARGE[name], core_engine(LARGE[name]), programs=40, sequences=20)


def test_other_engine():
    config = SMALL["tight"]
    check(config, core_engine(config, "icarus"), programs=1, sequences=10)


@pytest.mark.parametrize("name", ["tiny", "tight", "long", "histograms tiny", "histograms wide",
                                  "serial tight"])
def test_constant_time(name):
    """Programs of one shape take the same cycles, whatever their data."""
    config = (SMALL | OTHERS)[name]
    engine = core_engine(config)
    bits, queries, capacity = config.key_bits, config.queries, config.capacity
    rng = random.Random(name)
    spread = [index * bits // capacity for index in range(capacity)]
    for n in (1, config.top_n):
        counts = [[rng.choice([capacity, rng.randint(1, capacity)]) for _ in range(queries)]
                  for _ in range(12)]
        seen = []
        for data in ("up", "down", "equal", "two ends", "random", "few", "few", "few", "few"):
            ones = {"up": spread, "down": spread[::-1], "equal": [bits // 2] * capacity,
                    "two ends": [bits] * (capacity // 2) + [0] * (capacity - capacity // 2),
                    "random": [rng.randint(0, bits) for _ in range(capacity)],
                    "few": rng.choices(rng.sample(range(bits + 1), 3), [1, 2, 20], k=capacity),
                    }[data]
            program = Program(engine.ports)
            beats = [(token, beat) for token in range(capacity) for beat in range(config.beats)]
            program.add({
                "i_key": {"token": list(range(capacity)), "code": [(1 << one) - 1 for one in ones]},
                "i_value": {"token": [token for token, _ in beats],
                            "beat": [beat for _, beat in beats],
                            "elements": np.zeros((len(beats), config.value_lanes), int),
                            "scale": [1] * len(beats)},
                "i_exp_table": {"exp_table": [0], "distance": [0], "weight": [1]}})
            same = np.zeros(len(counts), int)
            program.add({"i_command": {
                "first": same, "n": same + n, "sink": same, "recent": same, "trace": same + 1,
                "rescore": same, "shared": same,
                "queries": {"code": np.array([[(1 << rng.choice([0, rng.randint(0, bits)])) - 1]
                                              * queries for _ in counts]),
                            "count": np.array(counts),
                            "exp_table": np.zeros((len(counts), queries), int)},
            }})
            timeline = predict(config, shapes(program))
            program.beats = {"o_result": len(timeline.results), "o_trace": len(timeline.trace)}
            outcome = engine.run(program)
            seen.append({name: beats.cycles.tolist() for name, beats in outcome.outputs.items()})
        assert all(cycles == seen[0] for cycles in seen)
