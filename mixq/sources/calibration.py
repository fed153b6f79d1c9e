"""load_calibration: from a calibration spec to a Calibration."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mixq.errors import CalibrationError, SourceError
from mixq.files import is_regular

if TYPE_CHECKING:
    from mixq.calibration import Calibration
    from mixq.sources.loaded import LoadedModel


def load_calibration(spec: str | None, loaded: LoadedModel) -> Calibration:
    """The calibration that `spec` stands for.

    Args:
        spec: None for what the model's own spec brought along, `package.module:function`,
            `path/to/file.py:function`, a `.safetensors` or `.npz` file, or a text file for a
            language model.
        loaded: the model that will take it.

    Raises:
        SourceError: if the spec stands for nothing, or what it stands for cannot be loaded.
        CalibrationError: if there are no data, or they break a rule of Calibration.
        MissingExtraError: for text without transformers.
    """
    if spec is None:
        if loaded.calibration is None:
            hint = "a text file, " if loaded.folder is not None else ""
            raise CalibrationError(
                f"model {loaded.name!r} brings no calibration data; pass --calibration with "
                f"{hint}a .safetensors or .npz file or package.module:function"
            )
        return loaded.calibration
    # The branches import their room late: each needs torch, and the spec may be wrong anyway.
    path = Path(spec)
    if is_regular(path):
        if path.suffix == ".safetensors":
            from mixq.sources.tensors import load_safetensors

            return load_safetensors(path, loaded)
        if path.suffix == ".npz":
            from mixq.sources.tensors import load_npz

            return load_npz(path, loaded)
        from mixq.sources.text import load_text

        return load_text(path, loaded)
    if ":" in spec:
        from mixq.sources.tensors import load_from_function

        return load_from_function(spec)
    raise SourceError(
        f"calibration {spec!r} does not exist; pass a .safetensors, .npz or text file, or "
        "package.module:function"
    )
