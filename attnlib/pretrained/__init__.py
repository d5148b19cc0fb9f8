"""Checkpoints in and out: our own folders, and outside families as tables of names."""

from attnlib.pretrained.export import companions, export
from attnlib.pretrained.folder import check, load, read_spec, restore, save
from attnlib.pretrained.fresh import new
from attnlib.pretrained.manifest import settle, verify, write_folder
from attnlib.pretrained.report import Report

__all__ = [
    "Report", "check", "companions", "export", "load", "new", "read_spec", "restore", "save", "settle", "verify",
    "write_folder",
]  # fmt: skip
