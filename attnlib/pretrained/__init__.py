"""Checkpoints in and out: our own folders, and outside families as tables of names."""

from attnlib.pretrained.export import export
from attnlib.pretrained.folder import Report, check, load, read_spec, restore, save
from attnlib.pretrained.manifest import settle, verify, write_folder

__all__ = ["Report", "check", "export", "load", "read_spec", "restore", "save", "settle", "verify", "write_folder"]
