import pytest


pytest.importorskip("torch")

from nearbit.cli import options
from nearbit_nets import codes, distill, golden


@pytest.mark.parametrize(("choices", "taken"), [
    (options.ModelMethod, golden.METHODS),
    (options.MappingKind, codes.KINDS),
    (options.Loss, codes.LOSSES),
    (options.Surrogate, codes.SURROGATES),
    (options.Stages, distill.STAGES),
], ids=lambda choices: getattr(choices, "__name__", ""))
def test_choices(choices, taken):
    """Options offer what the package takes, though help does not import it."""
    assert list(choices) == list(taken)
