"""Search for bit-allocation plans; calling the room itself, `mixq.search(...)`, runs one."""

from mixq.search._callable import make_callable

make_callable(__name__)
