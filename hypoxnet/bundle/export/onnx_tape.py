"""Graphs of ONNX written as arithmetic: `a * 2.0 + tape.Floor(b)` leaves its operators on a tape.

What no tracer follows (shapes that depend on values, channels that may be absent) is plain here. Numbers are float64
and int64, as numpy makes them of Python's; what leaves a graph in another type is cast there.

Source:
    ONNX 1.23, operators of opset 20 (`GridSample` of volumes).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import onnx

OPSET = 20
# The oldest that knows this opset: older runtimes refuse what is newer.
IR_VERSION = 10

Operand = Any  # a Value, or what numpy makes an array of
Described = tuple[str, str, Sequence[str | int]]


@dataclass(frozen=True, slots=True)
class Value:
    """A tensor of a graph, with numpy's operators."""

    tape: Tape
    name: str

    def __add__(self, other: Operand) -> Value:
        return self.tape.Add(self, other)

    def __sub__(self, other: Operand) -> Value:
        return self.tape.Sub(self, other)

    def __rsub__(self, other: Operand) -> Value:
        return self.tape.Sub(other, self)

    def __mul__(self, other: Operand) -> Value:
        return self.tape.Mul(self, other)

    def __truediv__(self, other: Operand) -> Value:
        return self.tape.Div(self, other)

    def __rtruediv__(self, other: Operand) -> Value:
        return self.tape.Div(other, self)

    def __matmul__(self, other: Operand) -> Value:
        return self.tape.MatMul(self, other)

    def __and__(self, other: Operand) -> Value:
        return self.tape.And(self, other)

    def __or__(self, other: Operand) -> Value:
        return self.tape.Or(self, other)

    def __ge__(self, other: Operand) -> Value:
        return self.tape.GreaterOrEqual(self, other)

    def at(self, *places: int, axis: int = 0) -> Value:
        """One place of an axis, which then is gone; several keep it."""
        return self.tape.Gather(self, places[0] if len(places) == 1 else list(places), axis=axis)

    def part(self, begin: Operand, end: Operand, axes: Sequence[int]) -> Value:
        """From `begin` to `end` along some axes."""
        return self.tape.Slice(self, begin, end, list(axes))

    def reshaped(self, *sides: int) -> Value:
        """With other sides; one may be -1."""
        return self.tape.Reshape(self, list(sides))

    def cast(self, dtype: str) -> Value:
        """In another type, by numpy's name of it."""
        import onnx

        return self.tape.Cast(self, to=onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))

    @property
    def turned(self) -> Value:
        """A matrix with rows for columns."""
        return self.tape.Transpose(self, perm=[1, 0])


@dataclass(slots=True)
class Tape:
    """The operators of a graph in order. Every operator of ONNX is a method; of several outputs it gives the first.

    Example:
        >>> tape = Tape()
        >>> (tape.input("x", "float64", ["n"]) * 2.0).name
        'mul_1'
    """

    nodes: list[Any] = field(default_factory=list)
    inputs: list[Described] = field(default_factory=list)
    outputs: list[Described] = field(default_factory=list)
    constants: dict[tuple[str, tuple[int, ...], bytes], tuple[str, NDArray[Any]]] = field(default_factory=dict)

    def __getattr__(self, operator: str) -> Callable[..., Value]:
        if not operator[:1].isupper():
            raise AttributeError(operator)

        def add(*operands: Operand, **attributes: Any) -> Value:
            import onnx

            name = f"{operator.lower()}_{len(self.nodes) + 1}"
            names = [self._name(operand) for operand in operands]
            more = [f"{name}_{number}" for number in range(1, onnx.defs.get_schema(operator, OPSET).min_output)]
            self.nodes.append(onnx.helper.make_node(operator, names, [name, *more], name=name, **attributes))
            return Value(self, name)

        return add

    def _name(self, operand: Any) -> str:
        if isinstance(operand, Value):
            return operand.name
        array = np.asarray(operand)
        key = (array.dtype.str, array.shape, array.tobytes())
        return self.constants.setdefault(key, (f"constant_{len(self.constants) + 1}", array))[0]

    def input(self, name: str, dtype: str, axes: Sequence[str | int]) -> Value:
        """An input; axes are names where they are free."""
        self.inputs.append((name, dtype, axes))
        return Value(self, name)

    def output(self, name: str, value: Value, dtype: str, axes: Sequence[str | int]) -> None:
        """An output, cast to a type."""
        import onnx

        number = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        self.nodes.append(onnx.helper.make_node("Cast", [value.name], [name], name=name, to=number))
        self.outputs.append((name, dtype, axes))

    def stacked(self, values: Sequence[Value], axis: int = 0) -> Value:
        """Tensors of one shape along a new axis."""
        return self.Concat(*(self.Unsqueeze(value, [axis]) for value in values), axis=axis)

    def total(self, value: Value, axes: Sequence[int], *, keep: bool = False) -> Value:
        """Sum over some axes."""
        return self.ReduceSum(value, list(axes), keepdims=int(keep))

    def model(self, name: str, meaning_of: Callable[[str], str]) -> onnx.ModelProto:
        """What is on the tape as a model.

        Args:
            name: Of the graph.
            meaning_of: Name of an input or output to what it is.
        """
        import onnx

        def infos(described: Sequence[Described]) -> list[onnx.ValueInfoProto]:
            return [
                onnx.helper.make_tensor_value_info(
                    which, onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), list(axes), meaning_of(which)
                )
                for which, dtype, axes in described
            ]

        constants = [onnx.numpy_helper.from_array(array, which) for which, array in self.constants.values()]
        graph = onnx.helper.make_graph(self.nodes, name, infos(self.inputs), infos(self.outputs), constants)
        opset = onnx.helper.make_opsetid("", OPSET)
        return onnx.helper.make_model(graph, opset_imports=[opset], ir_version=IR_VERSION)
