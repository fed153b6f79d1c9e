"""Finding, reading and checking profile files."""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import tomllib
from dataclasses import asdict, replace
from importlib import resources
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from mixq.errors import ProfileError
from mixq.profiles.place import HOST, host_path
from mixq.profiles.profile import Cache, Kernel, Profile, Runtime
from mixq.profiles.schema import KernelFile, ProfileFile, RuntimeFile

MAX_BYTES: Final = 256 * 1024
"""Largest profile file read; the shipped ones are below a tenth of it."""
ASSUMED_SPREAD: Final = 0.4
"""Of a kernel that was never compared with a measurement: a factor of 1.5."""
_ACTIVATION_BITS: Final = {
    "fp32": 32.0, "tf32": 32.0, "fp16": 16.0, "bf16": 16.0, "int8": 8.0, "int4": 4.0,
}  # fmt: skip
_DOCS: Final = "docs/profiles.md describes the file"


def available() -> tuple[str, ...]:
    """Names of the shipped profiles, sorted."""
    files = resources.files("mixq.profiles").iterdir()
    return tuple(sorted(file.name[:-5] for file in files if file.name.endswith(".toml")))


def load(name_or_path: str) -> Profile:
    """The profile of that name, or of the user's own `.toml` file.

    Raises:
        ProfileError: if there is no such profile, or it breaks a rule of the schema; one line
            that names the file and the key.
    """
    if name_or_path == HOST:
        return _host()
    if name_or_path in available():
        file = resources.files("mixq.profiles").joinpath(f"{name_or_path}.toml")
        return parse(file.read_bytes(), origin=name_or_path)
    if not (name_or_path.endswith(".toml") or os.sep in name_or_path):
        near = difflib.get_close_matches(name_or_path.lower(), available(), n=3, cutoff=0.4)
        hint = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
        raise ProfileError(
            f"hardware {name_or_path[:80]!r} is not a shipped profile and not a .toml file; {hint}"
            f"shipped are {', '.join(available())} (mixq hardware list)"
        )
    return parse(_read(Path(name_or_path)), origin=name_or_path)


def parse(content: bytes, *, origin: str) -> Profile:
    """The profile that these bytes of TOML describe; `origin` names them in errors.

    Raises:
        ProfileError: if the bytes are no TOML or break a rule of the schema.
    """
    if len(content) > MAX_BYTES:
        raise ProfileError(
            f"profile {_shown(origin)}: larger than the {MAX_BYTES} bytes allowed; {_DOCS}"
        )
    try:
        # ValueError covers TOMLDecodeError, UnicodeDecodeError and integers with too many digits.
        document = tomllib.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())[:160]
        raise ProfileError(
            f"profile {_shown(origin)}: not readable as TOML: {reason}; {_DOCS}"
        ) from error
    try:
        return _convert(ProfileFile.model_validate(document))
    except ValidationError as error:
        raise ProfileError(
            f"profile {_shown(origin)}: {_first_problem(error)}; {_DOCS}"
        ) from error


def _host() -> Profile:
    """The profile that `mixq hardware calibrate` wrote for this machine."""
    path = host_path()
    if not path.is_file():
        raise ProfileError(
            f"hardware {HOST!r} has no profile yet: {_shown(str(path))} does not exist; "
            "run mixq hardware calibrate, which measures this machine in a minute or two"
        )
    return parse(_read(path), origin=str(path))


def _read(path: Path) -> bytes:
    """At most MAX_BYTES + 1 bytes of a regular file."""
    try:
        # A FIFO or a device could block for ever or never end.
        if path.exists() and not path.is_file():
            raise ProfileError(
                f"profile {_shown(str(path))}: not a regular file; name a .toml file"
            )
        with path.open("rb") as stream:
            return stream.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ProfileError(
            f"profile {_shown(str(path))}: cannot be read ({reason}); "
            f"name a .toml file or one of {', '.join(available())}"
        ) from error


def _shown(origin: str) -> str:
    return repr(origin if len(origin) <= 200 else f"{origin[:200]}...")


