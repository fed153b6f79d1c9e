"""The audit's plots: added against measured errors, and the largest interactions."""

from __future__ import annotations

from pathlib import Path

from mixq.files import write_bytes_atomic, write_text_atomic
from mixq.report.audit_view import AuditView
from mixq.search.audit import Audit


def write_audit_html(audit: Audit, path: str | Path, title: str) -> None:
    """Write a page to explore that needs no network: plotly.js is in the file (4 to 5 MB).

    The same audit gives the same bytes.

    Raises:
        OutputError: if the file cannot be written.
    """
    from mixq.report.audit_plotly import page

    write_text_atomic(path, page(AuditView.of(audit), title))


def write_audit_png(audit: Audit, path: str | Path, title: str) -> None:
    """Write the same as a picture of 1300 x 700 pixels.

    Raises:
        OutputError: if the file cannot be written.
    """
    from mixq.report.audit_matplotlib import picture

    write_bytes_atomic(path, picture(AuditView.of(audit), title))
