"""Read a pickle without running anything that it names.

`pickletools.genops` splits the file into instructions and a small stack machine carries them out. It knows the
instructions that pickle protocols 2 to 5 emit, builds plain containers and scalars, and has no way to import: a class
or function named in the file is a `Placeholder`, which stays one when it is called, unless the caller serves that name.
"""

from __future__ import annotations

import dataclasses
import pickletools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

# Far above any state dict (some 40 instructions a tensor), low enough that hostile bytes cannot exhaust the memory.
MAX_INSTRUCTIONS = 5_000_000
MAX_INTEGER_BITS = 2048

_LITERALS = {
    *("BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT"),
    *("SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "SHORT_BINBYTES", "BINBYTES", "BINBYTES8"),
}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_EMPTY: dict[str, Callable[[], Any]] = {"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_SET": set}
_TUPLE_SIZES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_HASHABLE = (str, bytes, int, float, bool, type(None))


@dataclasses.dataclass(frozen=True)
class Placeholder:
    """Stands for a class or function named in a pickle, and for whatever calling it would have made.

    name: the dotted name as the file gives it, for messages only; nothing resolves it.
    """

    name: str


def load(
    data: bytes, functions: Mapping[str, Callable[[tuple[Any, ...]], Any]], persistent_load: Callable[[Any], Any]
) -> tuple[Any, set[str]]:
    """Run a pickle's instructions; returns (the object, the set of names that were neither served nor imported).

    data: bytes. functions: {dotted name: function of the tuple of arguments}, called where the file calls that name.
    persistent_load: function of a persistent id. Classes of the file appear in both as `Placeholder`s. Containers may
    hold themselves, and keys and set members other than plain scalars are left out with their values.
    Raises ValueError, which does not name the file, for anything damaged, unknown or absurdly large.
    """
    machine = _Machine(functions, persistent_load)
    position: int | None = 0
    try:
        for count, (opcode, argument, begin) in enumerate(_instructions(data)):
            position = begin
            if count == MAX_INSTRUCTIONS:
                raise ValueError(f"more than {MAX_INSTRUCTIONS} instructions")
            machine.execute(opcode.name, argument)
    except ValueError as error:
        problem = f"{error!s:.200} (about byte {position} of its pickle)"
        raise ValueError(f"{problem}; it is damaged or no state dict, so download or save it again") from error
    return machine.pop(), machine.foreign


def _instructions(data: bytes) -> Iterator[tuple[pickletools.OpcodeInfo, Any, int | None]]:
    """Those of `pickletools.genops`, whose own errors are one of ours."""
    try:
        yield from pickletools.genops(data)
    except (ValueError, Warning) as error:  # it warns of bad escapes, and warnings can be made errors
        raise ValueError("an instruction is unknown, or cut short") from error


class _Machine:
    def __init__(
        self, functions: Mapping[str, Callable[[tuple[Any, ...]], Any]], persistent_load: Callable[[Any], Any]
    ) -> None:
        self.functions = functions
        self.persistent_load = persistent_load
        self.stack: list[Any] = []
        self.outer: list[list[Any]] = []  # the stacks below each open mark
        self.memo: dict[int, Any] = {}
        self.foreign: set[str] = set()

    def execute(self, name: str, argument: Any) -> None:
        if name in _LITERALS:
            if isinstance(argument, int) and argument.bit_length() > MAX_INTEGER_BITS:
                raise ValueError(f"an integer of {argument.bit_length()} bits")
            self.stack.append(argument)
        elif name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name])
        elif name in _EMPTY:
            self.stack.append(_EMPTY[name]())
        elif name in _TUPLE_SIZES:
            self.stack.append(tuple(self.pop_many(_TUPLE_SIZES[name])))
        elif name in _INSTRUCTIONS:
            _INSTRUCTIONS[name](self, argument)
        else:
            raise ValueError(f"unsupported instruction {name}")

    def top(self) -> Any:
        if not self.stack:
            raise ValueError("an instruction needs more values than there are")
        return self.stack[-1]

    def pop(self) -> Any:
        self.top()
        return self.stack.pop()

    def pop_many(self, count: int) -> list[Any]:
        if len(self.stack) < count:
            raise ValueError("an instruction needs more values than there are")
        values = self.stack[-count:]
        del self.stack[-count:]
        return values

    def pop_mark(self) -> list[Any]:
        if not self.outer:
            raise ValueError("an instruction needs a mark and there is none")
        values, self.stack = self.stack, self.outer.pop()
        return values

    def proto(self, version: int) -> None:
        if version > 5:
            raise ValueError(f"pickle protocol {version}, and 2 to 5 are known")

    def ignore(self, _: Any) -> None:
        pass

    def mark(self, _: Any) -> None:
        self.outer.append(self.stack)
        self.stack = []

    def discard(self, _: Any) -> None:
        # The instruction POP also removes a mark that has nothing above it.
        if self.stack or not self.outer:
            self.pop()
        else:
            self.pop_mark()

    def discard_to_mark(self, _: Any) -> None:
        self.pop_mark()

    def duplicate(self, _: Any) -> None:
        self.stack.append(self.top())

    def put(self, index: int) -> None:
        self.memo[index] = self.top()

    def memoize(self, _: Any) -> None:
        self.memo[len(self.memo)] = self.top()

    def get(self, index: int) -> None:
        if index not in self.memo:
            raise ValueError(f"memo {index} was never stored")
        self.stack.append(self.memo[index])

    def bytearray_as_bytes(self, value: Any) -> None:
        self.stack.append(bytes(value))

    def new_tuple(self, _: Any) -> None:
        values = self.pop_mark()
        self.stack.append(tuple(values))

    def new_list(self, _: Any) -> None:
        values = self.pop_mark()
        self.stack.append(values)

    def new_dict(self, _: Any) -> None:
        values = self.pop_mark()
        self.stack.append({})
        self._set_items(values)

    def new_frozenset(self, _: Any) -> None:
        values = self.pop_mark()
        self.stack.append(frozenset(value for value in values if type(value) in _HASHABLE))

    def append(self, _: Any) -> None:
        self._extend(self.pop_many(1))

    def appends(self, _: Any) -> None:
        self._extend(self.pop_mark())

    def _extend(self, values: list[Any]) -> None:
        target = self.top()
        if isinstance(target, list):
            target.extend(values)
        elif not isinstance(target, Placeholder):
            raise ValueError("values are appended to something that is not a list")

    def add_items(self, _: Any) -> None:
        values = self.pop_mark()
        target = self.top()
        if isinstance(target, set):
            target.update(value for value in values if type(value) in _HASHABLE)
        elif not isinstance(target, Placeholder):
            raise ValueError("values are added to something that is not a set")

    def set_item(self, _: Any) -> None:
        self._set_items(self.pop_many(2))

    def set_items(self, _: Any) -> None:
        self._set_items(self.pop_mark())

    def _set_items(self, values: list[Any]) -> None:
        target = self.top()
        if len(values) % 2:
            raise ValueError("a key has no value")
        if isinstance(target, dict):
            # Hashing a hostile, deeply nested tuple overflows the interpreter's own stack, so tuples are no keys here.
            pairs = zip(values[::2], values[1::2], strict=True)
            target.update((key, value) for key, value in pairs if type(key) in _HASHABLE)
        elif not isinstance(target, Placeholder):
            raise ValueError("items are set on something that is not a dict")

    def global_name(self, argument: str) -> None:
        self._push_name(argument.replace(" ", ".", 1))

    def stack_global(self, _: Any) -> None:
        module, name = self.pop_many(2)
        if not (isinstance(module, str) and isinstance(name, str)):
            raise ValueError("a global's name is not a string")
        self._push_name(f"{module}.{name}")

    def _push_name(self, name: str) -> None:
        if name not in self.functions:
            name = (name if name.isprintable() else ascii(name))[:200]
            self.foreign.add(name)
        self.stack.append(Placeholder(name))

    def call(self, _: Any) -> None:
        target, arguments = self.pop_many(2)
        if not (isinstance(target, Placeholder) and isinstance(arguments, tuple)):
            raise ValueError("something that is not a function is called")
        function = self.functions.get(target.name)
        self.stack.append(function(arguments) if function else target)

    def call_with_keywords(self, _: Any) -> None:
        target, _, _ = self.pop_many(3)
        if not isinstance(target, Placeholder):
            raise ValueError("something that is not a class is instantiated")
        self.stack.append(target)

    def set_state(self, _: Any) -> None:
        self.pop()
        self.top()

    def load_persistent(self, _: Any) -> None:
        self.stack.append(self.persistent_load(self.pop()))


