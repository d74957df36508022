import pytest

from nearbit import area
from nearbit.cli import options
from nearbit.soc import bundle
from nearbit_model import config
from nearbit_model.prepare import METHODS
from nearbit_sim import simulation


@pytest.mark.parametrize(("choices", "taken"), [
    (options.Engine, simulation.ENGINES),
    (options.Method, METHODS),
    (options.Interface, bundle.INTERFACES),
    (options.Cell, config.CELLS),
    (options.Target, area.TARGETS),
], ids=lambda choices: getattr(choices, "__name__", ""))
def test_choices(choices, taken):
    """Options offer what the packages take, though help imports none of them."""
    assert list(choices) == list(taken)
