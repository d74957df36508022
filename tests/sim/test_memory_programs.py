"""Random programs and random faults: answers are the golden model's, or the right errors."""

from collections import Counter

import pytest

from nearbit_model.config import Config, Memory, Rescore
from nearbit_model.structure import Error
from nearbit_sim.simulation import core_engine

from .memory_programs import Cache, RandomProgram
from .test_memory import CONFIGS as BUILT


SMALL = {"key_bits": 8, "value_dim": 8, "capacity": 64, "lanes": 4, "value_lanes": 8, "top_n": 16}
CONFIGS = {
    "tiny": BUILT["tiny"],
    "hash": BUILT["hash"],
    # Tables that are no power of two, all on one bus.
    "one bus": Config(**{**SMALL, "key_bits": 16, "lanes": 1, "queries": 3, "value_dim": 16,
                         "exp_tables": 2},
                      memory=Memory(heads=3, sequences=3, page_tokens=8, pages=11, one_bus=True,
                                    bus_bits=32, burst_bytes=16, queue_beats=64)),
    # Words of several beats, in blocks; a burst and a row at a time.
    "blocks": Config(**{**SMALL, "key_bits": 80, "capacity": 512, "lanes": 2, "refine_lanes": 8,
                        "top_n": 6}, selection_block=256,
                     memory=Memory(heads=2, page_tokens=64, bus_bits=32, burst_bytes=32,
                                   queue_beats=16, outstanding=1, row_id_bits=1)),
    # An eighth of the rows crosses 4 KiB.
    "boundary": Config(**{**SMALL, "value_dim": 256, "value_bits": 16, "top_n": 4},
                       rescore=Rescore(head_dim=8, lanes=4, element_bits=8),
                       memory=Memory(heads=2, page_tokens=16, bus_bits=128, row_ports=2)),
}


def check(name, seeds):
    """Run programs; all kinds of answers must be among those that come."""
    config = CONFIGS[name]
    engine = core_engine(config)
    caches = [Cache(config, seed) for seed in range(4)]
    seen = Counter()
    print(f"{name}, seeds {seeds.start} to {seeds.stop - 1}")
    for seed in seeds:
        program = RandomProgram(config, caches[seed % len(caches)], seed)
        try:
            outcome = engine.run(program.program, patience=20_000, timing=program.timing)
            seen.update(program.check(outcome))
        except Exception as error:
            raise AssertionError(f"{name}, seed {seed}, {program.kind}: {error}") from error
    print({error.name: count for error, count in sorted(seen.items())})
    can_share = config.rescore is not None and config.rescore.shared
    assert set(seen) == set(Error) - {Error.RESCORE if can_share else Error.SHARED}


@pytest.mark.parametrize("name", ["tiny", "hash"])
def test_some(name):
    check(name, range(120))


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
def test_random(name):
    check(name, range(1000, 3000))
