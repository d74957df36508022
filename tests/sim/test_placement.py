"""Commands for key heads that are not the first ones of a core's memory."""

import numpy as np
import pytest

from nearbit_model.config import Config, Memory
from nearbit_model.prepare import prepare
from nearbit_model.transfers import Placement, Plan


CONFIG = Config(key_bits=8, value_dim=8, capacity=32, lanes=8, value_lanes=8, top_n=8, queries=2,
                memory=Memory(heads=16, page_tokens=32, sequences=4))


@pytest.mark.parametrize("exp_tables", [2, 5, 6])
def test_heads_of_a_layer(exp_tables):
    """A placement says which heads and which sequence are asked, and what is in the memory.

    Exp tables are loaded once, if there are as many as heads.
    """
    rng = np.random.default_rng(2)
    q, k, v = (rng.standard_normal((heads, count, 8)) for heads, count in ((6, 1), (3, 9), (3, 9)))
    octets = np.arange(200, dtype=np.uint8)
    tables = {"i_tokens": {"sequence": np.array([2]), "tokens": np.array([9])}}
    config = CONFIG.replace(exp_tables=exp_tables)
    program = Plan(prepare(q, k, v, config, n=4), placement=Placement(
        octets, tables, [], 2, first_head=7)).program
    assert program.memory is octets
    assert [list(phase.inputs) for phase in program.phases[:1]] == [["i_tokens"]]
    commands = [program.port("i_command", is_input=True).unpack(phase.inputs["i_command"])
                for phase in program.phases if "i_command" in phase.inputs]
    assert [int(each["head"][0]) for each in commands] == [7, 8, 9]
    assert {int(each["sequence"][0]) for each in commands} == {2}
    loaded = [len(phase.inputs["i_exp_table"]) // (CONFIG.key_bits + 1)
              for phase in program.phases if "i_exp_table" in phase.inputs]
    used = np.concatenate([each["queries"]["exp_table"].ravel() for each in commands])
    assert (loaded, used.tolist()) == (([6], list(range(6))) if exp_tables == 6
                                       else ([2, 2, 2], 3 * [0, 1]))
