"""What is checked of an ONNX file before any runtime parses it, without the package ``onnx``.

A runtime opens every file that a graph names, and expands every function that it calls. So a graph of somebody else
may name one file, the bundle's weights, within its size; and call no function of its own, nor an operator that is not
of the standard. The field numbers are those of ``onnx.proto``; the encoding is that of
https://protobuf.dev/programming-guides/encoding.

What is skipped here must be what a runtime skips. Parsers of C++ cut a tag to 32 bits and take numbers of many forms,
so only the one form is read that all of them write; and fields that are not known here are refused, for a runtime may
know them. A message that may stand once and stands twice is merged by them: it is refused.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from pathlib import PurePosixPath

from engines.errors import BundleError

MOST_NODES = 50_000
MOST_FIELDS = 200_000
"""Of all messages that are looked into: 25 for a node. A network of 300 layers, quantized, has 1500 nodes."""
DEEPEST = 4
"""Graphs within graphs, as the bodies of loops are."""

MODULE_KEY = "smp_deploy.module"
"""Metadata of a node: the path of its module in the network that was handed over, ``layer1.0.conv1``.

Absent for what a network does between its layers (sums, concatenations, slices): a traced network has no module for it.
"""

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
# Of ModelProto, GraphProto, NodeProto, AttributeProto, TensorProto and an entry of external data.
_MODEL_GRAPH, _MODEL_TRAINING, _MODEL_FUNCTIONS = 7, 20, 25
_GRAPH_NODE, _GRAPH_INITIALIZER, _GRAPH_OUTPUT, _GRAPH_SPARSE = 1, 5, 12, 15
_NODE_NAME, _NODE_ATTRIBUTE, _NODE_DOMAIN, _NODE_METADATA = 3, 5, 7, 9
_ATTRIBUTE_TENSOR, _ATTRIBUTE_GRAPH, _ATTRIBUTE_TENSORS, _ATTRIBUTE_GRAPHS = 5, 6, 10, 11
_ATTRIBUTE_SPARSE = frozenset((22, 23))
_TENSOR_NAME, _TENSOR_EXTERNAL, _TENSOR_LOCATION = 8, 13, 14
_ENTRY_KEY, _ENTRY_VALUE = 1, 2
# Of ValueInfoProto, TypeProto, its tensor type, TensorShapeProto and its sizes.
_VALUE_NAME, _VALUE_TYPE, _TYPE_TENSOR, _TENSOR_SHAPE, _SHAPE_SIZE, _SIZE_VALUE = 1, 2, 1, 2, 1, 1

# All fields but those that are refused by name, and but what says where a graph is computed.
_OF_MODEL = frozenset((*range(1, 9), 14))
_OF_GRAPH = frozenset((1, 2, 5, *range(10, 15), 16))
_OF_NODE = frozenset(range(1, 10))
_OF_ATTRIBUTE = frozenset((*range(1, 12), 13, 14, 15, 20, 21))
_OF_TENSOR = frozenset((*range(1, 15), 16))
_OF_ENTRY = frozenset((_ENTRY_KEY, _ENTRY_VALUE))
_EXTERNAL_KEYS = {"location", "offset", "length", "checksum"}
_DOMAINS = ("", "ai.onnx")


def check_graph(content: bytes, name: str, weights: str, weights_size: int) -> None:
    """Raise :class:`BundleError` unless the ONNX file is one that a runtime may be given.

    Args:
        content: of the file.
        name: of the file in the bundle.
        weights: the file in the bundle that external data may lie in.
        weights_size: its bytes.
    """
    place = PurePosixPath(name).parent
    try:
        _Reader(name, weights, weights_size, place).model(memoryview(content))
    except (_MalformedError, UnicodeDecodeError) as error:
        raise BundleError(f"{name} is no ONNX file: {error}") from error


def output_shapes(content: bytes, name: str) -> dict[str, tuple[int | None, ...]]:
    """By name: the shapes of the outputs of an ONNX file, with ``None`` for a size that is open.

    An output without a shape is left out. Raises :class:`BundleError` for what is no ONNX file.
    """
    shapes = {}
    try:
        for graph in _messages(memoryview(content), _MODEL_GRAPH):
            for value in _messages(graph, _GRAPH_OUTPUT):
                names = [bytes(held).decode() for held in _messages(value, _VALUE_NAME)]
                tensors = [t for kind in _messages(value, _VALUE_TYPE) for t in _messages(kind, _TYPE_TENSOR)]
                for shape in (shape for tensor in tensors for shape in _messages(tensor, _TENSOR_SHAPE)):
                    sizes = [dict(_fields(size)).get(_SIZE_VALUE) for size in _messages(shape, _SHAPE_SIZE)]
                    shapes["".join(names)] = tuple(size if isinstance(size, int) else None for size in sizes)
    except (_MalformedError, UnicodeDecodeError) as error:
        raise BundleError(f"{name} is no ONNX file: {error}") from error
    return shapes


def _messages(content: memoryview, wanted: int) -> Iterator[memoryview]:
    """The messages of one field."""
    return (_message(value) for field, value in _fields(content) if field == wanted)


def module_of_node(content: bytes, name: str) -> str | None:
    """The path of the module that a node of an ONNX file belongs to; ``None`` where the file does not say.

    Args:
        content: of the file.
        name: of the node, anywhere in the graph but in graphs within it.
    """
    try:
        for graph in _messages(memoryview(content), _MODEL_GRAPH):
            for field, value in _fields(graph):
                held = list(_fields(_message(value))) if field == _GRAPH_NODE else []
                if any(kind == _NODE_NAME and bytes(_message(value)) == name.encode() for kind, value in held):
                    return dict(_entry(_fields(_message(entry))) for kind, entry in held if kind == _NODE_METADATA).get(
                        MODULE_KEY
                    )
    except (_MalformedError, UnicodeDecodeError):
        # What is no ONNX file names no modules.
        return None
    return None


class _MalformedError(ValueError):
    """Bytes that are no protobuf message."""


class _Reader:
    def __init__(self, name: str, weights: str, size: int, place: PurePosixPath) -> None:
        self.name, self.weights, self.size, self.place = name, weights, size, place
        self.nodes, self.fields = 0, 0

    def known(
        self, content: memoryview, known: Collection[int], message: str
    ) -> Iterator[tuple[int, int | memoryview]]:
        """The fields of a message, all of which must be known and are counted."""
        for field, value in _fields(content):
            self.fields += 1
            if self.fields > MOST_FIELDS:
                raise BundleError(f"{self.name} has more than {MOST_FIELDS} fields")
            if field not in known:
                raise BundleError(f"{self.name}: a {message} has the field {field}; an exported graph has none")
            yield field, value

    def model(self, content: memoryview) -> None:
        graphs = 0
        for field, value in self.known(content, _OF_MODEL | {_MODEL_TRAINING, _MODEL_FUNCTIONS}, "model"):
            if field == _MODEL_FUNCTIONS:
                raise BundleError(f"{self.name} has functions of its own; an exported graph has none")
            if field == _MODEL_TRAINING:
                raise BundleError(f"{self.name} has graphs for training; an exported graph has none")
            if field == _MODEL_GRAPH:
                graphs += 1
                self.graph(_message(value), 1)
        if graphs != 1:
            raise BundleError(f"{self.name} is no ONNX file: it has {graphs} graphs")

    def graph(self, content: memoryview, depth: int) -> None:
        if depth > DEEPEST:
            raise BundleError(f"{self.name} has graphs within graphs, more than {DEEPEST} deep")
        for field, value in self.known(content, _OF_GRAPH | {_GRAPH_SPARSE}, "graph"):
            if field == _GRAPH_NODE:
                self.nodes += 1
                if self.nodes > MOST_NODES:
                    raise BundleError(f"{self.name} has more than {MOST_NODES} nodes")
                self.node(_message(value), depth)
            elif field == _GRAPH_INITIALIZER:
                self.tensor(_message(value))
            elif field == _GRAPH_SPARSE:
                raise BundleError(f"{self.name} has sparse tensors; an exported graph has none")

    def node(self, content: memoryview, depth: int) -> None:
        for field, value in self.known(content, _OF_NODE, "node"):
            if field == _NODE_DOMAIN and (domain := bytes(_message(value)).decode()) not in _DOMAINS:
                raise BundleError(
                    f"{self.name} has an operator of {domain!r}; an exported graph has the standard's alone"
                )
            if field == _NODE_ATTRIBUTE:
                self.attribute(_message(value), depth)

    def attribute(self, content: memoryview, depth: int) -> None:
        once = set[int]()
        for field, value in self.known(content, _OF_ATTRIBUTE | _ATTRIBUTE_SPARSE, "attribute"):
            if field in _ATTRIBUTE_SPARSE:
                raise BundleError(f"{self.name} has sparse tensors; an exported graph has none")
            if field in once:
                raise BundleError(f"{self.name}: an attribute has two values")
            if field in (_ATTRIBUTE_TENSOR, _ATTRIBUTE_GRAPH):
                once.add(field)
            if field in (_ATTRIBUTE_TENSOR, _ATTRIBUTE_TENSORS):
                self.tensor(_message(value))
            elif field in (_ATTRIBUTE_GRAPH, _ATTRIBUTE_GRAPHS):
                self.graph(_message(value), depth + 1)

    def tensor(self, content: memoryview) -> None:
        entries: dict[str, str] = {}
        tensor, outside = "", False
        for field, value in self.known(content, _OF_TENSOR, "tensor"):
            if field == _TENSOR_NAME:
                tensor = bytes(_message(value)).decode()
            elif field == _TENSOR_LOCATION:
                outside = outside or value != 0
            elif field == _TENSOR_EXTERNAL:
                key, text = self.entry(_message(value))
                if key in entries:
                    raise BundleError(f"{self.name}: the tensor {tensor!r} says twice where its data is ({key})")
                entries[key] = text
        if outside or entries:
            self.external(tensor, entries)

    def entry(self, content: memoryview) -> tuple[str, str]:
        return _entry(self.known(content, _OF_ENTRY, "entry"))

    def external(self, tensor: str, entries: dict[str, str]) -> None:
        location = entries.get("location", "")
        if unknown := entries.keys() - _EXTERNAL_KEYS:
            raise BundleError(f"{self.name}: the tensor {tensor!r} has unknown external data {sorted(unknown)}")
        if not location or (self.place / location).as_posix() != self.weights or ".." in PurePosixPath(location).parts:
            raise BundleError(
                f"{self.name}: the tensor {tensor!r} lies in {location!r}; a graph may point to {self.weights} alone"
            )
        numbers = [entries.get(key, "0") for key in ("offset", "length")]
        if not all(number.isascii() and number.isdigit() and len(number) < 19 for number in numbers):
            raise BundleError(f"{self.name}: the tensor {tensor!r} has no place in {location}: {numbers}")
        if sum(map(int, numbers)) > self.size:
            raise BundleError(f"{self.name}: the tensor {tensor!r} lies behind the end of {location}")


def _entry(fields: Iterable[tuple[int, int | memoryview]]) -> tuple[str, str]:
    """Key and value."""
    found = {field: bytes(_message(value)).decode() for field, value in fields}
    return found.get(_ENTRY_KEY, ""), found.get(_ENTRY_VALUE, "")


def _message(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise _MalformedError("a number where a message is expected")
    return value


def _fields(content: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Number and value of every field of a message: an integer, or the bytes of what has a length."""
    place, end = 0, len(content)
    while place < end:
        tag, place = _varint(content, place)
        field, kind = tag >> 3, tag & 7
        if tag >= 1 << 32 or not field:
            raise _MalformedError(f"a field of the number {field}")
        if kind == _VARINT:
            value, place = _varint(content, place)
            yield field, value
            continue
        if kind == _LENGTH:
            size, place = _varint(content, place)
        elif kind in (_FIXED64, _FIXED32):
            size = 8 if kind == _FIXED64 else 4
        else:
            raise _MalformedError(f"a field of wire type {kind}")
        if size > end - place:
            raise _MalformedError("it ends in the middle of a field")
        held = content[place : place + size]
        yield field, held if kind == _LENGTH else int.from_bytes(held, "little")
        place += size


def _varint(content: memoryview, place: int) -> tuple[int, int]:
    """A number in its shortest form, of 64 bits at most, and where it ends."""
    value, shift = 0, 0
    while place < len(content):
        byte = content[place]
        place += 1
        if byte < 0x80:
            if (not byte and shift) or (shift == 63 and byte > 1):
                break
            return value | byte << shift, place
        if shift == 63:
            break
        value |= (byte & 0x7F) << shift
        shift += 7
    else:
        raise _MalformedError("it ends in the middle of a number")
    raise _MalformedError("a number that is longer than it needs to be, or of more than 64 bits")
