"""The model and the method that options name."""

from typing import TYPE_CHECKING

from nearbit.cli.errors import UserError
from nearbit.cli.options import ModelMethod


if TYPE_CHECKING:
    from nearbit_nets.golden import Method as GoldenMethod
    from nearbit_nets.network import Network


__all__ = ["check_codes", "list_of", "load_network", "method_of"]


def check_codes(method: ModelMethod, codes: str | None) -> None:
    """Refuse codes that a method does not use."""
    if codes is not None and method != ModelMethod.HASH:
        raise UserError("--codes needs --method hash")


def load_network(name: str) -> "Network":
    """Load a network, on as many threads as there are cores for this process."""
    from nearbit_nets.errors import need_extra

    need_extra()

    from nearbit_nets.loading import load, use_all_cores

    use_all_cores()
    return load(name)


def method_of(network: "Network", method: ModelMethod, codes: str | None, *, n: int, sink: int,
              recent: int) -> "GoldenMethod":
    """What stands in place of a network's attention."""
    from nearbit_nets.distill import logit_scales
    from nearbit_nets.golden import Method, codes_of

    return Method(
        name=str(method), n=n, sink=sink, recent=recent,
        codes=codes_of(network, codes or "sign") if method == ModelMethod.HASH else None,
        logit_scale=logit_scales(network) if method == ModelMethod.HAD else None)


def list_of(numbers: list[int]) -> str:
    """Show ascending indices in short."""
    if len(numbers) > 2 and numbers == list(range(numbers[0], numbers[-1] + 1)):
        return f"{numbers[0]}-{numbers[-1]}"
    return ",".join(map(str, numbers))
