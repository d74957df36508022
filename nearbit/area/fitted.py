"""`nearbit area`: what a configuration takes of a device, by a model fitted to synthesis."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from nearbit.tables import print_table
from nearbit_model.config import DECAY_BITS, MULTIPLIER_BITS, SCALE_BITS, Config
from nearbit_model.errors import NearbitError
from nearbit_model.structure import BANKS, SHIFT_STEP


if TYPE_CHECKING:
    from nearbit.area.synthesis import Resources


__all__ = ["BLOCKS", "MEMORY_UNITS", "QUANTITIES", "TARGETS", "AreaError", "Block", "Check",
           "Estimate", "apply", "belongs", "check", "count_all", "drivers", "estimate", "features",
           "model", "parts", "show", "validate"]


TARGETS = ("ecp5", "ice40", "up5k", "xc7")
"""Devices; :data:`nearbit.area.synthesis.DEVICES` says more of them."""

QUANTITIES = ("luteq", "ffs", "brams", "dsps")
"""What is counted, as in :class:`nearbit.area.synthesis.Resources`."""

MODEL = "model.json"
"""The coefficients, made by benchmarks/area.py."""


class AreaError(NearbitError, ValueError):
    """What cannot be estimated; the message is one sentence."""


def _bits(most: int) -> int:
    """Bits of a number from 0 to this."""
    return most.bit_length()


@dataclass(frozen=True)
class Block:
    """A part of the accelerator that is counted by itself.

    Parameters
    ----------
    units
        Names of the core's submodules that it is made of; an ending ``*`` stands for any.
    features
        What its cost grows with, for logic and flip-flops: terms of a linear model.
    drivers
        Parameters of a configuration that these follow from; beyond the sweep of one of them an
        estimate extrapolates.
    memories
        Width in bits and words of its memories in block RAM.
    products
        Bits of the two factors of its multiplications, and how many there are of the kind.
    """

    units: tuple[str, ...]
    features: Callable[[Config], dict[str, float]]
    drivers: tuple[str, ...]
    memories: Callable[[Config], list[tuple[int, int]]] = lambda _: []
    products: Callable[[Config], list[tuple[int, int, int]]] = lambda _: []


def _levels(config: Config) -> int:
    """Registers on the way through a cell."""
    levels, terms = 1, -(-config.key_bits // config.fan_in)
    while terms > 1:
        levels, terms = levels + 1, -(-terms // config.fan_in)
    return levels


def _cell(config: Config) -> dict[str, float]:
    bits = config.key_bits
    return {"one": 1, "bits": bits, "sums": bits - _bits(bits), "count": _bits(bits),
            "levels": bits * _levels(config), "differences": bits * (config.queries == 1)}


def _score_array(config: Config) -> dict[str, float]:
    queries, lanes, bits = config.queries, config.lanes, config.key_bits
    stages = -(-queries // config.queries_per_stage)
    return {"one": 1, "queries": queries, "codes": queries * bits, "lanes": queries * lanes,
            "keys": stages * lanes * bits, "skew": lanes * bits * _levels(config),
            "cells": queries * lanes * bits, "sums": queries * lanes * (bits - _bits(bits)),
            "levels": queries * lanes * bits * _levels(config),
            "differences": lanes * bits * (queries == 1)}


def _selected_bits(config: Config) -> list[int]:
    """The largest distance that each query selects by."""
    return [config.key_bits] * (config.queries - 1) + [config.distance_max]


def _digits(largest: int) -> tuple[int, int, int]:
    """Bits of a distance's code, and the values of its two digits that are counted."""
    code = _bits(largest + 1)
    fine = max(1, code // 2)
    return code, largest >> fine, (1 << fine) - 1


def _parts(config: Config) -> int:
    """The most parts of the bins that a query's threshold is looked for in."""
    return 1 if config.selection == "counters" else max(
        config.histogram_times(query).parts for query in range(config.queries))


def _histograms(config: Config) -> dict[str, float]:
    """Terms of the selections by histograms, each with a name of its own."""
    lanes, wide, name = config.lanes, config.refine_lanes, config.selection
    total: dict[str, float] = {}
    for query, largest in enumerate(_selected_bits(config)):
        times = config.histogram_times(query)
        code, counter = _bits(largest), _bits(config.top_n) + 1
        terms: dict[str, float] = {
            "one": 1,
            "bins": lanes * counter,                # counters and their sum
            "lanes": lanes,
            "refine lanes": wide * code,            # comparisons with the threshold
            "positions": _bits(config.capacity),
            "group": times.group * code,            # of which a key is emitted
            "groups": times.groups > 1,
        }
        if config.selection == "histograms":
            terms["parts"] = (times.parts > 1) * lanes          # lanes compared with each part
            terms["lacking"] = (times.parts > 1) * counter      # what each part lacks
        for term, value in terms.items():
            total[f"{name} {term}"] = total.get(f"{name} {term}", 0) + value
    return total


def _top_n(config: Config) -> dict[str, float]:
    if config.selection != "counters":
        return _histograms(config)
    total: dict[str, float] = {}
    lanes, wide = config.lanes, config.refine_lanes
    group = config.counter_times.group
    for largest in _selected_bits(config):
        code, coarse, fine = _digits(largest)
        counter = _bits(config.top_n) + 1
        terms = {
            "one": 1,
            "count": lanes * coarse,                # lanes compared with each coarse value
            "refine": wide * fine,                  # the same with fine values
            "counters": (coarse + fine) * counter,
            "summaries": group * (fine + 2),
            "lanes": lanes * code,                  # the word that is emitted
            "refine lanes": wide,
            "positions": lanes * _bits(config.capacity),
            "order": config.rescore is not None,    # keys that leave without a gap
        }
        for name, value in terms.items():
            total[name] = total.get(name, 0) + value
    return total


def _histogram_memories(config: Config) -> list[tuple[int, int]]:
    found = []
    overlap = config.selection == "histograms"
    lanes, wide = config.lanes, config.refine_lanes
    times = config.histogram_times(0)
    ratio, group, groups, banks = wide // lanes, times.group, times.groups, times.banks
    block = config.selection_block
    words = (block or config.capacity) // lanes
    word_bits = max(_bits(words - 1), _bits(ratio - 1) + 1)
    for largest in _selected_bits(config):
        counter = _bits(min(-(-words // 2), config.top_n)) + 1
        found += [(counter, 2 << _bits(largest))] * (lanes * (2 if overlap else 1))
        item = _bits(largest) + 2 if overlap else _bits(largest + 1) + 1
        found += [(item * lanes, (banks << word_bits) // ratio)] * ratio
        if overlap or groups > 1:
            found.append(((_bits(largest) + (block > 0)) * lanes, banks << word_bits))
        if block:
            # What is carried of each distance, and two lists of survivors.
            found += [(_bits(config.top_n - 1) + 1, largest),
                      (_bits(config.capacity - 1) + _bits(largest) + 1,
                       2 << _bits(config.top_n - 1))]
        most = min(config.top_n, (block or config.capacity) // wide)
        depth = 1 << _bits((2 * most if overlap else most + 1) - 1)
        if groups > 1:
            found += [(word_bits + groups + _bits(config.top_n) + 1
                       + (groups - 1) * _bits(wide - group), depth), (2 * group * groups, depth)]
        else:
            found.append((word_bits + group, depth))
    return found


def _top_n_memories(config: Config) -> list[tuple[int, int]]:
    if config.selection != "counters":
        return _histogram_memories(config)
    found = []
    lanes, ratio = config.lanes, config.refine_lanes // config.lanes
    group = config.counter_times.group
    words = -(-config.capacity // lanes // group) * group
    bank = 1 << _bits(words - 1)
    for largest in _selected_bits(config):
        code, _, fine = _digits(largest)
        queue = config.counter_times.key_depth
        # Each word of a row that is read wide is written alone.
        found += [((code + 1) * lanes, BANKS * bank // ratio)] * ratio
        found += [((code + 1) * lanes, BANKS * bank),
                  (group * (fine + 2), BANKS * -(-bank // group)),
                  (_bits(config.capacity - 1) + _bits(largest) + 1, queue)]
    return found


def _score_bits(config: Config) -> int:
    """Bits of how far a score is behind the best, or 0."""
    unit = config.rescore
    return 0 if unit is None else _bits(2 * max(unit.score_max, config.distance_max))


def _softmax(config: Config) -> dict[str, float]:
    score = _score_bits(config)
    return {"one": 1, "index": _bits(config.capacity - 1), "position": _bits(config.top_n),
            "distance": _bits(config.distance_max), "weight": config.weight_bits,
            "scores": score > 0, "score": score, "multiply": score * MULTIPLIER_BITS,
            "shift": (score > 0) * config.weight_bits * _bits(config.weight_bits)}


def _softmax_memories(config: Config) -> list[tuple[int, int]]:
    score = _score_bits(config)
    key = _bits(config.capacity - 1) + _bits(config.distance_max) + score
    found = [(key, 2 * config.top_n),
             (config.weight_bits, _places(config.exp_tables, config.key_bits + 1))]
    return [*found, (config.weight_bits, 1 << DECAY_BITS)] if score else found


def _places(first: int, second: int) -> int:
    """Words of a memory with two indices side by side, as :class:`nearbit_hw.ram.Address`."""
    return min((second - 1 << _bits(first - 1)) + first, (first - 1 << _bits(second - 1)) + second)


def _sum_bits(config: Config) -> int:
    """Bits of a weighted sum."""
    weight, scale = (1 << config.weight_bits) - 1, (1 << SCALE_BITS) - 1
    scaled = (weight * scale + (1 << SCALE_BITS - 1)) >> SCALE_BITS
    return _bits((config.top_n * scaled << config.value_bits - 1) - 1) + 1


def _total_bits(config: Config) -> int:
    """Bits of a sum of weights."""
    return _bits(config.top_n * ((1 << config.weight_bits) - 1))


def _values(config: Config) -> dict[str, float]:
    lanes = config.value_lanes
    return {"one": 1, "weight": config.weight_bits, "scaling": config.weight_bits * SCALE_BITS,
            "address": _bits(config.capacity - 1) + _bits(config.beats - 1),
            "elements": lanes * config.value_bits, "factors": lanes * config.weight_bits,
            "products": lanes * config.value_bits * config.weight_bits,
            "sums": lanes * _sum_bits(config), "total": _total_bits(config)}


def _values_memories(config: Config) -> list[tuple[int, int]]:
    return [(config.value_bits * config.value_lanes, _places(config.capacity, config.beats)),
            (SCALE_BITS, config.capacity)]


def _values_products(config: Config) -> list[tuple[int, int, int]]:
    # A factor without sign takes a bit more, as the multipliers have signs.
    return [(config.weight_bits + 1, config.value_bits, config.value_lanes),
            (config.weight_bits, SCALE_BITS, 1)]


def _divider(config: Config) -> dict[str, float]:
    units = config.output_bits // config.divider_cycles
    total, sums = _total_bits(config), _sum_bits(config)
    return {"one": 1, "units": units, "dividers": units * (total + 1),
            "shared": units * config.output_bits * (config.divider_cycles > 1),
            "bits": units * config.output_bits, "total": total,
            "choice": config.value_lanes * sums, "lanes": config.value_lanes}


def _reciprocal(config: Config) -> dict[str, float]:
    times = config.reciprocal_times
    width = config.value_bits + times.total_bits
    return {"one": 1, "lanes": config.value_lanes, "choice": config.value_lanes * _sum_bits(config),
            "total": times.total_bits, "bits": times.bits, "sum": width,
            "shifts": times.shift_steps * width,
            "refined": times.is_refined * times.bits * times.total_bits,
            "products": times.bits ** 2, "shift": width * min(SHIFT_STEP, times.total_bits),
            "back": times.bits * times.total_bits}


def _reciprocal_memories(config: Config) -> list[tuple[int, int]]:
    times = config.reciprocal_times
    if not times.index_bits:
        return []
    slope = 0 if not times.slope_bits else times.table_bits + times.guard_bits - times.index_bits
    return [(times.table_bits + times.guard_bits + slope, 1 << times.index_bits)]


def _reciprocal_products(config: Config) -> list[tuple[int, int, int]]:
    return [(*product, 1) for product in config.reciprocal_times.products(config.value_bits)]


def _rescorer(config: Config) -> dict[str, float]:
    unit = config.rescore
    if unit is None:
        return {}
    return {"one": 1, "elements": unit.lanes * unit.element_bits,
            "products": unit.lanes * unit.element_bits ** 2,
            "sums": unit.lanes, "score": _bits(unit.score_max),
            "key": _bits(config.capacity - 1) + _bits(config.distance_max),
            "beats": _bits(unit.beats - 1)}


def _queries(config: Config) -> int:
    """Queries for rescoring that are held."""
    return 1 << _bits(8 * config.queries - 1)


def _rescorer_memories(config: Config) -> list[tuple[int, int]]:
    unit = config.rescore
    if unit is None:
        return []
    width = unit.lanes * unit.element_bits
    return [(width, _queries(config) << _bits(unit.beats - 1)),
            (width, _places(config.capacity, unit.beats))]


def _rescorer_products(config: Config) -> list[tuple[int, int, int]]:
    unit = config.rescore
    return [] if unit is None else [(unit.element_bits, unit.element_bits, unit.lanes)]


def _softmax_products(config: Config) -> list[tuple[int, int, int]]:
    score = _score_bits(config)
    return [(score, MULTIPLIER_BITS // 2, 2)] if score else []


def _key_store(config: Config) -> dict[str, float]:
    return {"one": 1, "lanes": config.lanes, "token": _bits(config.lanes - 1)}


def _rest(config: Config) -> dict[str, float]:
    queries, unit = config.queries, config.rescore
    shared = unit is not None and unit.shared
    position = _bits(config.capacity)
    return {"one": 1, "queries": queries, "codes": queries * config.key_bits, "position": position,
            "counts": queries * position, "exp_tables": config.exp_tables,
            "output": config.output_bits, "scores": queries * (unit is not None),
            "shared": shared * queries * config.lanes * _bits(config.distance_max)}


def _rest_memories(config: Config) -> list[tuple[int, int]]:
    if config.rescore is None or not config.rescore.shared:
        return []
    return [(_bits(config.capacity - 1) + _bits(config.distance_max) + 1, config.top_n)]


BLOCKS: dict[str, Block] = {
    "cell": Block((), _cell, ("key_bits", "fan_in", "queries")),
    "score_array": Block(("score_array",), _score_array,
                         ("key_bits", "queries", "lanes", "fan_in")),
    "top_n": Block(("top_n_*",), _top_n, ("distance_max", "lanes", "refine_lanes", "capacity",
                                          "top_n", "parts"), _top_n_memories),
    "softmax": Block(("softmax",), _softmax, ("capacity", "top_n", "distance_max", "weight_bits",
                                              "score_bits"),
                     _softmax_memories, _softmax_products),
    "values": Block(("value_accumulator", "value_store"), _values,
                    ("value_lanes", "value_bits", "weight_bits", "top_n", "capacity"),
                    _values_memories, _values_products),
    "divider": Block(("normalizer",), _divider, (
        "value_lanes", "output_bits", "divider_cycles", "weight_bits", "top_n")),
    "reciprocal": Block(("normalizer",), _reciprocal, (
        "value_lanes", "output_bits", "value_bits", "weight_bits", "top_n"),
        _reciprocal_memories, _reciprocal_products),
    "rescorer": Block(("rescorer", "rescore_key_store"), _rescorer,
                      ("rescore.lanes", "rescore.element_bits", "rescore.head_dim", "capacity"),
                      _rescorer_memories, _rescorer_products),
    "key_store": Block(("key_store",), _key_store, ("lanes",),
                       lambda config: [(config.key_bits, config.capacity // config.lanes)]
                       * config.lanes),
    "rest": Block((), _rest, ("queries", "key_bits", "capacity"), _rest_memories),
}
"""Blocks by name. ``cell`` is one lane of ``score_array``, without the registers of its inputs;
``rest`` is all that is in no other: checks of commands, queues, the order of queries."""


MEMORY_UNITS: dict[str, tuple[str, ...]] = {
    "codes": ("code_fetcher", "code_gate", "code_outcomes", "read_merge"),
    "rows": ("row_fetcher", "row_gather", "row_outcomes", "value_buffer", "value_reader",
             "key_buffer", "key_reader", "gathered", "selected_*"),
    "tables": ("places", "command_place"),
    "appender": ("appender",),
}
"""Blocks of a core whose cache lies in a memory, in place of its stores: names of submodules."""


# Shapes that a block of memory can have: width and words.
_SHAPES = {
    "ecp5": ((36, 512), (18, 1024), (9, 2048), (4, 4096), (2, 8192), (1, 16384)),
    "ice40": ((16, 256), (8, 512), (4, 1024), (2, 2048)),
    "xc7": ((36, 512), (18, 1024), (9, 2048), (4, 4096), (2, 8192), (1, 16384)),
}

# Bits of the two factors that a multiplier takes, both with sign.
_FACTORS = {"ecp5": (18, 18), "up5k": (16, 16), "xc7": (25, 18)}


def _blocks_of_memory(width: int, words: int, target: str) -> tuple[int, int]:
    """Count the blocks that make a larger memory, and how many of them each bit is chosen from."""
    shapes = _SHAPES["ice40" if target == "up5k" else target]
    return min((-(-width // wide) * -(-words // deep), -(-words // deep))
               for wide, deep in shapes)


def _multipliers(first: int, second: int, target: str) -> int:
    """Count the multipliers that make a larger one."""
    if target not in _FACTORS:
        return 0
    wide, narrow = _FACTORS[target]

    def tiles(one: int, other: int) -> int:
        return max(1, -(-one // wide)) * max(1, -(-other // narrow))

    return min(tiles(first, second), tiles(second, first))


def drivers(config: Config, block: str) -> dict[str, int]:
    """What a block's cost follows from, in a configuration."""
    found = {}
    for name in BLOCKS[block].drivers:
        if name == "score_bits":
            found[name] = _score_bits(config)
        elif name == "parts":
            found[name] = _parts(config)
        else:
            value: Any = config
            for part in name.split("."):
                value = getattr(value, part)
            found[name] = int(value)
    return found


def features(config: Config, block: str, target: str) -> dict[str, float]:
    """Terms of a block's linear model; none for a block that the configuration does not have.

    Memories that are deeper than the blocks they are made of need multiplexers: term ``memory``.
    """
    terms = {name: float(value) for name, value in BLOCKS[block].features(config).items()}
    memories = BLOCKS[block].memories(config)
    if memories:
        terms["memory"] = float(sum(
            width * (_blocks_of_memory(width, words, target)[1] - 1)
            for width, words in memories))
    return terms


def parts(config: Config) -> list[str]:
    """Blocks that the configuration has."""
    without = {"divider", "reciprocal"} - {config.normalizer}
    if config.rescore is None:
        without.add("rescorer")
    if config.memory is not None:
        without.add("key_store")
    found = [name for name in BLOCKS if name not in without]
    return found if config.memory is None else [*found[:-1], *MEMORY_UNITS, found[-1]]


@dataclass(frozen=True)
class Estimate:
    """What a configuration takes.

    Parameters
    ----------
    target
        One of :data:`TARGETS`.
    blocks
        Resources of each block.
    error
        Mean and largest error of each block's ``luteq`` in percent, when the points of the sweep
        are left out one after another and estimated by the others.
    beyond
        For each block that is outside the sweep, in which parameters: the name, the value, and
        the least and the most of the sweep.
    is_counted
        Whether the resources are those of a synthesis of this very configuration.
    """

    target: str
    blocks: "dict[str, Resources]"
    error: dict[str, tuple[float, float]]
    beyond: dict[str, list[tuple[str, int, int, int]]]
    is_counted: bool = False

    @property
    def total(self) -> "Resources":
        """All blocks together; a cell is in the array already."""
        return _sum(self.blocks)

    @property
    def total_error(self) -> float:
        """Percent by which ``luteq`` is wrong if each block has its mean error to the same side."""
        total = self.total.luteq
        return sum(resources.luteq * self.error[name][0] for name, resources in self.blocks.items()
                   if name != "cell") / total if total else 0.0

    def warning(self) -> str:
        """Say in one sentence what is beyond the sweep; empty if nothing is."""
        reasons = sorted({f"{name} {value:,} (the sweep has {least:,} to {most:,})"
                          for found in self.beyond.values()
                          for name, value, least, most in found})
        return (f"The estimate extrapolates for {', '.join(self.beyond)}: {'; '.join(reasons)}."
                if reasons else "")

    def to_dict(self) -> dict[str, Any]:
        """Everything, as JSON can hold it."""
        return {
            "target": self.target,
            "counted": self.is_counted,
            "blocks": {name: resources.to_dict() for name, resources in self.blocks.items()},
            "total": self.total.to_dict(),
            "error_percent": {name: {"mean": mean, "max": most}
                              for name, (mean, most) in self.error.items()},
            "total_error_percent": round(self.total_error, 1),
            "extrapolates": {
                block: {name: {"value": value, "least": least, "most": most}
                        for name, value, least, most in found}
                for block, found in self.beyond.items()},
        }


def _sum(blocks: "Mapping[str, Resources]") -> "Resources":
    from nearbit.area.synthesis import Resources

    return sum((resources for name, resources in blocks.items() if name != "cell"), Resources())


@cache
def model() -> dict[str, Any]:
    """The committed coefficients; each target has them for the blocks."""
    text = files("nearbit.area").joinpath(MODEL).read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(text)
    return found


_CELLS = {"ecp5": "ecp5", "ice40": "ice40", "up5k": "ice40", "xc7": "xc7"}
"""The cell that a target has by default: all that the sweep knows."""


def validate(config: Config, target: str) -> None:
    """Raise :class:`AreaError` if nothing is known of a target, or of a cell on it."""
    if target not in TARGETS:
        raise AreaError(f"--target must be one of {', '.join(TARGETS)}, not {target!r}")
    if config.selection == "histograms" and target in ("ice40", "up5k"):
        raise AreaError(f"the selection 'histograms' needs block RAM with two full ports, which "
                        f"{target} does not have; take 'serial' or 'counters'")
    if config.normalizer == "reciprocal" and target in ("ice40", "up5k"):
        raise AreaError(f"the normalizer 'reciprocal' needs multipliers of 18 bits, which {target} "
                        f"does not have; take 'divider'")
    if config.cell not in (None, _CELLS[target]):
        raise AreaError(f"the configuration forces the cell {config.cell!r}, but the areas known "
                        f"for {target} are of {_CELLS[target]!r}; leave cell out")


def estimate(config: Config, target: str) -> Estimate:
    """Estimate what a configuration takes.

    Raises
    ------
    AreaError
        If nothing is known of the target, of the cell that the configuration forces, or of the
        selection's logic; or if the configuration has a memory and is none of those of which a
        synthesis is known.
    """
    validate(config, target)
    if config.memory is not None:
        return _known(config, target)
    if config.selection_block:
        raise AreaError("the logic of a selection with selection_block was not fitted; "
                        "set it to 0 to estimate all other blocks")
    fits = model()["targets"][target]
    unknown = [name for name in parts(config) if name not in fits]
    if unknown:
        raise AreaError(f"nobody has measured {', '.join(unknown)} on {target}; "
                        f"benchmarks/area.py --target {target} does")
    blocks, error, beyond = {}, {}, {}
    for name in parts(config):
        fit = fits[name]
        blocks[name] = apply(fit["coefficients"], config, name, target)
        error[name] = fit["error_percent"]["mean"], fit["error_percent"]["max"]
        outside = [(driver, value, *fit["range"][driver])
                   for driver, value in drivers(config, name).items()
                   if not fit["range"][driver][0] <= value <= fit["range"][driver][1]]
        if outside:
            beyond[name] = outside
    return Estimate(target, blocks, error, beyond)


def _known(config: Config, target: str) -> Estimate:
    """Look up the synthesis of a configuration with a memory."""
    from nearbit.area.synthesis import Resources

    known = model()["memory"]
    for entry in known:
        if entry["target"] == target and Config.from_dict(entry["config"]) == config:
            return _counted(target, {name: Resources(**found)
                                     for name, found in entry["blocks"].items()})
    names = [entry["preset"] for entry in known if entry["target"] == target]
    raise AreaError(f"of cores that read a cache in memory there is no model, and on {target} "
                    f"{'only ' + ', '.join(names) if names else 'none'} has been synthesized; "
                    f"--check synthesizes this one (minutes)")


def count_all(config: Config, target: str) -> Estimate:
    """Synthesize a configuration, as :func:`check`, in place of an estimate."""
    return _counted(target, check(config, target).blocks)


def _counted(target: str, blocks: "dict[str, Resources]") -> Estimate:
    return Estimate(target, blocks, dict.fromkeys(blocks, (0.0, 0.0)), {}, is_counted=True)


def apply(coefficients: Mapping[str, Mapping[str, float]], config: Config, block: str,
          target: str) -> "Resources":
    """Evaluate a block's linear model; blocks of memory and multipliers are counted."""
    from nearbit.area.synthesis import Resources

    terms = features(config, block, target)

    def linear(quantity: str) -> float:
        return sum(factor * terms.get(name, 0)
                   for name, factor in coefficients[quantity].items())

    return Resources(
        luteq=max(0.0, linear("luteq")), ffs=max(0.0, linear("ffs")),
        brams=sum(_blocks_of_memory(width, words, target)[0]
                  for width, words in BLOCKS[block].memories(config)),
        dsps=sum(number * _multipliers(first, second, target)
                 for first, second, number in BLOCKS[block].products(config)))


@dataclass(frozen=True)
class Check:
    """What synthesis says.

    Parameters
    ----------
    blocks
        Resources of each block of the estimate.
    seconds
        Time that it took.
    """

    blocks: "dict[str, Resources]"
    seconds: float

    @property
    def total(self) -> "Resources":
        """All blocks together; a cell is in the array already."""
        return _sum(self.blocks)

    def to_dict(self) -> dict[str, Any]:
        """Everything, as JSON can hold it."""
        return {"blocks": {name: resources.to_dict() for name, resources in self.blocks.items()},
                "total": self.total.to_dict(), "seconds": round(self.seconds, 1)}


def belongs(unit: str, block: str) -> bool:
    """Whether a submodule of the core is of a block."""
    units = MEMORY_UNITS[block] if block in MEMORY_UNITS else BLOCKS[block].units
    return any(unit.startswith(name[:-1]) if name.endswith("*") else unit == name
               for name in units)


def check(config: Config, target: str) -> Check:
    """Synthesize a configuration, each block for itself but in its place in the core."""
    import time
    from collections import Counter

    from nearbit.area.synthesis import cell_verilog, count, synthesize, units, verilog
    from nearbit_hw.core import Core
    from nearbit_hw.yosys import YosysError

    validate(config, target)
    start = time.perf_counter()
    text = verilog(Core(config), target, "core")
    names = [name for name in units(text, "core")
             if any(belongs(name, block) for block in parts(config))]
    try:
        found = synthesize(text, target, top="core", keep=[f"core.{name}" for name in names])
        found["cell"] = synthesize(cell_verilog(config, target), target)["top"]
    except YosysError as error:
        raise AreaError(f"Yosys cannot synthesize the configuration for {target} ({error}); "
                        f"estimate without --check") from None
    kinds: dict[str, Counter[str]] = {name: Counter() for name in parts(config)}
    kinds["cell"] = found.pop("cell")
    for module, cells in found.items():
        unit = module.removeprefix("core").removeprefix(".").partition(".")[0]
        block = next((name for name in kinds if belongs(unit, name)), "rest")
        kinds[block] += Counter({kind: number for kind, number in cells.items()
                                 if not kind.startswith("core.")})
    return Check({name: count(cells, target) for name, cells in kinds.items()},
                 time.perf_counter() - start)


def show(name: str, config: Config, found: Estimate, checked: Check | None,
         console: Console) -> None:
    """Print an estimate, and what synthesis says, if it was asked."""
    from nearbit.area.synthesis import DEVICES

    device = DEVICES[found.target]
    console.print(f"{name} on {device.name}\n", highlight=False, markup=False, soft_wrap=True)
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    heads = ["", device.unit, "flip-flops", "block RAMs", "multipliers"]
    if not found.is_counted:
        heads.append("mean error")
    if checked is not None:
        heads += ["synthesized", "difference"]
    for head in heads:
        table.add_column(head, justify="right" if head else "left")

    def row(title: str, resources: "Resources", error: float,
            real: "Resources | None") -> Sequence[str]:
        cells = [title, *(f"{round(value):,}" for value in vars(resources).values()),
                 *([] if found.is_counted else [f"{error:.1f} %"])]
        if real is not None:
            cells += [f"{round(real.luteq):,}", difference(resources.luteq, real.luteq)]
        return cells

    for block, resources in found.blocks.items():
        title = f"{block} (one of {config.queries * config.lanes})" if block == "cell" else block
        table.add_row(*row(title, resources, found.error[block][0],
                           None if checked is None else checked.blocks[block]))
    table.add_row(*row("total, without cell", found.total, found.total_error,
                       None if checked is None else checked.total))
    print_table(table, console)
    notes = ["", ("Counted in a synthesis of this configuration by Yosys, each block in its place "
                  "in the core: nothing is estimated." if found.is_counted else
                  "Estimated by a linear model of each block. The error is that of points which "
                  "the model had not seen; the total's adds up.")]
    if found.warning():
        notes.append(found.warning())
    if checked is not None:
        real = checked.total
        notes.append(f"Synthesized in {checked.seconds:.0f} s: {round(real.ffs):,} flip-flops, "
                     f"{round(real.brams)} block RAMs, {round(real.dsps)} multipliers.")
    for note in notes:
        console.print(note, highlight=False, markup=False, soft_wrap=True)


def difference(estimated: float, real: float) -> str:
    """By how many percent an estimate is above what is so."""
    return "-" if real == 0 else f"{100 * (estimated / real - 1):+.1f} %"
