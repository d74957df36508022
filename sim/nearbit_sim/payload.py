"""Payloads and streams of Amaranth, as :mod:`nearbit_model.transfers.payload` describes them."""

from collections.abc import Mapping
from typing import Any, cast

import numpy as np
from amaranth.hdl import Shape as AmaranthShape
from amaranth.lib import data, stream, wiring

from nearbit_model.transfers.payload import Array, Bits, Port, Shape, Struct, Words


__all__ = ["describe", "level_words", "levels", "ports"]


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
                    # The signature of an input is turned around already.
                    visit(f"{name}__{inner_name}", inner, inner.flow is wiring.In,
                          tuple(inner.dimensions))

    for name, member in component.signature.members.items():
        if member.is_signature:
            visit(name, member, member.flow is wiring.In, tuple(member.dimensions))
    return found


def levels(component: wiring.Component) -> dict[str, int]:
    """List the inputs of a component that are no streams, with their bits."""
    return {name: AmaranthShape.cast(member.shape).width
            for name, member in component.signature.members.items()
            if member.is_port and member.flow is wiring.In and not member.dimensions
            and AmaranthShape.cast(member.shape).width}


def level_words(widths: Mapping[str, int], values: Mapping[str, int]) -> Words:
    """Pack values of such inputs one after another, 0 where none is given, into 64-bit words."""
    for name, value in values.items():
        if name not in widths:
            raise ValueError(f"there is no input {name!r} that is no stream")
        Bits(widths[name]).pack(value)
    data = b"".join(values.get(name, 0).to_bytes(8 * -(-width // 64), "little")
                    for name, width in widths.items())
    return np.frombuffer(data, dtype="<u8").astype(np.uint64)