def _first_problem(error: ValidationError) -> str:
    """Key, rule and value of the first problem in one line, and how many more there are."""
    problems = error.errors(include_url=False, include_context=False)
    first = problems[0]
    key = ".".join(str(part)[:40] for part in first["loc"]) or "the file"
    message = " ".join(first["msg"].removeprefix("Value error, ").split())[:300]
    given = first["input"]
    # Python refuses to print integers of thousands of digits; the rule says enough then.
    printable = isinstance(given, (str, float)) or (isinstance(given, int) and abs(given) < 10**40)
    value = f" (got {str(given)[:40]!r})" if printable else ""
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return f"{key}: {message}{value}{more}"


def _convert(file: ProfileFile) -> Profile:
    clock_hz = file.chip.clock.si()
    chip = file.chip
    profile = Profile(
        name=file.name,
        description=file.description,
        fingerprint="",
        cores=int(chip.cores.value),
        core_ops_per_s={name: rate.si(clock_hz) for name, rate in sorted(chip.core_peak.items())},
        dram_bytes_per_s=chip.dram_bandwidth.si(clock_hz),
        core_dram_bytes_per_s=chip.core_dram_bandwidth.si(clock_hz),
        chips=chip.names,
        units_per_core=1 if chip.units_per_core is None else int(chip.units_per_core.value),
        caches=tuple(
            Cache(
                name=level.name,
                size_bytes=round(level.size.si()),
                core_bytes_per_s=level.core_bandwidth.si(clock_hz),
                private=level.private,
            )
            for level in chip.cache
        ),
        default_runtime=file.default_runtime,
        default_threads=int(file.default_threads.value),
        runtimes={name: _runtime(name, part) for name, part in sorted(file.runtime.items())},
    )
    return replace(profile, fingerprint=_fingerprint(profile))


def _runtime(name: str, file: RuntimeFile) -> Runtime:
    return Runtime(
        name=name,
        title=file.title or name,
        description=file.description,
        searchable=file.dequantize is not None,
        call_overhead_s=0.0 if file.call_overhead is None else file.call_overhead.si(),
        memory_bytes=0 if file.memory is None else round(file.memory.si()),
        dequantize_s_per_weight=(
            0.0 if file.dequantize is None else file.dequantize.per_weight.si()
        ),
        dequantize_overhead_s=0.0 if file.dequantize is None else file.dequantize.overhead.si(),
        kernels=tuple(_kernel(kernel) for kernel in file.kernel),
    )


def _kernel(file: KernelFile) -> Kernel:
    return Kernel(
        name=file.name,
        ops=file.ops,
        bits=file.bits,
        activation_bits=(
            _ACTIVATION_BITS[file.compute]
            if file.activation_bits is None
            else file.activation_bits
        ),
        grids=file.grids,
        group_sizes=file.group_sizes,
        per_channel=file.per_channel,
        activations=file.activations,
        compute=file.compute,
        compute_efficiency=file.compute_efficiency.value,
        memory_efficiency=file.memory_efficiency.value,
        overhead_s=file.overhead.si(),
        unpack_s_per_weight=0.0 if file.unpack is None else file.unpack.si(),
        dequantized_slowdown=(
            1.0 if file.dequantized_slowdown is None else file.dequantized_slowdown.value
        ),
        least_rows=file.least_rows,
        most_rows=file.most_rows,
        tile_m=file.tile_m,
        tile_n=file.tile_n,
        unpack_rows=file.unpack_rows,
        full_columns=file.full_columns,
        fill=file.fill,
        sharpness=file.sharpness,
        winograd=file.winograd,
        spread=ASSUMED_SPREAD if file.spread is None else file.spread.value,
        points=file.points,
        weights_as=file.weights_as,
        finish_s_per_output=0.0 if file.finish is None else file.finish.si(),
    )


def _fingerprint(profile: Profile) -> str:
    content = asdict(profile)
    for text in (content, *content["runtimes"].values()):
        text.pop("description")
    content.pop("fingerprint")
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return f"sha256:{hashlib.sha256(canonical.encode()).hexdigest()}"