_INSTRUCTIONS: dict[str, Callable[[_Machine, Any], None]] = {
    "PROTO": _Machine.proto,
    "FRAME": _Machine.ignore,
    "STOP": _Machine.ignore,
    "MARK": _Machine.mark,
    "POP": _Machine.discard,
    "POP_MARK": _Machine.discard_to_mark,
    "DUP": _Machine.duplicate,
    "BINPUT": _Machine.put,
    "LONG_BINPUT": _Machine.put,
    "MEMOIZE": _Machine.memoize,
    "BINGET": _Machine.get,
    "LONG_BINGET": _Machine.get,
    "BYTEARRAY8": _Machine.bytearray_as_bytes,
    "TUPLE": _Machine.new_tuple,
    "LIST": _Machine.new_list,
    "DICT": _Machine.new_dict,
    "FROZENSET": _Machine.new_frozenset,
    "APPEND": _Machine.append,
    "APPENDS": _Machine.appends,
    "ADDITEMS": _Machine.add_items,
    "SETITEM": _Machine.set_item,
    "SETITEMS": _Machine.set_items,
    "GLOBAL": _Machine.global_name,
    "STACK_GLOBAL": _Machine.stack_global,
    "REDUCE": _Machine.call,
    "NEWOBJ": _Machine.call,
    "NEWOBJ_EX": _Machine.call_with_keywords,
    "BUILD": _Machine.set_state,
    "BINPERSID": _Machine.load_persistent,
}
