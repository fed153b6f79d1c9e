"""Plans become files that runtimes load; calling the room, `mixq.export(...)`, writes one."""

from mixq.callable_room import make_callable

make_callable(__name__, "mixq.export.export:export")
