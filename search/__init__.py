"""Search for bit-allocation plans; calling the room itself, `mixq.search(...)`, runs one."""

from mixq.callable_room import make_callable

make_callable(__name__, "mixq.search.call:search")
