"""A memory as the models lay it out, and the tables told of it."""

import numpy as np
from memory_model import MemoryBench

from nearbit_model.config import Config
from nearbit_model.memory import MemoryLayout, plan_memory
from nearbit_model.quantize import codes_to_ints


class Planned:
    """A bench with a planned memory, sequences in random pages, and random tokens."""

    def __init__(self, dut, **options):
        self.bench = MemoryBench(dut, limit=60_000, **options)
        self.config = Config.from_dict(self.bench.parameters["config"])
        origin = self.bench.parameters["origin"]
        layout = MemoryLayout.of(self.config)
        self.plan = plan_memory(self.config, origin=origin,
                                stride=layout.least_stride + layout.row_unit)
        self.rng = np.random.default_rng(self.bench.seed)
        listed = self.config.capacity // self.config.memory.page_tokens
        self.pages = [self.rng.permutation(self.config.memory_pages)[:listed].tolist()
                      for _ in range(self.config.memory.sequences)]
        dut.timeout.value = 0

    async def start(self):
        """Set the tables to what the plan says."""
        await self.bench.reset()
        heads = self.plan.head_entries()
        for index, head in enumerate(heads["head"]):
            self.bench.source("i_head").send({
                "head": int(head), "set": int(heads["set"][index]),
                "entry": {name: int(numbers[index]) for name, numbers in heads["entry"].items()}})
        for sequence, pages in enumerate(self.pages):
            entries = self.plan.page_entries(sequence, pages)
            for index in range(len(pages)):
                self.bench.source("i_page").send(
                    {name: int(numbers[index]) for name, numbers in entries.items()})
        await self.bench.finish()

    def tokens(self, count):
        """Codes as integers, and values, scales and keys."""
        config, rng = self.config, self.rng

        def signed(bits, *shape):
            return rng.integers(-(1 << bits - 1), 1 << bits - 1, size=shape)

        unit = config.rescore
        return ([int.from_bytes(rng.bytes(128), "little") % (1 << config.key_bits)
                 for _ in range(count)],
                signed(config.value_bits, count, config.value_dim),
                rng.integers(0, 1 << 16, size=count),
                None if unit is None else signed(unit.element_bits, count, unit.head_dim))

    def beats(self, values, scales, keys):
        """Beats of rows, as integers."""
        layout = self.plan.layout
        beats = layout.beats(layout.pack_rows(values, scales, keys))
        return codes_to_ints(beats.reshape(len(beats), -1))

    def contents(self, image):
        """The memory from address 0 on."""
        return bytearray(self.plan.origin) + bytearray(image.octets)
