"""Payloads and streams of Amaranth, as :mod:`nearbit_model.transfers.payload` describes them."""

from typing import Any, cast

from amaranth.hdl import Shape as AmaranthShape
from amaranth.lib import data, stream, wiring

from nearbit_model.transfers.payload import Array, Bits, Port, Shape, Struct


__all__ = ["describe", "ports"]


def describe(shape: Any) -> Shape:
    """Describe a shape of Amaranth."""
    if isinstance(shape, data.ArrayLayout):
        return Array(shape.length, describe(shape.elem_shape))
    if isinstance(shape, data.StructLayout):
        return Struct(shape.size, tuple((str(name), field.offset, describe(field.shape))
                                        for name, field in shape))
    plain = AmaranthShape.cast(shape)
    return Bits(plain.width, plain.signed)


def ports(component: wiring.Component) -> list[Port]:
    """List the streams of a component, in order of its signature."""
    found: list[Port] = []

    def visit(name: str, member: wiring.Member, is_input: bool,
              dimensions: tuple[int, ...]) -> None:
        if dimensions:
            for index in range(dimensions[0]):
                visit(f"{name}__{index}", member, is_input, dimensions[1:])
        elif isinstance(member.signature, stream.Signature):
            signature = member.signature
            found.append(Port(name, is_input, describe(signature.members["payload"].shape),
                              not signature.always_valid, not signature.always_ready))
        else:
            for inner_name, inner in cast(Any, member.signature).members.items():
                if inner.is_signature:
                    visit(f"{name}__{inner_name}", inner, (inner.flow is wiring.In) ^ is_input,
                          tuple(inner.dimensions))

    for name, member in component.signature.members.items():
        if member.is_signature:
            visit(name, member, member.flow is wiring.In, tuple(member.dimensions))
    return found
